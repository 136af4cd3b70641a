"""Checks of the Keras backend and settings, and the import of Keras for a command."""

from __future__ import annotations

import json
import os
import traceback
import warnings
from pathlib import Path

from kvae.serving.errors import ConfigError, first_line

BACKENDS = ("tensorflow", "jax")
"""Keras backends that kvae trains on."""

PINNED = {"MPLBACKEND": "agg", "TF_USE_LEGACY_KERAS": "0", "JAX_ENABLE_X64": "0"}
"""Environment variables that a command sets for its own process.

Matplotlib draws to files, TensorBoard uses Keras 3, and JAX computes in float32.
"""


def settings_file() -> Path:
    """Path of the `keras.json` that Keras reads when it is imported."""
    home = os.path.expanduser("~")
    folder = os.environ.get(
        "KERAS_HOME", os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    )
    return Path(folder).expanduser() / "keras.json"


def check_backend() -> None:
    """Raise `ConfigError` if the settings of Keras name a backend that kvae does not train on.

    The settings are KERAS_BACKEND and, without it, `keras.json`. Call this before Keras is
    imported: with such a backend the import fails, or asks for packages that do not help.
    """
    backend, source = os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND"
    if not backend:
        try:
            settings = json.loads(settings_file().read_text(encoding="utf-8"))
        except (OSError, ValueError):  # Keras uses its defaults in this case
            return
        backend = settings.get("backend") if isinstance(settings, dict) else None
        source = str(settings_file())
    if backend is not None and backend not in BACKENDS:
        raise ConfigError(
            f"{source} sets the backend {backend!r}, kvae trains on "
            f"{' and '.join(map(repr, BACKENDS))}: "
            f"set KERAS_BACKEND=tensorflow"
        )


def start_keras() -> None:
    """Import Keras for a command, in float32 and with channels last, whatever `keras.json` says.

    Raises `ConfigError` if Keras or its backend does not start with the settings of the user.
    """
    check_backend()
    # Dependencies emit these warnings; with PYTHONWARNINGS=error they would end a run.
    warnings.simplefilter("ignore", DeprecationWarning)
    os.environ |= PINNED
    try:
        import keras
    except Exception as error:
        origin = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not origin.match("keras/src/backend/config.py"):
            raise
        variables = "".join(
            f", {name}={os.environ[name]}"
            for name in sorted(os.environ)
            if name.startswith("KERAS_")
        )
        raise ConfigError(
            f"Keras does not start with its settings ({first_line(error)}): it read "
            f"{settings_file()}{variables}; correct or remove the wrong setting"
        ) from error
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    if keras.backend.backend() == "jax":
        try:
            keras.distribution.list_devices()
        except Exception as error:  # JAX raises several types when a platform is missing
            platforms = os.environ.get("JAX_PLATFORMS")
            raise ConfigError(
                f"JAX does not start ({first_line(error)}); JAX_PLATFORMS is {platforms!r}: "
                f"unset it, or name a platform that this machine has"
            ) from error
