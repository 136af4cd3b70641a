"""Alphabets of corpora: learned pieces have the ids of keras-nlp.

Every tokenizer works from training to serving.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.presets import preset
from kvae.serving.alphabet import SPECIALS, UNKNOWN, Alphabet
from kvae.serving.errors import ConfigError
from kvae.serving.wordpieces import MAX_WORD
from kvae.training.data.named_corpora import unicode_names
from kvae.training.data.prepare import held_out, prepare
from kvae.training.data.tokenizers import (
    byte_pair_alphabet,
    train_wordpieces,
    wordpiece_alphabet,
)

from .conftest import everyday, ids_of

NAMES = unicode_names()
STRANGE = [
    "",
    "tab\tand\r\nbreak",
    "no\u00a0break, thin\u2009space, ideo\u3000graphic",
    "zero\u200bwidth, soft\u00adhyphen, \ufeffmark, \u0085next, \u2028line",
    "日本語とEnglish, 한국어, ελληνικά, עברית",
    "cafe\u0301 café ﬁ №5 3½ ^`$+<=>|~ «quoted» \u2018curled\u2019 … —",
    "👩‍👩‍👧 🙂🏽 #tag @user http://a.b/c?d=e&f",
    "don't SHOUT 1,000.5 a_b __init__ [UNK] <unknown> ##ing # ##",
    "x" * MAX_WORD,
    "x" * (MAX_WORD + 1),
    "é" * (MAX_WORD // 2),
    "é" * (MAX_WORD // 2) + "x",
]


def differences(pieces: Alphabet, texts: list[str]) -> list[tuple[str, list[int], list[int]]]:
    """Texts whose ids differ from those of keras-nlp's tokenizer with the same vocabulary.

    That tokenizer runs in Python and in a tf.data graph.
    """
    import keras_nlp
    import tensorflow as tf

    theirs = keras_nlp.tokenizers.WordPieceTokenizer(
        [*SPECIALS, *pieces.symbols], oov_token=SPECIALS[UNKNOWN]
    )
    graph = [
        row
        for batch in tf.data.Dataset.from_tensor_slices(texts).batch(500).map(theirs)
        for row in batch.to_list()
    ]
    found = [pieces.ids(text) for text in texts]
    return [
        item
        for expected in (theirs(texts), graph)
        for item in zip(texts, found, expected, strict=True)
        if item[1] != item[2]
    ]


def test_wordpieces_have_the_ids_of_keras_nlp_on_real_and_on_strange_texts() -> None:
    learned = NAMES[::40] + [text.lower() for text in NAMES[::400]]
    pieces = Alphabet(
        tuple(train_wordpieces([*learned, *STRANGE[:-4], "x", "é"], 600)), "wordpiece"
    )
    assert 250 < len(pieces.symbols) <= 600
    assert any(symbol.startswith("##") and len(symbol) > 4 for symbol in pieces.symbols)
    texts = NAMES[::7] + STRANGE
    assert differences(pieces, texts) == []
    assert (
        differences(Alphabet(pieces.symbols[::2], "wordpiece"), texts) == []
    )  # with many unknown words
    assert sum(UNKNOWN in pieces.ids(text) for text in texts) < len(texts) / 10


def config(source: Path | str, **settings: Any) -> Any:
    changed = {key.replace("__", "."): value for key, value in settings.items()}
    return preset("hybrid-lstm").with_settings({"data.source": str(source), **changed})


@pytest.fixture
def names_file(tmp_path: Path) -> Path:
    """400 names of several words."""
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES[300:700]) + "\n", encoding="utf-8")
    return path


def test_pieces_are_the_same_each_time_and_learned_from_a_bounded_number_of_texts(
    names_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvae.training.data.tokenizers.TEXTS_FOR_PIECES", 50)
    wanted = config(names_file, model__tokenizer="wordpiece", data__max_symbols=150)
    first, again = (wordpiece_alphabet(wanted, lambda: iter(NAMES)) for _ in range(2))
    assert first == again
    other_seed = wanted.with_settings({"data.split_seed": 1})
    assert first != wordpiece_alphabet(other_seed, lambda: iter(NAMES))
    assert len(first.symbols) <= 150


OWN = {"pattern": {"model__token_pattern": "[A-Z]{1,3}"}}
"""Settings that a tokenizer needs."""


def test_learned_byte_pairs_know_every_text_and_give_it_back(names_file: Path) -> None:
    wanted = config(names_file, model__tokenizer="bpe", data__max_symbols=300)
    lines = names_file.read_text().splitlines()
    alphabet = byte_pair_alphabet(wanted, lambda: iter(lines))
    assert 256 < len(alphabet.symbols) <= 300
    for text in [*lines[:20], "Grüße, 世界 🙂", "a  b\tc "]:
        ids = alphabet.ids(text)
        assert not alphabet.unknown([text])
        (decoded,) = alphabet.decode(np.array([ids]))
        assert decoded == text
    assert sum(map(alphabet.count, lines)) < 0.9 * sum(map(len, lines))
    assert byte_pair_alphabet(wanted, lambda: iter(lines)).symbols == alphabet.symbols


@pytest.mark.parametrize("tokenizer", ["byte", "word", "wordpiece", "pattern", "bpe"])
def test_length_cut_and_split_count_tokens(names_file: Path, tokenizer: str) -> None:
    own = OWN.get(tokenizer, {})
    ready = prepare(config(names_file, model__tokenizer=tokenizer, **own))
    counts = [ready.alphabet.count(text) for text in [*ready.train_texts, *ready.validation_texts]]
    assert max(counts) < ready.config.model.length <= max(counts) + 4
    rows = ready.alphabet.encode(ready.train_texts[:5], ready.config.model.length)
    np.testing.assert_array_equal(ids_of(ready.train)[:5], rows)
    length = {"byte": 32, "pattern": 16}.get(tokenizer, 8)
    room = length - 1
    cut = prepare(
        config(
            names_file,
            model__tokenizer=tokenizer,
            data__too_long="cut",
            model__length=length,
            **own,
        )
    )
    dropped = prepare(
        config(
            names_file,
            model__tokenizer=tokenizer,
            data__too_long="drop",
            model__length=length,
            **own,
        )
    )
    long = sum(cut.alphabet.count(text) > room for text in NAMES[300:700])
    assert 0 < long < 400
    assert len(cut.train) + len(cut.validation) == 400
    assert len(dropped.train) + len(dropped.validation) == 400 - long
    assert max(map(cut.alphabet.count, cut.train_texts)) <= room
    again = held_out(cut.config, cut.alphabet)
    np.testing.assert_array_equal(again.rows, cut.validation)


@pytest.mark.parametrize("tokenizer", ["byte", "word", "wordpiece", "pattern", "bpe"])
def test_windows_are_cut_from_a_stream_of_tokens(names_file: Path, tokenizer: str) -> None:
    settings = {"model__tokenizer": tokenizer, "data__mode": "windows", "model__length": 8}
    settings |= OWN.get(tokenizer, {})
    ready = prepare(config(names_file, **settings, data__validation_fraction=0.2))
    stream = names_file.read_text().removesuffix("\n")
    together = [*ids_of(ready.train), *ready.validation.ravel()]
    assert ready.alphabet.count(stream) - 8 < len(together) <= ready.alphabet.count(stream)
    whole = ready.alphabet.decode(np.array([together]))[0].split()
    spaced = " ".join(ready.alphabet.decode(np.array([ready.alphabet.ids(stream)]))).split()
    if tokenizer not in ("word", "pattern"):  # a unit may be cut where the stream is split
        assert whole[:-9] == spaced[: len(whole) - 9]
    assert "\n" in ready.alphabet.symbols
    np.testing.assert_array_equal(held_out(ready.config, ready.alphabet).rows, ready.validation)


def test_unknown_words_are_reported_with_their_counts(names_file: Path) -> None:
    ready = prepare(config(names_file, model__tokenizer="word", data__min_count=20))
    assert all(
        sum(text.split().count(word) for text in NAMES[300:700]) >= 20
        for word in ready.alphabet.symbols
    )
    (note,) = [note for note in ready.notes if "outside the alphabet" in note]
    unknown = ready.alphabet.unknown(NAMES[300:700])
    assert f"{unknown.total():,} words of {len(unknown):,} kinds are outside the alphabet" in note


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"model__tokenizer": "byte", "data__max_symbols": 9}, "max_symbols"),
        ({"model__tokenizer": "byte", "data__min_count": 2}, "min_count"),
        ({"model__tokenizer": "wordpiece", "data__min_count": 2}, "min_count"),
    ],
)
def test_settings_that_a_tokenizer_does_not_read_are_refused(
    names_file: Path, settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError, match=f"data.{field} is"):
        prepare(config(names_file, **settings))


def test_a_corpus_in_other_tokens_has_a_length_of_its_own() -> None:
    assert prepare(config("unicode-names", model__tokenizer="word")).config.model.length == 16


@pytest.mark.parametrize(
    "tokenizer",
    everyday(["word", "byte", "wordpiece"]),
)
def test_a_tokenizer_goes_the_whole_way_to_a_sampler(
    names_file: Path, small_settings: dict[str, Any], tmp_path: Path, tokenizer: str
) -> None:
    from kvae.export.bundle import write_bundle
    from kvae.runs import load_run
    from kvae.serving import DataError, Sampler
    from kvae.training.experiment import run

    settings = small_settings | {
        "data.source": str(names_file),
        "model.tokenizer": tokenizer,
        "model.length": 0,
    }
    wanted = preset("hybrid-lstm").with_settings({**settings, "training.epochs": 1})
    run(wanted, tmp_path / "run", say=lambda sentence: None)
    trained = load_run(tmp_path / "run")
    assert "bits_per_token" in (tmp_path / "run" / "metrics.jsonl").read_text()
    write_bundle(
        trained.model, trained.alphabet, trained.config, tmp_path / "bundle", trained.evaluation
    )
    sampler = Sampler.load(tmp_path / "bundle")
    assert sampler.alphabet == trained.alphabet
    assert sampler.sample(3, seed=0) == sampler.sample(3, seed=0)
    text = trained.alphabet.decode(trained.alphabet.encode([NAMES[300]], 96))[0]
    ids = trained.alphabet.encode([text], sampler.length)
    np.testing.assert_allclose(
        sampler.encode([text]), np.array(trained.model.encode(ids)["mean"]), atol=1e-5
    )
    assert len(sampler.interpolate(NAMES[300], NAMES[301], 3)) == 3
    if tokenizer != "byte":
        with pytest.raises(DataError, match=r"texts hold words the model never saw: 'QZ"):
            sampler.reconstruct(["QZ\u2603 LETTER"])
    with pytest.raises(
        DataError, match=f"{trained.alphabet.rules.tokens}, the model takes at most"
    ):
        sampler.encode(["LETTER " * 60])
