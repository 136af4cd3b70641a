"""A model begins with the weights of another run: which ones, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.configuration import Config
from kvae.presets import preset
from kvae.runs import Run
from kvae.serving.errors import ConfigError, ModelError
from kvae.training.data.prepare import Prepared, prepare
from kvae.training.experiment import build_model, resume, run
from kvae.training.transfer import start_from, weights_of

from .conftest import JAX, everyday

SHARED = {
    "head/recurrence/cell/bias",
    "head/read_previous/rows/embeddings",
    "head/read_previous/linear/kernel",
    "head/recurrence/cell/kernel",
    "head/classify/bias",
    "head/classify/linear/kernel",
}


def config_of(name: str, corpus_file: Path, **settings: Any) -> Config:
    return preset(name).with_settings(
        {
            "data.source": str(corpus_file),
            "model.length": 16,
            "model.head_units": 6,
            "model.head_embedding": 4,
            "training.steps": 2,
            "training.precision": "float32",
            "training.jit_compile": JAX,
            **({"model.encoder_units": [5]} if "vae" in name else {}),
            **{key.replace("__", "."): value for key, value in settings.items()},
        }
    )


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "lm"
    return run(config_of("lstm-lm-ptb-word", corpus_file), folder, lambda sentence: None)[0]


@pytest.fixture
def prepared(corpus_file: Path) -> Prepared:
    return prepare(config_of("lstm-vae-ptb-word", corpus_file))


@pytest.mark.parametrize("of", everyday(["run folder", "model file"], "model file"))
def test_a_vae_begins_with_the_weights_that_its_decoder_shares_with_a_language_model(
    language_model: Run, prepared: Prepared, of: str
) -> None:
    said: list[str] = []
    model = build_model(prepared, said.append)
    before = {name: np.array(weight) for name, weight in weights_of(model).items()}
    source = language_model.path if of == "run folder" else language_model.path / "model.keras"
    start_from(model, source, prepared.alphabet, said.append)
    theirs = weights_of(language_model.model)
    for name, weight in weights_of(model).items():
        np.testing.assert_array_equal(
            weight, theirs[name] if name in SHARED else before[name], err_msg=name
        )
    taken, _, drawn = said[-1].partition("drawn anew: ")
    assert all(name in taken for name in SHARED)
    assert {"head/read_features/kernel", "head/read_state/kernel"} <= set(drawn.split(", "))
    assert not int(model.training_steps)


def test_an_encoder_of_the_same_size_reads_with_the_vectors_of_the_language_model(
    language_model: Run, corpus_file: Path
) -> None:
    same = prepare(config_of("lstm-vae-ptb-word", corpus_file, model__encoder_embedding=4))
    model = build_model(same, print)
    start_from(model, language_model.path, same.alphabet, print)
    vectors = weights_of(language_model.model)["head/read_previous/rows/embeddings"]
    np.testing.assert_array_equal(model.parts.reader.embedding.embeddings, vectors)


@pytest.mark.slow
def test_a_run_starts_from_another_and_is_resumed_without_it(
    language_model: Run, corpus_file: Path, tmp_path: Path
) -> None:
    source = tmp_path / "lm"
    shutil.copytree(language_model.path, source)
    config = config_of(
        "lstm-vae-ptb-word",
        corpus_file,
        training__start_from=str(source),
        training__learning_rate=0.0,
    )
    said: list[str] = []
    trained, _ = run(config, tmp_path / "vae", said.append)
    gap = trained.evaluation["elbo"] - language_model.evaluation["elbo"]
    assert f"{gap:+.2f} from the {language_model.evaluation['elbo']:.2f} of {source}" in said[-1]
    ours, theirs = weights_of(trained.model), weights_of(language_model.model)
    for name in SHARED:
        np.testing.assert_array_equal(ours[name], theirs[name])
    shutil.rmtree(source)
    longer = trained.config.with_settings({"training.steps": 3})
    assert int(resume(longer, tmp_path / "vae", lambda sentence: None)[0].model.training_steps) == 3


def test_a_run_with_other_symbols_is_refused(
    language_model: Run, prepared: Prepared, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(language_model.path, other)
    text = (other / "vocabulary.json").read_text(encoding="utf-8")
    (other / "vocabulary.json").write_text(text.replace('"A"', '"B"'), encoding="utf-8")
    with pytest.raises(ConfigError, match="has learned other symbols"):
        start_from(build_model(prepared, print), other, prepared.alphabet, print)


def test_a_folder_that_is_no_run_is_refused_before_anything_is_written(
    corpus_file: Path, tmp_path: Path
) -> None:
    config = config_of(
        "lstm-vae-ptb-word", corpus_file, training__start_from=str(tmp_path / "nowhere")
    )
    with pytest.raises(ModelError, match="not a run folder"):
        run(config, tmp_path / "vae", print)
    assert not (tmp_path / "vae").exists()


def test_weights_for_a_decoder_that_is_drawn_anew_are_refused(
    corpus_file: Path, tmp_path: Path
) -> None:
    settings = {"training__start_from": "somewhere", "objective__warm_start_steps": 5}
    with pytest.raises(ConfigError, match="set only one of them"):
        run(config_of("lstm-vae-ptb-word", corpus_file, **settings), tmp_path / "vae", print)
