"""The parts of a `tokenizer.json`, as the package `tokenizers` writes it: model, normalizer,
pre-tokenizer, decoder and added tokens.

Each part is reproduced exactly, code point by code point, or it is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kvae.serving.alphabet import Alphabet
from kvae.serving.byte_pairs import WORD_END
from kvae.serving.errors import short_repr
from kvae.serving.tokenizers import splittings_of

LONGEST_WORD = 100
"""Characters of the longest word that BERT splits into wordpieces, and kvae too."""

CHANGES_TEXTS = (
    "texts would not come back as they were; change the texts yourself, and take it out of the file"
)

PRE_TOKENIZERS = {
    "BertPreTokenizer": "bert",
    "Whitespace": "runs",
    "WhitespaceSplit": "white_space",
}
"""Pre-tokenizers without settings, and the splitting of `kvae.serving.splitting` that each is."""

STEPS = ("normalizers", "pretokenizers", "decoders")
"""The names that a file has for the steps of a `Sequence`."""

DECODERS = {"wordpiece": "WordPiece", "bytes": "ByteLevel", "word ends": "BPEDecoder"}
"""The decoder that a file may name, by what its symbols are; kvae joins symbols in the same way."""


class Unsupported(ValueError):
    """What a file asks for and kvae does not reproduce: the part, the reason and the way out."""


def alphabet_of_file(content: Mapping[str, Any], tokenizer: str) -> Alphabet:
    """The alphabet of the JSON value of a `tokenizer.json`. Raises `Unsupported`."""
    model = part(content, "model")
    kind = {"WordPiece": "wordpiece", "BPE": "bpe"}.get(str(model.get("type")))
    if kind is None:
        raise Unsupported(
            f"its model is {short_repr(model.get('type'))}; kvae reproduces WordPiece and BPE. A "
            "vocabulary of whole words can be given as a list of symbols with --tokenizer word"
        )
    if kind != tokenizer:
        raise Unsupported(f"its model is {model['type']}; use --tokenizer {kind}")
    splitting = splitting_of(content)
    if splitting not in splittings_of(tokenizer):
        raise Unsupported("its pre_tokenizer is ByteLevel, which kvae has for BPE only")
    specials = special_tokens(content)
    if tokenizer == "wordpiece":
        return wordpiece_alphabet(content, model, splitting, specials)
    return byte_pair_alphabet(content, model, splitting, specials)


def part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a file; empty if the file has null there."""
    found = content.get(name)
    if name == "model" and not isinstance(found, Mapping):
        raise Unsupported("has no model; give a tokenizer.json of the package tokenizers")
    if found is not None and not isinstance(found, Mapping):
        raise Unsupported(f"its {name} is {short_repr(found)}, no object; write the file again")
    if found and found.get("type") == "Sequence":
        steps: list[Any] = next((found[key] for key in STEPS if key in found), [])
        if len(steps) > 1:
            names = ", ".join(str(step.get("type")) for step in steps)
            raise Unsupported(f"its {name} has several steps ({names}); kvae takes one")
        found = steps[0] if steps else None
    return found or {}


def special_tokens(content: Mapping[str, Any]) -> set[str]:
    """The added tokens, which are special. They stand for no text and are left out."""
    added = content.get("added_tokens") or []
    plain = [token.get("content") for token in added if not token.get("special")]
    if plain:
        raise Unsupported(
            f"its added token {short_repr(plain[0])} is found in a text before the text is split, "
            "which kvae does not do; train the tokenizer with it, or mark it special"
        )
    return {str(token.get("content")) for token in added}


def splitting_of(content: Mapping[str, Any]) -> str:
    """The splitting that normalizer and pre-tokenizer make together."""
    normalizer, splitter = part(content, "normalizer"), part(content, "pre_tokenizer")
    kind = splitter.get("type")
    if normalizer and normalizer.get("type") != "BertNormalizer":
        raise Unsupported(f"its normalizer is {normalizer.get('type')}: {CHANGES_TEXTS}")
    if normalizer and kind != "BertPreTokenizer":
        raise Unsupported(
            f"its normalizer is BertNormalizer and its pre_tokenizer {kind}; kvae reproduces this "
            "normalizer with BertPreTokenizer only"
        )
    if normalizer:
        return splitting_of_bert(normalizer)
    if kind == "ByteLevel":
        name = "gpt2" if splitter.get("use_regex", True) else "whole"
        return f"{name}_blank" if splitter.get("add_prefix_space", True) else name
    if kind not in PRE_TOKENIZERS:
        raise Unsupported(
            f"its pre_tokenizer is {short_repr(kind)}; kvae reproduces ByteLevel, "
            f"{', '.join(PRE_TOKENIZERS)}. Train the tokenizer again with one of them"
        )
    return PRE_TOKENIZERS[kind]


def splitting_of_bert(normalizer: Mapping[str, Any]) -> str:
    """The splitting with the flags of a `BertNormalizer`."""
    lowercase = normalizer.get("lowercase", True)
    flags = {"lowercase": lowercase, "strip_accents": normalizer.get("strip_accents")}
    for flag, value in flags.items():
        if value:
            raise Unsupported(
                f"its normalizer has {flag}=true: texts would not come back as they were; change "
                f'the texts yourself, and write "{flag}": false in the file'
            )
    clean = "_clean" if normalizer.get("clean_text", True) else ""
    chinese = "_chinese" if normalizer.get("handle_chinese_chars", True) else ""
    return f"bert{clean}{chinese}"


def check_decoder(content: Mapping[str, Any], symbols: str) -> Mapping[str, Any]:
    """The decoder of a file. Raises `Unsupported` if it is none for these symbols."""
    decoder = part(content, "decoder")
    if decoder and decoder.get("type") != DECODERS[symbols]:
        raise Unsupported(
            f"its decoder is {decoder.get('type')}, which joins symbols in another way; use "
            f"{DECODERS[symbols]} or null"
        )
    return decoder


def check_settings(model: Mapping[str, Any], wanted: Mapping[str, Sequence[Any]]) -> None:
    """Raise `Unsupported` if a setting of a model has a value that is not wanted."""
    for name, values in wanted.items():
        if model.get(name, values[0]) not in values:
            raise Unsupported(
                f"its model has {name}={short_repr(model[name])}, which kvae does not reproduce; "
                f"it takes {short_repr(values[0])}"
            )


def vocabulary_of(model: Mapping[str, Any], specials: set[str]) -> list[str]:
    """The entries of a model in the order of their ids, without special ones and the unknown
    one."""
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, Mapping) or not all(
        isinstance(number, int) for number in vocabulary.values()
    ):
        raise Unsupported("its model has no vocab with a number for each entry; write it again")
    left_out = {*specials, model.get("unk_token")}
    return [it for it in sorted(vocabulary, key=vocabulary.__getitem__) if it not in left_out]


def wordpiece_alphabet(
    content: Mapping[str, Any], model: Mapping[str, Any], splitting: str, specials: set[str]
) -> Alphabet:
    """The alphabet of a WordPiece model."""
    check_settings(
        model,
        {"continuing_subword_prefix": ["##"], "max_input_chars_per_word": [LONGEST_WORD]},
    )
    if check_decoder(content, "wordpiece").get("prefix", "##") != "##":
        raise Unsupported("its decoder has another prefix than its model; write ## in both")
    pieces = [piece for piece in vocabulary_of(model, specials) if " " not in piece]
    return Alphabet(tuple(pieces), "wordpiece", splitting=splitting)


def byte_pair_alphabet(
    content: Mapping[str, Any], model: Mapping[str, Any], splitting: str, specials: set[str]
) -> Alphabet:
    """The alphabet of a BPE model."""
    check_settings(
        model,
        {
            "dropout": [None, 0, 0.0],
            "continuing_subword_prefix": [None, ""],
            "fuse_unk": [False],
            "byte_fallback": [False],
            "ignore_merges": [False],
        },
    )
    of_bytes = splitting.startswith(("gpt2", "whole"))
    suffix = model.get("end_of_word_suffix") or ""
    if of_bytes == bool(suffix):
        raise Unsupported(
            "its model has an end_of_word_suffix, which ByteLevel does not need; leave it out"
            if suffix
            else "its model has no end_of_word_suffix, so the pieces of a word cannot be told from "
            'words when a text is joined; train it with one, such as "</w>", or with ByteLevel'
        )
    decoder = check_decoder(content, "bytes" if of_bytes else "word ends")
    if not of_bytes and decoder.get("suffix", suffix) != suffix:
        raise Unsupported("its decoder has another suffix than its model; write the same in both")
    entries = vocabulary_of(model, specials)
    name = bytes_of_entry if of_bytes else ended(suffix)
    symbols = {entry: name(entry) for entry in entries}
    check_unknown(model, set(symbols.values()), of_bytes)
    places = {entry: place for place, entry in enumerate(entries)}
    merges = [merge_of(pair, places, symbols) for pair in model.get("merges") or []]
    return Alphabet(tuple(symbols.values()), "bpe", splitting=splitting, merges=tuple(merges))


def gpt2_bytes() -> dict[str, str]:
    """The characters that ByteLevel writes for bytes (Radford et al. 2019), and the bytes."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    written = {chr(byte): chr(byte) for byte in shown}
    return written | {chr(256 + number): chr(byte) for number, byte in enumerate(hidden)}


BYTES = gpt2_bytes()


def bytes_of_entry(entry: str) -> str:
    """The bytes of an entry, as characters up to U+00FF."""
    strange = next((symbol for symbol in entry if symbol not in BYTES), None)
    if strange is not None:
        raise Unsupported(
            f"its entry {short_repr(entry)} has {strange!r}, which ByteLevel writes for no byte; "
            "take it out, or mark it special"
        )
    return "".join(BYTES[symbol] for symbol in entry)


def ended(suffix: str) -> Callable[[str], str]:
    """A function that writes an entry with a blank in place of the suffix of a word's end."""
    return lambda entry: entry.removesuffix(suffix) + WORD_END if entry.endswith(suffix) else entry


def check_unknown(model: Mapping[str, Any], symbols: set[str], of_bytes: bool) -> None:
    """Raise `Unsupported` if a model drops what it does not know without a trace."""
    missing = sum(chr(byte) not in symbols for byte in range(256)) if of_bytes else 1
    if missing and model.get("unk_token") is None:
        what = f"{missing} of the 256 bytes, which are" if of_bytes else "a character that is"
        raise Unsupported(
            f"its model has no unk_token, so {what} not in its vocab would vanish from a text; "
            "train it with an unk_token"
            + (", or with initial_alphabet=ByteLevel.alphabet()" if of_bytes else "")
        )


def merge_of(pair: Any, places: Mapping[str, int], symbols: Mapping[str, str]) -> tuple[int, int]:
    """A merge as the places of its parts. A pair is a list, or a text with a blank between."""
    left, right = pair.split(" ") if isinstance(pair, str) else pair
    result = symbols.get(left + right)
    if left not in places or right not in places or result != symbols[left] + symbols[right]:
        raise Unsupported(
            f"its merge of {short_repr(left)} and {short_repr(right)} is not of two entries that "
            "give a third one; train the tokenizer again"
        )
    return places[left], places[right]
