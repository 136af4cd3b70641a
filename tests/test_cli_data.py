"""`kvae data`, and what the commands that read texts say about bad ones."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from kvae import writing
from kvae.configuration import Config
from kvae.presets import preset
from kvae.runs import CONFIG
from kvae.training.data import stores
from kvae.training.data.prepare import prepare
from kvae.training.data.stores import clean_stores, remember_user, stores_folder
from kvae.training.experiment import AnotherConfiguration, resume, stored_config
from kvae.writing import lock_path, sole_writer

from .conftest import SMALL_SETTINGS

TEXTS = [f"{a} and {b}" for a in ("tea", "milk", "rum", "ale") for b in ("bread", "figs", "jam")]


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(path: Path, **columns: list[Any]) -> Path:
    pa.parquet.write_table(pa.table(columns), path)
    return path


GOOD = "".join(f'{{"text": "a text {n}"}}\n' for n in range(9))

BAD: dict[str, tuple[str, str, list[str], int, list[str]]] = {
    "a broken quote": (
        "a.csv",
        'text,n\nso it is,1\n"no end,2\n',
        [],
        4,
        ["a.csv: row 3: ", "never closed", "double quotes"],
    ),
    "too few fields": (
        "a.csv",
        "text,n\nso it is,1\nso\n",
        [],
        4,
        ["a.csv: row 3 has 1 field, the header has 2", "complete the row"],
    ),
    "a missing key": (
        "a.jsonl",
        GOOD + '{"n": 1}\n',
        [],
        4,
        ["a.jsonl: row 10 has no key 'text'", "leave such rows out"],
    ),
    "null": (
        "a.jsonl",
        GOOD + '{"text": null}\n',
        [],
        4,
        ["a.jsonl: row 10 has null for 'text'", "select(.text != null)"],
    ),
    "a column that is not there": (
        "a.csv",
        "text,n\nso it is,1\n",
        ["--column=txt"],
        4,
        ["a.csv: has no column 'txt'", "did you mean 'text'"],
    ),
    "mixed types": (
        "a.jsonl",
        GOOD + '{"text": 5}\n',
        ["--column=text"],
        4,
        ["a.jsonl: row 10 has 5 under 'text'", "tostring"],
    ),
    "a header only": (
        "a.csv",
        "text,n\n",
        [],
        4,
        ["a.csv: has a header, but no rows below it", "give a file with texts"],
    ),
    "no JSON": (
        "a.jsonl",
        GOOD + '{"text": so}\n',
        [],
        4,
        ["a.jsonl: row 10 is no JSON at character 10", "correct it"],
    ),
    "several columns of texts": (
        "a.tsv",
        "title\tbody\nso it is\tas it was\n",
        [],
        4,
        ["a.tsv: 2 columns hold texts: 'title' (so it is), 'body' (as it was)", "--column"],
    ),
    "a column of lines": (
        "a.txt",
        "so it is\nas it was\n",
        ["--column=text"],
        2,
        ["a.txt: is read as lines, which have no column 'text'", "--format csv"],
    ),
}
"""The name and content of a file, arguments, the exit code, and parts of the one message."""

COMMANDS: dict[str, list[str]] = {
    "train": ["train", "--out", "OUT", "--data"],
    "train on disk": ["train", "--out", "OUT", "--set=data.storage=disk", "--data"],
    "evaluate": ["evaluate", "RUN", "--data"],
    "score": ["score", "BUNDLE"],
    "data show": ["data", "show"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", BAD)
def test_bad_texts_are_one_line_with_file_row_and_way_out_and_leave_nothing(
    kvae: Any, tmp_path: Path, run_folder: Path, bundle_folder: Path, case: str, command: str
) -> None:
    name, content, arguments, expected, words = BAD[case]
    places = {"OUT": tmp_path / "out" / "run", "RUN": run_folder, "BUNDLE": bundle_folder}
    file = written(tmp_path / "texts" / name, content)
    words_of_command = [places.get(word, word) for word in COMMANDS[command]]
    before = sorted(run_folder.rglob("*"))
    code, out, err = kvae(*words_of_command, file, *arguments)
    assert (code, out) == (expected, "")
    (message,) = [line for line in err.splitlines() if line.startswith("kvae ")]
    for word in [f"kvae {command.split()[0]}: {file}: ", *words]:
        assert word in message
    assert err.splitlines()[-1] == message
    assert sorted(run_folder.rglob("*")) == before
    left = [path for path in tmp_path.rglob("*") if path != file and path.is_file()]
    assert left == []
    assert not (tmp_path / "out").exists()
    stored = tmp_path / "data" / "stores"
    assert not stored.exists() or list(stored.iterdir()) == []


KEYS = {
    *("source", "texts", "blank", "different", "held_out", "tokens", "lengths", "histogram"),
    *("model_length", "too_long", "kinds", "symbols", "unknown_share", "most_frequent"),
    *("labels", "examples", "notes"),
}


def shown(kvae: Any, *arguments: object) -> dict[str, Any]:
    code, out, err = kvae("data", "show", *arguments, "--json")
    assert code == 0, err
    report: dict[str, Any] = json.loads(out)
    assert set(report) == KEYS
    assert all(note in err for note in report["notes"])
    return report


def files_of_texts(folder: Path) -> dict[str, list[object]]:
    """The texts, the first one twice, in every format, as arguments."""
    texts = [*TEXTS, TEXTS[0]]
    arrow = pa.table({"n": list(range(13)), "text": texts})
    with pa.ipc.new_file(str(folder / "a.arrow"), arrow.schema) as opened:
        opened.write_table(arrow)
    for number, text in enumerate(texts):
        written(folder / "files" / f"{number:02}.txt", text)
    return {
        "lines": [written(folder / "a.txt", "".join(f"{text}\n" for text in texts))],
        "csv": [written(folder / "a.csv", "text,n\n" + "".join(f"{text},1\n" for text in texts))],
        "tsv": [written(folder / "a.tsv", "n\ttext\n" + "".join(f"1\t{t}\n" for t in texts))],
        "jsonl": [written(folder / "a.jsonl", "".join(f"{json.dumps({'t': t})}\n" for t in texts))],
        "parquet": [parquet(folder / "a.parquet", n=list(range(13)), text=texts)],
        "arrow": [folder / "a.arrow"],
        "files": [folder / "files", "--set=data.mode=files"],
    }


def test_every_format_is_shown_as_the_same_texts(kvae: Any, tmp_path: Path) -> None:
    reports = {
        name: shown(kvae, *arguments) for name, arguments in files_of_texts(tmp_path).items()
    }
    for report in reports.values():
        for own in ("source", "notes"):
            report.pop(own)
        assert report == reports["lines"]
    first = reports["lines"]
    assert (first["texts"], first["different"], first["blank"]) == (13, 12, 0)
    assert first["lengths"]["longest"] == len("milk and bread")
    assert sum(count for _, _, count in first["histogram"]) == 13
    assert first["examples"][0] == first["examples"][-1] == TEXTS[0]
    assert first["labels"] is None
    assert first["unknown_share"] == 0


def test_fasta_is_shown(kvae: Any, tmp_path: Path) -> None:
    file = written(tmp_path / "a.fa", "".join(f">{n}\nAC\n{'GT' * n}\n" for n in range(1, 6)))
    assert shown(kvae, file)["examples"] == [f"AC{'GT' * n}" for n in range(1, 6)]


def test_labels_and_blank_texts_are_counted(kvae: Any, tmp_path: Path) -> None:
    rows = "".join(f"{text},{'ab'[n % 2]}\n" for n, text in enumerate(TEXTS))
    file = written(tmp_path / "a.csv", f"text,kind\n{rows} ,a\n")
    report = shown(kvae, file, "--column=text", "--label-column=kind")
    assert sum(report["labels"].values()) + report["held_out"] == 12
    assert set(report["labels"]) == {"a", "b"}
    assert report["blank"] == 1
    assert any("1 blank" in note for note in report["notes"])
    assert "labels" in kvae("data", "show", file, "--column=text", "--label-column=kind")[1]


@pytest.mark.parametrize("tokenizer", ["char", "byte", "word", "wordpiece"])
def test_the_share_of_unknown_tokens_is_shown(kvae: Any, tmp_path: Path, tokenizer: str) -> None:
    file = written(tmp_path / "a.txt", "".join(f"{text}\n" for text in TEXTS * 3))
    report = shown(kvae, file, "--tokenizer", tokenizer, "-n3")
    assert report["unknown_share"] == 0
    assert (report["kinds"] is None) == (tokenizer == "wordpiece")
    assert len(report["examples"]) == 3
    text = kvae("data", "show", file, "--tokenizer", tokenizer)[1]
    assert "0.00% of the" in text
    assert ("most frequent" in text) == (tokenizer != "wordpiece")


def test_symbols_outside_the_alphabet_are_marked(kvae: Any, tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "".join(f"{text}\n" for text in TEXTS))
    report = shown(kvae, file, "--set=data.max_symbols=3")
    assert report["symbols"] == 3
    assert 0.3 < report["unknown_share"] < 0.9
    assert "\ufffd" in report["examples"][0]


def test_of_pieces_the_share_is_of_all_pieces(kvae: Any, tmp_path: Path) -> None:
    """Two of the texts have a word that the vocabulary lacks."""
    texts = ["aa bb aa bb"] * 8 + ["aa bb aa zz"] * 2
    file = written(tmp_path / "a.txt", "".join(f"{text}\n" for text in texts))
    words = written(tmp_path / "vocab.txt", "aa\nbb\n[UNK]\n")
    held = written(tmp_path / "held.txt", "aa bb\n")
    given = ("--tokenizer=wordpiece", f"--vocabulary={words}", f"--validation={held}")
    assert shown(kvae, file, *given)["unknown_share"] == pytest.approx(2 / 40)


def test_a_stream_is_shown_as_its_lines(kvae: Any, tmp_path: Path, data_folder: Path) -> None:
    lines = "".join(f"{text}\n" for text in TEXTS)
    file = written(tmp_path / "a.txt", lines)
    report = shown(kvae, file, "--set=data.mode=windows", "-n2")
    assert report["examples"] == [TEXTS[0], TEXTS[-1]]
    for part in ("train", "valid"):
        written(data_folder / f"ptb.{part}.txt", lines)
    report = shown(kvae, "ptb-char", "-n2")
    assert (report["texts"], report["held_out"]) == (12, 12)
    assert report["examples"] == [TEXTS[0], TEXTS[-1]]


@pytest.mark.usefixtures("few_sines")
def test_a_named_corpus_is_shown_with_its_settings(kvae: Any) -> None:
    report = shown(kvae, "sines", "--labels=corpus")
    assert (report["source"], report["texts"], report["held_out"]) == ("sines", 500, 100)
    assert (report["model_length"], report["too_long"]) == (16, 0)
    assert set(report["labels"]) == {"high", "low"}


def test_as_many_texts_are_shown_as_there_are_and_none_if_asked(kvae: Any, tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "to\ntoo\n")
    assert shown(kvae, file, "-n9")["examples"] == ["to", "too"]
    assert shown(kvae, file, "-n0")["examples"] == []
    code, _, err = kvae("data", "show", file, "-n=-1")
    assert (code, err) == (2, "kvae data: -n: -1 texts cannot be shown; give 0 or more\n")


def on_disk(source: Path, **settings: Any) -> Config:
    data = {"data.source": str(source), "data.storage": "disk", "model.length": 32}
    return preset("hybrid-lstm").with_settings({**SMALL_SETTINGS, **data, **settings})


def stored(tmp_path: Path, name: str, **settings: Any) -> tuple[Config, Path]:
    """The completed configuration of a corpus on disk, and its store."""
    file = written(tmp_path / f"{name}.txt", "".join(f"{text} {name}\n" for text in TEXTS))
    config = prepare(on_disk(file, **settings)).config
    store = stores.find_store(stores_folder() / stores.store_name(config))
    assert store is not None
    return config, store


def test_stores_that_no_run_uses_go_and_those_of_runs_stay(
    kvae: Any, tmp_path: Path, data_folder: Path
) -> None:
    kept, removed = stored(tmp_path, "kept"), stored(tmp_path, "removed", **{"model.length": 0})
    unused = stored(tmp_path, "unused", **{"model.length": 0})[1]
    aliases = {path: path.read_text() for path in stores_folder().glob("*.alias")}
    assert set(aliases.values()) == {removed[1].name, unused.name}
    for config, store in (kept, removed):
        folder = tmp_path / "runs" / Path(config.data.source).stem
        written(folder / CONFIG, "{}")
        for _ in range(2):
            remember_user(config, folder)
        assert stores.users_of(store) == [str(folder)]
    unfinished = stores_folder() / ".partial-01234567-89abcdef0123456789abcdef"
    written(unfinished / "tokens-00000", b"12345")
    alias = written(stores_folder() / ".partial-01234567-0123456789abcdef01234567.alias", "")

    code, out, _ = kvae("data", "stores", "--json")
    report = json.loads(out)
    assert (code, report["folder"]) == (0, str(data_folder / "stores"))
    entries = {Path(entry["path"]): entry for entry in report["stores"]}
    assert set(entries) == {kept[1], removed[1], unused, unfinished}
    assert entries[unfinished] == {
        "path": str(unfinished),
        "bytes": 5,
        "source": None,
        "runs": [],
    }
    assert entries[kept[1]]["source"] == kept[0].data.source
    assert entries[kept[1]]["runs"] == [str(tmp_path / "runs" / "kept")]
    assert "unfinished; no run" in kvae("data", "stores")[1]

    shutil.rmtree(tmp_path / "runs" / "removed")
    with sole_writer(lock_path(unfinished.with_name("89abcdef0123456789abcdef")), unfinished):
        report = json.loads(kvae("data", "clean", "--json")[1])
        assert {Path(entry["path"]) for entry in report["removed"]} == {removed[1], unused}
        assert kept[1].is_dir()
        assert unfinished.is_dir()
        assert not any(path.exists() for path in [*aliases, removed[1], unused, alias])
    code, _, err = kvae("data", "clean")
    assert (code, err) == (0, "1 stores removed\n")
    assert list(stores_folder().iterdir()) == [kept[1]]
    prepare(removed[0])  # it is written again when it is needed


def test_on_a_disk_without_locks_nothing_unfinished_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may be writing it."""

    def no_locks(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(writing, "lock_now", no_locks)
    finished = stored(tmp_path, "one")[1]
    unfinished = stores_folder() / ".partial-01234567-89abcdef0123456789abcdef"
    written(unfinished / "tokens-00000", b"12345")
    stored(tmp_path, "another")
    removed = {Path(entry["path"]) for entry in clean_stores()}
    assert finished in removed
    assert unfinished.is_dir()


def test_without_stores_there_is_nothing_to_list_or_to_clean(kvae: Any) -> None:
    assert json.loads(kvae("data", "stores", "--json")[1])["stores"] == []
    assert json.loads(kvae("data", "clean", "--json")[1]) == {"removed": []}


@pytest.mark.slow
def test_a_run_on_a_table_goes_on_with_a_moved_file_and_no_other_column(
    kvae: Any, tmp_path: Path, run_folder: Path, corpus_file: Path
) -> None:
    names = corpus_file.read_text().split()
    table = "".join(f"{name[::-1]},{name}\n" for name in names)
    moved = written(tmp_path / "elsewhere" / "b.csv", f"other,text\n{table}")
    folder = shutil.copytree(run_folder, tmp_path / "run")
    content = json.loads((folder / CONFIG).read_text())
    content["data"] |= {"source": str(tmp_path / "a.csv"), "column": "text"}
    written(folder / CONFIG, json.dumps(content))

    arguments = ("train", "--resume", "--out", folder, "--data", moved)
    code, _, err = kvae(*arguments)
    assert code == 0, err
    assert f"data.source is '{moved}' from now on" in err
    assert "the run was finished already" in err
    code, _, err = kvae(*arguments, "--column=other")
    assert code == 2
    assert "--resume: data.column is 'text' in the run and 'other' now" in err
    other = stored_config(folder).with_settings({"data.column": "other"})
    with pytest.raises(AnotherConfiguration, match=r"data\.column is 'text' in the run"):
        resume(other, folder, lambda note: None)

    few = ("--texts=2", "--samples=2")
    code, _, err = kvae("evaluate", folder, "--data", corpus_file, *few)
    assert code == 2
    assert "as with --format csv or --format lines" in err
    code, _, err = kvae("evaluate", folder, "--data", corpus_file, "--format=lines", *few)
    assert code == 0, err
    assert "measuring 125 texts" in err


def test_an_old_configuration_reads_a_table_as_lines_and_says_so(tmp_path: Path) -> None:
    """Older versions had no formats, and the tokens of such a run are those of whole lines."""
    rows = "".join(f"{text},{n}\n" for n, text in enumerate(TEXTS))
    file = written(tmp_path / "a.csv", f"text,n\n{rows}")
    content = Config().with_settings({"data.source": str(file)}).to_dict()
    for name in ("format", "column", "label_column"):
        del content["data"][name]
    old = Config.from_stored(content)
    found = prepare(old)
    assert f"{TEXTS[5]},5" in [*found.train_texts, *found.validation_texts]
    assert any("looks like a table, but is read as lines" in note for note in found.notes)
    new = Config().with_settings({"data.source": str(file)})
    assert TEXTS[5] in [*prepare(new).train_texts, *prepare(new).validation_texts]
    assert new.with_split_of(old).data.format == "lines"
    as_asked = new.with_settings({"data.format": "csv"})
    assert as_asked.with_split_of(old).data.format == "csv"
