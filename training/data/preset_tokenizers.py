"""Tokenizers of presets that keras-nlp saved with `save_to_preset`: a folder with `tokenizer.json`
and `assets/tokenizer/`.

Byte pairs (GPT-2 and others) and wordpieces (BERT and others) give the same tokens in kvae, or are
refused with the reason. keras-nlp itself is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvae.configuration import Config
from kvae.serving.alphabet import SPECIALS, Alphabet
from kvae.serving.errors import ConfigError, DataError, first_line, short_repr

from .tokenizer_files import Unsupported, alphabet_of_file, vocabulary_of

PRESET = "keras-nlp:"
"""What `training.start_from` begins with if it names preset folders, separated by commas."""

SETTINGS_FILE, ASSETS = "tokenizer.json", Path("assets", "tokenizer")

STANDS_FOR = {
    "<pad>": ("[PAD]", "<pad>"),
    "<start>": ("[CLS]", "<s>", "<|endoftext|>"),
    "<end>": ("[SEP]", "</s>", "<|endoftext|>"),
    "<unknown>": ("[UNK]", "<unk>"),
}
"""Special tokens of presets that mean the same as ours, the first that a preset has."""

Content = dict[str, Any]


def with_preset_tokenizer(config: Config) -> Config:
    """The configuration with the tokenizer of the last preset that `training.start_from` names, or
    of the preset that `data.vocabulary` names.

    Raises `DataError` if the folder has none that can be read, and `ConfigError` if kvae does not
    reproduce it or if its texts are lowercase and those of the run are not.
    """
    folders, vocabulary = preset_folders(config.training.start_from), config.data.vocabulary
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"training.start_from: {folder} is no folder; nothing is downloaded")
    if vocabulary is None and folders:
        vocabulary = str(folders[-1].absolute())
    if vocabulary is None or not Path(vocabulary).is_dir():
        return config
    content = content_of(Path(vocabulary))
    if content["lowercase"] and not config.data.fold_case:
        raise ConfigError(
            f"{vocabulary}: its tokenizer lowers the case of texts; train with --fold-case, which "
            "does so in every program that reads the model's texts"
        )
    kind = {"BPE": "bpe", "WordPiece": "wordpiece"}[content["model"]["type"]]
    return config.with_settings({"data.vocabulary": vocabulary, "model.tokenizer": kind})


def preset_folders(source: str | None) -> list[Path]:
    """The folders of presets that `training.start_from` names."""
    if source is None or not source.startswith(PRESET):
        return []
    return [Path(name) for name in source.removeprefix(PRESET).split(",")]


def alphabet_of_preset(folder: Path, tokenizer: str) -> Alphabet:
    """The alphabet of a preset. Raises `DataError` if the folder has no tokenizer that can be read,
    and `ConfigError` if kvae does not reproduce it."""
    try:
        return alphabet_of_file(content_of(folder), tokenizer)
    except Unsupported as error:
        raise ConfigError(f"{folder}: {error}") from error


def ids_in_preset(folder: Path, alphabet: Alphabet) -> list[int]:
    """For each id of an alphabet, the id that a preset has for the same token; -1 if it has
    none. Raises as `alphabet_of_preset`."""
    content = content_of(folder)
    ids: Mapping[str, int] = content["model"]["vocab"]
    specials = (
        next((ids[name] for name in names if name in ids), -1)
        for names in map(STANDS_FOR.__getitem__, SPECIALS)
    )
    entries = vocabulary_of(content["model"], special_names(content))
    symbols = alphabet_of_preset(folder, alphabet.tokenizer).symbols
    places = dict(zip(symbols, (ids[entry] for entry in entries), strict=True))
    return [*specials, *(places.get(symbol, -1) for symbol in alphabet.symbols)]


def special_names(content: Content) -> set[str]:
    """The special tokens of a `tokenizer.json`."""
    return {token["content"] for token in content["added_tokens"]}


def content_of(folder: Path) -> Content:
    """The tokenizer of a preset as the content of a `tokenizer.json` of the package tokenizers, and
    `lowercase`, whether it lowers the case of a text first.

    Raises `DataError` or `ConfigError`.
    """
    try:
        saved = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        name, settings = saved["class_name"], saved["config"]
        files = {file.name: file for file in (folder / ASSETS).iterdir()}
        if {"vocabulary.json", "merges.txt"} <= files.keys():
            return byte_pairs(settings, *(files[it] for it in ("vocabulary.json", "merges.txt")))
        if "vocabulary.txt" in files and "suffix_indicator" in settings:
            return wordpieces(folder, settings, files["vocabulary.txt"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder}: no tokenizer of a keras-nlp preset can be read there "
            f"({first_line(error)}); save both, as in backbone.save_to_preset(folder) and "
            "tokenizer.save_to_preset(folder)"
        ) from error
    raise ConfigError(
        f"{folder}: its tokenizer is a {name}; kvae reproduces byte pairs and wordpieces. Take "
        "another preset"
    )


def byte_pairs(settings: Mapping[str, Any], vocabulary: Path, merges: Path) -> Content:
    """Byte pairs as `tokenizers` writes them."""
    lines = merges.read_text(encoding="utf-8").splitlines()
    return {
        "model": {
            "type": "BPE",
            "vocab": json.loads(vocabulary.read_text(encoding="utf-8")),
            "merges": [line for line in lines if line and not line.startswith("#version")],
        },
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": bool(settings.get("add_prefix_space", False)),
        },
        "added_tokens": [
            {"content": token, "special": True}
            for token in settings.get("unsplittable_tokens") or ()
        ],
        "lowercase": False,
    }


def wordpieces(folder: Path, settings: Mapping[str, Any], vocabulary: Path) -> Content:
    """Wordpieces as `tokenizers` writes them."""
    if settings.get("strip_accents"):
        raise ConfigError(
            f"{folder}: its tokenizer strips accents, so texts would not come back as they were; "
            f'strip them yourself, and write "strip_accents": false in {folder / SETTINGS_FILE}'
        )
    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    suffix = settings["suffix_indicator"]
    if suffix != "##" or not settings.get("split", True):
        raise ConfigError(
            f"{folder}: its tokenizer has suffix_indicator={short_repr(suffix)} and "
            f"split={settings.get('split', True)}; kvae reproduces '##' and true"
        )
    special = [piece for piece in pieces if piece.startswith("[") and piece.endswith("]")]
    return {
        "model": {
            "type": "WordPiece",
            "vocab": {piece: place for place, piece in enumerate(pieces)},
            "unk_token": settings.get("oov_token"),
        },
        "normalizer": {"type": "BertNormalizer", "lowercase": False, "strip_accents": False},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "added_tokens": [{"content": token, "special": True} for token in special],
        "lowercase": bool(settings.get("lowercase")),
    }
