"""Writing where others may write too: a path has one writer at a time, and what it writes appears whole or not at all.

The lock is the kernel's, on a file that its holder keeps open: flock, on Windows a locked byte. The kernel takes it back when
the process ends, by kill -9 too, so that nothing is judged by process numbers, which come again. Between the hosts of a
network disk it holds where the disk passes locks on, as NFS does. A disk that keeps none says so: `sole_writer` then yields
False, and what is left is that a folder of a new name is made by one process alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from kvae.serving.errors import ConfigError

from .disk import naming

LOCK = ".lock"
"""The lock file of a folder, inside it: whoever sees the folder, by whatever path or mount, sees the same file."""

TURN = 0.1
"""Seconds between two attempts of a process that waits."""

HELD = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
"""What a system answers where another process has the lock; the last two are Windows'."""

NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""What a disk without locks answers."""

if sys.platform == "win32":
    import msvcrt

    BEHIND = 2**30
    """The byte that is locked. Nobody else can read it, so it lies behind the owner's name."""

    def lock_now(descriptor: int) -> None:
        """Lock an open file; raises `OSError` where that cannot be done at once."""
        os.lseek(descriptor, BEHIND, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def lock_now(descriptor: int) -> None:
        """Lock an open file; raises `OSError` where that cannot be done at once."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Taken(ConfigError):
    """A path that another process, or another thread of this one, is writing."""


@contextlib.contextmanager
def sole_writer(lock: Path, what: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file `lock` while `what` is written; yields whether the disk keeps locks.

    Where another process holds it, raises `Taken` with that process, or says so on standard error and waits for it.
    """
    descriptor, kept = locked(lock, what, wait)
    try:
        with contextlib.suppress(OSError):  # on a full disk the lock holds without its owner's name
            os.truncate(descriptor, 0)
            os.write(descriptor, owner().encode())
        yield kept
    finally:
        if sys.platform != "win32" and is_still(descriptor, lock):
            lock.unlink(
                missing_ok=True
            )  # before it is given back: whoever has opened it meanwhile looks again
        os.close(descriptor)
        if sys.platform == "win32":  # which removes no file that is open
            with contextlib.suppress(OSError):
                lock.unlink()


def locked(lock: Path, what: Path, wait: bool) -> tuple[int, bool]:
    """The open lock file, and whether it is locked, as it is but on a disk without locks."""
    told = False
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        state = attempt(descriptor)
        if state is None or (state and is_still(descriptor, lock)):
            return descriptor, bool(state)
        holder = os.read(descriptor, 1000).decode(errors="replace") or "another process"
        os.close(descriptor)
        if state:  # its last holder has removed it meanwhile: the next turn makes another
            continue
        if not wait:
            raise Taken(
                f"{what} is being written by {holder}: wait until it ends, stop it, or give another path"
            )
        if not told:
            print(f"waiting for {holder}, which is writing {what}", file=sys.stderr, flush=True)
            told = True
        time.sleep(TURN)


def attempt(descriptor: int) -> bool | None:
    """Whether an open file could be locked; None on a disk that keeps no locks."""
    try:
        lock_now(descriptor)
    except OSError as error:
        if error.errno not in HELD | NO_LOCKS:
            raise
        return None if error.errno in NO_LOCKS else False
    return True


def owner() -> str:
    """This process, as another one names it to its user."""
    return f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def is_still(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that bears that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Within this, `folder` is this process's alone to write, made where it is missing; yields whether the disk keeps locks.

    What was made here and is empty at the end goes away again, also what a killed process had made so. Raises `Taken` where
    another process has it, and `ConfigError` where something else than a folder bears its name.
    """
    parents = [path for path in folder.parents if not path.exists()]
    left = left_behind(folder)
    ours = False
    try:
        with contextlib.ExitStack() as stack:
            while True:
                made = made_here(folder)
                with contextlib.suppress(
                    FileNotFoundError
                ):  # it was another's, who has removed it meanwhile
                    kept = stack.enter_context(sole_writer(folder / LOCK, folder))
                    break
            ours = made or (left and kept)
            if not (made or kept or occupied(folder)):
                raise Taken(
                    f"{folder} is empty, on a disk that keeps no locks: another process may have made it; give another path, "
                    f"or remove it where none has"
                )
            yield kept
    finally:
        remove_empty([folder, *parents] if ours else parents)


def made_here(folder: Path) -> bool:
    """Make a folder; whether it was this call that made it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        if is_no_folder(folder):
            raise ConfigError(f"{folder} is not a folder; give another path") from None
        return False
    return True


def is_no_folder(path: Path) -> bool:
    """Whether a path is there and no folder, in one look: what another process removes meanwhile is not there."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return path.is_symlink()  # that leads nowhere


def left_behind(folder: Path) -> bool:
    """Whether a folder holds a lock file alone, as one does that a process had claimed which was killed."""
    try:
        return [path.name for path in folder.iterdir()] == [LOCK]
    except (FileNotFoundError, NotADirectoryError):
        return False


def occupied(folder: Path) -> bool:
    """Whether a folder holds anything but its lock."""
    return any(path.name != LOCK for path in folder.iterdir())


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, up to the first that holds something."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


@contextlib.contextmanager
def new(path: Path) -> Iterator[Path]:
    """`whole`, where nothing bears the name and nobody else is about to take it; raises `ConfigError` where one does."""
    check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(beside(path), path) as alone:
        check_new(path)
        with whole(path, alone) as partial:
            yield partial


@contextlib.contextmanager
def whole(path: Path, alone: bool = False) -> Iterator[Path]:
    """Yield a name beside `path` for a file or a folder, which becomes `path` when the block ends; what fails leaves nothing.

    A file replaces an earlier file, a folder at most an empty one, else `ConfigError`. `alone` says that no other process is
    writing `path` (`sole_writer`): what one left that was killed is then removed.
    """
    for left in leftovers(path) if alone else ():
        with contextlib.suppress(OSError):
            remove(left)
    partial = path.with_name(
        f".partial-{secrets.token_hex(4)}-{path.name}"
    )  # the ending says what is written
    try:
        with naming(path):
            yield partial
        try:
            partial.replace(path)
        except OSError as error:
            if error.errno in IN_THE_WAY:
                check_new(path)
            raise
    except OSError as error:
        if error.filename == str(partial):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            remove(partial)


def write_text(path: Path, text: str, alone: bool = False, errors: str = "strict") -> None:
    """Write a file of text in UTF-8 by `whole`; `errors` is that of `str.encode`."""
    with whole(path, alone) as partial:
        partial.write_text(text, encoding="utf-8", errors=errors)


IN_THE_WAY = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
"""What a system answers when a folder would have to replace something, or a file a folder."""


def check_new(path: Path) -> None:
    """Raise `ConfigError` where something bears the name."""
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists already; give another path, or move it away")


def beside(path: Path) -> Path:
    """The lock file of what is not a folder yet."""
    return path.with_name(f".{path.name}{LOCK}")


def leftovers(path: Path) -> list[Path]:
    """What bears a name that `whole` gives for `path`."""
    pattern = re.compile(rf"\.partial-[0-9a-f]{{8}}-{re.escape(path.name)}")
    return [found for found in path.parent.iterdir() if pattern.fullmatch(found.name)]


def remove(path: Path) -> None:
    """Remove a file or a folder, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
