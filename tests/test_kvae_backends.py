"""Settings of Keras in the environment and in `keras.json`.

They are taken, set by ourselves, or refused in one line.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.backends import check_backend, settings_file, start_keras
from kvae.configuration import Config
from kvae.misfits import check_training
from kvae.model import TextVAE
from kvae.serving.errors import ConfigError

from .conftest import everyday, numbers, random_tokens, small_config, small_model


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a `keras.json` that tests write; the environment sets no backend."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    return tmp_path


@pytest.fixture
def settings_restored() -> Iterator[None]:
    before = keras.config.floatx(), keras.config.image_data_format(), keras.config.epsilon()
    yield
    for restore, value in zip(
        (keras.config.set_floatx, keras.config.set_image_data_format, keras.config.set_epsilon),
        before,
        strict=True,
    ):
        restore(value)


@pytest.mark.parametrize("backend", ["torch", "openvino", "numpy", "tensorfow"])
def test_a_backend_that_kvae_has_not_is_named_with_where_it_stands(
    backend: str, keras_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_file().write_text(json.dumps({"backend": backend}))
    with pytest.raises(
        ConfigError,
        match=rf"{keras_home}/keras.json sets the backend '{backend}'.*KERAS_BACKEND=tensorflow",
    ):
        check_backend()
    monkeypatch.setenv("KERAS_BACKEND", backend)
    with pytest.raises(ConfigError, match=f"^KERAS_BACKEND sets the backend '{backend}'"):
        check_backend()
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    check_backend()


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"backend": "jax"}'])
def test_a_settings_file_without_another_backend_is_none_of_our_business(
    content: str, keras_home: Path
) -> None:
    settings_file().write_text(content)
    check_backend()


VARIANTS: dict[str, dict[str, Any]] = {
    "conv": {},
    "bytenet": {"head": "bytenet", "head_layers": 2},
    "ladder of maps": {"latent": "map", "latent_size": (4, 4), "expander_filters": (16,)},
    "dense": {"encoder": "dense", "encoder_units": (8,), "expander": "repeat"},
}


@pytest.mark.jax
@pytest.mark.usefixtures("settings_restored")
@pytest.mark.parametrize("variant", everyday(VARIANTS, "conv"))
def test_models_are_the_same_whatever_stands_in_keras_json(variant: str) -> None:
    tokens = random_tokens(3)

    def logits() -> np.ndarray:
        model = small_model(**VARIANTS[variant])
        noise = np.ones((3, model.parts.noise_size), np.float32)
        return numbers(model.parts.outputs(tokens, noise, training=False)["logits"])

    expected = logits()
    keras.config.set_image_data_format("channels_first")
    keras.config.set_epsilon(0.1)
    np.testing.assert_array_equal(logits(), expected)


@pytest.mark.usefixtures("settings_restored")
@pytest.mark.parametrize("floatx", ["float16", "float64"])
def test_another_floatx_is_refused_in_python_and_set_right_for_commands(
    floatx: str, keras_home: Path
) -> None:
    keras.config.set_floatx(floatx)
    keras.config.set_image_data_format("channels_first")
    with pytest.raises(
        ConfigError, match=rf"floatx of Keras is '{floatx}'.*keras.config.set_floatx\('float32'\)"
    ):
        TextVAE(small_config())
    start_keras()
    assert (keras.config.floatx(), keras.config.image_data_format()) == ("float32", "channels_last")
    TextVAE(small_config())


@pytest.mark.parametrize("cap", [keras.config.set_max_epochs, keras.config.set_max_steps_per_epoch])
def test_a_cap_that_would_end_a_run_unseen_is_refused(cap: object) -> None:
    cap(1)
    try:
        with pytest.raises(
            ConfigError, match="KERAS_MAX_EPOCHS or KERAS_MAX_STEPS_PER_EPOCH is set"
        ):
            check_training(Config())
    finally:
        cap(None)


def started(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kvae", *command.split()],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("content", ["[]", '{"floatx": "bfloat16"}', '{"epsilon": 1}'])
def test_settings_with_which_keras_does_not_start_are_named(
    content: str, keras_home: Path, run_folder: Path
) -> None:
    settings_file().write_text(content)
    done = started(f"evaluate {run_folder}", KERAS_BACKEND="tensorflow")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Keras does not start with its settings" in done.stderr
    assert str(settings_file()) in done.stderr


def test_a_bundle_is_verified_without_a_keras_that_works(bundle_folder: Path) -> None:
    done = started(f"verify {bundle_folder}", KERAS_BACKEND="torch")
    assert done.returncode == 0, done.stderr
    assert "recorded at export" in done.stdout
    assert "not compared with the Keras model of" in done.stderr
    assert "KERAS_BACKEND sets the backend 'torch'" in done.stderr
    asked = started(
        f"verify {bundle_folder} --against {bundle_folder.parent}", KERAS_BACKEND="torch"
    )
    assert asked.returncode == 2
    assert asked.stderr.startswith("kvae verify: KERAS_BACKEND sets the backend 'torch'")


def test_jax_says_that_a_platform_is_missing(run_folder: Path) -> None:
    pytest.importorskip("jax")
    done = started(f"evaluate {run_folder}", KERAS_BACKEND="jax", JAX_PLATFORMS="nonsense")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "JAX_PLATFORMS is 'nonsense': unset it" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"image_data_format": "channels_first", "floatx": "float16", "epsilon": 0.1},
        {"floatx": "float64"},
    ],
    ids=["channels first, half precision", "double precision"],
)
def test_a_run_is_trained_and_evaluated_under_settings_of_other_programs(
    settings: dict[str, object], keras_home: Path, corpus_file: Path, tmp_path: Path
) -> None:
    settings_file().write_text(json.dumps(settings))
    out = tmp_path / "run"
    sizes = " ".join(
        f"--set model.{name}={value}" for name, value in (("head_units", 12), ("latent_size", 4))
    )
    done = started(
        f"train --data {corpus_file} --out {out} --steps 2 --set training.jit_compile=false {sizes}"
    )
    assert done.returncode == 0, done.stderr
    done = started(f"evaluate {out}")
    assert done.returncode == 0, done.stderr
