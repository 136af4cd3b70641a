"""A file that cannot be written is named, with the free space and the way out.

No half-written file stays.
"""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae import cli
from kvae.disk import add_path_to_errors, describe_os_error
from kvae.runs import write_json
from kvae.serving.errors import DataError

from .conftest import small_model

FULL = "No space left on device"


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The system refuses to write more into a file, as with a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def checkpoint(path: Path) -> None:
    from kvae.training.checkpoints import write_checkpoint

    model = small_model()
    model.compile()
    write_checkpoint(path, model, {})


def keras_file(path: Path) -> None:
    from kvae.training.experiment import save_model

    save_model(small_model(), path)


def column(path: Path) -> None:
    from kvae.training.data.columns import DiskColumn

    path.mkdir()
    try:
        DiskColumn(path, "tokens", np.int64).append(np.zeros(9000))
    finally:
        (path / "tokens-00000").unlink()
        path.rmdir()


def table(path: Path) -> None:
    from kvae.training.reproduction import write_csv

    try:
        write_csv(path, [{"a": "x" * 99} for _ in range(999)])
    finally:
        path.unlink()


WRITERS: dict[str, Callable[[Path], None]] = {
    "JSON": lambda path: write_json(path, ["x" * 99_999]),
    "checkpoint": checkpoint,
    "model": keras_file,
    "store": column,
    "table": table,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_takes_no_more_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file.keras"  # the ending that Keras wants
    with no_file_larger_than(4096), pytest.raises(OSError, match="File too large") as caught:
        WRITERS[name](path)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    if name in ("checkpoint", "model"):
        assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_does_not_fit_is_named_and_leaves_nothing(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with no_file_larger_than(4096):
        assert cli.main(["export", str(run_folder), str(tmp_path / "bundle")]) == 4
    assert (
        f"kvae export: {tmp_path / 'bundle'}: File too large; files there have a size limit"
        in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


def test_a_copied_corpus_that_does_not_fit_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    (tmp_path / "ptb.train.txt").write_text("x" * 99_999)
    with no_file_larger_than(4096):
        assert cli.main(["data", "get", "ptb", "--from", str(tmp_path)]) == 4
    assert (
        f"kvae data: {tmp_path / 'data' / 'ptb.train.txt'}: File too large; files"
        in capsys.readouterr().err
    )
    assert list((tmp_path / "data").iterdir()) == []


class OtherError(Exception):
    """As HDF5 and TensorFlow raise them."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, FULL),
        OSError(f"Can't write data (file write failed: errno = 28, error message = '{FULL}')"),
        OtherError(f"{{{{function_node x}}}} /tmp/y; {FULL}\n\tFailed to flush"),
    ],
)
def test_what_libraries_say_of_a_full_disk_becomes_an_error_of_the_system(
    tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(OSError, match=FULL) as caught, add_path_to_errors(tmp_path / "run"):
        raise error
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "run"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, FULL, "its own file"),
        DataError(f"x.txt: cannot be read: {FULL}"),
        ValueError("something else"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
    ],
)
def test_other_errors_stay_as_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, add_path_to_errors(tmp_path):
        raise error
    assert caught.value is error


def test_the_free_space_stands_where_space_is_the_matter(tmp_path: Path) -> None:
    full = describe_os_error(OSError(errno.ENOSPC, FULL, str(tmp_path / "not" / "there")))
    assert full.startswith(f"{tmp_path / 'not' / 'there'}: {FULL} (")
    assert full.endswith(" MB are free); free some space there, or give another folder")
    copied = describe_os_error(OSError(errno.ENOSPC, FULL, "from", None, str(tmp_path / "to")))
    assert copied.startswith(f"{tmp_path / 'to'}: {FULL}")
    denied = describe_os_error(PermissionError(errno.EACCES, "Permission denied", "x"))
    assert denied == "x: Permission denied; give another path, or get the right to write there"
    assert (
        describe_os_error(OSError("the store is shorter than it was"))
        == "the store is shorter than it was"
    )


@pytest.mark.parametrize(
    ("arguments", "ending"),
    [
        (["train", "--out", "{out}"], "; then `kvae train --resume --out {out}` goes on"),
        (["train", "--out", "{out}/none"], "give another folder"),
        (["tune", "--out", "{out}"], "; then the same command goes on"),
        (["reproduce", "toy"], "; then the same command goes on"),
    ],
)
def test_a_command_that_kept_its_work_says_how_it_goes_on(
    tmp_path: Path,
    arguments: list[str],
    ending: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(options: Any) -> None:
        raise OSError(errno.ENOSPC, FULL, str(tmp_path / "x"))

    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000002.npz").touch()
    monkeypatch.setattr(f"kvae.commands.{arguments[0]}.run", full)
    assert cli.main([each.format(out=tmp_path) for each in arguments]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kvae {arguments[0]}: {tmp_path / 'x'}: {FULL} (")
    assert line.endswith(ending.format(out=tmp_path))


def test_a_full_standard_output_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "kvae", "presets"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
    assert (ended.returncode, ended.stderr.count("\n")) == (4, 1)
    assert ended.stderr.startswith(f"kvae presets: standard output: {FULL}")
