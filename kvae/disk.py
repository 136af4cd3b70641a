"""Messages for files that cannot be written: the path, the free space and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kvae.serving.errors import KvaeError

ADVICE = {
    errno.ENOSPC: "free some space there, or give another folder",
    errno.EDQUOT: "the quota there is used up: remove files of yours, or give another folder",
    errno.EFBIG: "files there have a size limit: raise it (ulimit -f), "
    "or give a folder on another file system",
    errno.EROFS: "nothing can be written there: give another folder",
    errno.EIO: "the disk or the network behind it failed: give another folder",
    errno.EACCES: "give another path, or get the right to write there",
    errno.EPERM: "give another path, or get the right to write there",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""What to do, by error number."""

WRITE_ERRORS = {
    os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
}
"""Message of the operating system when writing to an open file fails -> error number."""


@contextlib.contextmanager
def add_path_to_errors(path: str | Path) -> Iterator[None]:
    """Context in which a failed write raises an `OSError` with its number and with `path`.

    The operating system names the file only when opening fails. HDF5 and TensorFlow raise errors of
    their own that quote the system's message; these become an `OSError` too.
    """
    try:
        yield
    except KvaeError:
        raise
    except Exception as error:
        number = next(
            (number for message, number in WRITE_ERRORS.items() if message in str(error)), None
        )
        if number is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def describe_os_error(error: OSError) -> str:
    """One-line message: the error, its file, the free space if the disk is full, what to do."""
    if error.errno is None:
        return str(error)
    name = error.filename2 or error.filename  # the file that is written, if there are two
    message = f"{name}: {os.strerror(error.errno)}" if name else os.strerror(error.errno)
    if name and error.errno in (errno.ENOSPC, errno.EDQUOT):
        message += f" ({free_space(Path(str(name))) / 1e6:,.1f} MB are free)"
    return "; ".join([message, *filter(None, [ADVICE.get(error.errno)])])


def free_space(path: Path) -> int:
    """Free bytes on the disk of `path`, which need not exist yet."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free
