"""The same weights and noise give the same numbers on TensorFlow and on JAX.

A run that was made on one backend goes on with the other. One process of the other backend does its
part for all tests: it imports this file and calls `other_side`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.configuration import Config
from kvae.presets import PRESETS, preset

from .conftest import distinct_presets, everyday, gradients, numbers, random_tokens, small_config

ROOT = Path(__file__).parents[1]
ROWS = 6
STEP = 700
"""Half way up the ramp of the small presets."""


SYSTEMS: dict[str, Config] = {
    **{name: PRESETS[name].config for name in distinct_presets()},
    **{
        name: Config(model=small_config(**model)).with_settings(
            {f"objective.{key}": value for key, value in other.items()}
        )
        for name, model, other in (
            ("vamp", {"prior": "vamp"}, {"penalty": "free_bits_mask", "free_bits_over": "total"}),
            (
                "autoregressive",
                {"prior": "autoregressive", "latent": "map"},
                {"penalty": "free_bits"},
            ),
            ("mmd", {"posterior": "batch_normalized"}, {"mmd": 2.0, "schedule": "cyclical"}),
            (
                "attention ladder",
                {
                    "encoder": "transformer",
                    "latent": "map",
                    "latent_size": (4, 3),
                    "expander": "repeat",
                    "head": "transformer",
                },
                {},
            ),
            ("skip and bag of words", {"head_skip": True}, {"bag_of_words": 1.0}),
        )
    },
}

DIFFERENTIATED = (
    "hybrid-lstm-small",
    "hybrid-semi-supervised-small",
    "hybrid-bytenet-ptb-small",
    "rnn-mixture-toy-small",
    "lvae-3-toy-small",
    "lcnnvae-3-toy-small",
    "kl-target-gru-small",
    "transformer-vae-small",
    "vamp",
)
"""Systems whose gradients are compared too, through batch statistics.

None of them hides symbols at random.
"""


def drawn(generator: np.random.Generator, weight: Any) -> np.ndarray:
    """A random weight: variances are around 1, and kernels keep the size of their inputs."""
    shape = tuple(weight.shape)
    if weight.path.endswith("variance"):
        return generator.uniform(0.5, 1.5, shape)
    return generator.normal(size=shape) / np.sqrt(max(np.prod(shape[:-1]), 4.0))


def prepared(name: str) -> tuple[Any, Any]:
    """The model of a system with weights and noise that any backend draws alike, and its inputs."""
    from kvae.model import TextVAE

    config = SYSTEMS[name]
    shape = {"model.length": config.model.length or 16, "model.vocabulary_size": 9}
    config = config.with_settings(shape)
    model = TextVAE(config.model, config.objective)
    generator = np.random.default_rng(1)
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(drawn(generator, weight))
    model.training_steps.assign(STEP)
    values = len(config.model.attributes)
    noise = generator.normal(size=(ROWS * max(values, 1), model.parts.noise_size)).astype(
        np.float32
    )
    model.get_layer("noise").call = lambda tokens: noise[: tokens.shape[0]]
    tokens = random_tokens(ROWS, config.model.length)
    return model, {
        "tokens": tokens,
        "attribute": np.arange(ROWS, dtype=np.int32) % (values + 1) - 1,
    } if values else tokens


def terms(name: str) -> dict[str, np.ndarray]:
    """Every term of a system, (ROWS,) each, in inference mode."""
    from kvae.recurrences import looping
    from kvae.steps import backend_steps

    model, inputs = prepared(name)
    if os.environ.get("KERAS_BACKEND") != "jax":
        from kvae.training.tensorflow_step import over_positions

        with looping(over_positions):
            return {term: numbers(value) for term, value in model.terms(inputs).items()}
    return backend_steps().compiled(model, lambda: model.terms(inputs), [])()


def gradient(name: str) -> dict[str, np.ndarray]:
    """Of the mean loss in training mode, by the weight's number."""
    import keras

    model, inputs = prepared(name)
    found = gradients(
        lambda: keras.ops.mean(model.terms(inputs, training=True)["loss"]),
        model.trainable_variables,
    )
    return {str(number): value for number, value in enumerate(found)}


DIFFERENTIATED_DAILY = ("hybrid-lstm-small",)
"""Systems whose gradients are compared every day."""


def everything(systems: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Terms and gradients of the systems that are compared, under names of their own."""
    import keras

    found = {}
    for name in systems["terms"]:
        found |= {f"terms/{name}/{term}": value for term, value in terms(name).items()}
        keras.backend.clear_session()
    for name in systems["gradient"]:
        found |= {f"gradient/{name}/{number}": value for number, value in gradient(name).items()}
        keras.backend.clear_session()
    return found


def other_side(out: str, settings: str, run_folder: str, systems: str) -> None:
    """What the other backend does: its numbers, a run of its own, and its evaluation of ours."""
    from kvae.runs import load_run
    from kvae.training.data.prepare import held_out
    from kvae.training.evaluation import evaluate
    from kvae.training.experiment import run

    asked = json.loads(systems)
    np.savez(Path(out) / "numbers.npz", **everything(asked))
    if not asked["run"]:
        return
    run(preset("hybrid-lstm").with_settings(json.loads(settings)), Path(out) / "run", print)
    ours = load_run(run_folder)
    report = evaluate(ours.model, held_out(ours.config, ours.alphabet).rows)
    (Path(out) / "evaluation.json").write_text(json.dumps(report))


@pytest.fixture(scope="module")
def jax_folder(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    run_folder: Path,
    run_settings: dict[str, Any],
) -> Path:
    """The folder with the results of JAX for the systems that this session compares."""
    pytest.importorskip("jax")
    out = tmp_path_factory.mktemp("jax")
    settings = json.dumps({**run_settings, "training.jit_compile": True})
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    systems = {
        kind: [each[parameter] for each in asked if parameter in each]
        for kind, parameter in (("terms", "system_of_terms"), ("gradient", "system_of_gradients"))
    }
    named = (item.name for item in request.session.items)
    systems["run"] = [name for name in named if name.startswith("test_a_run_trained_on")]
    code = (
        "import sys; from tests.test_training_backends import other_side; other_side(*sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(out), settings, str(run_folder), json.dumps(systems)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("system_of_terms", everyday(SYSTEMS))
def test_every_term_is_the_same_on_both_backends(system_of_terms: str, jax_folder: Path) -> None:
    name = system_of_terms
    with np.load(jax_folder / "numbers.npz") as theirs:
        for term, value in terms(name).items():
            assert np.isfinite(value).all()
            np.testing.assert_allclose(
                theirs[f"terms/{name}/{term}"], value, rtol=0, atol=1e-4, err_msg=term
            )


@pytest.mark.parametrize("system_of_gradients", everyday(DIFFERENTIATED, *DIFFERENTIATED_DAILY))
def test_gradients_are_the_same_on_both_backends(
    system_of_gradients: str, jax_folder: Path
) -> None:
    name = system_of_gradients
    with np.load(jax_folder / "numbers.npz") as theirs:
        for number, value in gradient(name).items():
            size = np.abs(value).max()
            np.testing.assert_allclose(
                theirs[f"gradient/{name}/{number}"], value, atol=1e-4 * max(size, 1.0)
            )


@pytest.mark.slow
def test_a_run_trained_on_jax_is_evaluated_and_exported_on_tensorflow(jax_folder: Path) -> None:
    from kvae.export.bundle import write_bundle
    from kvae.runs import load_run
    from kvae.serving import Sampler
    from kvae.training.data.prepare import held_out
    from kvae.training.evaluation import evaluate

    run = load_run(jax_folder / "run")
    with_optimizer = keras.saving.load_model(jax_folder / "run" / "model.keras")
    assert int(run.model.training_steps) == int(with_optimizer.optimizer.iterations) == 21
    again = evaluate(run.model, held_out(run.config, run.alphabet).rows)
    again["parameters"] = run.model.count_params()
    assert again == pytest.approx(run.evaluation, abs=1e-4, rel=1e-5)
    write_bundle(run.model, run.alphabet, run.config, jax_folder / "bundle", run.evaluation)
    assert len(Sampler.load(jax_folder / "bundle").sample(3, seed=0)) == 3


@pytest.mark.slow
def test_a_run_trained_on_tensorflow_is_evaluated_on_jax_with_the_same_numbers(
    jax_folder: Path, run_folder: Path
) -> None:
    ours = json.loads((run_folder / "report" / "evaluation.json").read_text())
    theirs = json.loads((jax_folder / "evaluation.json").read_text())
    theirs["parameters"] = ours["parameters"]  # which a run adds to its evaluation
    assert theirs == pytest.approx(ours, abs=1e-4, rel=1e-5)
