"""Locks and atomic writes: a path has one writer at a time, and a file or folder appears complete
or not at all.

The lock is a lock of the kernel on a file that its holder keeps open: flock, or a locked byte on
Windows. The kernel releases it when the process ends, also after kill -9. So nothing depends on
process numbers, which are reused. Between the hosts of a network disk the lock works if the disk
passes locks on, as NFS does. A disk without locks reports an error. Then `sole_writer` yields
False, and one guarantee is left: only one process creates a folder of a new name.
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

from .disk import add_path_to_errors

LOCK = ".lock"
"""Name of the lock file inside a folder. All processes see the same file, whatever path or mount
they use."""

RETRY_SECONDS = 0.1
"""Seconds between two attempts of a process that waits for a lock."""

LOCK_HELD_ERRORS = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
"""Error numbers of a lock that another process holds. Windows uses the last two."""

NO_LOCK_ERRORS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""Error numbers of a disk without locks."""

if sys.platform == "win32":
    import msvcrt

    LOCKED_BYTE = 2**30
    """Offset of the locked byte. Other processes cannot read it, so it lies behind the owner's
    name."""

    def lock_now(descriptor: int) -> None:
        """Lock an open file without waiting; raises `OSError` if this fails."""
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def lock_now(descriptor: int) -> None:
        """Lock an open file without waiting; raises `OSError` if this fails."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class PathInUse(ConfigError):
    """Another process, or another thread of this process, is writing the path."""


@contextlib.contextmanager
def sole_writer(lock: Path, target: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file `lock` while `target` is written. Yields whether the disk has locks.

    If another process holds the lock: with `wait`, prints its name to standard error and waits;
    otherwise raises `PathInUse` with its name.
    """
    descriptor, has_locks = open_locked(lock, target, wait)
    try:
        with contextlib.suppress(OSError):  # on a full disk the lock holds without its owner's name
            os.truncate(descriptor, 0)
            os.write(descriptor, process_name().encode())
        yield has_locks
    finally:
        if sys.platform != "win32" and is_same_file(descriptor, lock):
            lock.unlink(missing_ok=True)  # before the release: who has opened it meanwhile retries
        os.close(descriptor)
        if sys.platform == "win32":  # which cannot remove an open file
            with contextlib.suppress(OSError):
                lock.unlink()


def open_locked(lock: Path, target: Path, wait: bool) -> tuple[int, bool]:
    """The descriptor of the open lock file, and whether it is locked. It is not on a disk without
    locks.

    `target` and `wait` as in `sole_writer`. Raises `PathInUse`.
    """
    announced = False
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        is_locked = try_lock(descriptor)
        if is_locked is None or (is_locked and is_same_file(descriptor, lock)):
            return descriptor, bool(is_locked)
        holder = os.read(descriptor, 1000).decode(errors="replace") or "another process"
        os.close(descriptor)
        if is_locked:  # its last holder has removed the file: the next attempt creates a new one
            continue
        if not wait:
            raise PathInUse(
                f"{target} is being written by {holder}: wait until it ends, stop it, "
                f"or give another path"
            )
        if not announced:
            print(f"waiting for {holder}, which is writing {target}", file=sys.stderr, flush=True)
            announced = True
        time.sleep(RETRY_SECONDS)


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file: True on success, False if another process holds the lock, None on a disk
    without locks."""
    try:
        lock_now(descriptor)
    except OSError as error:
        if error.errno not in LOCK_HELD_ERRORS | NO_LOCK_ERRORS:
            raise
        return None if error.errno in NO_LOCK_ERRORS else False
    return True


def process_name() -> str:
    """How messages of other processes name this process: its number, host and the present time."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} since {now}"


def is_same_file(descriptor: int, path: Path) -> bool:
    """Whether `path` is the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def claimed_folder(folder: Path) -> Iterator[bool]:
    """Context in which only this process writes `folder`. Creates it if it is missing. Yields
    whether the disk has locks.

    At the end, folders that were created here are removed if they are empty. So is an empty folder
    that a killed process left. Raises `PathInUse` if another process holds the folder, and
    `ConfigError` if the path is not a folder.
    """
    parents = [path for path in folder.parents if not path.exists()]
    is_abandoned = holds_only_a_lock(folder)
    is_ours = False
    try:
        with contextlib.ExitStack() as stack:
            while True:
                is_new = create_folder(folder)
                with contextlib.suppress(FileNotFoundError):  # its maker has just removed it
                    has_locks = stack.enter_context(sole_writer(folder / LOCK, folder))
                    break
            is_ours = is_new or (is_abandoned and has_locks)
            if not (is_new or has_locks or has_content(folder)):
                raise PathInUse(
                    f"{folder} is empty, on a disk that keeps no locks: another process may have "
                    f"made it; give another path, or remove the folder if no process uses it"
                )
            yield has_locks
    finally:
        remove_empty_folders([folder, *parents] if is_ours else parents)


def create_folder(folder: Path) -> bool:
    """Create a folder and its parents. Returns whether this call created it; raises `ConfigError`
    for a file."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        if exists_as_non_folder(folder):
            raise ConfigError(f"{folder} is not a folder; give another path") from None
        return False
    return True


def exists_as_non_folder(path: Path) -> bool:
    """Whether a path exists and is not a folder. One system call decides, as another process may
    remove the path."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return path.is_symlink()  # that leads nowhere


def holds_only_a_lock(folder: Path) -> bool:
    """Whether a folder contains its lock file and nothing else. A killed process leaves such a
    folder."""
    try:
        return [path.name for path in folder.iterdir()] == [LOCK]
    except (FileNotFoundError, NotADirectoryError):
        return False


def has_content(folder: Path) -> bool:
    """Whether a folder contains anything besides its lock file."""
    return any(path.name != LOCK for path in folder.iterdir())


def remove_empty_folders(folders: list[Path]) -> None:
    """Remove folders, innermost first, up to the first that is not empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


@contextlib.contextmanager
def atomic_create(path: Path) -> Iterator[Path]:
    """`atomic_write` of a path that does not exist yet, with a lock. Raises `ConfigError` if it
    exists, or `PathInUse`."""
    check_absent(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(lock_path(path), path) as exclusive:
        check_absent(path)
        with atomic_write(path, exclusive) as partial:
            yield partial


@contextlib.contextmanager
def atomic_write(path: Path, exclusive: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside `path`. The file or folder of that name becomes `path` when the
    block ends.

    If the block fails, nothing is left. A file replaces an earlier file. A folder replaces at most
    an empty folder; anything else raises `ConfigError`. `exclusive` says that no other process is
    writing `path` (`sole_writer`). Then what a killed process left is removed.
    """
    for leftover in leftovers(path) if exclusive else ():
        with contextlib.suppress(OSError):
            remove(leftover)
    # The temporary name keeps the ending, which may decide what is written.
    partial = path.with_name(f".partial-{secrets.token_hex(4)}-{path.name}")
    try:
        with add_path_to_errors(path):
            yield partial
        try:
            partial.replace(path)
        except OSError as error:
            if error.errno in TARGET_EXISTS_ERRORS:
                check_absent(path)
            raise
    except OSError as error:
        if error.filename == str(partial):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            remove(partial)


def write_text(path: Path, text: str, exclusive: bool = False, errors: str = "strict") -> None:
    """Write a text file in UTF-8 with `atomic_write`; `errors` as in `str.encode`."""
    with atomic_write(path, exclusive) as partial:
        partial.write_text(text, encoding="utf-8", errors=errors)


TARGET_EXISTS_ERRORS = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
"""Error numbers when a folder would have to replace something, or a file a folder."""


def check_absent(path: Path) -> None:
    """Raise `ConfigError` if the path exists."""
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists already; give another path, or move it away")


def lock_path(path: Path) -> Path:
    """The lock file of a path that is a file or does not exist yet. It lies beside the path."""
    return path.with_name(f".{path.name}{LOCK}")


def leftovers(path: Path) -> list[Path]:
    """Existing files and folders with a temporary name that `atomic_write` gives for `path`."""
    return leftovers_in(path.parent, re.escape(path.name))


def leftovers_in(folder: Path, name: str = ".+") -> list[Path]:
    """Those for any path in a folder, or for names that match a pattern."""
    pattern = re.compile(rf"\.partial-[0-9a-f]{{8}}-{name}")
    return [file for file in folder.glob(".partial-*") if pattern.fullmatch(file.name)]


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
