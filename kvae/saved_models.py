"""A `.keras` file: opened without its optimizer, and told by cause where it does not open."""

from __future__ import annotations

import errno
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvae.serving.errors import KvaeError, ModelError

if TYPE_CHECKING:
    from .model import TextVAE

REGISTERED_NAME = "kvae>TextVAE"
"""What Keras calls the class in a file."""

OUT_OF_MEMORY_PHRASES = (
    "resource_exhausted",
    "resourceexhausted",
    "out of memory",
    "unable to allocate",
    "bad_alloc",
)
"""What stands in the messages of numpy, TensorFlow, XLA and C++ where memory was not enough."""


def load_model(path: Path, damaged: str) -> TextVAE:
    """The model of a `.keras` file, not compiled: neither its optimizer nor its learning rate is read.

    Raises `ModelError` that names the cause; where bytes are missing or wrong it ends with `damaged`, the way out that the
    caller knows.
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
    broken = first_not_finite(model.weights)
    if broken:
        raise ModelError(
            f"{path}: {broken} holds numbers that are not finite, training had diverged when it was written; "
            f"go on from an earlier checkpoint of its run, or give another model"
        )
    return model


def check_intact(path: Path, damaged: str) -> None:
    """Raise `ModelError` unless the file is a zip archive whose parts have their checksums. Keras packs nothing, so no part
    is larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [
                part.filename for part in archive.infolist() if part.file_size > path.stat().st_size
            ]
            broken = packed[0] if packed else archive.testzip()
    except (
        Exception
    ) as error:  # a damaged archive: BadZipFile, struct.error, NotImplementedError, zlib.error ...
        told = f"damaged, not a whole .keras file ({first_line(error)}); {damaged}"
        raise ModelError(f"{path}: {describe_system_error(error) or told}") from error
    if broken:
        raise ModelError(f"{path}: damaged, its part {broken} is not as it was written; {damaged}")


def is_intact(path: Path) -> bool:
    """Whether the file is there and all of it."""
    try:
        check_intact(path, "")
    except ModelError:
        return False
    return True


def first_not_finite(variables: Any) -> str | None:
    """The path of the first variable that holds NaN or an infinity, if there is one."""
    import numpy as np
    from keras import ops

    return next(
        (
            each.path
            for each in variables
            if not np.isfinite(np.asarray(ops.convert_to_numpy(each))).all()
        ),
        None,
    )


def describe_load_error(path: Path, error: Exception) -> str:
    """Why a file that is whole does not load here, and what helps."""
    told, outside = str(error), describe_system_error(error)
    if outside:
        return outside
    saved_class = read_json_part(path, "config.json").get("registered_name")
    if saved_class != REGISTERED_NAME:
        return (
            f"holds the class {str(saved_class)[:80]!r}, which is not registered here; "
            f"import the module that defines it first, or give a file that kvae wrote"
        )
    if "objects could not be loaded" in told:
        return f"its weights have other shapes than this kvae gives the model ({last_line(error)}); {version_advice(path)}"
    return f"does not load here ({first_line(error)}); {version_advice(path)}"


def version_advice(path: Path) -> str:
    """The way out for a file that other versions wrote."""
    import keras

    from kvae import __version__

    saved = read_json_part(path, "metadata.json").get("keras_version")
    here = f"this is kvae {__version__} with Keras {keras.__version__}"
    if isinstance(saved, str) and saved != keras.__version__:
        return f"written with Keras {saved[:40]}, {here}: open it with the versions that trained it"
    return f"{here}: open it with the version of kvae that trained it"


def read_json_part(path: Path, name: str) -> dict[str, Any]:
    """A JSON part of the file; empty where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read(name))
    except Exception:  # only asked for a message
        return {}
    return found if isinstance(found, dict) else {}


def describe_system_error(error: Exception) -> str | None:
    """Why memory or the operating system did not give a file; None for an error that its contents made. EINVAL is one of those:
    a damaged archive names places that no file has."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return describe_read_error(error)
    told = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or any(sign in told for sign in OUT_OF_MEMORY_PHRASES):
        return "there is not enough memory to load it; close other programs, or use a machine with more"
    return None


def describe_read_error(error: OSError) -> str:
    """Why the operating system does not give a file, and what helps."""
    ways = {
        errno.EACCES: "give this user the right to read it",
        errno.EPERM: "give this user the right to read it",
        errno.ENOSPC: "Keras unpacks it beside itself: make room on that disk",
        errno.EDQUOT: "Keras unpacks it beside itself: make room on that disk",
        errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
        errno.ENFILE: "too many files are open: raise the limit (ulimit -n)",
        errno.EISDIR: "a folder has its name: move that away",
    }
    way = ways.get(error.errno or 0, "look at the disk or the network it lies on, then try again")
    return f"cannot be read ({error.strerror or error}); {way}"


def first_line(error: Exception) -> str:
    """What an error says, short enough for one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def last_line(error: Exception) -> str:
    """Keras says there in a list what it could not load; the line before names the first."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[1 if len(lines) > 2 else 0][:160]
