"""A path has one writer at a time, and what it writes appears whole or not at all."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kvae import writing
from kvae.serving.errors import ConfigError
from kvae.writing import (
    LOCK,
    PathInUse,
    atomic_create,
    atomic_write,
    claimed_folder,
    lock_path,
    sole_writer,
    write_text,
)

HOLDER = """
import sys
from pathlib import Path
from kvae.writing import {name}
with {name}({arguments}):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(name: str, *paths: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process within `sole_writer` or `claimed_folder`, until its standard input ends."""
    code = HOLDER.format(name=name, arguments=", ".join(f"Path({str(path)!r})" for path in paths))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.communicate()


def without_locks(descriptor: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def refused(folder: Path) -> str:
    """What `claimed_folder` says of a folder that it does not give."""
    with pytest.raises(PathInUse) as error, claimed_folder(folder):
        pass
    return str(error.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_second_process_is_refused_with_the_owner_and_the_way_out(tmp_path: Path) -> None:
    with holding("sole_writer", tmp_path / LOCK, tmp_path / "run") as process:
        with pytest.raises(PathInUse) as refused, sole_writer(tmp_path / LOCK, tmp_path / "run"):
            pass
        message = str(refused.value)
        assert (
            f"run is being written by process {process.pid} on {socket.gethostname()} since 2"
            in message
        )
        assert message.endswith("wait until it ends, stop it, or give another path")
        assert "\n" not in message
        process.communicate()
        with sole_writer(tmp_path / LOCK, tmp_path / "run") as has_locks:
            assert has_locks
    assert names(tmp_path) == []


def test_the_lock_of_a_killed_process_is_free_whoever_has_its_number_now(tmp_path: Path) -> None:
    with holding("sole_writer", tmp_path / LOCK, tmp_path / "run") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (tmp_path / LOCK).write_text(f"process {os.getppid()} on {socket.gethostname()} since ever")
    with sole_writer(tmp_path / LOCK, tmp_path / "run") as has_locks:
        assert has_locks
        assert f"process {os.getpid()} " in (tmp_path / LOCK).read_text()
    assert names(tmp_path) == []


def test_a_thread_is_refused_like_a_process(tmp_path: Path) -> None:
    def second() -> None:
        with sole_writer(tmp_path / LOCK, tmp_path / "run"):
            pass

    with sole_writer(tmp_path / LOCK, tmp_path / "run"), ThreadPoolExecutor() as threads:
        assert isinstance(threads.submit(second).exception(), PathInUse)


def test_who_waits_says_for_whom_and_has_its_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting, order = threading.Event(), list[str]()

    def second() -> None:
        with sole_writer(tmp_path / LOCK, tmp_path / "store", wait=True):
            order.append("second")

    class Heard:
        def write(self, text: str) -> None:
            waiting.set()

        def flush(self) -> None: ...

    with ThreadPoolExecutor() as threads, pytest.MonkeyPatch.context() as patch:
        with sole_writer(tmp_path / LOCK, tmp_path / "store"):
            patch.setattr(sys, "stderr", Heard())
            done = threads.submit(second)
            assert waiting.wait(60)
            order.append("first")
        done.result(60)
    assert order == ["first", "second"]


def test_of_many_that_begin_together_one_at_a_time_writes(tmp_path: Path) -> None:
    """The folder is created and removed meanwhile."""
    together, inside, most = threading.Barrier(8), list[int](), list[int]()

    def writer(number: int) -> int:
        entered = 0
        together.wait()
        for _ in range(50):
            try:
                with claimed_folder(tmp_path / "r"):
                    inside.append(number)
                    most.append(len(inside))
                    inside.remove(number)
                    entered += 1
            except PathInUse:
                pass
        return entered

    with ThreadPoolExecutor(8) as threads:
        entered = sum(threads.map(writer, range(8)))
    assert entered == len(most) > 0
    assert max(most) == 1
    assert [*tmp_path.rglob("*")] in (
        [],
        [tmp_path / "r"],
    )  # empty where its maker left while another came


def test_a_lock_file_that_another_has_made_meanwhile_stays(tmp_path: Path) -> None:
    """As where a user removes a folder that is being written."""
    with sole_writer(tmp_path / LOCK, tmp_path):
        (tmp_path / LOCK).unlink()
        with sole_writer(tmp_path / LOCK, tmp_path):
            (tmp_path / LOCK).rename(tmp_path / "other")
            (tmp_path / "other").rename(tmp_path / LOCK)
    with sole_writer(tmp_path / LOCK, tmp_path):
        mine = (tmp_path / LOCK).stat().st_ino
        (tmp_path / LOCK).unlink()
        (tmp_path / "new").write_text("process 1")
        (tmp_path / "new").rename(tmp_path / LOCK)
        assert (tmp_path / LOCK).stat().st_ino != mine
    assert (tmp_path / LOCK).read_text() == "process 1"


def test_a_full_disk_does_not_keep_the_lock_from_holding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.os, "write", full)
    with (
        sole_writer(tmp_path / LOCK, tmp_path),
        pytest.raises(PathInUse, match="is being written by another process: "),
        sole_writer(tmp_path / LOCK, tmp_path),
    ):
        pass


def test_a_claimed_folder_that_stays_empty_goes_away_with_its_parents(tmp_path: Path) -> None:
    with claimed_folder(tmp_path / "runs" / "new" / "r"):
        assert names(tmp_path / "runs" / "new" / "r") == [LOCK]
    assert names(tmp_path) == []


def test_what_others_have_put_into_a_claimed_folder_stays(tmp_path: Path) -> None:
    with claimed_folder(tmp_path / "r"):
        (tmp_path / "r" / "notes.txt").write_text("mine")
    assert names(tmp_path / "r") == ["notes.txt"]


def test_an_empty_folder_of_the_users_is_used_and_left(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    with claimed_folder(tmp_path / "r"):
        pass
    assert names(tmp_path) == ["r"]


def test_a_folder_that_a_killed_process_had_claimed_is_free_and_goes_away(tmp_path: Path) -> None:
    with holding("claimed_folder", tmp_path / "r") as process:
        assert f"process {process.pid} " in refused(tmp_path / "r")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert names(tmp_path / "r") == [LOCK]
    with claimed_folder(tmp_path / "r"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text("data"), lambda path: path.symlink_to("nowhere")]
)
def test_what_is_no_folder_cannot_be_claimed_folder(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "r")
    with (
        pytest.raises(ConfigError, match="r is not a folder; give another path"),
        claimed_folder(tmp_path / "r"),
    ):
        pass
    assert os.path.lexists(tmp_path / "r")


def test_on_a_disk_without_locks_a_new_folder_is_made_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "lock_now", without_locks)
    with claimed_folder(tmp_path / "r") as has_locks:
        assert not has_locks
        assert "on a disk that keeps no locks: another process may have made it" in refused(
            tmp_path / "r"
        )
        assert (tmp_path / "r").is_dir()
        (tmp_path / "r" / "config.json").write_text("{}")
        with claimed_folder(tmp_path / "r") as has_locks:
            assert not has_locks
    assert names(tmp_path / "r") == ["config.json"]


def test_another_error_of_the_disk_is_not_taken_for_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(writing, "lock_now", broken)
    with pytest.raises(OSError, match="Input/output"), sole_writer(tmp_path / LOCK, tmp_path):
        pass


def test_a_file_or_a_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.json") as partial:
        partial.write_text("1")
        assert partial.suffix == ".json"
        assert not (tmp_path / "a.json").exists()
    with atomic_write(tmp_path / "a.json") as partial:
        partial.write_text("2")
    with atomic_write(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "file").write_text("3")
    assert names(tmp_path) == ["a.json", "folder"]
    assert (tmp_path / "a.json").read_text() == "2"


@pytest.mark.parametrize("folder", [False, True])
def test_what_breaks_while_it_is_written_leaves_what_was_there(
    tmp_path: Path, folder: bool
) -> None:
    (tmp_path / "a").write_text("1")

    def stopped() -> None:
        with atomic_write(tmp_path / "a") as partial:
            if folder:
                partial.mkdir()
            (partial / "file" if folder else partial).write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "1"


def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "page.md"
    with pytest.raises(FileNotFoundError) as caught:
        write_text(missing, "1")
    assert caught.value.filename == str(missing)
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "a"):
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")


def test_a_text_appears_whole_over_what_a_killed_writer_left(tmp_path: Path) -> None:
    (tmp_path / ".partial-0123abcd-a.txt").write_text("ha")
    write_text(tmp_path / "a.txt", "\u00e9\n", exclusive=True)
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\udce9")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"


def test_a_folder_never_replaces_what_has_come_meanwhile(tmp_path: Path) -> None:
    def export() -> None:
        with atomic_create(tmp_path / "bundle") as partial:
            partial.mkdir()
            (tmp_path / "bundle").mkdir()
            (tmp_path / "bundle" / "notes.txt").write_text("mine")

    with pytest.raises(
        ConfigError, match="bundle exists already; give another path, or move it away"
    ):
        export()
    assert names(tmp_path) == ["bundle"]
    assert names(tmp_path / "bundle") == ["notes.txt"]
    with pytest.raises(ConfigError, match="exists already"), atomic_create(tmp_path / "bundle"):
        pass


def test_a_second_writer_of_a_new_path_is_refused_at_once(tmp_path: Path) -> None:
    with (
        holding("atomic_create", tmp_path / "bundle") as process,
        pytest.raises(PathInUse, match=f"bundle is being written by process {process.pid} "),
        atomic_create(tmp_path / "bundle"),
    ):
        pass


def test_what_a_killed_writer_left_goes_with_the_next_one_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b", "a-b", "bb"):
        (tmp_path / f".partial-0123abcd-{name}").mkdir()
    lock_path(tmp_path / "b").write_text("process 1")
    with atomic_create(tmp_path / "b") as partial:
        partial.write_text("1")
    assert names(tmp_path) == [".partial-0123abcd-a-b", ".partial-0123abcd-bb", "b"]
