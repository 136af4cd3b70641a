"""The SavedModel: signatures that plain TensorFlow can call."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kvae.decoding import decode
from kvae.export import saved_model
from kvae.export.saved_model import write_saved_model
from kvae.serving.errors import CheckFailed, ConfigError

from .conftest import random_tokens, small_model

CODES = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    write_saved_model(model, path)
    return path


@pytest.fixture(scope="module")
def signatures(folder: Path) -> Any:
    loaded = tf.saved_model.load(str(folder))
    return {name: (loaded, call) for name, call in loaded.signatures.items()}


def call(signatures: Any, name: str, **inputs: Any) -> dict[str, np.ndarray]:
    return {
        key: value.numpy()
        for key, value in signatures[name][1](
            **{k: tf.constant(v) for k, v in inputs.items()}
        ).items()
    }


def test_its_signatures_are_named(signatures: Any) -> None:
    assert set(signatures) == {"encode", "decode", "sample", "score", "serving_default"}


def test_encode_is_the_models_posterior(model: Any, signatures: Any) -> None:
    tokens = random_tokens(5)
    found, expected = call(signatures, "encode", tokens=tokens), model.encode(tokens)
    for name in ("mean", "log_variance"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_decode_is_the_models_greedy_text(model: Any, signatures: Any) -> None:
    np.testing.assert_array_equal(
        call(signatures, "decode", z=CODES)["ids"], np.array(decode(model, CODES))
    )


def test_sample_repeats_at_a_seed_and_changes_with_it(signatures: Any) -> None:
    def sample(seed: int) -> np.ndarray:
        return call(
            signatures,
            "sample",
            seed=np.int32(seed),
            count=np.int32(30),
            temperature=np.float32(1.0),
        )["ids"]

    assert sample(1).shape == (30, 16)
    np.testing.assert_array_equal(sample(1), sample(1))
    assert (sample(1) != sample(2)).any(axis=1).mean() > 0.5
    assert len({row.tobytes() for row in sample(1)}) > 20


def test_score_is_the_models_bound(model: Any, signatures: Any) -> None:
    tokens = random_tokens(5)
    found = call(signatures, "score", tokens=tokens, seed=np.int32(3))
    noise = tf.random.stateless_normal((5, 4), (3, 0))
    terms = model.loss_terms(tokens, model.parts.outputs(tokens, noise, training=False))
    for name in ("reconstruction", "kl"):
        np.testing.assert_allclose(found[name], terms[name], rtol=1e-4)


@pytest.mark.slow
def test_a_numbered_folder_is_a_version_as_tensorflow_serving_reads_it(
    model: Any, tmp_path: Path
) -> None:
    write_saved_model(model, tmp_path / "names" / "1")
    (version,) = (tmp_path / "names").iterdir()
    assert (
        version.name,
        (version / "saved_model.pb").is_file(),
        (version / "variables").is_dir(),
    ) == ("1", True, True)
    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    assert set(signature.structured_outputs) == {"mean", "log_variance"}


def test_a_folder_that_exists_is_refused(model: Any, folder: Path) -> None:
    with pytest.raises(ConfigError, match="exists already"):
        write_saved_model(model, folder)


def test_of_two_exports_to_one_path_the_second_is_refused_at_once(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporting, go = threading.Event(), threading.Event()

    def slow(model: Any) -> Any:
        exporting.set()
        assert go.wait(300)
        raise CheckFailed("not the model")

    monkeypatch.setattr(saved_model, "build_archive", slow)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(write_saved_model, model, tmp_path / "names" / "1")
        assert exporting.wait(300)
        with pytest.raises(
            ConfigError, match=r"1 is being written by process .* or give another path"
        ):
            write_saved_model(model, tmp_path / "names" / "1")
        go.set()
        assert isinstance(first.exception(), CheckFailed)
    assert list((tmp_path / "names").iterdir()) == []
