"""`kvae.fit`: from texts in a program to a model with the methods of a sampler."""

import gc
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kvae
from kvae.serving import Sampler
from kvae.serving.errors import ConfigError, DataError
from kvae.training import plan
from kvae.training.fitted import Fitted

from .conftest import SMALL_SETTINGS
from .test_training_plan import sentences

SETTINGS = {**SMALL_SETTINGS, "model.tokenizer": "char", "data.too_long": "cut"}
METHODS = ("sample", "encode", "decode", "reconstruct", "score", "interpolate", "neighbours")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text[:15] for text in sentences(200)]


@pytest.fixture(scope="module")
def fitted(texts: list[str]) -> Any:
    """A model of an iterator of texts, planned with steps that take a minute each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "step_seconds", lambda prepared: 60.0)
        return kvae.fit(iter(texts), 12, "generation", settings=SETTINGS, say=said.append)


said: list[str] = []


@pytest.mark.slow
def test_a_fitted_model_is_diagnosed(fitted: Fitted) -> None:
    found = fitted.diagnose(texts=8)
    assert found["texts"] <= 8
    assert found["elbo"] == pytest.approx(found["reconstruction"] + found["kl"], rel=1e-5)
    assert found["findings"]
    assert all(str(fitted.run.path) in each["command"] for each in found["advice"])


def test_texts_of_a_program_get_the_plan_of_kvae_train(fitted: Fitted) -> None:
    config = fitted.run.config
    assert config.training.steps == int(fitted.run.model.training_steps) < 12
    assert config.model.posterior == "batch_normalized"
    assert config.model.latent_size == (SETTINGS["model.latent_size"],)
    assert any("the code carries about 5 nats" in sentence for sentence in said)
    assert fitted.report["findings"]
    assert len(fitted.prepared.train) + len(fitted.prepared.validation) == 200


def test_a_fitted_model_says_texts_steps_bound_and_information(fitted: Fitted) -> None:
    for part in ("texts", "steps", "bound", "bits a character", "KL", "rate of 5", "information"):
        assert part in repr(fitted)


def test_a_fitted_model_is_the_sampler_of_its_bundle(fitted: Fitted, texts: list[str]) -> None:
    written = fitted.sample(5, seed=1)
    sampler = Sampler.load(fitted.run.path / "bundle")
    assert written == sampler.sample(5, seed=1)
    codes = fitted.encode(texts[:3])
    np.testing.assert_array_equal(codes, sampler.encode(texts[:3]))
    assert fitted.decode(codes) == fitted.reconstruct(texts[:3])
    assert fitted.neighbours(texts[0], texts[:9], n=1) == [(texts[0], 0.0)]
    assert len(fitted.interpolate(texts[0], texts[1], steps=3)) == 3
    assert fitted.score(texts[:1]) == sampler.score(texts[:1])
    assert sampler.manifest["defaults"]["temperature"] == fitted.report["temperature"]
    for name in METHODS:
        assert inspect.signature(getattr(Fitted, name)) == inspect.signature(getattr(Sampler, name))


@pytest.mark.slow
def test_a_temporary_run_is_removed_with_its_model(texts: list[str], monkeypatch: Any) -> None:
    """Also if the run comes to nothing."""
    made: list[str] = []
    monkeypatch.setattr(plan, "step_seconds", lambda prepared: 60.0)
    monkeypatch.setattr("kvae.training.fitting.tempfile.mkdtemp", folder_in(made))
    found = kvae.fit(texts, 12, settings=SETTINGS, say=lambda sentence: None)
    path = found.run.path
    assert path.is_dir()
    del found
    gc.collect()
    assert not path.exists()
    with pytest.raises(ConfigError, match="give more minutes"):
        kvae.fit(texts, 1, settings=SETTINGS, say=lambda sentence: None)
    runs = [Path(folder) for folder in made if Path(folder).name.startswith("kvae-")]
    assert [folder.exists() for folder in runs] == [False, False]


def folder_in(made: list[str]) -> Any:
    import tempfile

    make = tempfile.mkdtemp

    def recorded(**options: Any) -> str:
        made.append(make(**options))
        return made[-1]

    return recorded


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a goal": ({"goal": "best"}, ConfigError, "goal must be generation or balanced"),
    "a rate": ({"rate": 0}, ConfigError, "rate must be a number of nats above 0"),
    "minutes": ({"minutes": -1}, ConfigError, "minutes must be a number above 0"),
    "a setting": ({"settings": {"model.latent": "x"}}, ConfigError, "model.latent"),
    "labels of a file": ({"texts": "a.txt", "labels": ["a"]}, ConfigError, "label_column"),
    "a file": ({"texts": "no-such-file.txt"}, DataError, "no-such-file.txt"),
    "numbers": ({"texts": [1, 2]}, DataError, "not a text"),
}


@pytest.mark.parametrize("case", WRONG)
def test_arguments_that_do_not_work_are_refused_with_the_way_out(case: str, tmp_path: Path) -> None:
    arguments, error, reason = WRONG[case]
    with pytest.raises(error, match=reason):
        kvae.fit(**{"texts": ["a", "b"], "out": tmp_path / "run", **arguments})
    assert not (tmp_path / "run" / "config.json").exists()
