"""Loading a `.keras` file without its optimizer, and error messages that name the cause."""

from __future__ import annotations

import errno
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvae.serving.errors import KvaeError, ModelError, first_line

if TYPE_CHECKING:
    import keras

    from .model import TextVAE

REGISTERED_NAME = "kvae>TextVAE"
"""The name of the class in a `.keras` file."""

OUT_OF_MEMORY_PHRASES = (
    "resource_exhausted",
    "resourceexhausted",
    "out of memory",
    "unable to allocate",
    "bad_alloc",
)
"""Phrases in the out-of-memory messages of numpy, TensorFlow, XLA and C++."""


def load_model(path: Path, damaged: str) -> TextVAE:
    """Load the model of a `.keras` file without compiling it: its optimizer is not read.

    Raises `ModelError` that names the cause. If the file is damaged, the message ends with
    `damaged`, the caller's advice.
    """
    import keras

    from .model import TextVAE

    check_intact(path, damaged)
    try:
        model = keras.saving.load_model(path, compile=False)
    except KvaeError as error:
        raise ModelError(f"{path}: {error}; {version_advice(path)}") from error
    except Exception as error:  # zip, h5, json and keras raise errors without a common base
        raise ModelError(f"{path}: {describe_load_error(path, error)}") from error
    if not isinstance(model, TextVAE):
        raise ModelError(
            f"{path}: holds a {type(model).__name__}, not a TextVAE; give a file that kvae wrote"
        )
    weight = first_not_finite(model.weights)
    if weight:
        raise ModelError(
            f"{path}: {weight} holds numbers that are not finite, so training had diverged when it "
            f"was saved; go on from an earlier checkpoint of its run, or give another model"
        )
    return model


def check_intact(path: Path, damaged: str) -> None:
    """Raise `ModelError` unless the file is a zip archive whose members match their checksums.

    Keras does not compress, so no member may be larger than the file.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            too_large = [
                member.filename for member in archive.infolist() if member.file_size > size
            ]
            broken = too_large[0] if too_large else archive.testzip()
    # A damaged archive raises BadZipFile, struct.error, NotImplementedError, zlib.error ...
    except Exception as error:
        message = f"damaged, not a complete .keras file ({first_line(error)}); {damaged}"
        raise ModelError(f"{path}: {describe_system_error(error) or message}") from error
    if broken:
        raise ModelError(f"{path}: damaged, its member {broken} has changed; {damaged}")


def is_intact(path: Path) -> bool:
    """True if the file exists and is complete and undamaged."""
    try:
        check_intact(path, "")
    except ModelError:
        return False
    return True


def first_not_finite(variables: Iterable[keras.Variable]) -> str | None:
    """Path of the first variable that holds NaN or an infinity, None if all are finite."""
    import numpy as np
    from keras import ops

    return next(
        (
            variable.path
            for variable in variables
            if not np.isfinite(np.asarray(ops.convert_to_numpy(variable))).all()
        ),
        None,
    )


def describe_load_error(path: Path, error: Exception) -> str:
    """Message for an undamaged file that does not load: the cause and what to do."""
    system_error = describe_system_error(error)
    if system_error:
        return system_error
    saved_class = read_json_part(path, "config.json").get("registered_name")
    if saved_class != REGISTERED_NAME:
        return (
            f"holds the class {str(saved_class)[:80]!r}, which is not registered here; "
            f"import the module that defines it first, or give a file that kvae wrote"
        )
    if "objects could not be loaded" in str(error):
        return (
            f"its weights have other shapes than the model has in this version of kvae "
            f"({example_message(error)}); {version_advice(path)}"
        )
    return f"does not load here ({first_line(error)}); {version_advice(path)}"


def version_advice(path: Path) -> str:
    """Advice for a file that other versions of kvae or Keras wrote."""
    import keras

    from kvae import __version__

    saved = read_json_part(path, "metadata.json").get("keras_version")
    installed = f"this is kvae {__version__} with Keras {keras.__version__}"
    if isinstance(saved, str) and saved != keras.__version__:
        advice = "open it with the versions that trained it"
        return f"written with Keras {saved[:40]}, {installed}: {advice}"
    return f"{installed}: open it with the version of kvae that trained it"


def read_json_part(path: Path, name: str) -> dict[str, Any]:
    """A JSON member of the archive; empty if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = json.loads(archive.read(name))
    except Exception:  # it only adds to a message
        return {}
    return content if isinstance(content, dict) else {}


def describe_system_error(error: Exception) -> str | None:
    """Message for an error of memory or the operating system, None if the file itself is at fault.

    EINVAL is the fault of the file: a damaged archive contains offsets that no file has.
    """
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return describe_read_error(error)
    message = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or any(phrase in message for phrase in OUT_OF_MEMORY_PHRASES):
        return (
            "there is not enough memory to load it; close other programs, "
            "or use a machine with more memory"
        )
    return None


def describe_read_error(error: OSError) -> str:
    """Message for a file that the operating system cannot read: the cause and what to do."""
    advice = {
        errno.EACCES: "give this user the right to read it",
        errno.EPERM: "give this user the right to read it",
        errno.ENOSPC: "Keras unpacks it on the same disk: make room on that disk",
        errno.EDQUOT: "Keras unpacks it on the same disk: make room on that disk",
        errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
        errno.ENFILE: "too many files are open: raise the limit (ulimit -n)",
        errno.EISDIR: "it is a folder: move it away",
    }
    default = "check the disk or the network that it is on, then try again"
    return f"cannot be read ({error.strerror or error}); {advice.get(error.errno or 0, default)}"


def example_message(error: Exception) -> str:
    """The message for the first object that Keras could not load, at most 160 characters.

    Keras writes it below a heading and above the list of all such objects.
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[1 if len(lines) > 2 else 0][:160]
