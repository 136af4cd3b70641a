"""Texts come out of every format as they were put in, and bad input says where and what to do."""

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvae.serving.errors import ConfigError, DataError
from kvae.texts import columns, compression, headers, hints, lines, records
from kvae.texts.files import read_file, split_lines
from kvae.texts.formats import FORMATS, format_of, records_of
from kvae.texts.records import Columns, Records

TEXTS = ["a text, quoted", 'she said "so"', "tab\tand; bar | here", "", "schön 🙂"]
LABELS = ["pos", "neg", "", "pos", "neg"]
IDS = ["id1", "id2", "id3", "id4", "id5"]


def read(source: Path | str, **wanted: str) -> tuple[Records, list[str]]:
    """The records of a source as one block, and the notes."""
    notes: list[str] = []
    blocks = list(records_of(str(source), Columns(**wanted), notes))
    return records.together(blocks) if blocks else Records([]), notes


def refusal(source: Path | str, **wanted: str) -> str:
    """The message of the error that reading a source raises, without the folder. It is one line."""
    with pytest.raises((DataError, ConfigError)) as caught:
        read(source, **wanted)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{Path(source).parent}/", "")


def as_csv(rows: Iterable[Iterable[str]], delimiter: str = ",") -> bytes:
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter).writerows(rows)
    return written.getvalue().encode()


def table(**more: Any) -> pa.Table:
    return pa.table({"id": IDS, "text": TEXTS, "label": LABELS, **more})


def as_parquet(content: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(content, sink)
    return bytes(sink.getvalue())


def as_arrow(content: pa.Table, writer: Any = pa.ipc.new_file, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with writer(sink, content.schema, **options) as opened:
        opened.write_table(content)
    return bytes(sink.getvalue())


ROWS = [["id", "text", "label"], *zip(IDS, TEXTS, LABELS, strict=True)]
OBJECTS = [dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]]
JSON_LINES = "\n\n".join(map(json.dumps, OBJECTS)).encode()
LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")

FILES: dict[str, bytes] = {
    "comma.csv": as_csv(ROWS),
    "semicolon.csv": as_csv(ROWS, ";"),
    "bar.csv": as_csv(ROWS, "|"),
    "tab.csv": as_csv(ROWS, "\t"),
    "tab.tsv": as_csv(ROWS, "\t"),
    "marked.tab": b"\xef\xbb\xbf" + as_csv(ROWS, "\t"),
    "lines.jsonl": JSON_LINES,
    "lines.ndjson": JSON_LINES,
    "lines.json": JSON_LINES,
    "table.parquet": as_parquet(table()),
    "table.pq": as_parquet(table()),
    "file.arrow": as_arrow(table(), options=LZ4),
    "file.feather": as_arrow(table()),
    "stream.ipc": as_arrow(table(), pa.ipc.new_stream),
    "told by first bytes.txt": as_parquet(table()),
    "told by first bytes.csv": as_arrow(table(), pa.ipc.new_stream),
}

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
}


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_its_texts_labels_and_identifiers(
    tmp_path: Path, name: str, packing: str
) -> None:
    path = tmp_path / f"{name}{packing}"
    path.write_bytes(PACK[packing](FILES[name]))
    found, notes = read(path, text="text", label="label", id="id")
    assert (found, notes) == (Records(TEXTS, LABELS, IDS), [])
    assert read(path, text="2", label="3", id="1")[0] == found
    found, (note,) = read(path)
    assert found == Records(TEXTS)
    assert note in {f"{path}: texts from {kind} 'text'" for kind in ("column", "key")}


@pytest.mark.parametrize("packing", PACK)
def test_fasta_has_sequences_and_headers(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"x.fa{packing}"
    path.write_bytes(
        PACK[packing](b"; comment\n\n>one a first\nACGT\r\nAC GT\n;more\n\n>two\n>three\nA\nC")
    )
    assert read(path) == (Records(["ACGTACGT", "", "AC"], ids=["one a first", "two", "three"]), [])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_a_sequence_is_whole_wherever_pieces_are_cut(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIECE", "HEAD"):
        monkeypatch.setattr(f"kvae.texts.files.{name}", size)
    (tmp_path / "x.fasta").write_text(">a\nAC\nGT\n;no\n\n>b\n>c d\nT\n\nTT\n")
    assert read(tmp_path / "x.fasta")[0] == Records(["ACGT", "", "TTT"], ids=["a", "b", "c d"])


CONTENTS = ["", "\n", "a", "a\n", "a\n\n", "\na\n\nb", "a\x0bb\x85c\u2028d\r\ne\n"]


@pytest.mark.parametrize("content", CONTENTS)
def test_lines_are_those_of_the_file_and_a_text_is_the_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode())
    assert read(path)[0].texts == split_lines(read_file(str(path)))
    whole = read(path, format="text")[0]
    assert whole == Records([read_file(str(path)).removesuffix("\n")], ids=[str(path)])


def test_lines_come_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("files.PIECE", "files.HEAD", "records.BLOCK"):
        monkeypatch.setattr(f"kvae.texts.{name}", 16)
    (tmp_path / "a.txt").write_text("word\n" * 100)
    blocks = list(records_of(str(tmp_path / "a.txt"), Columns(), []))
    assert sum(len(block.texts) for block in blocks) == 100
    assert 10 < len(blocks) < 40
    monkeypatch.setattr(lines, "LONGEST_TEXT", 100)
    (tmp_path / "a.txt").write_text("word" * 100)
    assert "a line has over 100 characters; is it a stream?" in refusal(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["comma.csv", "lines.jsonl", "table.parquet", "file.arrow"])
def test_tables_come_in_blocks(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("delimited", "tables", "records"):
        monkeypatch.setattr(f"kvae.texts.{module}.BLOCK", 2**10)
    monkeypatch.setattr("kvae.texts.files.PIECE", 2**10)
    texts = [f"text {n} {'x ' * 50}" for n in range(200)]
    content = {
        "comma.csv": as_csv([["text"], *([text] for text in texts)]),
        "lines.jsonl": "\n".join(json.dumps({"text": text}) for text in texts).encode(),
        "table.parquet": as_parquet(pa.table({"text": texts})),
        "file.arrow": as_arrow(pa.table({"text": texts})),
    }[name]
    (tmp_path / name).write_bytes(content)
    blocks = list(records_of(str(tmp_path / name), Columns("text"), []))
    assert [text for block in blocks for text in block.texts] == texts
    assert len(blocks) > 5


def test_each_file_of_a_folder_has_its_own_format(tmp_path: Path) -> None:
    for name in ("comma.csv", "lines.jsonl", "table.parquet"):
        (tmp_path / name).write_bytes(FILES[name])
        (tmp_path / f"more {name}").write_bytes(FILES[name])
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\0\0\0")
    (tmp_path / "z.txt").write_text("a line\n")
    found, notes = read(tmp_path)
    assert found.texts == TEXTS * 6 + ["a line"]
    assert notes == [
        f"{tmp_path}: 1 files left out that hold an image, such as picture.png",
        f"{tmp_path}/comma.csv: texts from column 'text'",
        f"{tmp_path}/lines.jsonl: texts from key 'text'",
        f"{tmp_path}: 3 more files: texts from column 'text'",
        f"{tmp_path}: 1 more files: texts from key 'text'",
    ]
    message = refusal(tmp_path, text="text")
    assert "z.txt: is read as lines, which have no column 'text'" in message


def test_standard_input_is_lines_unless_a_format_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    give(FILES["comma.csv"])
    found, notes = read("-")
    assert found.texts[0] == "id,text,label"
    assert notes[0].startswith("-: looks like a table, but is read as lines")
    for name, form in (
        ("comma.csv", "csv"),
        ("lines.jsonl", "jsonl"),
        ("table.parquet", "parquet"),
        ("stream.ipc", "arrow"),
        ("file.arrow", "arrow"),
    ):
        for pack in PACK.values():
            give(pack(FILES[name]))
            assert read("-", format=form, text="text")[0].texts == TEXTS


def test_an_explicit_format_wins_over_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('{"text": "a b"}\n')
    (tmp_path / "b.fasta").write_text("> quoted\nmail\n")
    assert read(tmp_path / "a.csv", format="jsonl")[0].texts == ["a b"]
    assert read(tmp_path / "b.fasta", format="lines")[0].texts == ["> quoted", "mail"]
    assert format_of(str(tmp_path / "a.csv"), Columns(format="tsv")) == "tsv"
    assert "did you mean 'jsonl'?" in refusal(tmp_path / "a.csv", format="json")


def test_other_formats_refuse_a_table_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(FILES["table.parquet"])
    for form in ("lines", "csv", "jsonl", "fasta", "text"):
        message = refusal(tmp_path / "a.parquet", format=form)
        assert message.startswith("a.parquet: holds a Parquet table instead of UTF-8 text; read it")
    assert "is no Arrow table" in refusal(tmp_path / "a.parquet", format="arrow")
    (tmp_path / "a.csv").write_text("text\na\n")
    assert "is no Parquet table" in refusal(tmp_path / "a.csv", format="parquet")
    (tmp_path / "a.csv").write_text("")
    assert "is empty" in refusal(tmp_path / "a.csv", format="parquet")


def test_endings_that_also_mean_other_things_are_told_by_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "news.fa").write_text("سلام\n")
    assert read(tmp_path / "news.fa") == (Records(["سلام"]), [])


def test_no_two_formats_claim_an_ending() -> None:
    endings = [ending for form in FORMATS.values() for ending in form.endings]
    assert len(endings) == len(set(endings))


CSV_COLUMNS: dict[str, tuple[str, list[str]]] = {
    "numbers, dates and truth values are no texts": (
        "n,when,ok,share,words\n1,2024-05-01,true,5%,one\n2.5,2024-05-02 10:30,false,7%,two\n",
        ["one", "two"],
    ),
    "identifiers and labels are no texts if another column has several words": (
        "uid,words,kind\na1,one two,x\na2,three,y\n",
        ["one two", "three"],
    ),
    "short words are no texts if another column has long ones": (
        f"name,dna\na,{'ACGT' * 20}\nb,AC\n",
        ["ACGT" * 20, "AC"],
    ),
    "a table of one column has its texts there, even digits": (
        "text\n0123\n4567\n",
        ["0123", "4567"],
    ),
    "the index of pandas has no name": (",text\n0,a b\n1,c\n", ["a b", "c"]),
    "a column of blanks may lack a name": ("text,,\na b,,\nc,,\n", ["a b", "c"]),
    "a decimal comma is no delimiter": ("text;x\na b;1,5\nc;2,5\n", ["a b", "c"]),
    "blank lines are no rows": ("\ntext,n\n\na b,1\n\n\nc,2\n\n", ["a b", "c"]),
    "line breaks within quotes belong to the text": (
        'text,n\n"a\nb",1\n"c\r\nd",2\n',
        ["a\nb", "c\nd"],
    ),
    "only line feeds end rows": ("text,n\na b\x0bc\u2028d,1\n", ["a b\x0bc\u2028d"]),
    "quotes within an unquoted field are characters": ('text,n\n6" x "y",1\n', ['6" x "y"']),
}


@pytest.mark.parametrize("case", CSV_COLUMNS)
def test_the_column_of_texts_is_found(tmp_path: Path, case: str) -> None:
    content, expected = CSV_COLUMNS[case]
    (tmp_path / "a.csv").write_bytes(content.encode())
    assert read(tmp_path / "a.csv")[0].texts == expected


HEADERS: dict[str, tuple[str, bool | None]] = {
    "a usual name": ("text,x\nb,c\n", True),
    "a name above numbers": ("words,weight\nhello,3\nbye,4\n", True),
    "one word above sentences": ("utt,cls\nhow are you,a\nfine and you,b\n", True),
    "a number": ("good film,1\nbad film,0\n", False),
    "a value of its column": ("good film,pos\nbad film,neg\nfine,pos\n", False),
    "equal cells": ("a,a\nb,c\n", False),
    "a long text": (f"{'word ' * 20},x\nb,y\n", False),
    "a sentence": ("Is it good?,x\nIt is.,y\n", False),
    "names of people and towns": ("Anna,Rome\nBert,Oslo\nCarl,Bonn\n", None),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_is_told_by_the_rows_below_it(case: str) -> None:
    content, expected = HEADERS[case]
    assert headers.has_header(headers.first_rows(content, ",")) is expected


def test_a_number_selects_a_column_without_losing_a_first_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Anna,Rome\nBert,Oslo\nCarl,Bonn\n")
    found, (note,) = read(tmp_path / "a.csv", text="1", label="2")
    assert found == Records(["Anna", "Bert", "Carl"], ["Rome", "Oslo", "Bonn"])
    assert note.endswith("a.csv: column 1: the first row is no header, Anna, Rome")
    assert read(tmp_path / "a.csv", text="Anna")[0].texts == ["Bert", "Carl"]
    (tmp_path / "a.csv").write_text("text,town\nBert,Oslo\nCarl,Bonn\n")
    found, (note,) = read(tmp_path / "a.csv", text="1", label="2")
    assert found.texts == ["Bert", "Carl"]
    assert note.endswith("a.csv: column 1: the first row is a header, text, town")
    (tmp_path / "a.csv").write_text("a good film,pos\na bad film,neg\nso so,pos\n")
    found, (note,) = read(tmp_path / "a.csv")
    assert len(found.texts) == 3
    assert note.endswith("a.csv: texts from column 1; the first row is no header")


def test_quotes_in_tabs_enclose_only_what_was_written_so(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\tn\n"hello" he said\t1\n"a\t2\nb"\t3\n')
    found, notes = read(path)
    assert found.texts == ['"hello" he said', '"a', 'b"']
    assert notes[0].endswith("quotes do not enclose fields here: they are read as characters")
    path.write_bytes(as_csv([["text", "n"], ['"hello" he said', "1"], ["a\nb\tc", "2"]], "\t"))
    found, notes = read(path)
    assert found.texts == ['"hello" he said', "a\nb\tc"]
    assert len(notes) == 1


def test_a_field_may_be_longer_than_csv_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "a.csv").write_text(f"text,n\n{'x' * 200_000},1\n")
    assert len(read(tmp_path / "a.csv", text="text")[0].texts[0]) == 200_000
    assert csv.field_size_limit() == limit
    monkeypatch.setattr("kvae.texts.headers.LONGEST_TEXT", 1000)
    assert "row 2: a field has over" in refusal(tmp_path / "a.csv", text="text")


VALUES = pa.table(
    {
        "text": ["a b", "c"],
        "number": [1, None],
        "share": [0.5, float("nan")],
        "flag": [True, False],
        "category": pa.array(["x", None]).dictionary_encode(),
        "categories of text": pa.array(["x y", "z"]).dictionary_encode(),
        "large": pa.array(["x y", "z"], pa.large_string()),
        "view": pa.array(["x y", "z"], pa.string_view()),
        "bytes": pa.array([b"x y", b"z"]),
        "inner": [{"text": "x y", "n": 1}, {"text": "z", "n": 2}],
    }
)


def as_json_lines(content: pa.Table) -> bytes:
    rows = content.drop_columns("bytes").to_pylist()
    return "\n".join(map(json.dumps, rows)).encode()


WRITERS: dict[str, Callable[[pa.Table], bytes]] = {
    "a.parquet": lambda content: as_parquet(content.drop_columns("view")),  # new in pyarrow 19
    "a.arrow": as_arrow,
    "a.jsonl": as_json_lines,
}


@pytest.mark.parametrize("name", WRITERS)
def test_labels_of_any_type_become_text_and_columns_are_found_in_others(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(WRITERS[name](VALUES))
    for label, expected in {
        "number": ["1", ""],
        "share": ["0.5", ""],
        "flag": ["true", "false"],
        "category": ["x", ""],
        "inner.n": ["1", "2"],
    }.items():
        assert read(tmp_path / name, text="text", label=label)[0].labels == expected
    for text in ("categories of text", "large", "view", "bytes", "inner.text"):
        if (text, name) not in (("bytes", "a.jsonl"), ("view", "a.parquet")):
            assert read(tmp_path / name, text=text)[0].texts == ["x y", "z"]


def test_missing_labels_and_identifiers_of_json_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a", "label": 2, "id": 7}\n{"text": "b"}\n{"text": "c", "label": null}\n'
        '{"text": "d", "label": 1.0}\n'
    )
    found = read(tmp_path / "a.jsonl", text="text", label="label", id="id")[0]
    assert found == Records(["a", "b", "c", "d"], ["2", "", "", "1.0"], ["7", "", "", ""])


def cut(content: bytes, size: int) -> bytes:
    return content[:-size]


LONG = "\n".join(["text,n", *(f'"a\nb {n}",{n}' for n in range(3000))])

BAD: dict[str, tuple[str, str | bytes, dict[str, str], str]] = {
    "a quote that is never closed": (
        "a.csv",
        'text,n\na,1\n"b,2\nc,3\n',
        {},
        "a.csv: row 3: its quote is never closed; close it, or double",
    ),
    "a quote that is never closed, far down": (
        "a.csv",
        f'{LONG}\n"b,2\nc,3\n',
        {},
        "a.csv: row 3,002 (line 6,002): its quote is never closed",
    ),
    "text behind a quote": (
        "a.csv",
        'text,n\na,1\n"b" c,2\n',
        {},
        "a.csv: row 3: a quote ends a field, but more follows; double quotes",
    ),
    "too many fields": (
        "a.csv",
        'text,n\n"a\nb",1\n\nso, so,2\n',
        {},
        "a.csv: row 4 (line 5) has 3 fields, the header has 2; put quotes around fields that "
        "contain ,",
    ),
    "too many fields, far down": (
        "a.csv",
        f"{LONG}\nso, so,2\n",
        {},
        "a.csv: row 3,002 (line 6,002) has 3 fields",
    ),
    "too few fields": (
        "a.csv",
        "text,n\na,1\nso\n",
        {},
        "a.csv: row 3 has 1 field, the header has 2; complete the row",
    ),
    "lines that are no table": (
        "a.csv",
        "one\ntwo, three\n",
        {},
        "or read it with --format lines",
    ),
    "a carriage return": ("a.csv", "text,n\na\rb,1\n", {}, "row 2: has a carriage return outside"),
    "a header only": ("a.csv", "text,n\n", {}, "a.csv: has a header, but no rows below it"),
    "several columns of texts": (
        "a.csv",
        f"title,body,n\nA day,{'word ' * 20},1\n",
        {},
        "a.csv: 2 columns hold texts: 'title' (A day), 'body' (word word word word word word...); "
        "name one with --column",
    ),
    "no column of texts": ("a.csv", "x,y\n1,2\n3,4\n", {}, "no column holds texts: 'x' (1), 'y'"),
    "an unknown column": (
        "a.csv",
        "text,n\na,1\n",
        {"text": "txt"},
        "a.csv: has no column 'txt'; did you mean 'text'? Its columns are 'text', 'n'; if its "
        "first row is no header, give the number",
    ),
    "an unknown label": ("a.csv", "text,n\na,1\n", {"label": "kind"}, "choose one of 'text', 'n'"),
    "a number too large": ("a.csv", "text,n\na,1\n", {"text": "3"}, "has no column 3; it has 2"),
    "a name that occurs twice": (
        "a.csv",
        "text,text\na,b\n",
        {"text": "text"},
        "2 columns are named 'text'; give one by its number",
    ),
    "invalid JSON": (
        "a.jsonl",
        '{"text": "a"}\n\n{"text": "b",}\n',
        {},
        "a.jsonl: row 3 is no JSON at character",
    ),
    "JSON that is cut off": ("a.jsonl", '{"text": "a"}\n{"text": "b', {}, "row 2 is no JSON"),
    "JSON that is no object": (
        "a.jsonl",
        '{"text": "a"}\n"b"\n',
        {},
        "row 2 is a text, not a JSON",
    ),
    "JSON that is nested too deeply": (
        "a.jsonl",
        '{"text": "a"}\n' + '{"a":' * 10**5,
        {},
        "row 2 is no JSON",
    ),
    "a JSON array": (
        "a.json",
        '\n[{"text": "a"}]',
        {},
        "holds a JSON array, not JSON lines; write",
    ),
    "a JSON array in many lines": ("a.jsonl", '[\n {"text": "a"}\n]', {}, "jq -c '.[]'"),
    "a JSON object in many lines": ("a.json", '{\n "text": "a"\n}', {}, "jq -c . "),
    "a JSON object with a list": ("a.json", '{"data": [{"text": "a"}]}', {}, "jq -c '.data[]'"),
    "a missing key": (
        "a.jsonl",
        '{"a": {"text": "a"}}\n{"a": {}}\n',
        {"text": "a.text"},
        "a.jsonl: row 2 has no key 'a.text'; leave such rows out",
    ),
    "null in JSON": (
        "a.jsonl",
        '{"text": "a"}\n{"text": null}\n',
        {},
        "a.jsonl: row 2 has null for 'text'; leave such rows out, as with jq -c 'select(.text",
    ),
    "a number where a text is expected": (
        "a.jsonl",
        '{"text": "a"}\n{"text": 5}\n',
        {"text": "text"},
        "a.jsonl: row 2 has 5 under 'text', a number where a text is expected",
    ),
    "an object where a text is expected": (
        "a.jsonl",
        '{"text": "a"}\n{"text": {"x": "y"}}\n',
        {"text": "text"},
        "an object where a text is expected",
    ),
    "an unknown key": ("a.jsonl", '{"text": "a"}\n', {"text": "txt"}, "did you mean 'text'?"),
    "no key of texts": (
        "a.jsonl",
        '{"n": 5, "m": 6}\n',
        {},
        "no key holds texts; its keys are 'n'",
    ),
    "several keys of texts": ("a.jsonl", '{"a": "x y", "b": "z w"}\n', {}, "'a' (x y), 'b' (z w)"),
    "a NUL in JSON": ("a.jsonl", '{"text": "a\\u0000"}\n', {}, "row 1 has a NUL character"),
    "half a character in JSON": (
        "a.jsonl",
        '{"text": "a"}\n{"text": "\\ud83d"}\n',
        {},
        "row 2 has half a surrogate pair",
    ),
    "Parquet that is cut off": (
        "a.parquet",
        cut(FILES["table.parquet"], 9),
        {},
        "a.parquet: a Parquet table that is damaged or cut off (Parquet magic bytes not found",
    ),
    "an Arrow file that is cut off": ("a.arrow", cut(FILES["file.arrow"], 9), {}, "damaged or cut"),
    "an Arrow stream that is cut off": (
        "a.arrow",
        cut(FILES["stream.ipc"], 99),
        {},
        "damaged or cut off",
    ),
    "a packed table that is cut off": (
        "a.parquet.gz",
        cut(gzip.compress(FILES["table.parquet"]), 9),
        {},
        "it cannot be decompressed to its end",
    ),
    "a zstd file that is cut off": (
        "a.csv.zst",
        cut(PACK[".zst"](LONG.encode()), 9),
        {},
        "it cannot be decompressed to its end",
    ),
    "null in Parquet": (
        "a.parquet",
        as_parquet(pa.table({"text": ["a", None]})),
        {},
        "a.parquet: row 2 has null in column 'text'",
    ),
    "a column of numbers in Parquet": (
        "a.parquet",
        as_parquet(pa.table({"text": ["a"], "n": [1]})),
        {"text": "n"},
        "a.parquet: column 'n' holds int64, not text; name another column",
    ),
    "bytes that are no text": (
        "a.parquet",
        as_parquet(pa.table({"text": [b"\xff\xfe"]})),
        {"text": "text"},
        "a.parquet: a Parquet table that is damaged",
    ),
    "no column of texts in Parquet": (
        "a.parquet",
        as_parquet(pa.table({"n": [1], "l": [["a"]]})),
        {},
        "no column holds texts; its columns are 'n' (int64), 'l' (list<",
    ),
    "several columns of texts in Parquet": (
        "a.parquet",
        as_parquet(pa.table({"a": ["x y"], "b": ["z w"]})),
        {},
        "2 columns hold texts: 'a' (x y), 'b' (z w); name one with --column",
    ),
    "an unknown column of Parquet": (
        "a.parquet",
        FILES["table.parquet"],
        {"label": "lable"},
        "did you mean 'label'?",
    ),
    "a NUL in Parquet": ("a.parquet", as_parquet(pa.table({"text": ["a\0"]})), {}, "has a NUL"),
    "the first Feather": ("a.feather", b"FEA1\0\0\0\0" + bytes(99), {}, "is Feather version 1"),
    "FASTA without a header": (
        "a.fasta",
        "; comment\n\nACGT\n>b\nAC\n",
        {},
        "a.fasta: row 3 stands before the first header, which begins with >",
    ),
    "a column of FASTA": (
        "a.fasta",
        ">a\nAC\n",
        {"text": "seq"},
        "is read as fasta, which have no",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_says_where_it_is_and_what_to_do(tmp_path: Path, case: str) -> None:
    name, content, wanted, expected = BAD[case]
    raw = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(raw)
    message = refusal(tmp_path / name, **wanted)
    assert message.startswith(f"{name}: ")
    assert expected in message
    assert "; " in message


def test_a_sequence_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvae.texts.fasta.LONGEST_TEXT", 100)
    (tmp_path / "a.fasta").write_text(">chr1 human\n" + "ACGTACGT\n" * 20)
    assert "the sequence 'chr1' has over 100 characters; cut it" in refusal(tmp_path / "a.fasta")


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(FILES["table.parquet"])
    (tmp_path / "b.csv.zst").write_bytes(PACK[".zst"](FILES["comma.csv"]))
    (tmp_path / "c.txt").write_text("a line\n")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = refusal(tmp_path / "a.parquet")
    assert message == "a.parquet: a Parquet table needs pyarrow; pip install 'kvae-text[tables]'"
    message = refusal(tmp_path / "b.csv.zst")
    assert message.startswith(
        "b.csv.zst: a zstd file needs pyarrow; decompress it, as with zstd -d"
    )
    assert message.endswith("pip install 'kvae-text[tables]'")
    found, notes = read(f"{tmp_path}/[bc].*")
    assert found.texts == ["a line"]
    assert "1 files left out that hold a zstd file, such as b.csv.zst; decompress it" in notes[0]


def test_a_zstd_file_may_have_several_frames(tmp_path: Path) -> None:
    frames = [PACK[".zst"](b"one\n"), b"\x50\x2a\x4d\x18\4\0\0\0skip", PACK[".zst"](b"two\n")]
    (tmp_path / "a.zst").write_bytes(b"".join(frames))
    assert read(tmp_path / "a.zst")[0].texts == ["one", "two"]
    (tmp_path / "a.zst").write_bytes(b"".join(frames[1:]))
    assert read(tmp_path / "a.zst")[0].texts == ["two"]
    (tmp_path / "a.zst").write_bytes(PACK[".zst"](b""))
    assert read(tmp_path / "a.zst")[0].texts == []
    assert all(ending in compression.READABLE_FORMATS for ending in compression.ENDINGS)


LOOKS: dict[str, tuple[str, str]] = {
    "commas": ("text,label\nso so,pos\nfine,neg\n", "csv"),
    "commas and quotes": ('id,review\n1,"good, really"\n2,bad\n', "csv"),
    "semicolons": ("name;weight\nAnna;3\nBert;4\n", "csv"),
    "tabs": ("text\tlabel\nit is, I think, so\tpos\n", "tsv"),
    "JSON": ('{"text": "a"}\n{"text": "b"}\n', "jsonl"),
    "FASTA": (">one\nACGTACGT\n>two\nAC\n", "fasta"),
}


@pytest.mark.parametrize("case", LOOKS)
def test_a_table_that_is_read_as_lines_is_noted(tmp_path: Path, case: str) -> None:
    content, form = LOOKS[case]
    (tmp_path / "a.txt").write_text(content)
    found, (note,) = read(tmp_path / "a.txt")
    assert found.texts == content.splitlines()
    assert note.startswith(f"{tmp_path}/a.txt: looks like ")
    assert note.endswith(f"; try --format {form}")


ORDINARY: dict[str, str] = {
    "a sentence with a comma in every line": "Yes, sir\nNo, madam\nWell, perhaps\nOh, dear\n",
    "a title, a date": "Text, 1999\nNote, 2001\nWord, 2005\n",
    "names": "Smith,John\nMiller,Anna\nJones,Bert\n",
    "a list of words": "text\nlabel\nid\nname\n",
    "one line": "text, label, id\n",
    "prose": "In 1815, text was rare, and so on.\nIt was, she said, a title; no name.\n" * 10,
    "a poem": "O text, o word,\nO line, unheard,\n",
    "a dialogue": "> hello\nhi\n> how are you\nfine\n",
    "one quoted word a line": ">a\nno idea about it\n",
    "a table of Markdown": "| text | label |\n|---|---|\n| a b | 1 |\n| c | 2 |\n",
    "code": "text = {'a': 1, 'b': 2}\nlabel = [1, 2]\nfor x, y in z:\n    print(x, y)\n",
    "braces": "{\n{hello}\n{}x\n",
    "templates": "{name} likes {food}\n{name} hates {food}\n",
    "logs": "10:15;start\n10:16;stop\n10:17;start\n",
    "numbers": "1,2,3\n4,5,6\n",
    "CSV of other widths": "text,label\na,b,c\nd\n",
    "blank lines": "\n\n\n",
    "times and verses": "1:1\tIn the beginning\n1:2\tAnd the earth\n",
    "headlines": "Title: a story; second part\nContent: none; or some\nDate: today; or not\n",
}


@pytest.mark.parametrize("case", ORDINARY)
def test_ordinary_lines_are_not_called_a_table(case: str) -> None:
    assert list(hints.table_hint(ORDINARY[case])) == []


def test_a_sample_of_prose_of_this_project_is_not_called_a_table() -> None:
    root = Path(__file__).parents[1]
    pages = [*root.glob("docs/**/*.md"), *root.glob("kvae/**/*.py")]
    assert [page.name for page in pages if list(hints.table_hint(page.read_text()))] == []


def test_messages_name_few_columns_and_short_values() -> None:
    assert columns.named([str(n) for n in range(30)]).endswith("'19' and 10 more")
    assert columns.examples([columns.Column("a", ["", " x\ny "])] * 22).count("(x y)") == 20


texts = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=20),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(texts=texts, labels=texts, delimiter=st.sampled_from(",;\t|"))
def test_what_csv_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], labels: list[str], delimiter: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.csv"
    pairs = list(zip(texts, labels, strict=False))
    path.write_bytes(as_csv([["text", "label"], *pairs], delimiter))
    found, _ = read(path, text="text", label="label")
    assert found == Records([text for text, _ in pairs], [label for _, label in pairs])


@settings(max_examples=60, deadline=None)
@given(texts=texts, ascii_only=st.booleans())
def test_what_json_and_pyarrow_write_comes_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ascii_only: bool
) -> None:
    base = tmp_path_factory.getbasetemp()
    rows = [json.dumps({"a": {"text": text}}, ensure_ascii=ascii_only) for text in texts]
    (base / "random.jsonl").write_text("\n".join(rows), encoding="utf-8", newline="\n")
    content = pa.table({"a": [{"text": text} for text in texts]})
    (base / "random.parquet").write_bytes(as_parquet(content))
    (base / "random.arrow").write_bytes(as_arrow(content))
    for name in ("random.jsonl", "random.parquet", "random.arrow"):
        assert read(base / name, text="a.text")[0] == Records(texts)
