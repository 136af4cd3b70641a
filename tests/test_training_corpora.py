"""Real files, good and bad, become tokens or a clear error."""

import gzip
import io
import lzma
import sys
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.configuration import Config
from kvae.presets import preset
from kvae.serving.alphabet import END, PAD, UNKNOWN, Alphabet
from kvae.serving.errors import ConfigError, DataError, KvaeError
from kvae.training.data import splits
from kvae.training.data.columns import MemoryColumns
from kvae.training.data.corpora import entropy_of
from kvae.training.data.named_corpora import CORPORA, sines, unicode_names
from kvae.training.data.prepare import held_out, prepare, quiet
from kvae.training.data.sources import Source, in_blocks
from kvae.training.data.survey import HELD_OUT, TRAINING, survey

from .conftest import ids_of, read_texts


def config(source: Path | str, **settings: Any) -> Config:
    return preset("hybrid-lstm").with_settings(
        {
            "data.source": str(source),
            **{key.replace("__", "."): value for key, value in settings.items()},
        }
    )


def lines_file(tmp_path: Path, lines: list[str]) -> Path:
    path = tmp_path / "lines.txt"
    path.write_bytes("\n".join(lines).encode())
    return path


MANY = [f"name {number}" for number in range(100)]


def held_of(texts: list[str], **data: Any) -> list[str]:
    """The held-out ones of the texts, none of which is learned too."""
    wanted = Config().with_settings({f"data.{name}": value for name, value in data.items()})
    source, columns = Source("texts", lambda notes: in_blocks(texts)), MemoryColumns()
    found = survey(wanted, source, Alphabet(()), columns, True, None, quiet)
    kinds = columns.column("kinds", np.uint8).read(0, len(texts))
    learned, held = (
        [text for text, each in zip(texts, kinds, strict=True) if each == kind]
        for kind in (TRAINING, HELD_OUT)
    )
    assert not set(learned) & set(held)
    assert len(learned) + len(held) == len(texts)
    assert found.held_out_records(()).texts == held
    return held


def test_unicode_names_are_the_listed_names_of_pythons_own_table() -> None:
    names = unicode_names()
    assert len(names) == len(set(names))
    assert {"LATIN SMALL LETTER A", "BLACK CHESS QUEEN", "KANGXI RADICAL ONE"} <= set(names)
    assert not any(
        name.startswith(
            ("CJK UNIFIED", "CJK COMPATIBILITY IDEO", "HANGUL SYLLABLE ", "TANGUT IDEO")
        )
        for name in names
    )
    counts = {
        "14.0.0": 31_879,
        "15.0.0": 32_175,
        "15.1.0": 32_180,
    }  # of Python 3.11, 3.12 and 3.13, as docs/data.md says
    assert len(names) == counts.get(unicodedata.unidata_version, len(names))
    assert (len(set("".join(names))), max(map(len, names))) == (38, 88)


@pytest.mark.parametrize(
    ("ending", "opener"), [("txt", open), ("gz", gzip.open), ("xz", lzma.open)]
)
def test_plain_and_packed_files_read_alike(tmp_path: Path, ending: str, opener: Any) -> None:
    path = tmp_path / f"a.{ending}"
    with opener(path, "wb") as file:
        file.write("\ufeffätzend\r\n\r\nzwei\r\n".encode())
    notes: list[str] = []
    assert read_texts(str(path), notes) == ["ätzend", "zwei"]
    assert notes == [f"{path}: 1 blank lines skipped"]


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    assert read_texts("-") == ["one", "two"]


def test_a_run_learns_from_standard_input_and_finds_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVAE_DATA", str(tmp_path))
    content = b"text,n\n" + b"".join(b"line %d,%d\n" % (n, n) for n in range(60))
    said: list[str] = []
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        ready = prepare(config("-", data__format="csv", data__column="text"), said.append)
        again = held_out(ready.config, ready.alphabet)
        np.testing.assert_array_equal(again.rows, ready.validation)
    (kept,) = (tmp_path / "standard-input").iterdir()
    assert kept.read_bytes() == content
    assert ready.config.data.source == str(kept)
    assert said == [f"standard input is kept in {kept}, where the run finds its texts again"] * 2


def test_only_the_texts_to_train_on_can_come_from_standard_input(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("one\ntwo\nthree\n")
    for name in ("validation", "labels"):
        with pytest.raises(DataError, match="save the other to a file"):
            prepare(config(str(file), **{f"data__{name}": "-"}))


def bad_files(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    files = {
        "missing": (None, "no such file or corpus"),
        "empty": (b"", "has no text"),
        "blank": (b"\n \n", "has no text"),
        "latin-1": ("gut\nschön\n".encode("latin-1"), "line 2 is not UTF-8 (byte 0xf6)"),
        "single": (b"only one line\n", "at least two different lines"),
        "repeated": (b"same\nsame\nsame\n", "at least two different lines"),
        "nul": (b"one\ntwo\nthr\0ee\n", "line 3 has a NUL byte"),
        "long": (
            b"short\n" * 9 + b"x" * 10_000_000 + b"\nlast\n",
            "the longest of 11 lines has 10,000,000 characters",
        ),
        "broken.xz": (lzma.compress(b"text\n" * 100)[:-20], "damaged or cut off"),
        "plain.gz": (b"not packed\n", "at least two different lines"),
        "damaged.gz": (gzip.compress(b"text\n" * 100)[:14] + b"\xff" * 40, "damaged or cut off"),
    }
    for name, (content, _) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    return {
        **{name: (tmp_path / name, rule) for name, (_, rule) in files.items()},
        "folder": (tmp_path / "folder", "no text file among 0 files"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "missing",
        "empty",
        "blank",
        "latin-1",
        "single",
        "repeated",
        "nul",
        "long",
        "broken.xz",
        "plain.gz",
        "damaged.gz",
        "folder",
    ],
)
def test_a_file_that_cannot_be_used_is_a_data_error_that_says_why(
    tmp_path: Path, name: str
) -> None:
    path, rule = bad_files(tmp_path)[name]
    with pytest.raises(DataError) as caught:
        prepare(config(path))
    assert rule in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lines_longer_than_the_model_are_refused_with_their_count_and_the_choice(
    tmp_path: Path,
) -> None:
    path = lines_file(tmp_path, [*MANY, "x" * 40, "y" * 41])
    with pytest.raises(DataError) as caught:
        prepare(
            config(
                path,
                model__length=16,
                data__validation=str(lines_file_named(tmp_path, "v.txt", MANY[:9])),
            )
        )
    message = str(caught.value)
    assert "2 of 102 lines are longer than the model's 15 characters" in message
    for choice in ("data.too_long=cut", "data.too_long=drop", "model.length=44"):
        assert choice in message


def lines_file_named(tmp_path: Path, name: str, lines: list[str]) -> Path:
    path = tmp_path / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(("choice", "left", "longest"), [("cut", 101, 15), ("drop", 100, 7)])
def test_long_lines_are_cut_or_dropped_when_asked_and_said(
    tmp_path: Path, choice: str, left: int, longest: int
) -> None:
    path = lines_file(tmp_path, [*MANY, "x" * 40])
    ready = prepare(config(path, model__length=16, data__too_long=choice))
    texts = [*ready.train_texts, *ready.validation_texts]
    assert (len(texts), max(map(len, texts))) == (left, longest)
    assert any("longer than the model's 15 characters" in note for note in ready.notes)


def test_the_length_follows_the_longest_line(tmp_path: Path) -> None:
    ready = prepare(config(lines_file(tmp_path, [*MANY, "x" * 41])))
    assert ready.config.model.length == 44
    assert ids_of(ready.train).shape[1] == 44


def test_lines_beyond_any_sensible_length_want_a_choice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the longest of 101 lines has 5,000 characters"):
        prepare(config(lines_file(tmp_path, [*MANY, "x" * 5000])))


def test_rows_are_text_end_and_padding(tmp_path: Path) -> None:
    ready = prepare(config(lines_file(tmp_path, MANY)))
    assert ready.train.tokens.kind == np.uint8
    rows = ids_of(ready.train)
    assert ready.alphabet.decode(rows) == list(ready.train_texts)
    assert sorted([*ready.train_texts, *ready.validation_texts]) == sorted(MANY)
    for text, row in zip(ready.train_texts, rows, strict=True):
        assert row[len(text)] == END
        assert (row[len(text) + 1 :] == PAD).all()


def test_the_split_leaks_no_text_and_is_the_same_each_time() -> None:
    texts = [str(number % 500) for number in range(2000)]
    held = held_of(texts, validation_fraction=0.1)
    assert len(held) == pytest.approx(200, abs=50)
    assert held_of(texts, validation_fraction=0.1) == held
    assert held_of(texts, validation_fraction=0.1, split_seed=1) != held


ACCESS_LOG = [
    f"job {i} finished in {i * 37 % 991} ms" if i % 10 == 0 else "GET / 200" for i in range(1, 401)
]


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_line_that_makes_up_most_of_a_file_is_learned(
    tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    for seed in range(10):
        ready = prepare(
            config(lines_file(tmp_path, ACCESS_LOG), data__split_seed=seed, data__storage=storage)
        )
        assert list(ready.train_texts).count("GET / 200") == 360
        assert len(ready.validation_texts) == pytest.approx(20, abs=5)
        assert not any("lines are held out" in note for note in ready.notes)


@pytest.mark.slow
def test_a_log_of_50_templates_is_split_near_the_share_asked_for_at_every_seed() -> None:
    """The frequencies follow Zipf's law, and 5 % are asked for.

    A split by different texts is outside of 2.5 to 10 % for 107 of 200 seeds.
    """
    counts = [round(2000 / rank) for rank in range(1, 51)]
    texts = [f"template {rank}" for rank, count in enumerate(counts) for _ in range(count)]
    shares = [len(held_of(texts, split_seed=seed)) / len(texts) for seed in range(200)]
    assert 0.025 <= min(shares) <= max(shares) <= 0.1
    assert np.mean(shares) == pytest.approx(0.05, abs=0.005)


def test_of_a_file_with_a_few_rare_texts_half_are_learned() -> None:
    """98 % of the lines are one text.

    A split that held 5 % of the lines out would take all other texts; none would be learned.
    """
    texts = ["GET / 200"] * 980 + [f"job {number}" for number in range(20)]
    for seed in range(20):
        assert 8 <= len(held_of(texts, split_seed=seed)) <= 12


def test_the_split_does_not_depend_on_the_order_of_the_lines() -> None:
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(ACCESS_LOG).tolist()
        assert sorted(held_of(shuffled, split_seed=seed)) == sorted(
            held_of(ACCESS_LOG, split_seed=seed)
        )


def test_a_file_that_grows_keeps_its_split() -> None:
    """Of thousands of different lines, none changes sides when others are added.

    Of a log of templates, hardly any text does.
    """
    names = [f"name {number}" for number in range(4000)]
    held = set(held_of(names))
    for more in range(0, 1000, 100):
        assert (
            set(held_of([*names, *(f"new {number}" for number in range(more))])) & set(names)
            == held
        )
    log = [f"template {rank}" for rank in range(50) for _ in range(2000 // (rank + 1))]
    lines = np.random.default_rng(0).permutation(log).tolist()
    sides = [set(held_of(lines[:end], split_seed=3)) for end in range(5000, 5200)]
    changes = [len(before ^ after) for before, after in pairwise(sides)]
    assert sum(changes) <= 4


def test_different_lines_are_split_as_they_were_before_there_was_a_choice() -> None:
    names = [f"name {number}" for number in range(4000)]
    for seed in range(5):
        assert held_of(names, split_seed=seed) == held_of(names, split_seed=seed, split="texts")


@pytest.mark.parametrize(
    ("texts", "settings", "held"),
    [
        (["a", "b"], {}, 1),
        (["a", "b"], {"validation_fraction": 0.9}, 1),
        (["a"] * 500 + ["b"] * 500, {}, 500),
        (["a"] * 500 + ["b"] * 499, {}, 499),
        ([*"abcdefghij"] * 20, {}, 20),
        (["a"] * 998 + ["b", "c"], {}, 1),
        ([f"{number}" for number in range(5000)], {"validation_fraction": 0.0001}, 1),
    ],
)
def test_one_text_at_least_is_held_out_and_one_is_learned(
    texts: list[str], settings: dict[str, Any], held: int
) -> None:
    for seed in range(5):
        assert len(held_of(texts, split_seed=seed, **settings)) == held


@pytest.mark.parametrize(
    ("texts", "settings", "said"),
    [
        (
            [*"abcde"] * 100,
            {},
            "100 of 500 lines are held out, 20.00% where data.validation_fraction asks for 5.00%",
        ),
        (["a"] * 998 + ["b", "c"], {}, "1 of 1,000 lines are held out, 0.10% where"),
        (ACCESS_LOG, {"data__split": "texts"}, "362 of 400 lines are held out, 90.50% where"),
    ],
)
def test_a_share_far_from_the_one_asked_for_is_said_with_its_reason(
    tmp_path: Path,
    texts: list[str],
    settings: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    for storage in ("memory", "disk"):
        ready = prepare(config(lines_file(tmp_path, texts), data__storage=storage, **settings))
        found = [note for note in ready.notes if "lines are held out" in note]
        assert len(found) == 1
        assert said in found[0]
        assert ("too few different lines" in found[0]) == (settings == {})
    again = held_out(ready.config.with_settings({"data.storage": "memory"}), ready.alphabet)
    assert any(said in note for note in again.notes)


def test_held_out_texts_too_few_or_too_alike_for_the_code_are_said_with_the_numbers_they_spoil(
    tmp_path: Path,
) -> None:
    held = str(lines_file_named(tmp_path, "held.txt", MANY[:49] + MANY[:1] * 200))
    alike = prepare(config(lines_file(tmp_path, MANY), data__validation=held)).notes
    assert any(
        "held.txt: 249 held-out texts, 49 of them different: "
        "too few or too alike for active_units and mutual_information "
        "(at most 1.24 nats on them); give more different ones" in note
        for note in alike
    )
    few = prepare(config(lines_file(tmp_path, MANY))).notes
    assert any(
        "6 held-out texts, 6 of them different" in note and "data.validation_fraction" in note
        for note in few
    )
    same = str(lines_file_named(tmp_path, "same.txt", MANY[:1] * 200))
    ready = prepare(config(lines_file(tmp_path, MANY), data__validation=same))
    assert any(
        "200 held-out texts, 1 of them different: active_units and mutual_information cannot"
        in note
        for note in ready.notes
    )
    assert any("same.txt" in note for note in held_out(ready.config, ready.alphabet, same).notes)
    enough = str(lines_file_named(tmp_path, "enough.txt", MANY[:60]))
    language_model = preset("lstm-lm-ptb-word-small").with_settings(
        {"model.tokenizer": "char", "model.length": 16}
    )
    for asked in (
        config(lines_file(tmp_path, MANY), data__validation=enough),
        language_model.with_settings(
            {"data.source": str(lines_file(tmp_path, MANY)), "data.validation": same}
        ),
    ):
        assert not any("of them different" in note for note in prepare(asked).notes)


def test_the_share_of_labels_that_training_sees_counts_lines(tmp_path: Path) -> None:
    """One text has half of the lines.

    A draw of different texts would give training all of its labels or none.
    """
    texts = [f"name {number}" for number in range(1000)] + ["common"] * 1000 + ["rare"] * 10
    labels = tmp_path / "labels.txt"
    labels.write_text(
        "\n".join(
            ["ab"[number % 2] for number in range(1000)] + ["a"] * 900 + [""] * 100 + ["b"] * 10
        )
        + "\n"
    )
    for seed in range(10):
        ready = prepare(
            config(
                lines_file(tmp_path, texts),
                data__labels=str(labels),
                data__labelled_fraction=0.3,
                data__split_seed=seed,
                objective__semi_supervised=True,
            )
        )
        assert ready.train_attribute is not None
        known = len([text for text in ready.train_texts if text != "common"]) + 900
        assert 0.15 < (ready.train_attribute >= 0).sum() / known < 0.6
        assert any(f"of the {known:,} labels" in note for note in ready.notes)


def test_rare_symbols_beyond_the_alphabet_are_unknown_and_reported(tmp_path: Path) -> None:
    ready = prepare(config(lines_file(tmp_path, [*MANY, "name ☃", "name ☄"]), data__max_symbols=15))
    assert len(ready.alphabet.symbols) == 15
    assert "☃" not in ready.alphabet.symbols
    assert (np.concatenate([ids_of(ready.train), ready.validation]) == UNKNOWN).sum() == 2
    assert any(
        "2 characters of 2 kinds are outside the alphabet of 15" in note for note in ready.notes
    )


def test_a_stream_is_cut_into_windows_that_cover_the_held_out_end(tmp_path: Path) -> None:
    text = "\n".join(MANY * 5)
    ready = prepare(
        config(
            lines_file(tmp_path, MANY * 5),
            data__mode="windows",
            model__length=32,
            data__validation_fraction=0.2,
        )
    )
    assert ready.alphabet.decode(ids_of(ready.train)[None])[0] == text[: len(ready.train)]
    assert list(ready.train_texts) == []
    assert ready.validation.shape == (len(text) // 5 // 32, 32)
    assert (
        "".join(ready.alphabet.decode(ready.validation))
        == text[len(ready.train) :][: ready.validation.size]
    )


def test_a_stream_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer than one window of 64"):
        prepare(config(lines_file(tmp_path, MANY[:3]), data__mode="windows"))
    validation = str(lines_file_named(tmp_path, "v.txt", MANY))
    with pytest.raises(DataError, match="20 characters to train on or to hold out"):
        prepare(
            config(
                lines_file(tmp_path, MANY[:3]), data__mode="windows", data__validation=validation
            )
        )


def test_a_named_corpus_brings_its_settings_where_the_length_is_open() -> None:
    ready = prepare(config("unicode-names"))
    assert (ready.config.model.length, ready.config.data.too_long) == (48, "drop")


def test_a_file_is_remembered_by_its_full_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lines_file(tmp_path, MANY)
    monkeypatch.chdir(tmp_path)
    assert prepare(config("lines.txt")).config.data.source == str(path)


def test_evaluation_finds_the_texts_that_were_held_out(tmp_path: Path) -> None:
    ready = prepare(config(lines_file(tmp_path, MANY)))
    found = held_out(ready.config, ready.alphabet)
    assert found.texts == ready.validation_texts
    np.testing.assert_array_equal(found.rows, ready.validation)


def test_an_alphabet_keeps_the_commonest_and_orders_them_by_code_point() -> None:
    assert Alphabet.build(["zzbbba", "b"], max_symbols=2).symbols == ("b", "z")


def test_a_corpus_with_long_strides_gets_a_length_that_they_divide() -> None:
    source = {"data.source": "unicode-names"}
    assert (
        prepare(
            preset("hybrid-lstm-tweets").with_settings({**source, "model.length": 0})
        ).config.model.length
        == 64
    )


def test_sines_are_the_published_digits() -> None:
    """One wave written out by hand: Petersen 2018, his code."""
    generator = np.random.default_rng(5)
    frequency, phase = generator.uniform(-1, 1, (2, 3, 1))
    places = [-1 + 2 * t / 15 for t in range(16)]
    expected = [
        "".join(str(int(10 * (0.5 + 0.499 * np.sin(3.14 * u * a + 3.14 * b)))) for u in places)
        for a, b in zip(frequency[:, 0], phase[:, 0], strict=True)
    ]
    assert sines(3, seed=5) == expected


def test_the_stated_entropy_of_the_sines_is_that_of_a_fine_grid() -> None:
    """Frequency and phase on a grid of 2,000 x 2,000: the shares of the texts give the entropy."""
    grid = (np.arange(2000) + 0.5) / 1000 - 1
    codes = []
    for frequency in grid:
        waves = 0.5 + 0.499 * np.sin(
            3.14 * np.linspace(-1, 1, 16) * frequency + 3.14 * grid[:, None]
        )
        codes.append(np.floor(10 * waves).astype(np.int64) @ 10 ** np.arange(16))
    counts = np.unique(np.concatenate(codes), return_counts=True)[1]
    shares = counts / counts.sum()
    assert -(shares * np.log(shares)).sum() == pytest.approx(CORPORA["sines"].entropy, abs=0.01)


def test_sines_fill_their_rows_and_are_held_out_afresh() -> None:
    ready = prepare(config("sines"))
    rows = ids_of(ready.train)
    assert rows.shape == (250_000, 16)
    assert ready.validation.shape == (10_000, 16)
    assert not np.isin(rows, [PAD, END, UNKNOWN]).any()
    common = set(ready.alphabet.decode(rows)) & set(ready.validation_texts)
    assert (
        sum(text in common for text in ready.validation_texts) > 5_000
    )  # the same distribution, not another one


def test_fixed_lines_have_one_length_and_no_end_mark(tmp_path: Path) -> None:
    same = [f"{number:04}" for number in range(100)]
    ready = prepare(config(lines_file(tmp_path, same), data__mode="fixed"))
    assert ready.config.model.length == 4
    assert not np.isin(ids_of(ready.train), [PAD, END]).any()
    with pytest.raises(DataError, match="lines do not have exactly"):
        prepare(config(lines_file(tmp_path, [*same, "00001"]), data__mode="fixed"))


@pytest.mark.parametrize(
    ("preset_name", "settings", "step", "ways"),
    [
        ("hybrid-lstm", {}, 4, ["data.mode=lines", "model.expander=repeat"]),
        ("hybrid-lstm", {"model__length": 9}, 4, ["data.mode=lines", "model.expander=repeat"]),
        ("lcnnvae-3-toy-small", {}, 8, ["data.mode=lines"]),
    ],
)
def test_fixed_texts_of_a_length_that_the_model_does_not_write_are_told_both_ways_out(
    tmp_path: Path, preset_name: str, settings: dict[str, Any], step: int, ways: list[str]
) -> None:
    path = lines_file(tmp_path, [f"{number:09}" for number in range(100)])
    changed = {key.replace("__", "."): value for key, value in settings.items()}
    asked = preset(preset_name).with_settings(
        {"data.source": str(path), "data.mode": "fixed", **changed}
    )
    with pytest.raises(ConfigError) as caught:
        prepare(asked)
    message = str(caught.value)
    assert (
        "has texts of 9 characters, "
        f"but this model multiplies positions and writes a multiple of {step}" in message
    )
    assert [way for way in ("data.mode=lines", "model.expander=repeat") if way in message] == ways
    assert "model.length" not in message
    for way in ways:
        key, value = way.split("=")
        ready = prepare(asked.with_settings({"model.length": 0, key: value}))
        assert ready.config.model.length == (
            9 if key == "model.expander" else -(-10 // step) * step
        )


COLOURS = ["red", "green", ""]


def labelled(tmp_path: Path, labels: list[str], **settings: Any) -> Config:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(labels) + "\n")
    return config(lines_file(tmp_path, MANY), data__labels=str(path), **settings)


def test_labels_stay_with_their_texts_through_split_and_blank_lines(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(("even", "odd")[number % 2] for number in range(100)) + "\n\n")
    ready = prepare(config(lines_file(tmp_path, [*MANY, "", ""]), data__labels=str(labels)))
    assert ready.config.model.attributes == ("even", "odd")
    for texts, ids in (
        (ready.train_texts, ready.train_attribute),
        (ready.validation_texts, ready.validation_attribute),
    ):
        assert ids is not None
        assert [int(text.split()[1]) % 2 for text in texts] == ids.tolist()
    again = held_out(ready.config, ready.alphabet)
    np.testing.assert_array_equal(again.attribute, ready.validation_attribute)


def test_missing_labels_need_the_semi_supervised_objective(tmp_path: Path) -> None:
    labels = [COLOURS[number % 3] for number in range(100)]
    with pytest.raises(ConfigError, match=r"objective\.semi_supervised=true"):
        prepare(labelled(tmp_path, labels))
    ready = prepare(labelled(tmp_path, labels, objective__semi_supervised=True))
    assert ready.train_attribute is not None
    assert set(ready.train_attribute.tolist()) == {-1, 0, 1}


def test_a_share_of_the_labels_can_be_hidden_from_training_alone(tmp_path: Path) -> None:
    labels = [COLOURS[number % 2] for number in range(100)]
    settings = {"objective__semi_supervised": True, "data__labelled_fraction": 0.3}
    ready = prepare(labelled(tmp_path, labels, **settings))
    assert ready.train_attribute is not None
    assert ready.validation_attribute is not None
    assert 0.15 < (ready.train_attribute >= 0).mean() < 0.45
    assert (ready.validation_attribute >= 0).all()


def test_a_corpus_may_label_itself() -> None:
    ready = prepare(config("unicode-names", data__labels="corpus"))
    assert ready.config.model.attributes == ("letter", "other")
    assert ready.train_attribute is not None
    for text, value in zip(ready.train_texts, ready.train_attribute, strict=True):
        assert ("LETTER" in text) == (value == 0)


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (["a"] * 99, {}, "99 labels for the 100 lines"),
        (["a"] * 100, {}, "at least two different labels"),
        (["a", "b"] * 50, {"data__mode": "windows"}, "windows of a stream have no labels"),
        (
            ["a", "b"] * 50,
            {"data__validation_labels": "labels.txt"},
            "needs the texts they belong to",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    tmp_path: Path, labels: list[str], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(KvaeError, match=message):
        prepare(labelled(tmp_path, labels, **settings))


def test_a_label_that_only_a_held_out_text_has_is_unknown_to_the_model(tmp_path: Path) -> None:
    held = prepare(config(lines_file(tmp_path, MANY))).validation_texts[0]
    ready = prepare(
        labelled(tmp_path, ["rare" if text == held else "ab"[i % 2] for i, text in enumerate(MANY)])
    )
    assert ready.config.model.attributes == ("a", "b")
    assert ready.validation_attribute is not None
    assert ready.validation_attribute[0] == -1
    assert any("1 of 6 held-out texts have no label" in note for note in ready.notes)


def test_training_must_see_every_label(tmp_path: Path) -> None:
    settings = {"objective__semi_supervised": True, "data__labelled_fraction": 0.0001}
    with pytest.raises(DataError, match="training sees no text labelled 'a'"):
        prepare(labelled(tmp_path, ["a", "b"] * 50, **settings))


@pytest.mark.parametrize(("key", "value"), [("attributes", ["a", "b"]), ("vocabulary_size", 5)])
def test_what_follows_from_the_data_cannot_be_set(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"model.{key}"):
        prepare(config(lines_file(tmp_path, MANY), **{f"model__{key}": value}))


def test_labels_that_nothing_would_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"need data\.labels"):
        prepare(config(lines_file(tmp_path, MANY), data__labelled_fraction=0.5))


def test_a_label_file_that_is_not_there_offers_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(config(lines_file(tmp_path, MANY), data__labels=str(tmp_path / "none.txt")))
    assert str(caught.value).endswith("none.txt: no such file")


@pytest.mark.parametrize(
    ("settings", "entropy"),
    [({}, 8.505), ({"data__labels": "corpus"}, None), ({"data__validation": "sines"}, None)],
    ids=["bare", "given a label", "other texts"],
)
def test_the_entropy_stands_only_where_it_limits_the_bound(
    settings: dict[str, Any], entropy: float | None
) -> None:
    assert entropy_of(prepare(config("sines", **settings)).config) == entropy


def test_a_named_corpus_settles_only_what_the_user_left_alone() -> None:
    assert prepare(config("sines", model__length=16)).config.data.mode == "fixed"
    ready = prepare(config("unicode-names", data__too_long="cut"))
    assert ready.config.data.too_long == "cut"


@pytest.mark.parametrize("waiting", [0, 3, 50, 2**20])
def test_places_are_counted_alike_however_many_wait(
    waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "CELLS_WAITING", waiting)
    hashes = splits.text_hashes([str(number % 40) for number in range(200)], 1)
    places = splits.Places(0.1)
    for start in range(0, 200, 25):
        places.add(hashes[start : start + 25])
    expected = np.unique(splits.cells_of(hashes, 0.1), return_counts=True)
    for found, right in zip(places.counts(), expected, strict=True):
        np.testing.assert_array_equal(found, right)
