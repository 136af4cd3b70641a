"""`kvae bulk`: the files of Dask's workers hold what one call of the Sampler returns."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from distributed import Client, LocalCluster

from kvae.serving.errors import DataError

Bulk = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a cluster whose two workers are threads of this process."""
    options = {"processes": False, "protocol": "tcp", "host": "127.0.0.1"}
    with LocalCluster(n_workers=2, dashboard_address="127.0.0.1:0", **options) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def bulk(kvae: Any, scheduler: str) -> Bulk:
    """Run a bulk command on the cluster with `--json`: exit code, report, standard error."""

    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        code, out, err = kvae("bulk", *arguments, "--json", "--scheduler", scheduler)
        assert bool(out) == (code == 0), err
        return code, json.loads(out or "{}"), err

    return run


def table(folder: Path) -> dict[str, list[Any]]:
    """The columns of all files of a folder together."""
    columns: dict[str, list[Any]] = pyarrow.parquet.read_table(folder).to_pydict()
    return columns


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in parts(folder)}


def test_processes_of_this_machine_write_the_texts_of_one_call(
    kvae: Any, bundle_folder: Path, sampler: Any, tmp_path: Path
) -> None:
    command = ["bulk", "sample", bundle_folder, "-n", 130, "--out", tmp_path / "out"]
    options = ["--shard-size", 50, "--workers", 2, "--seed", 3]
    code, out, err = kvae(*command, *options)
    assert code == 0, err
    assert "130 texts of seed 3 in 3 files" in out
    assert "2 processes on this machine" in err
    found = table(tmp_path / "out")
    expected = sampler.generate(130, seed=3)
    for name in ("text", "seed", "row", "log_probability", "finished"):
        assert found[name] == [getattr(item, name) for item in expected]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "_request.json",
        *(path.name for path in parts(tmp_path / "out")),
    }


def test_sampled_texts_match_a_pattern(
    bulk: Bulk, bundle_folder: Path, sampler: Any, tmp_path: Path
) -> None:
    command = ["sample", bundle_folder, "-n", 12, "--out", tmp_path / "out", "--seed", 3]
    assert bulk(*command, "--shard-size", 5, "--pattern", "K[A-Z]*")[0] == 0
    assert table(tmp_path / "out")["text"] == sampler.sample(12, seed=3, pattern="K[A-Z]*")
    code, _, err = bulk(*command, "--pattern", "A.*")
    assert code == 2
    assert "files with pattern 'K[A-Z]*', this command asks for 'A.*'" in err


def test_the_same_command_writes_what_is_missing(
    bulk: Bulk, bundle_folder: Path, sampler: Any, tmp_path: Path
) -> None:
    command = ["sample", bundle_folder, "-n", 130, "--out", tmp_path / "out", "--first-row", 7]
    options = ["--top-k", 3, "--temperature", 0.8]
    code, report, _ = bulk(*command, *options, "--shard-size", 50)
    assert set(report) == {
        *("out", "texts", "files", "texts_written", "files_written", "seconds"),
        *("texts_per_second", "seed"),
    }
    assert (report["texts"], report["files_written"]) == (130, 3)
    expected = sampler.sample(130, report["seed"], first_row=7, top_k=3, temperature=0.8)
    assert table(tmp_path / "out")["text"] == expected

    first = parts(tmp_path / "out")[0]
    first.unlink()
    (tmp_path / "out" / ".partial-01234567-part-000000.parquet").write_bytes(b"cut off")
    kept = times(tmp_path / "out")
    code, again, err = bulk(*command, *options)
    assert (code, again["files_written"], again["texts_written"]) == (0, 1, 50), err
    assert again["seed"] == report["seed"]
    assert table(tmp_path / "out")["text"] == expected
    assert times(tmp_path / "out").items() >= kept.items()
    assert not list((tmp_path / "out").glob(".partial-*"))
    assert bulk(*command, *options)[1]["files_written"] == 0

    for other in (["--seed", 4], ["--shard-size", 60], ["--min-length", 2]):
        code, _, err = bulk(*command, *options, *other)
        name = other[0].removeprefix("--").replace("-", "_")
        assert code == 2
        assert f"has files with {name}" in err.splitlines()[-1]
        assert "give another folder to --out" in err
    assert times(tmp_path / "out").items() >= kept.items()


def test_scores_are_those_of_the_sampler_whatever_the_shards(
    bulk: Bulk, bundle_folder: Path, sampler: Any, corpus_file: Path, tmp_path: Path
) -> None:
    names = corpus_file.read_text().split()
    rows = [(f"n{i}", name) for i, name in enumerate([*names, names[0], "KA?", "KAMI" * 9])]
    lines = "".join(f"{number},{text}\n" for number, text in rows)
    (tmp_path / "a.csv").write_text("id,text\n" + lines)
    (tmp_path / "b.jsonl").write_text('{"id": 7, "text": "KAMITO"}\n{"id": null, "text": "NE"}\n')
    files = [tmp_path / "a.csv", tmp_path / "b.jsonl", "--column", "text", "--id-column", "id"]
    options = ["--too-long", "cut", "--samples", 2, "--seed", 5]
    for size in (30, 1000):
        out = tmp_path / f"out-{size}"
        code, report, err = bulk(
            "score", bundle_folder, *files, *options, "--out", out, "--shard-size", size
        )
        assert (code, report["texts"]) == (0, len(rows) + 2), err
        found = table(out)
        assert found["place"] == list(range(1, len(rows) + 3))
        assert found["id"] == [*(name for name, _ in rows), "7", None]
        expected = sampler.score(found["text"], samples=2, seed=5, too_long="cut")
        for name in ("bound", "reconstruction", "kl", "bits_per_character"):
            assert found[name] == pytest.approx([getattr(score, name) for score in expected])


def test_codes_are_those_of_the_sampler(
    bulk: Bulk, bundle_folder: Path, sampler: Any, corpus_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, _, err = bulk("encode", bundle_folder, corpus_file, "--out", out, "--shard-size", 40)
    assert code == 0, err
    found = table(out)
    np.testing.assert_array_equal(
        np.array(found["code"], np.float32), sampler.encode(corpus_file.read_text().split())
    )


def test_files_of_other_texts_are_kept_and_named(
    bulk: Bulk, bundle_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "out"
    names = corpus_file.read_text().split()
    texts.write_text("\n".join(names) + "\n")
    command = ["score", bundle_folder, texts, "--out", out, "--shard-size", 50]
    assert bulk(*command)[0] == 0
    kept = times(out)
    for changed, reason in (
        ([*names, "NE"], "part-000002.parquet"),
        (["NE", *names[1:]], "part-000000.parquet"),
        (names[:100], "the texts now make 2"),
    ):
        texts.write_text("\n".join(changed) + "\n")
        code, _, err = bulk(*command)
        assert code == 2
        assert reason in err.splitlines()[-1]
        assert "give another folder to --out" in err
    assert "has files with command 'score'" in bulk("encode", *command[1:])[2]
    assert times(out) == kept


def test_bad_input_loses_nothing(
    bulk: Bulk, bundle_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    names, out = corpus_file.read_text().split(), tmp_path / "out"
    texts = tmp_path / "texts.txt"
    texts.write_bytes("\n".join(names).encode() + b"\n\xff\xfe broken\n")
    command = ["encode", bundle_folder, texts, "--out", out, "--shard-size", 50]
    code, _, err = bulk(*command)
    assert code == 4
    assert "line 126" in err.splitlines()[-1]
    assert not out.exists()

    texts.write_text("\n".join([*names[:60], "KA?", *names[61:]]) + "\n")
    code, _, err = bulk(*command)
    assert code == 4
    assert "part-000001.parquet, 51 to 100: texts hold characters" in err.splitlines()[-1]
    assert "1 of 3 files are not written" in err
    assert [path.name for path in parts(out)] == ["part-000000.parquet", "part-000002.parquet"]

    texts.write_text("\n".join(names) + "\n")
    code, report, _ = bulk(*command)
    assert (code, report["files_written"], report["texts"]) == (0, 1, 125)

    texts.write_text("\n\n")
    code, _, err = bulk("score", bundle_folder, texts, "--out", tmp_path / "none")
    assert (code, (tmp_path / "none").exists()) == (4, False)
    assert "has no text" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-n", "0"], "-n must be at least 1"),
        (["-n", "3", "--shard-size", "0"], "--shard-size must be at least 1"),
        (["-n", "3", "--greedy", "--top-k", "2"], "without temperature, top_k or top_p"),
        (["-n", "3", "--attribute", "x"], "attribute 'x' is unknown"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    bulk: Bulk, bundle_folder: Path, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    code, _, err = bulk("sample", bundle_folder, "--out", tmp_path / "out", *arguments)
    assert code == 2
    assert reason in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["letter.txt", "_texts/letter.txt", "part-000000.parquet"])
def test_a_folder_with_other_files_is_left_alone(
    bulk: Bulk, bundle_folder: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("hello")
    code, _, err = bulk("sample", bundle_folder, "-n", 3, "--out", tmp_path / "out")
    assert (code, file.read_text()) == (2, "hello")
    assert "has other files" in err


def test_damaged_files_are_named_and_kept(
    bulk: Bulk, bundle_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["score", bundle_folder, corpus_file, "--out", out, "--shard-size", 100]
    assert bulk(*command)[0] == 0
    (out / "part-000001.parquet").write_bytes(b"PAR1 cut off")
    kept = times(out)
    code, _, err = bulk(*command)
    assert code == 4
    assert "part-000001.parquet: cannot be read" in err.splitlines()[-1]
    (out / "_request.json").write_text("{")
    code, _, err = bulk(*command)
    assert code == 4
    assert "_request.json: damaged" in err.splitlines()[-1]
    assert times(out) == kept


def test_a_cluster_that_does_not_answer_is_named(
    kvae: Any, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvae.bulk.cluster.ANSWER_SECONDS", 1)
    command = ["bulk", "sample", bundle_folder, "-n", 3, "--out", tmp_path / "out"]
    code, _, err = kvae(*command, "--scheduler", "tcp://127.0.0.1:9")
    assert code == 2
    assert "no Dask scheduler answers" in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_work_that_a_cluster_loses_is_an_error_of_one_line(scheduler: str) -> None:
    from kvae.bulk.cluster import error_of

    with Client(scheduler) as client:
        lost, broken = client.submit(time.sleep, 1), client.submit(divmod, 1, 0)
        lost.cancel()
        for future, name in ((lost, "Cancelled"), (broken, "ZeroDivisionError")):
            error = error_of(future)
            assert isinstance(error, DataError)
            assert "a worker of Dask failed" in str(error)
            assert name in str(error)


def test_without_dask_the_extra_is_named(
    kvae: Any, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    for module in ("kvae.bulk.cluster", "kvae.bulk.work"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    code, _, err = kvae("bulk", "sample", bundle_folder, "-n", 3, "--out", tmp_path / "out")
    assert code == 2
    assert "pip install 'kvae-text[bulk]'" in err
