"""Keras as our models need it: the backend it is set to, and the settings it finds in the environment."""

from __future__ import annotations

import json
import os
import traceback
import warnings
from pathlib import Path

from kvae.serving.errors import ConfigError

BACKENDS = ("tensorflow", "jax")
"""Backends of Keras that kvae trains on."""

PINNED = {"MPLBACKEND": "agg", "TF_USE_LEGACY_KERAS": "0", "JAX_ENABLE_X64": "0"}
"""Variables of the environment that a command has for itself: pictures go to files, the Keras of TensorBoard is ours, and JAX
computes in float32."""


def settings_file() -> Path:
    """The `keras.json` that Keras reads when it is imported."""
    home = os.path.expanduser("~")
    folder = os.environ.get(
        "KERAS_HOME", os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    )
    return Path(folder).expanduser() / "keras.json"


def check_backend() -> None:
    """Raise `ConfigError` where the environment or `keras.json` names a backend that kvae does not train on, before Keras is
    imported, which fails then or asks for packages that do not help."""
    backend, source = os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND"
    if not backend:
        try:
            found = json.loads(settings_file().read_text(encoding="utf-8"))
        except (OSError, ValueError):  # Keras takes its defaults then
            return
        backend, source = (
            found.get("backend") if isinstance(found, dict) else None,
            str(settings_file()),
        )
    if backend is not None and backend not in BACKENDS:
        raise ConfigError(
            f"{source} sets the backend {backend!r}, kvae trains on {' and '.join(map(repr, BACKENDS))}: "
            f"set KERAS_BACKEND=tensorflow"
        )


def start_keras() -> None:
    """Import Keras for a command: with the number formats that our models are written for, whatever `keras.json` says for
    other programs. Raises `ConfigError` for a setting with which Keras or its backend does not start."""
    check_backend()
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # of packages we stand on; PYTHONWARNINGS=error would end a run
    os.environ |= PINNED
    try:
        import keras
    except Exception as error:
        if not Path(traceback.extract_tb(error.__traceback__)[-1].filename).match(
            "keras/src/backend/config.py"
        ):
            raise
        variables = "".join(
            f", {name}={os.environ[name]}"
            for name in sorted(os.environ)
            if name.startswith("KERAS_")
        )
        raise ConfigError(
            f"Keras does not start with its settings ({first_line(error)}): it read {settings_file()}{variables}; "
            f"mend or remove what is wrong there"
        ) from error
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    if keras.backend.backend() == "jax":
        try:
            keras.distribution.list_devices()
        except Exception as error:  # of a missing platform JAX makes errors of several kinds
            platforms = os.environ.get("JAX_PLATFORMS")
            raise ConfigError(
                f"JAX does not start ({first_line(error)}); JAX_PLATFORMS is {platforms!r}: unset it, or name what is there"
            ) from error


def first_line(error: BaseException) -> str:
    """What an error of others says, in one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
