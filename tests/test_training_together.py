"""Two processes that begin together.

One has the folder from the first moment on, and neither removes what the other has made.
"""

import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.configuration import Config
from kvae.presets import preset
from kvae.runs import Run, load_run, write_json
from kvae.serving.errors import ConfigError, DataError, ModelError
from kvae.training import experiment, fit
from kvae.training.checkpoints import ABOUT, list_checkpoints, read_checkpoint
from kvae.training.data import downloads, stores
from kvae.training.data.columns import DiskColumns
from kvae.training.data.downloads import COLLECTIONS, Collection, get
from kvae.training.data.prepare import prepare
from kvae.training.experiment import finished_run, resume, run, stored_config
from kvae.training.identity import fingerprint, identity_of
from kvae.training.reproduction import Row, Study, reproduce
from kvae.training.tune import tune
from kvae.writing import LOCK, PathInUse, claimed_folder

from .conftest import train_command


def quiet(sentence: str) -> None:
    pass


class Waiting:
    """A `say` that waits at the first sentence that begins with a word, until it is let go.

    It stands for a run whose data comes slowly.
    """

    def __init__(self, word: str = "reading") -> None:
        self.word, self.there, self.go = word, threading.Event(), threading.Event()

    def __call__(self, sentence: str) -> None:
        if sentence.startswith(self.word) and not self.there.is_set():
            self.there.set()
            assert self.go.wait(300)


def meanwhile(
    first: Callable[[Waiting], Any], then: Callable[[], None], word: str = "reading"
) -> Future[Any]:
    """Call `then` while `first` waits at a word in another thread; then let `first` end."""
    waiting = Waiting(word)
    with ThreadPoolExecutor() as threads:
        future = threads.submit(first, waiting)
        try:
            assert waiting.there.wait(300), future.exception()
            then()
        finally:
            waiting.go.set()
    return future


class NoModel:
    """What `trained` below has learned."""

    def count_params(self) -> int:
        return 1


def in_no_time(out: Path, prepared: Any, model: Any, checkpoint: Any, say: Any) -> Run:
    """Write what `experiment.trained` leaves, without training.

    This is a line of metrics, a checkpoint, a model and an evaluation.
    """
    step = prepared.config.training.steps
    about = {
        "corpus": fingerprint(prepared),
        "run": identity_of(out),
        "step": step,
        "epoch": 0,
        "callbacks": {},
        "ended": step,
    }
    (out / "checkpoints").mkdir(exist_ok=True)
    rewrite(out / "checkpoints" / f"step-{step:09d}.npz", about)
    (out / "model.keras").write_text(str(prepared.config.training.seed))
    with (out / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": step}) + "\n")
    numbers = (
        "elbo",
        "reconstruction",
        "kl",
        "active_units",
        "mutual_information",
        "bits_per_character",
    )
    write_json(out / "report" / "evaluation.json", dict.fromkeys(numbers, 1.0))
    return Run(out, prepared.config, prepared.alphabet, model)


def rewrite(checkpoint: Path, about: dict[str, Any]) -> None:
    """Give a checkpoint another `about`, or make one of it alone."""
    arrays = dict(read_checkpoint(checkpoint).arrays) if checkpoint.exists() else {}
    with checkpoint.open("wb") as file:
        np.savez(file, **{ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)}, **arrays)


@pytest.fixture(autouse=True)
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this process do not train; all else is as usual."""
    monkeypatch.setattr(experiment, "build_model", lambda prepared, say: NoModel())
    monkeypatch.setattr(experiment, "train_and_evaluate", in_no_time)


@pytest.fixture
def config(small_settings: dict[str, Any]) -> Config:
    return preset("hybrid-lstm").with_settings({**small_settings, "training.steps": 2})


@pytest.fixture
def finished(tmp_path: Path, config: Config) -> Path:
    """A finished run, with a note of the user's in its folder."""
    run(config, tmp_path / "r", quiet)
    (tmp_path / "r" / "notes.txt").write_text("mine")
    return tmp_path / "r"


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Runs


def start(data: Path, out: Path) -> subprocess.Popen[str]:
    command = train_command(out, data, "--steps", "2")
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_run_whose_data_comes_slowly_has_its_folder_and_leaves_the_users_file(
    tmp_path: Path, config: Config, corpus_file: Path
) -> None:
    """The data is a pipe (`mkfifo slow`), and training waits for it.

    Another command comes meanwhile; then the data comes.
    """
    os.mkfifo(tmp_path / "slow")
    out = tmp_path / "r"
    first = start(tmp_path / "slow", out)
    with (tmp_path / "slow").open("w") as data:  # opens when the first reads
        with pytest.raises(PathInUse, match=f"r is being written by process {first.pid} on "):
            run(config, out, quiet)
        with pytest.raises(PathInUse, match=f"r is being written by process {first.pid} on "):
            run(config, out, quiet, overwrite=True)
        (out / "notes.txt").write_text("mine")
        data.write(corpus_file.read_text())
    _, errors = first.communicate()
    assert first.returncode == 0, errors
    assert (out / "notes.txt").read_text() == "mine"
    assert int(load_run(out).model.training_steps) == 2
    assert not (out / LOCK).exists()


@pytest.mark.slow
def test_of_two_processes_that_start_in_the_same_second_one_trains(
    tmp_path: Path, corpus_file: Path
) -> None:
    both = [start(corpus_file, tmp_path / "r") for _ in range(2)]
    errors = {process.pid: process.communicate()[1] for process in both}
    loser, winner = sorted(both, key=lambda process: -process.returncode)
    assert (winner.returncode, loser.returncode) == (0, 2), errors
    (line,) = [line for line in errors[loser.pid].splitlines() if line.startswith("kvae train")]
    assert (
        f"being written by process {winner.pid} on " in line
        or "exists already; go on with it (--resume)" in line
    )
    assert int(load_run(tmp_path / "r").model.training_steps) == 2


def test_of_two_that_begin_together_one_trains(tmp_path: Path, config: Config) -> None:
    together = threading.Barrier(2)

    def begin(seed: int) -> int | None:
        together.wait()
        try:
            return run(config.with_settings({"training.seed": seed}), tmp_path / "r", quiet)[
                0
            ].config.training.seed
        except ConfigError:
            return None

    with ThreadPoolExecutor(2) as threads:
        seeds = list(threads.map(begin, (1, 2)))
    (seed,) = [seed for seed in seeds if seed is not None]
    assert stored_config(tmp_path / "r").training.seed == seed
    assert (tmp_path / "r" / "metrics.jsonl").read_text().count("\n") == 1


def test_a_start_that_was_killed_is_in_nobodys_way(tmp_path: Path, config: Config) -> None:
    """A start that was killed leaves nothing but the lock file.

    test_kvae_writing.py tests with a process that the lock is free then.
    """
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / LOCK).write_text(f"process {os.getpid()} on this machine since ever")
    assert run(config, tmp_path / "r", quiet)[0].evaluation
    assert not (tmp_path / "r" / LOCK).exists()


def test_a_start_that_fails_leaves_what_others_have_put_into_its_folder(
    tmp_path: Path, config: Config
) -> None:
    (tmp_path / "empty.txt").write_text("")
    out = tmp_path / "runs" / "r"
    failed = meanwhile(
        lambda say: run(
            config.with_settings({"data.source": str(tmp_path / "empty.txt")}), out, say
        ),
        lambda: (out / "notes.txt").write_text("mine") and None,
    )
    assert isinstance(failed.exception(), DataError)
    assert content(out) == {"notes.txt": b"mine"}


def test_a_start_that_fails_leaves_no_parents_either(tmp_path: Path, config: Config) -> None:
    with pytest.raises(DataError):
        run(
            config.with_settings({"data.source": str(tmp_path / "nowhere.txt")}),
            tmp_path / "runs" / "new" / "r",
            quiet,
        )
    assert list(tmp_path.iterdir()) == []


def test_overwrite_replaces_the_run_and_leaves_other_files(finished: Path, config: Config) -> None:
    """Other files were there before, or came while the new run was prepared."""
    (finished / "bundle").mkdir()
    (finished / "result.json").write_text("{}")
    before = (finished / "run.json").read_text()

    def then() -> None:
        (finished / "bundle-int8").mkdir()
        with pytest.raises(PathInUse):
            resume(config, finished, quiet)
        assert (finished / "model.keras").is_file()

    again = meanwhile(
        lambda say: run(config.with_settings({"training.seed": 4}), finished, say, overwrite=True),
        then,
    ).result()
    assert again[0].config.training.seed == 4
    assert stored_config(finished).training.seed == 4
    assert (finished / "model.keras").read_text() == "4"
    assert (finished / "metrics.jsonl").read_text().count("\n") == 1
    assert {"notes.txt", "bundle-int8"} <= {path.name for path in finished.iterdir()}
    assert not {"bundle", "result.json"} & {path.name for path in finished.iterdir()}
    assert (finished / "run.json").read_text() != before


def test_overwrite_that_cannot_start_leaves_all(finished: Path, config: Config) -> None:
    before = content(finished)
    with pytest.raises(DataError):
        run(config.with_settings({"data.source": "nowhere.txt"}), finished, quiet, overwrite=True)
    assert content(finished) == before


def test_of_two_that_go_on_with_a_run_one_trains(finished: Path, config: Config) -> None:
    longer = config.with_settings({"training.steps": 6})

    def then() -> None:
        with pytest.raises(PathInUse, match=f"r is being written by process {os.getpid()} on "):
            resume(longer, finished, quiet)

    meanwhile(lambda say: resume(longer, finished, say), then).result()
    assert (finished / "metrics.jsonl").read_text() == '{"step": 2}\n{"step": 6}\n'


def test_a_worker_that_does_not_write_the_run_leaves_its_folder_to_the_first(
    finished: Path, tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "worker_index", lambda: 1)
    before = content(finished)
    with claimed_folder(finished), claimed_folder(tmp_path / "new"):
        resume(config.with_settings({"training.steps": 4}), finished, quiet)
        run(config, tmp_path / "new", quiet)
        assert [path.name for path in (tmp_path / "new").iterdir()] == [LOCK]
    assert content(finished) == before


def test_on_a_disk_without_locks_a_resumed_run_says_so(
    finished: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_locks(descriptor: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("kvae.writing.lock_now", without_locks)
    said: list[str] = []
    resume(config, finished, said.append)
    assert f"{finished} lies on a disk that keeps no locks" in said[0]


def test_completed_takes_no_run_that_another_trains_or_that_it_cannot_read(
    finished: Path, config: Config
) -> None:
    before = content(finished)
    other = config.with_settings({"training.seed": 9})
    with claimed_folder(finished), pytest.raises(PathInUse):
        finished_run(other, finished, quiet)
    (finished / "config.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        finished_run(other, finished, quiet)
    assert {**content(finished), "config.json": before["config.json"]} == before


# Whose checkpoint


def test_the_checkpoints_of_a_run_name_it(run_folder: Path) -> None:
    name = json.loads((run_folder / "run.json").read_text())["run"]
    assert len(name) == 16
    assert {
        read_checkpoint(path).about["run"] for path in list_checkpoints(run_folder / "checkpoints")
    } == {name}


def test_a_checkpoint_of_another_run_of_the_same_shapes_is_refused(
    finished: Path, tmp_path: Path, config: Config
) -> None:
    run(config.with_settings({"training.seed": 5, "training.steps": 4}), tmp_path / "other", quiet)
    (foreign,) = list_checkpoints(tmp_path / "other" / "checkpoints")
    copied = Path(shutil.copy(foreign, finished / "checkpoints"))
    before = content(finished)
    with pytest.raises(
        ModelError, match=rf"{copied.name}: belongs to another run .* move it out of the folder"
    ):
        resume(config, finished, quiet)
    assert content(finished) == before
    copied.unlink()
    resume(config, finished, quiet)


def test_checkpoints_of_earlier_versions_name_no_run_and_are_resumed(
    finished: Path, config: Config
) -> None:
    (path,) = list_checkpoints(finished / "checkpoints")
    rewrite(
        path, {name: value for name, value in read_checkpoint(path).about.items() if name != "run"}
    )
    (finished / "run.json").unlink()
    resume(config.with_settings({"training.steps": 4}), finished, quiet)
    newest = read_checkpoint(list_checkpoints(finished / "checkpoints")[-1])
    assert newest.about["run"] == json.loads((finished / "run.json").read_text())["run"]


def test_a_run_that_lost_its_name_has_it_from_its_checkpoint(
    finished: Path, config: Config
) -> None:
    name = (finished / "run.json").read_text()
    (finished / "run.json").unlink()
    resume(config, finished, quiet)
    assert (finished / "run.json").read_text() == name
    (finished / "run.json").write_text("{")
    with pytest.raises(ModelError, match=r"run.json: damaged.*; remove this file"):
        resume(config, finished, quiet)


def test_the_best_weights_of_another_run_are_refused(finished: Path, config: Config) -> None:
    rewrite(finished / "checkpoints" / fit.BEST, {"run": "0123456789abcdef"})
    with pytest.raises(ModelError, match=r"best.npz: belongs to another run"):
        resume(config.with_settings({"training.early_stopping": 2}), finished, quiet)


# Searches and studies


def test_a_second_search_in_one_folder_is_refused(tmp_path: Path, config: Config) -> None:
    search = {"objective.alpha": (0.1, 0.4)}

    def then() -> None:
        with pytest.raises(PathInUse, match="tune is being written by process"):
            tune(config, tmp_path / "tune", quiet, 1, search)

    results = meanwhile(lambda say: tune(config, tmp_path / "tune", say, 1, search), then).result()
    assert len(results) == 1


def test_a_trial_that_another_process_trains_has_not_failed(tmp_path: Path, config: Config) -> None:
    search, out, said = {"objective.alpha": (0.1, 0.4)}, tmp_path / "tune", list[str]()
    out.mkdir()
    asked = {"config": config.to_dict(), "search": {"objective.alpha": [0.1, 0.4]}}
    (out / "tune.json").write_text(json.dumps(asked))
    with claimed_folder(out / "trials" / "0"), pytest.raises(PathInUse):
        tune(config, out, said.append, 1, search)
    assert not any("failed" in sentence for sentence in said)
    assert len(tune(config, out, quiet, 1, search)) == 1


def study(config: Config) -> Study:
    rows = [Row("one", config), Row("other", config.with_settings({"objective.beta_max": 0.5}))]
    return Study("Two", "somebody 2020", "Nothing.", {"small": lambda: rows}, {"elbo": "bound"})


def test_two_processes_train_two_rows_of_a_study_at_the_same_time(
    tmp_path: Path, config: Config
) -> None:
    both = study(config)

    def then() -> None:
        with pytest.raises(PathInUse, match="seed-0 is being written by process"):
            reproduce(both, tmp_path, quiet, rows=["one"])
        reproduce(both, tmp_path, quiet, rows=["other"])

    found = meanwhile(lambda say: reproduce(both, tmp_path, say, rows=["one"]), then).result()
    assert [result["row"] for result in found["rows"]] == ["one", "other"]
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == json.loads(
        json.dumps(found["rows"])
    )


# Stores and downloads


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_two_that_prepare_one_store_write_it_once(
    data_folder: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.with_settings({"data.storage": "disk", "model.length": 0})
    write, writing, go, written = (
        stores.write_corpus,
        threading.Event(),
        threading.Event(),
        list[DiskColumns](),
    )

    def slowly(*arguments: Any) -> Any:
        written.extend(each for each in arguments if isinstance(each, DiskColumns))
        writing.set()
        assert go.wait(300)
        return write(*arguments)

    monkeypatch.setattr(stores, "write_corpus", slowly)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(prepare, config)
        assert writing.wait(300)
        second = threads.submit(prepare, config)
        go.set()
        np.testing.assert_array_equal(first.result().validation, second.result().validation)
        again = prepare(first.result().config)
    np.testing.assert_array_equal(again.validation, first.result().validation)
    assert len(written) == 1
    assert not [
        path.name for path in (data_folder / "stores").iterdir() if path.name.startswith(".")
    ]


def test_a_store_whose_writer_failed_is_written_by_the_one_that_waits(
    data_folder: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.with_settings({"data.storage": "disk"})
    write, writing, go = stores.write_corpus, threading.Event(), threading.Event()

    def failing_first(*arguments: Any) -> Any:
        if writing.is_set():
            return write(*arguments)
        writing.set()
        assert go.wait(300)
        (columns,) = [each for each in arguments if isinstance(each, DiskColumns)]
        (columns.folder / "half").write_text("of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores, "write_corpus", failing_first)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(prepare, config)
        assert writing.wait(300)
        second = threads.submit(prepare, config)
        go.set()
        assert isinstance(first.exception(), OSError)
        assert len(second.result().validation)
    assert not list((data_folder / "stores").rglob("half"))


def test_a_store_that_was_removed_is_written_again_though_an_alias_names_it(
    data_folder: Path, config: Config
) -> None:
    opened = config.with_settings({"data.storage": "disk", "model.length": 0})
    first = prepare(opened)
    for path in (data_folder / "stores").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    for _ in range(2):
        np.testing.assert_array_equal(prepare(first.config).validation, first.validation)


def test_a_file_that_grows_while_it_is_read_leaves_no_store(
    data_folder: Path,
    config: Config,
    tmp_path: Path,
    corpus_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = tmp_path / "growing.txt"
    data.write_text(corpus_file.read_text())
    write = stores.write_corpus

    def while_it_grows(*arguments: Any) -> Any:
        settled = write(*arguments)
        data.write_text(corpus_file.read_text() + "NEWNEW\n")
        return settled

    monkeypatch.setattr(stores, "write_corpus", while_it_grows)
    with pytest.raises(DataError, match=r"growing.txt: changed while it was read"):
        prepare(config.with_settings({"data.source": str(data), "data.storage": "disk"}))
    assert list((data_folder / "stores").iterdir()) == []


@pytest.fixture
def collection(tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the file of a collection `mine`."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "mine.txt").write_text("the text\n")
    sums = {"mine.txt": hashlib.sha256(b"the text\n").hexdigest()}
    monkeypatch.setitem(COLLECTIONS, "mine", Collection(sums, "for tests"))
    return tmp_path / "source"


def test_two_that_get_a_corpus_both_succeed(
    collection: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, copying, go = downloads.copied_pieces, threading.Event(), threading.Event()

    def slowly(source: str, name: str) -> Any:
        yield b"" if copying.is_set() else (copying.set(), go.wait(300), b"")[-1]
        yield from copy(source, name)

    monkeypatch.setattr(downloads, "copied_pieces", slowly)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(get, "mine", str(collection), quiet)
        assert copying.wait(300)
        second = threads.submit(get, "mine", str(collection), quiet)
        go.set()
        assert first.result() == second.result() == [data_folder / "mine.txt"]
    assert content(data_folder) == {"mine.txt": b"the text\n"}


def test_a_file_of_the_users_with_the_name_of_a_corpus_is_left_alone(
    collection: Path, data_folder: Path
) -> None:
    data_folder.mkdir()
    (data_folder / "mine.txt").write_text("another text\n")
    with pytest.raises(
        DataError,
        match=r"mine.txt exists with another content and is left unchanged; .* move it away",
    ):
        get("mine", str(collection), quiet)
    assert content(data_folder) == {"mine.txt": b"another text\n"}


# The demo


def test_the_demo_has_its_folder_until_its_bundle_is_there(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvae.cli import parser
    from kvae.commands import demo

    options = parser().parse_args(["demo", "--out", str(tmp_path / "demo"), "--overwrite"])

    def report(trained: Any, prepared: Any) -> None:
        with pytest.raises(PathInUse, match="demo is being written by process"):
            demo.run(options)

    monkeypatch.setattr(demo, "demo_config", lambda: config)
    monkeypatch.setattr(demo, "demo_plan", None)
    monkeypatch.setattr(demo, "report", report)
    demo.run(options)
    assert not (tmp_path / "demo" / LOCK).exists()
