"""Tokenizers: what a symbol is, and which texts come back as they were."""

import json

import numpy as np
import pytest

from kvae.serving.alphabet import END, PAD, SPECIALS, TOKENIZERS, UNKNOWN, Alphabet
from kvae.serving.errors import BundleError, DataError

TEXT = "the  cat's Ümlaut\tsat 🙂"
LETTERS = "".join(TEXT.split())


def pieces(*symbols: str) -> Alphabet:
    return Alphabet(symbols, "wordpiece")


ALPHABETS = {
    "char": Alphabet.build([TEXT]),
    "byte": Alphabet.of_bytes(),
    "word": Alphabet.build([TEXT], tokenizer="word"),
    "wordpiece": pieces(
        *sorted({*LETTERS, *(f"##{symbol}" for symbol in LETTERS), "cat", "##laut"})
    ),
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
    whole = {"byte": 3, "wordpiece": 5}.get(
        name, 0
    )  # bytes of a character, pieces of a word that may be left out
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
    ("name", "words"), [("word", "5 words"), ("byte", "27 bytes"), ("char", "23 characters")]
)
def test_a_text_that_is_too_long_is_counted_in_its_tokens(name: str, words: str) -> None:
    with pytest.raises(DataError, match=f"text 0 has {words}, the model takes at most 3"):
        ALPHABETS[name].encode([TEXT], 4)
