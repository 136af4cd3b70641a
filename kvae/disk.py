"""Files that cannot be written: which one, how much is free, and the way out."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kvae.serving.errors import KvaeError

WAYS_OUT = {
    errno.ENOSPC: "free some space there, or give another folder",
    errno.EDQUOT: "the quota there is used up: remove files of yours, or give another folder",
    errno.EFBIG: "files there have a limit: raise it (ulimit -f), or give a folder on another file system",
    errno.EROFS: "nothing can be written there: give another folder",
    errno.EIO: "the disk or the network behind it failed: give another folder",
    errno.EACCES: "give another path, or yourself the right",
    errno.EPERM: "give another path, or yourself the right",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""What to do, by the number of the error."""

WHILE_WRITING = {
    os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
}
"""What the system says when an open file takes no more, with the numbers."""


@contextlib.contextmanager
def add_path_to_errors(path: str | Path) -> Iterator[None]:
    """Name `path` in the error of a file that takes no more: the system does so only where a file is opened. HDF5 and
    TensorFlow raise errors of their own that quote the system; all become an `OSError` with number and file name."""
    try:
        yield
    except KvaeError:
        raise
    except Exception as error:
        number = next(
            (number for said, number in WHILE_WRITING.items() if said in str(error)), None
        )
        if number is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def describe_os_error(error: OSError) -> str:
    """An error of the system with its file, the free space where that is the matter, and the way out."""
    if error.errno is None:
        return str(error)
    name = error.filename2 or error.filename  # of two the one that is written
    said = f"{name}: {os.strerror(error.errno)}" if name else os.strerror(error.errno)
    if name and error.errno in (errno.ENOSPC, errno.EDQUOT):
        said += f" ({free_space(Path(str(name))) / 1e6:,.1f} MB are free)"
    return "; ".join([said, *filter(None, [WAYS_OUT.get(error.errno)])])


def free_space(path: Path) -> int:
    """Bytes that are free where `path` lies or would lie."""
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free
