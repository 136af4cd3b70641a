"""Small models and one trained run for the tests that need them."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault(
    "JAX_DISABLE_MOST_OPTIMIZATIONS", "1"
)  # tests compile much and compute little
os.environ.setdefault(
    "TF_ENABLE_ONEDNN_OPTS", "0"
)  # its pass over every new kernel costs more than it gives here

JAX = os.environ.get("KERAS_BACKEND") == "jax"
COMPILED = {"jit_compile": JAX}
"""How tests train: TensorFlow builds a graph faster than XLA compiles it; JAX needs to compile.

Without compiling, JAX runs each operation by itself.
"""

SYLLABLES = ("KA", "MI", "TO", "RU", "NE")
SMALL = {
    "length": 16,
    "encoder_units": (8, 16),
    "latent_size": 4,
    "expander_base": 8,
    "expander_filters": (16, 8),
    "head_units": 12,
}
PLAIN = {"head_layer_normalization": False}
"""Small models have a plain LSTM: most operations of a recurrence are those of its normalisation,
and tests of other behaviours would spend a third of their time on them."""


SMALL_SETTINGS = {
    **{
        f"model.{name}": list(v) if isinstance(v, tuple) else v
        for name, v in {**SMALL, **PLAIN}.items()
    },
    "training.batch_size": 16,
    "training.jit_compile": JAX,
}
"""The same model as settings of a run, with a batch size that suits it."""


def train_command(
    out: Path, data: Path, *arguments: str, settings: Mapping[str, Any] | None = None
) -> list[str]:
    """`kvae train` of the small model on TensorFlow, as a command of a process of its own."""
    command = [sys.executable, "-m", "kvae", "train", "--data", str(data), "--out", str(out)]
    changed = {**SMALL_SETTINGS, "training.jit_compile": False, **(settings or {})}
    changes = [f"--set={key}={json.dumps(value)}" for key, value in changed.items()]
    return [*command, *arguments, *changes]


def small_config(**model: Any) -> Any:
    """A model configuration that builds in a moment; keyword arguments replace its fields."""
    from kvae.configuration import ModelConfig

    plain = {} if "head" in model else PLAIN
    return ModelConfig(**{**SMALL, **plain, "vocabulary_size": 9, **model})


BUILT: dict[str, list[tuple[Any, dict[str, Any], list[Any]]]] = {}
"""Models of `small_model` that no test uses, with their attributes and values as built."""

LENT: list[tuple[str, tuple[Any, dict[str, Any], list[Any]]]] | None = None
"""Those of the test that runs. None where no test runs, so while a fixture of a module is made."""


def small_model(objective: dict[str, Any] | None = None, seed: int = 0, **model: Any) -> Any:
    """A TextVAE of `small_config`; its weights are spread so that its logits differ.

    A model that an earlier test of this process built, and neither compiled nor changed but for its
    values, is taken again with the values it had.
    """
    import keras

    policy = keras.config.dtype_policy().name
    key = repr((policy, objective, seed, sorted(model.items())))
    if LENT is None:
        return spread_model(objective, seed, **model)
    if BUILT.get(key):
        entry = BUILT[key].pop()
        keras.utils.set_random_seed(seed)
        for variable, value in zip(entry[0].variables, entry[2], strict=True):
            variable.assign(value)
    else:
        made = spread_model(objective, seed, **model)
        entry = made, dict(vars(made)), [numbers(variable) for variable in made.variables]
    LENT.append((key, entry))
    return entry[0]


def spread_model(objective: dict[str, Any] | None = None, seed: int = 0, **model: Any) -> Any:
    """A new model as `small_model` describes it, for the caller alone."""
    import keras

    from kvae.configuration import ObjectiveConfig
    from kvae.model import TextVAE

    keras.utils.set_random_seed(seed)
    config = small_config(**model)
    made = TextVAE(
        config, ObjectiveConfig(**{"alpha": 0.2 if config.auxiliary else 0.0, **(objective or {})})
    )
    for weight in made.trainable_weights:
        weight.assign(weight + 0.3 * keras.random.normal(weight.shape, seed=seed + 1))
    return made


@pytest.fixture(autouse=True)
def lent_models() -> Iterator[None]:
    """Models of `small_model` come back when a test is over."""
    global LENT
    LENT = []
    yield
    for key, (model, attributes, values) in LENT:
        now = vars(model)
        if now.keys() == attributes.keys() and all(now[k] is v for k, v in attributes.items()):
            BUILT.setdefault(key, []).append((model, attributes, values))
    LENT = None


def random_tokens(rows: int, length: int = 16, vocabulary_size: int = 9, seed: int = 0) -> Any:
    """Rows of tokens (rows, length) as a corpus would hold them: text, END, PAD."""
    import numpy as np

    from kvae.serving.alphabet import END, PAD

    generator = np.random.default_rng(seed)
    tokens = generator.integers(4, vocabulary_size, (rows, length)).astype(np.int32)
    ends = generator.integers(1, length, rows)
    tokens[np.arange(rows), ends] = END
    tokens[np.arange(length)[None, :] > ends[:, None]] = PAD
    return tokens


def read_texts(source: str, notes: list[str] | None = None, **data: Any) -> list[str]:
    """The texts of a source as a run reads them; `data` are settings such as `mode`."""
    from kvae.configuration import Config
    from kvae.training.data.held_out import texts_of
    from kvae.training.data.sources import source_of

    config = Config().with_settings({f"data.{name}": value for name, value in data.items()})
    found = source_of(config, source)
    texts = texts_of(config, found).texts
    if notes is not None:
        notes += found.notes
    return texts


def ids_of(train: Any) -> Any:
    """All ids of `Rows`, (N, T), or of a `Stream`, (tokens,)."""
    import numpy as np

    from kvae.training.data.rows import Rows

    places = np.arange(len(train))
    return train.take(places) if isinstance(train, Rows) else train.take(places[:1], len(train))[0]


def distinct_presets() -> Iterator[str]:
    """The small presets; of those that differ in nothing but their corpus the first."""
    from kvae.presets import PRESETS
    from kvae.presets import SMALL as ENDING

    seen = set()
    for name, item in PRESETS.items():
        system = (replace(item.config.model, length=0, vocabulary_size=0), item.config.objective)
        if name.endswith(ENDING) and system not in seen:
            seen.add(system)
            yield name


def everyday(names: Iterable[Any], *representatives: Any) -> list[Any]:
    """Names, or tuples of them, as the parameters of a test.

    The representatives run every day, the others with `make test-all`.
    """
    names = list(names)
    assert set(representatives) <= set(names)
    return [
        pytest.param(
            *(name if isinstance(name, tuple) else (name,)),
            marks=() if name in representatives else pytest.mark.slow,
        )
        for name in names
    ]


def numbers(tensor: Any) -> Any:
    """A tensor of either backend as a numpy array."""
    import keras

    return keras.ops.convert_to_numpy(tensor)


def gradients(loss: Callable[[], Any], variables: Sequence[Any]) -> list[Any]:
    """Of a scalar with respect to Keras variables, as numpy arrays."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        from kvae.recurrences import looping
        from kvae.training.jax_step import Scope, over_positions

        def stateless(values: list[Any]) -> Any:
            with Scope(list(zip(variables, values, strict=True))), looping(over_positions):
                return loss()

        found = jax.jit(jax.grad(stateless))([variable.value for variable in variables])
    else:
        import tensorflow as tf

        from kvae.recurrences import looping
        from kvae.training.tensorflow_step import over_positions

        @tf.function
        @looping(over_positions)
        def traced() -> Any:
            with tf.GradientTape() as tape:
                scalar = loss()
            return tape.gradient(
                scalar, [variable.value for variable in variables], unconnected_gradients="zero"
            )

        found = traced()
    return [numbers(gradient) for gradient in found]


@pytest.fixture(scope="module", autouse=True)
def frozen_garbage() -> Iterator[None]:
    """What a module of tests leaves is not looked through again for garbage.

    Tracing a graph makes many objects. The collector would run often, and each time look through
    all graphs and modules of the process: towards the end of the tests that took most of the time.
    """
    gc.set_threshold(100_000, 50, 100)
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def unoptimized_graphs() -> None:
    """TensorFlow runs graphs as traced: optimizing one takes longer than a test saves by it."""
    if not JAX:
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="session", autouse=True)
def shared_sessions() -> Iterator[None]:
    """A graph that a test has loaded is not loaded again by the next one.

    onnxruntime optimizes a graph when it loads it, and most tests run the graphs of a few bundles.
    """
    from kvae.serving import runtime

    load = runtime.InferenceSession
    loaded: dict[Any, Any] = {}

    def share(graph: Path | bytes, options: Any, providers: list[str]) -> Any:
        content = graph if isinstance(graph, bytes) else Path(graph).read_bytes()
        key = (hashlib.sha256(content).digest(), options.intra_op_num_threads)
        if key not in loaded:
            if len(loaded) == 100:
                del loaded[next(iter(loaded))]
            loaded[key] = load(graph, options, providers=providers)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "InferenceSession", share)
        yield


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]
) -> Path:
    """A file or folder that the processes of a session share.

    The first process that asks makes it, and the others wait.
    """
    own = tmp_path_factory.getbasetemp()
    path = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path)
    return path


@pytest.fixture
def kvae(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command: exit code, standard output, standard error."""

    from kvae.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """125 made-up names of three syllables, one a line."""
    names = [a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES]
    text = "\n".join(names) + "\n"
    return made_once(
        tmp_path_factory, "names.txt", lambda path: path.write_text(text, encoding="utf-8")
    )


@pytest.fixture(scope="session")
def small_settings(corpus_file: Path) -> dict[str, Any]:
    """Settings of a run on `corpus_file` that trains in seconds."""
    return {
        "data.source": str(corpus_file),
        **SMALL_SETTINGS,
        "training.epochs": 3,
        "training.learning_rate": 0.01,
        "objective.ramp_steps": 10,
    }


@pytest.fixture(scope="session")
def run_settings(small_settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of `run_folder`; on TensorFlow its head is normalised."""
    return {**small_settings, "model.head_layer_normalization": not JAX}


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, run_settings: dict[str, Any]) -> Path:
    """A finished run on `corpus_file`, this process's copy of it."""
    from kvae.presets import preset
    from kvae.training.experiment import run

    def train(path: Path) -> None:
        run(preset("hybrid-lstm").with_settings(run_settings), path, say=lambda sentence: None)

    made = made_once(tmp_path_factory, "run", train)
    return shutil.copytree(made, tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="session")
def bundle_folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The verified bundle of `run_folder`, in it."""
    from kvae.export.bundle import write_bundle
    from kvae.runs import load_run

    def export(path: Path) -> None:
        trained = load_run(run_folder)
        write_bundle(trained.model, trained.alphabet, trained.config, path, trained.evaluation)

    return shutil.copytree(made_once(tmp_path_factory, "bundle", export), run_folder / "bundle")


@pytest.fixture
def old_bundle(tmp_path: Path) -> Path:
    """A bundle of format 2 of a tiny hybrid, in `old_bundle.zip`. Do not write it again."""
    with zipfile.ZipFile(Path(__file__).parent / "old_bundle.zip") as archive:
        archive.extractall(tmp_path / "old")
    return tmp_path / "old"


@pytest.fixture(scope="session")
def map_folder(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bundle_folder` with a map of sixty texts of its corpus."""
    from kvae.export.latent_map import latent_map, write_map
    from kvae.serving import Sampler
    from kvae.serving.bundle import manifest_text

    path = shutil.copytree(bundle_folder, tmp_path_factory.mktemp("maps") / "bundle")
    sampler = Sampler.load(path, endpoints=())
    names = [a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES][::2]
    content = latent_map(sampler, sampler._tokens(names[:60], "refuse"))
    assert content
    manifest = {**sampler.manifest, "map": write_map(path, content, sampler.manifest)}
    (path / "manifest.json").write_text(manifest_text(manifest), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def sampler(bundle_folder: Path) -> Any:
    from kvae.serving import Sampler

    return Sampler.load(bundle_folder)


TRACED: dict[Any, tuple[Any, list[Any]]] = {}
"""Models of `traced_once` with their first values, by what they were built from."""


@pytest.fixture
def traced_once() -> Iterator[None]:
    """Runs of one configuration share a model in this process, and no run draws its curves.

    Building and tracing take most of the time of a small run. Each run begins with the first values
    of all variables, those of the optimizer included, so that it trains as with a new model. It is
    for tests of what happens around training. A test must not keep the model of a run while it
    trains another one, and a comparison of models needs models of their own.
    """
    from kvae.training import experiment, fit

    if JAX:
        yield
        return
    build, compile_for = experiment.build_model, fit.compile_for

    def shared_model(prepared: Any, say: Callable[[str], None]) -> Any:
        config = prepared.config
        key = (config.model, config.objective, config.training.precision, config.training.seed)
        if key not in TRACED:
            if len(TRACED) == 4:
                del TRACED[next(iter(TRACED))]
            model = build(prepared, say)
            TRACED[key] = model, [numbers(variable) for variable in model.variables]
        model, first = TRACED[key]
        for variable, value in zip(model.variables, first, strict=True):
            variable.assign(value)
        return model

    def compile_once(model: Any, prepared: Any) -> None:
        settings = prepared.config.training
        total = fit.step_counts(prepared)[0] if settings.learning_rate_schedule == "cosine" else 0
        key = (replace(settings, epochs=1, steps=None, steps_per_epoch=None), total)
        compiled = vars(model).setdefault("compiled_for", {})
        if key not in compiled:
            compile_for(model, prepared)
            model.optimizer.build(model.trainable_variables)
            model.make_train_function()
            first = [numbers(variable) for variable in model.optimizer.variables]
            compiled[key] = model.optimizer, model.train_function, first
        model.optimizer, model.train_function, first = compiled[key]
        for variable, value in zip(model.optimizer.variables, first, strict=True):
            variable.assign(value)

    with pytest.MonkeyPatch.context() as patch:  # a test may undo what it has patched itself
        patch.setattr(experiment, "build_model", shared_model)
        patch.setattr(fit, "compile_for", compile_once)
        patch.setattr(experiment, "plot_curves", lambda metrics, picture: None)
        yield


@pytest.fixture
def shared_settings(traced_once: None, small_settings: dict[str, Any]) -> dict[str, Any]:
    """`small_settings` for runs that share a model, with a learning rate that knows no last step.

    So a run of any length has the same graph.
    """
    return {**small_settings, "training.learning_rate_schedule": "constant"}


@pytest.fixture
def few_sines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus `sines` with 500 texts and 100 held-out ones instead of 250,000 and 10,000."""
    from kvae.training.data.named_corpora import CORPORA, sines

    small = replace(
        CORPORA["sines"], texts=lambda: sines(500, seed=0), held_out=lambda: sines(100, seed=1)
    )
    monkeypatch.setitem(CORPORA, "sines", small)


def stopping_checkpoints() -> Any:
    """Checkpoints that stop a run after its first step, as Ctrl-C does."""
    from kvae.training.callbacks import Checkpoints

    class Stop(Checkpoints):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.stop.set()
            super().on_train_batch_end(batch, logs)

    return Stop
