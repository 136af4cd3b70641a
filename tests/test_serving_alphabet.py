"""Tokenizers: what a symbol is, and which texts come back as they were."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvae.serving.alphabet import END, PAD, SPECIALS, UNKNOWN, Alphabet, lower_case
from kvae.serving.errors import BundleError, DataError
from kvae.serving.tokenizers import TOKENIZERS

TEXT = "the  cat's Ümlaut\tsat 🙂"
LETTERS = "".join(TEXT.split())


def pieces(*symbols: str) -> Alphabet:
    return Alphabet(symbols, "wordpiece")


WORDS_AND_SIGNS = r"[a-zé-ü]+|[A-ZÀ-Ü][a-z]+|[ \t]+"


def byte_pairs(splitting: str, *merges: tuple[str, str], begin: str = "") -> Alphabet:
    """An alphabet of all bytes, or of the characters of `begin`, and of the results of merges."""
    first = tuple(begin) + tuple(f"{symbol} " for symbol in begin)
    symbols = (*(first or map(chr, range(256))), *(one + other for one, other in merges))
    places = {symbol: place for place, symbol in enumerate(symbols)}
    pairs = tuple((places[one], places[other]) for one, other in merges)
    return Alphabet(symbols, "bpe", splitting=splitting, merges=pairs)


ALPHABETS = {
    "char": Alphabet.build([TEXT]),
    "byte": Alphabet.of_bytes(),
    "word": Alphabet.build([TEXT], tokenizer="word"),
    "wordpiece": pieces(
        *sorted({*LETTERS, *(f"##{symbol}" for symbol in LETTERS), "cat", "##laut"})
    ),
    "pattern": Alphabet.build([TEXT], tokenizer="pattern", pattern=WORDS_AND_SIGNS),
    "bpe": byte_pairs("gpt2", ("t", "h"), (" ", "c"), ("th", "e"), ("a", "t"), (" c", "at")),
}


def test_every_tokenizer_is_tried() -> None:
    assert set(ALPHABETS) == set(TOKENIZERS)


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("char", TEXT),
        ("byte", TEXT),
        ("word", "the cat's Ümlaut sat 🙂"),
        ("wordpiece", "the cat ' s Ümlaut sat 🙂"),
        ("pattern", TEXT),
        ("bpe", TEXT),
    ],
)
def test_a_text_comes_back_but_for_its_white_space(name: str, again: str) -> None:
    alphabet = ALPHABETS[name]
    row = alphabet.encode([TEXT], 64)
    assert alphabet.decode(row) == [again]
    assert alphabet.ids(again) == alphabet.ids(TEXT)
    assert alphabet.count(TEXT) == len(alphabet.ids(TEXT)) == np.flatnonzero(row[0] == END)[0]
    assert alphabet.unknown([TEXT]) == {}
    assert (row[0][alphabet.count(TEXT) + 1 :] == PAD).all()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_alphabet_survives_json(name: str) -> None:
    written = json.loads(json.dumps(ALPHABETS[name].to_dict()))
    assert Alphabet.from_dict(written) == ALPHABETS[name]


def test_a_vocabulary_of_another_kind_is_refused() -> None:
    with pytest.raises(BundleError, match="'sentencepiece'"):
        Alphabet.from_dict(
            {"tokenizer": "sentencepiece", "specials": list(SPECIALS), "symbols": []}
        )


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("most", range(1, 25))
def test_a_cut_is_the_start_of_a_text_with_at_most_that_many_tokens(name: str, most: int) -> None:
    alphabet = ALPHABETS[name]
    cut = alphabet.cut(TEXT, most)
    # Bytes of a character, pieces of a word that may be left out.
    whole = {"byte": 3, "wordpiece": 5, "bpe": 8}.get(name, 0)
    assert min(alphabet.count(TEXT), most) - whole <= alphabet.count(cut) <= most
    assert alphabet.ids(TEXT)[: alphabet.count(cut)] == alphabet.ids(cut)


def test_half_a_character_of_bytes_is_replaced() -> None:
    bytes_of_ring = [4 + number for number in "å".encode()]
    assert Alphabet.of_bytes().decode(
        np.array([[*bytes_of_ring, 4 + ord("b"), bytes_of_ring[0], END]])
    ) == ["åb�"]
    assert Alphabet.of_bytes().decode(np.array([[UNKNOWN, 4 + ord("b")]])) == ["�b"]


def test_a_lone_surrogate_has_bytes_too() -> None:
    assert (
        Alphabet.of_bytes().decode(Alphabet.of_bytes().encode(["a\ud800"], 8))[0].startswith("a�")
    )


def test_a_line_break_is_a_word() -> None:
    alphabet = Alphabet.build(["no it was\nnot\n"], tokenizer="word")
    ids = alphabet.ids("it  was \n\n not\n")
    assert [alphabet.symbols[number - 4] for number in ids] == [
        "it",
        "was",
        "\n",
        "\n",
        "not",
        "\n",
    ]
    assert alphabet.decode(np.array([ids])) == ["it was\n\nnot\n"]


def test_the_longest_piece_is_taken_and_a_word_without_pieces_is_unknown_as_a_whole() -> None:
    alphabet = pieces("a", "ab", "##b", "##c", "##bc", "d", "!")
    named = dict(enumerate(alphabet.symbols, 4)) | {UNKNOWN: "?"}
    assert [named[number] for number in alphabet.ids("abc abbc abx d!c")] == [
        "ab",
        "##c",
        "ab",
        "##bc",
        "?",
        "d",
        "!",
        "?",
    ]
    assert alphabet.unknown(["abc abx", "abx !c"]) == {"abx": 2, "c": 1}
    assert alphabet.decode(np.array([alphabet.ids("abc abx!")])) == ["abc � !"]


def test_a_line_break_is_a_piece_where_the_alphabet_has_it() -> None:
    assert pieces("a").ids("a\na") == [4, 4]
    assert pieces("\n", "a").ids("a\na") == [5, 4, 5]
    assert pieces("\n", "a").decode(np.array([[5, 4, 5]])) == ["a\na"]


def test_rare_words_are_cut_by_their_number_and_by_their_count() -> None:
    texts = ["a b b c c c d"]
    assert Alphabet.build(texts, 2, "word").symbols == ("b", "c")
    assert Alphabet.build(texts, None, "word", min_count=3).symbols == ("c",)
    assert Alphabet.build(texts, 2, "word").unknown(texts) == {"a": 1, "d": 1}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("word", "5 words"),
        ("byte", "27 bytes"),
        ("char", "23 characters"),
        ("pattern", "11 tokens"),
        ("bpe", "21 tokens"),
    ],
)
def test_a_text_that_is_too_long_is_counted_in_its_tokens(name: str, words: str) -> None:
    with pytest.raises(DataError, match=f"text 0 has {words}, the model takes at most 3"):
        ALPHABETS[name].encode([TEXT], 4)


# --- patterns -------------------------------------------------------------------------------------


def test_units_of_a_pattern_are_its_matches_and_what_is_between_them() -> None:
    alphabet = Alphabet(("Cl", "C", "[nH]", "1"), "pattern", r"\[[^\]]*\]|Cl|Br|[A-Z]|[0-9]")
    assert alphabet.rules.units("CCl[nH]c1[") == ["C", "Cl", "[nH]", "c", "1", "["]
    assert alphabet.ids("CCl[nH]c1[") == [5, 4, 6, UNKNOWN, 7, UNKNOWN]
    assert alphabet.decode(np.array([[5, 4, 6, UNKNOWN, 7]])) == ["CCl[nH]�1"]
    assert alphabet.unknown(["Cc", "ccBr"]) == {"c": 3, "Br": 1}


def test_old_vocabularies_have_no_new_fields() -> None:
    for name in ("char", "byte", "word", "wordpiece"):
        assert set(ALPHABETS[name].to_dict()) == {"tokenizer", "specials", "symbols"}
    assert set(ALPHABETS["pattern"].to_dict()) == {"tokenizer", "specials", "symbols", "pattern"}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "pattern",
            {"pattern": "a*"},
            "must be a pattern of kvae, got 'a[*]': it matches the empty",
        ),
        ("pattern", {"pattern": 3}, "it is no text"),
        ("pattern", {"pattern": ["a"]}, "it is no text"),
        ("pattern", {"symbols": ["tab"]}, None),
        ("pattern", {"symbols": ["ab\t"]}, r"symbols\[0\] must be a unit of the pattern"),
        ("char", {"pattern": "a"}, "must be an object of tokenizer, specials, symbols, got"),
        ("bpe", {"splitting": "none"}, "vocabulary.splitting must be 'bert' or"),
        ("bpe", {"splitting": ["gpt2"]}, "vocabulary.splitting must be"),
        ("bpe", {"merges": {}}, "vocabulary.merges must be a list"),
        ("bpe", {"merges": [[0]]}, r"merges\[0\] must be two places"),
        ("bpe", {"merges": [[0, 256 + 99]]}, r"merges\[0\] must be two places"),
        ("bpe", {"merges": [[True, 0]]}, r"merges\[0\] must be two places"),
        ("bpe", {"merges": [[0, 1]]}, r"merges\[0\] must differ"),
        ("bpe", {"merges": [[116, 104], [116, 104]]}, r"merges\[1\] must differ"),
        ("bpe", {"symbols": ["\u0100"]}, r"symbols\[0\] must be bytes as characters"),
        ("wordpiece", {"splitting": "gpt2"}, "vocabulary.splitting must be 'bert' or"),
        ("wordpiece", {"splitting": "bert"}, None),
    ],
)
def test_a_vocabulary_of_a_stranger_is_checked(
    name: str, change: dict[str, Any], message: str | None
) -> None:
    data = {**ALPHABETS[name].to_dict(), **change}
    if message is None:
        assert Alphabet.from_dict(data).to_dict() == data
        return
    with pytest.raises(BundleError, match=message):
        Alphabet.from_dict(data)


# --- byte pairs -----------------------------------------------------------------------------------


def test_pairs_are_merged_by_rank_and_from_the_left() -> None:
    alphabet = byte_pairs("gpt2", ("a", "a"), ("aa", "a"), ("b", "aa"))
    named = [alphabet.symbols[number - 4] for number in alphabet.ids("aaaa baaa aaaaa")]
    assert named == ["aa", "aa", " ", "b", "aaa", " ", "aa", "aaa"]


def test_the_end_of_a_word_is_a_blank_in_its_last_symbol() -> None:
    alphabet = byte_pairs("runs", ("l", "o "), ("h", "e"), begin="helo!")
    named = [alphabet.symbols[number - 4] for number in alphabet.ids("hello  hello!")]
    assert named == ["he", "l", "lo ", "he", "l", "lo ", "! "]
    assert alphabet.decode(np.array([alphabet.ids("hello  hello!")])) == ["hello hello !"]
    assert alphabet.unknown(["hex", "x é"]) == {"x": 2, "é": 1}


def test_a_blank_that_is_added_before_a_text_is_taken_away_again() -> None:
    alphabet = byte_pairs("gpt2_blank", (" ", "c"))
    assert alphabet.ids("cat") == alphabet.ids(" cat") == [4 + 256, 4 + ord("a"), 4 + ord("t")]
    assert alphabet.decode(np.array([alphabet.ids("cat")])) == ["cat"]
    assert alphabet.cut("cat cat", 3) == "cat"
    assert alphabet.ids("") == []


@pytest.mark.parametrize("splitting", ["whole", "whole_blank", "gpt2", "runs"])
@pytest.mark.parametrize("most", range(6))
def test_a_text_of_one_long_unit_is_cut_in_whole_characters(splitting: str, most: int) -> None:
    merges = [("c", "a"), ("ca", "t")]
    alphabet = byte_pairs(splitting, *merges, begin="catü" if splitting == "runs" else "")
    text = "catücatcatcat"
    cut = alphabet.cut(text, most)
    assert text.startswith(cut)
    assert alphabet.count(cut) <= most < alphabet.count(text[: len(cut) + 3])


def test_a_long_word_is_merged_in_a_moment() -> None:
    alphabet = byte_pairs("whole", ("a", "a"), ("aa", "aa"), ("aaaa", "aaaa"))
    assert alphabet.count("a" * 80_000) == 10_000


def test_each_character_has_one_in_lower_case_whatever_stands_around_it() -> None:
    assert lower_case("İSTANBUL ΟΔΟΣ Straße ẞ ῼ K") == "istanbul οδοσ straße ß ῳ k"
    for character in map(chr, range(0x110000)):
        lower = lower_case(character)
        assert lower == character.lower()[0]
        assert lower_case(lower) == lower
        assert lower_case(f"A{character}A") == f"a{lower}a"


@pytest.mark.parametrize("name", ALPHABETS)
def test_an_alphabet_that_folds_case_reads_a_text_as_its_lower_case(name: str) -> None:
    plain = ALPHABETS[name]
    folding, lower = replace(plain, fold_case=True), lower_case(TEXT)
    assert folding.ids(TEXT) == plain.ids(lower) != plain.ids(TEXT)
    assert folding.count(TEXT) == plain.count(lower)
    assert folding.cut(TEXT, 5) == plain.cut(lower, 5)
    assert folding.unknown([TEXT]) == plain.unknown([lower])
    assert Alphabet.from_dict(json.loads(json.dumps(folding.to_dict()))) == folding
    assert "fold_case" not in plain.to_dict()
    with pytest.raises(BundleError, match=r"vocabulary\.fold_case must be True or False, got 1"):
        Alphabet.from_dict({**folding.to_dict(), "fold_case": 1})
