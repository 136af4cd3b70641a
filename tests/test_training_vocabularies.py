"""Vocabularies that people bring: ids and texts are those of the package `tokenizers`.

What kvae does not reproduce is refused with the reason.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from kvae.presets import preset
from kvae.serving.alphabet import UNKNOWN, Alphabet
from kvae.serving.errors import ConfigError, DataError, KvaeError
from kvae.serving.splitting import SPLITTINGS
from kvae.training.data.tokenizer_files import PRE_TOKENIZERS, Unsupported, alphabet_of_file
from kvae.training.data.tokenizers import alphabet_of_counts, counting_alphabet
from kvae.training.data.vocabularies import vocabulary_from_file

from .conftest import everyday

TRAINED_ON = [
    "The quick brown fox doesn't jump over the lazy dogs, they're sleeping.",
    "Don't you'll we've I'd he's I'm 1,000.50 and 3½ of №5, ٣٤ too",
    "Wörter, Größe und Straße; naïve café, ελληνικά, 日本語 und 한국어 🙂🙃",
    "aaaa aaab abab abba   tabs\tand\nlines  \r\nof code: if (x == 1) { y += 2; }",
] * 3

READABLE = st.text(
    st.sampled_from(
        "aabbt hedsv'\u2019.,!1½ \t\n\xa0\u2003\x85\x1c\u200d_ßéЖ日한🙂ǅⅣⓐ\u0301\ufffd\x07"
    )
)
"""Texts of what the splittings tell apart."""

SPECIAL = re.compile(r"\[(PAD|UNK|CLS|SEP)]|<\|endoftext\|>|<s>|<unk>")
"""Special tokens, which `tokenizers` finds in a text; for kvae they are text."""


def is_without_special_tokens(text: str) -> bool:
    return not SPECIAL.search(text)


KNOWN_POINTS = st.characters(exclude_categories=["Cs", "Cn"])
"""Characters that Python's tables know; `tokenizers` may know more."""

TEXTS = (
    READABLE | st.lists(st.sampled_from(" ".join(TRAINED_ON).split(" ")), max_size=6).map(" ".join)
).filter(is_without_special_tokens)

BYTE_LEVEL = pre_tokenizers.ByteLevel.alphabet()


def wordpiece(normalizer: Any, splitter: Any) -> tokenizers.Tokenizer:
    """A trained WordPiece tokenizer."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizer, splitter
    made.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        TRAINED_ON, trainers.WordPieceTrainer(vocab_size=220, special_tokens=specials)
    )
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def bytes_bpe(prefix: bool = False, regex: bool = True, alphabet: Any = BYTE_LEVEL) -> Any:
    """A trained BPE tokenizer of bytes, as for GPT-2."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    made.decoder, made.post_processor = decoders.ByteLevel(), processors.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet
    )
    made.train_from_iterator(TRAINED_ON, trainer)
    return made


def words_bpe(splitter: Any) -> Any:
    """A trained BPE tokenizer of characters with a mark at the end of a word."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.pre_tokenizer, made.decoder = splitter, decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=250, special_tokens=["<s>", "<unk>"], end_of_word_suffix="</w>"
    )
    made.train_from_iterator(TRAINED_ON, trainer)
    return made


def bert(**flags: bool) -> Any:
    return normalizers.BertNormalizer(
        **{"lowercase": False, "strip_accents": False, "clean_text": False, **flags}
    )


BERT = pre_tokenizers.BertPreTokenizer()
MADE: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "wordpiece": lambda: wordpiece(None, BERT),
    "wordpiece clean": lambda: wordpiece(bert(clean_text=True, handle_chinese_chars=False), BERT),
    "wordpiece chinese": lambda: wordpiece(bert(handle_chinese_chars=True), BERT),
    "wordpiece cased": lambda: wordpiece(bert(clean_text=True, handle_chinese_chars=True), BERT),
    "wordpiece runs": lambda: wordpiece(None, pre_tokenizers.Whitespace()),
    "wordpiece white": lambda: wordpiece(None, pre_tokenizers.WhitespaceSplit()),
    "bytes": bytes_bpe,
    "bytes after a blank": lambda: bytes_bpe(prefix=True),
    "bytes whole": lambda: bytes_bpe(regex=False),
    "bytes whole after a blank": lambda: bytes_bpe(prefix=True, regex=False),
    "runs": lambda: words_bpe(pre_tokenizers.Whitespace()),
    "white space": lambda: words_bpe(pre_tokenizers.WhitespaceSplit()),
    "words of bert": lambda: words_bpe(BERT),
}
"""Tokenizers that kvae reproduces."""

READ: dict[str, tuple[tokenizers.Tokenizer, Alphabet]] = {}


def content_of(made: tokenizers.Tokenizer) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(made.to_str())
    return content


def read(name: str) -> tuple[tokenizers.Tokenizer, Alphabet]:
    """A tokenizer and the alphabet of its file; both are made once."""
    if name not in READ:
        made = MADE[name]()
        kind = {"BPE": "bpe", "WordPiece": "wordpiece"}[content_of(made)["model"]["type"]]
        READ[name] = made, alphabet_of_file(content_of(made), kind)
    return READ[name]


def entry_of(made: tokenizers.Tokenizer, symbol: str) -> str:
    """A symbol as the file writes it."""
    if isinstance(made.pre_tokenizer, pre_tokenizers.ByteLevel):
        shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        hidden = [byte for byte in range(256) if byte not in shown]
        return "".join(
            symbol if ord(symbol) in shown else chr(256 + hidden.index(ord(symbol)))
            for symbol in symbol
        )
    return symbol.removesuffix(" ") + "</w>" if symbol.endswith(" ") else symbol


def theirs(made: tokenizers.Tokenizer, text: str) -> list[str | None]:
    """The tokens of a text; None for the unknown one."""
    tokens = made.encode(text, add_special_tokens=False).tokens
    return [None if token in ("[UNK]", "<unk>") else token for token in tokens]


def ours(made: tokenizers.Tokenizer, alphabet: Alphabet, text: str) -> list[str | None]:
    return [
        None if number == UNKNOWN else entry_of(made, alphabet.symbols[number - 4])
        for number in alphabet.ids(text)
    ]


@pytest.mark.parametrize("name", MADE)
@given(TEXTS | st.text(KNOWN_POINTS, max_size=12).filter(is_without_special_tokens))
@example("".join(TRAINED_ON))
@example("don't  they'RE 'll\t 's\n\n x   ")
@example(" ")
@example("x" * 100 + " " + "x" * 101 + " " + "é" * 99)
@settings(max_examples=150, deadline=None)
def test_tokens_are_those_of_tokenizers(name: str, text: str) -> None:
    made, alphabet = read(name)
    assert ours(made, alphabet, text) == theirs(made, text)
    assert Alphabet.from_dict(json.loads(json.dumps(alphabet.to_dict()))) == alphabet


def test_a_special_token_in_a_text_is_text() -> None:
    made, alphabet = read("bytes")
    text = "a <|endoftext|> b"
    assert "<|endoftext|>" in theirs(made, text)
    assert alphabet.decode(alphabet.encode([text], 32)) == [text]


@pytest.mark.parametrize("name", MADE)
@given(TEXTS)
@settings(max_examples=50, deadline=None)
def test_texts_are_joined_as_tokenizers_joins_them(name: str, text: str) -> None:
    made, alphabet = read(name)
    ids = [number for number in alphabet.ids(text) if number != UNKNOWN]
    named = [made.token_to_id(entry_of(made, alphabet.symbols[number - 4])) for number in ids]
    expected = made.decode(named, skip_special_tokens=False)
    if "after a blank" in name and not expected.startswith("  "):
        expected = expected.removeprefix(" ")  # which encoding has added
    (text_again,) = alphabet.decode(np.array([ids], np.int64))
    assert text_again == expected
    if text_again and UNKNOWN not in alphabet.ids(text):
        assert alphabet.ids(text_again) == ids


@pytest.mark.parametrize("name", [name for name in MADE if name.startswith("bytes")])
@given(TEXTS)
@settings(max_examples=50, deadline=None)
def test_bytes_give_the_text_back(name: str, text: str) -> None:
    _, alphabet = read(name)
    expected = text.removeprefix(" ") if "blank" in name and text[:2] != "  " else text
    assert alphabet.decode(np.array([alphabet.ids(text)], np.int64)) == [expected]


@pytest.mark.parametrize("name", MADE)
@given(TEXTS, st.integers(0, 8))
@settings(max_examples=50, deadline=None)
def test_a_cut_of_such_tokens_is_a_start(name: str, text: str, most: int) -> None:
    _, alphabet = read(name)
    cut = alphabet.cut(text, most)
    assert alphabet.count(cut) <= most
    if alphabet.ids(text)[: alphabet.count(cut)] != alphabet.ids(cut):
        assert alphabet.rules.units(text)[0].strip(" ").startswith(cut.strip(" "))


ALONE = {
    "bert": BERT,
    "runs": pre_tokenizers.Whitespace(),
    "white_space": pre_tokenizers.WhitespaceSplit(),
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
}


@pytest.mark.parametrize("name", everyday(ALONE, "runs"))
def test_every_character_is_split_off_as_tokenizers_does(name: str) -> None:
    points = [chr(it) for it in range(sys.maxunicode + 1) if unicodedata.category(chr(it)) != "Cn"]
    points = [it for it in points if not "\ud800" <= it <= "\udfff"]
    step = 1 if name == "bert" else 3
    for around in ("a{}b", "1{}", "!{}", " {}") if name == "gpt2" else ("a{}!",):
        differing = [
            point
            for point in points[::step]
            if len(SPLITTINGS[name].units(around.format(point)))
            != len(ALONE[name].pre_tokenize_str(around.format(point)))
        ]
        assert differing == []


@pytest.mark.parametrize(("clean", "chinese"), [(True, False), (False, True), (True, True)])
def test_every_character_is_normalized_as_tokenizers_does(clean: bool, chinese: bool) -> None:
    normalizer = bert(clean_text=clean, handle_chinese_chars=chinese)
    name = f"bert{'_clean' * clean}{'_chinese' * chinese}"
    points = [chr(it) for it in range(sys.maxunicode + 1) if unicodedata.category(chr(it)) != "Cn"]
    for point in points[::5]:
        if not "\ud800" <= point <= "\udfff":
            text = normalizer.normalize_str(f"a{point}b")
            expected = [word for word, _ in BERT.pre_tokenize_str(text)]
            assert SPLITTINGS[name].units(f"a{point}b") == expected, hex(ord(point))


def test_wordpieces_of_kvae_are_split_as_bert_does_but_for_control_characters() -> None:
    normalizer = bert(clean_text=True, handle_chinese_chars=True)
    for text in [*TRAINED_ON, "日本 x-y", "a_b #tag"]:
        expected = [word for word, _ in BERT.pre_tokenize_str(normalizer.normalize_str(text))]
        units = Alphabet((), "wordpiece").rules.units(text)
        assert [unit for unit in units if unit != "\n"] == expected
    assert Alphabet((), "wordpiece").rules.units("a\x07b") == ["a", "b"]
    assert SPLITTINGS["bert_clean_chinese"].units("a\x07b") == ["ab"]


# --- what is refused ------------------------------------------------------------------------------


def changed(name: str, **changes: Any) -> dict[str, Any]:
    """The file of a tokenizer with other parts; a part of the model is `model__name`."""
    content = content_of(read(name)[0])
    for key, value in changes.items():
        *way, last = key.split("__")
        holder = content
        for step in way:
            holder = holder[step]
        holder[last] = value
    return content


NFC = {"type": "NFC"}
TOKEN = {"id": 999, "content": "<name>", "special": False}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
BERT_DEFAULT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}

UNSUPPORTED: dict[str, tuple[str, dict[str, Any], str]] = {
    "normalizer": ("bytes", {"normalizer": NFC}, "normalizer is NFC: texts would not come back"),
    "several steps": (
        "bytes",
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, METASPACE]}},
        r"several steps \(Digits, Metaspace\)",
    ),
    "metaspace": ("bytes", {"pre_tokenizer": METASPACE}, "pre_tokenizer is 'Metaspace'"),
    "no pre-tokenizer": ("bytes", {"pre_tokenizer": None}, "pre_tokenizer is None"),
    "dropout": ("bytes", {"model__dropout": 0.1}, "dropout=0.1"),
    "fused": ("runs", {"model__fuse_unk": True}, "fuse_unk=True"),
    "fallback": ("bytes", {"model__byte_fallback": True}, "byte_fallback=True"),
    "ignored merges": ("bytes", {"model__ignore_merges": True}, "ignore_merges=True"),
    "prefix": ("runs", {"model__continuing_subword_prefix": "##"}, "continuing_subword_prefix"),
    "no suffix": ("runs", {"model__end_of_word_suffix": None}, "no end_of_word_suffix"),
    "suffix of bytes": ("bytes", {"model__end_of_word_suffix": "</w>"}, "ByteLevel does not need"),
    "no unknown": ("runs", {"model__unk_token": None}, "no unk_token, so a character"),
    "plain token": ("bytes", {"added_tokens": [TOKEN]}, "added token '<name>' is found"),
    "decoder": ("bytes", {"decoder": {"type": "Fuse"}}, "decoder is Fuse"),
    "suffix of the decoder": (
        "runs",
        {"decoder": {"type": "BPEDecoder", "suffix": "@"}},
        "decoder has another suffix",
    ),
    "merge": ("bytes", {"model__merges": [["a", "zz"]]}, "merge of 'a' and 'zz'"),
    "strange entry": ("bytes", {"model__vocab": {"a": 0, "日": 1}}, "writes for no byte"),
    "model": ("bytes", {"model": {"type": "Unigram"}}, "model is 'Unigram'"),
    "no model": ("bytes", {"model": None}, "has no model"),
    "lower case": (
        "wordpiece cased",
        {"normalizer": {**BERT_DEFAULT, "strip_accents": None, "lowercase": True}},
        'lowercase=true: .* write "lowercase": false',
    ),
    "accents": (
        "wordpiece cased",
        {"normalizer": {**BERT_DEFAULT, "strip_accents": True, "lowercase": False}},
        "strip_accents=true",
    ),
    "long words": ("wordpiece", {"model__max_input_chars_per_word": 50}, "per_word=50"),
    "bytes in pieces": ("wordpiece", {"pre_tokenizer": {"type": "ByteLevel"}}, "for BPE only"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_kvae_does_not_reproduce_is_refused_with_the_reason(name: str) -> None:
    base, changes, message = UNSUPPORTED[name]
    with pytest.raises(Unsupported, match=message):
        alphabet_of_file(changed(base, **changes), read(base)[1].tokenizer)


def test_bytes_that_would_vanish_are_refused() -> None:
    content = content_of(bytes_bpe(alphabet=[]))
    with pytest.raises(Unsupported, match=r"of the 256 bytes, .* initial_alphabet=ByteLevel"):
        alphabet_of_file(content, "bpe")
    assert len(
        alphabet_of_file({**content, "model": {**content["model"], "unk_token": "?"}}, "bpe")
    )


def test_merges_of_old_files_are_texts() -> None:
    content = content_of(read("bytes")[0])
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    old = {**content, "model": {**content["model"], "merges": merges}}
    assert alphabet_of_file(old, "bpe") == read("bytes")[1]


def test_a_sequence_of_one_step_is_that_step() -> None:
    steps = {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}]}
    assert alphabet_of_file(changed("runs", pre_tokenizer=steps), "bpe") == read("runs")[1]
    assert set(PRE_TOKENIZERS.values()) <= set(SPLITTINGS)


# --- files ----------------------------------------------------------------------------------------


def file_with(folder: Path, text: str) -> str:
    path = folder / "vocabulary"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_vocab_txt_is_read_in_its_order(tmp_path: Path) -> None:
    file = file_with(tmp_path, "[PAD]\n[unused1]\n[UNK]\n[CLS]\nthe\n##s\ncat\n'\n\n")
    alphabet = vocabulary_from_file(file, "wordpiece", "")
    assert alphabet == Alphabet(("the", "##s", "cat", "'"), "wordpiece")
    assert alphabet.decode(np.array([alphabet.ids("the cats 'the")])) == ["the cats ' the"]


@pytest.mark.parametrize(
    ("tokenizer", "pattern", "text", "symbols"),
    [
        ("char", "", "a\nb\n\\n\n\n\\x20\n\\\\\n", ("a", "b", "\n", " ", "\\")),
        ("char", "", " \n\\r\n", (" ", "\r")),
        ("char", "", "\\u00e9\n\\U0001f642\n\\t\n", ("é", "🙂", "\t")),
        ("word", "", "cat\n\\n\nsat\n", ("cat", "\n", "sat")),
        ("pattern", "Cl|[A-Z]|\\\\", "Cl\nC\n\\\\\n", ("Cl", "C", "\\")),
    ],
)
def test_a_list_has_a_symbol_in_each_line(
    tmp_path: Path, tokenizer: str, pattern: str, text: str, symbols: tuple[str, ...]
) -> None:
    alphabet = vocabulary_from_file(file_with(tmp_path, text), tokenizer, pattern)
    assert alphabet == Alphabet(symbols, tokenizer, pattern)


@pytest.mark.parametrize(
    ("tokenizer", "text", "error", "message"),
    [
        ("char", "a\nbc\n", DataError, "has 'bc', but a symbol of tokenizer 'char' is one char"),
        ("char", "a\na\n", DataError, "has 'a' twice"),
        ("char", "\\d\n", DataError, "line 1 has a .* that is no escape"),
        ("char", "\\U00110000\n", DataError, "line 1 has a"),
        ("char", "\n\n", DataError, "has no symbol"),
        ("char", '{"model": {}}', ConfigError, "is JSON, but tokenizer 'char' takes a list"),
        ("word", "a b\n", DataError, "a word without white space"),
        ("bpe", "a\nb\n", ConfigError, "needs a tokenizer.json"),
        ("bpe", '{"a": 1}', ConfigError, "has no model"),
        ("bpe", '{"model": {"type": "BPE", "vocab": []}}', ConfigError, "pre_tokenizer is None"),
        (
            "bpe",
            '{"model": {"type": "BPE"}, "pre_tokenizer": 3}',
            ConfigError,
            "pre_tokenizer is 3",
        ),
        (
            "bpe",
            '{"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel"}, "added_tokens": 3}',
            DataError,
            "no tokenizer.json",
        ),
        ("bpe", '{"model": {"type": "WordPiece"}}', ConfigError, "use --tokenizer wordpiece"),
    ],
)
def test_a_file_that_is_none_is_refused(
    tmp_path: Path, tokenizer: str, text: str, error: type[KvaeError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        vocabulary_from_file(file_with(tmp_path, text), tokenizer, "")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_standard_input_are_refused(tmp_path: Path) -> None:
    for file in (str(tmp_path / "none"), "-"):
        with pytest.raises(DataError, match="no such file"):
            vocabulary_from_file(file, "char", "")
    with pytest.raises(DataError, match="no tokenizer of a keras-nlp preset"):
        vocabulary_from_file(str(tmp_path), "char", "")


# --- settings -------------------------------------------------------------------------------------


def config(**changes: Any) -> Any:
    return preset("hybrid-lstm").with_settings(
        {key.replace("__", "."): value for key, value in changes.items()}
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model__tokenizer": "pattern"}, "there is no pattern"),
        ({"model__token_pattern": "a"}, "model.token_pattern is 'a', but nothing reads it"),
        ({"model__tokenizer": "pattern", "model__token_pattern": "a*"}, "matches the empty text"),
        ({"model__tokenizer": "byte", "data__vocabulary": "x"}, "data.vocabulary is 'x'"),
        ({"data__vocabulary": "x", "data__max_symbols": 9}, "data.max_symbols is 9"),
        ({"data__vocabulary": "x", "data__min_count": 2}, "data.min_count is 2"),
        (
            {"model__tokenizer": "bpe", "data__vocabulary": "x", "data__min_count": 2},
            "data.min_count is 2",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    from kvae.misfits import check_training

    with pytest.raises(ConfigError, match=message):
        counting_alphabet(config(**settings), lambda: iter(["abc"]))
    with pytest.raises(ConfigError, match=message):
        check_training(config(**settings))


def test_the_command_line_names_the_vocabulary() -> None:
    from kvae.cli import parser
    from kvae.commands.training_arguments import with_arguments

    words = ["train", "--out", "run", "--tokenizer", "bpe", "--vocabulary", "tokenizer.json"]
    wanted = with_arguments(config(), parser().parse_args(words))
    assert (wanted.model.tokenizer, wanted.data.vocabulary) == ("bpe", "tokenizer.json")


def test_a_given_vocabulary_is_the_alphabet_whatever_the_texts_hold(tmp_path: Path) -> None:
    wanted = config(data__vocabulary=file_with(tmp_path, "c\na\nb\n"))
    counting = counting_alphabet(wanted, lambda: iter(["xyz"]))
    assert counting == Alphabet(("c", "a", "b"))
    assert alphabet_of_counts(wanted, counting, {"x": 3}) == counting


def test_the_most_frequent_units_of_a_pattern_are_its_alphabet() -> None:
    wanted = config(
        model__tokenizer="pattern", model__token_pattern="Cl|[A-Z]", data__max_symbols=2
    )
    counting = counting_alphabet(wanted, lambda: iter(["CClC"]))
    assert counting.count("CClC") == 3
    assert alphabet_of_counts(wanted, counting, counting.counts(["CClC", "NCl"])) == Alphabet(
        ("C", "Cl"), "pattern", "Cl|[A-Z]"
    )


# --- the whole way --------------------------------------------------------------------------------

MOLECULES = [
    f"{a}{b}{c}"
    for a in ("C", "CC", "Cl", "Br", "N")
    for b in ("c1ccccc1", "C(=O)", "[nH]", "OC", "CN")
    for c in ("O", "Cl", "N", "C#N")
]


@pytest.mark.parametrize("tokenizer", everyday(["pattern", "bpe"]))
def test_a_new_tokenizer_goes_the_whole_way_to_a_sampler(
    tmp_path: Path, small_settings: dict[str, Any], tokenizer: str
) -> None:
    from kvae.export.bundle import write_bundle
    from kvae.runs import load_run
    from kvae.serving import Sampler
    from kvae.training.experiment import run

    source, vocabulary = tmp_path / "molecules.txt", tmp_path / "tokenizer.json"
    source.write_text("\n".join(MOLECULES) + "\n", encoding="utf-8")
    read("bytes")[0].save(str(vocabulary))
    own = {
        "pattern": {"model.token_pattern": r"\[[^\]]+\]|Cl|Br|[A-Za-z0-9]|[=#()]"},
        "bpe": {"data.vocabulary": str(vocabulary)},
    }[tokenizer]
    settings = {"data.source": str(source), "model.tokenizer": tokenizer, "model.length": 0, **own}
    wanted = preset("hybrid-lstm").with_settings(
        {**small_settings, "training.epochs": 1, **settings}
    )
    run(wanted, tmp_path / "run", say=lambda sentence: None)
    trained = load_run(tmp_path / "run")
    vocabulary.unlink()
    bundle = tmp_path / "bundle"
    write_bundle(trained.model, trained.alphabet, trained.config, bundle, trained.evaluation)
    sampler = Sampler.load(bundle)
    assert sampler.alphabet == trained.alphabet
    assert sampler.sample(3, seed=0) == sampler.sample(3, seed=0)
    assert "".join(sampler.stream(seed=0)) == sampler.sample(1, seed=0)[0]
    ids = trained.alphabet.encode(["CClc1ccccc1N"], sampler.length)
    np.testing.assert_allclose(
        sampler.encode(["CClc1ccccc1N"]), np.array(trained.model.encode(ids)["mean"]), atol=1e-5
    )
    assert len(sampler.interpolate(MOLECULES[0], MOLECULES[1], 3)) == 3
    if tokenizer == "pattern":
        with pytest.raises(DataError, match="texts hold tokens the model never saw: '日' 1"):
            sampler.reconstruct(["C日"])
    with pytest.raises(DataError, match="tokens, the model takes at most"):
        sampler.encode(["C[nH]=N" * 60])
