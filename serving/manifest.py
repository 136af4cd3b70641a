"""The fields of a manifest: the type and the range of each, as data.

    {"length": integer(1, MAX_LENGTH)}  a required field
    {"quantization?": {...}}            an optional field, here an object
    {OTHERS: TEXT}                      any further field; without it, further fields are refused
    {"vocabulary": vocabulary_fault}    a field with its own check, which returns the fault

`examples/javascript/kvae/manifest.js` has the same rules; a test applies the same changes to both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .alphabet import MAX_LENGTH, MAX_SYMBOLS, SPECIALS, Alphabet
from .choices import CHOICES
from .errors import BundleError, short_repr
from .tokenizers import TOKENIZERS

FORMAT = "kvae-bundle"
FORMAT_VERSION = 3
"""Version 1 had one seed for a whole batch and three endpoints. Version 2 had the endpoints of
version 3 in graphs that fewer runtimes run."""

READABLE_VERSIONS = (2, 3)
"""Versions that a `Sampler` reads."""

ENDPOINTS = ("sampler", "encoder", "prior", "scorer", "expand", "step")
"""Their inputs and outputs are described in `kvae.export.graphs` and in docs/serving.md."""

PLAIN_ENDPOINTS = ("sampler_plain", "step_plain")
"""Graphs without random numbers, described in `kvae.export.plain_graphs`. Bundles that were
exported without them, or before them, have none."""

ALL_ENDPOINTS = (*ENDPOINTS, *PLAIN_ENDPOINTS)

LARGEST_MANIFEST = 16 * 2**20
"""In bytes: room for a vocabulary of a million words of nine characters each, and all other
fields."""

LARGEST_GRAPH = 2**30
"""In bytes: 268 million weights in float32, a dozen times those of the largest published
setting."""

MAP = "map.json"
"""File of the map of held-out texts, which a bundle may have (`kvae.serving.latent_map`)."""

LARGEST_MAP = 2**23
"""In bytes: room for three codes of 65,536 numbers and 500 texts of 200 characters."""

LARGEST_COUNT = 2**53 - 1
"""Largest whole number that is exact in every language."""


@dataclass(frozen=True)
class Rule:
    """A rule for a value: its words, and a test of any JSON value whose work is bounded by the size
    of the value."""

    words: str
    holds: Callable[[Any], bool]


def integer(low: int, high: int) -> Rule:
    """An int in [low, high]; true and false are not ints here."""
    return Rule(
        f"a whole number from {low} to {high}",
        lambda value: type(value) is int and low <= value <= high,
    )


def number(low: float, high: float) -> Rule:
    """An int or a float in [low, high]."""
    return Rule(
        f"a number from {low:g} to {high:g}",
        lambda value: type(value) in (int, float) and low <= value <= high,
    )


def text(most: int) -> Rule:
    """A text of at most `most` characters."""
    return Rule(
        f"a text of at most {most} characters",
        lambda value: isinstance(value, str) and len(value) <= most,
    )


def one_of(*values: Any) -> Rule:
    """One of a few values, and of the same type."""
    words = " or ".join(map(repr, values))
    return Rule(
        words, lambda value: any(type(value) is type(each) and value == each for each in values)
    )


def matching(pattern: str, words: str) -> Rule:
    """A text that matches a pattern from start to end."""
    return Rule(
        words, lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None
    )


def list_of(rule: Rule, most: int) -> Rule:
    """A list of at most `most` values that satisfy a rule."""
    return Rule(
        f"a list of at most {most}, each {rule.words}",
        lambda value: (
            isinstance(value, list) and len(value) <= most and all(map(rule.holds, value))
        ),
    )


def distinct(rule: Rule) -> Rule:
    """A list that satisfies a rule, without duplicates and empty texts."""
    return Rule(
        f"{rule.words}, none empty and none twice",
        lambda value: rule.holds(value) and all(value) and len(set(value)) == len(value),
    )


def plain(depth: int) -> Rule:
    """Any JSON value nested at most `depth` levels deep."""

    def holds(value: Any, left: int = depth) -> bool:
        parts = (
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        )
        return not parts or (left > 0 and all(holds(part, left - 1) for part in parts))

    return Rule(f"JSON whose brackets nest at most {depth} deep", holds)


def vocabulary_fault(value: Any) -> str | None:
    """The fault of a vocabulary, or None; its rules are in `kvae.serving.alphabet`."""
    try:
        Alphabet.from_dict(value)
    except BundleError as error:
        return str(error)
    return None


TEXT = text(10_000)
NAME = text(100)
COUNT = integer(0, LARGEST_COUNT)
SHARE = number(0, 1)
SIZE = number(0, 1e30)
SHA256 = matching("[0-9a-f]{64}", "64 hexadecimal digits")
ATTRIBUTES = distinct(list_of(TEXT, 2**16))
NUMBER = number(-1e30, 1e30)
FLAG = one_of(False, True)
SETTING = Rule(
    "a setting: a text, a number, true, false or a list of up to 65536 texts or numbers",
    lambda value: any(
        rule.holds(value)
        for rule in (TEXT, NUMBER, FLAG, list_of(TEXT, 2**16), list_of(NUMBER, 2**16))
    ),
)
OTHERS = "*"

DESCRIPTION: dict[str, Any] = {
    "format": one_of(FORMAT),
    "format_version": one_of(*READABLE_VERSIONS),
    "model_id": matching("[0-9a-f]{16}", "16 hexadecimal digits"),
    "mode": one_of("lines", "windows", "fixed"),
    "length": integer(1, MAX_LENGTH),
    "vocabulary": vocabulary_fault,
    "latent": {
        "kind": one_of("dense", "map", "none"),
        "size": integer(0, 2**20),
        "levels": integer(0, 64),
        "prior": NAME,
        "attributes": ATTRIBUTES,
    },
    "defaults": {
        # Of samples for which none is given; the other two say that top-k and top-p are off.
        "temperature": number(CHOICES["temperature"].low, CHOICES["temperature"].high),
        "top_k": integer(0, CHOICES["top_k"].high),
        "top_p": number(CHOICES["top_p"].low, CHOICES["top_p"].high),
    },
    "model": {
        "length": integer(1, MAX_LENGTH),
        "vocabulary_size": integer(len(SPECIALS), len(SPECIALS) + MAX_SYMBOLS),
        "tokenizer": one_of(*TOKENIZERS),
        "latent": one_of("dense", "map", "none"),
        "latent_size": list_of(integer(1, 2**20), 64),
        "prior": NAME,
        "attributes": ATTRIBUTES,
        OTHERS: SETTING,
    },
    "training": {"source": TEXT, OTHERS: plain(4)},
    "versions": {OTHERS: NAME},
    "parity": {
        "rows": COUNT,
        "held_out_rows": COUNT,
        "symbols": COUNT,
        "largest_logit_difference": SIZE,
        "largest_turn_difference": SIZE,
        "largest_code_difference": SIZE,
        "largest_bound_difference": SIZE,
        "greedy_rows_equal": COUNT,
        "tolerance": SIZE,
    },
    "quantization?": {
        "kind": one_of("int8", "int8-latency"),
        "texts": COUNT,
        "symbols": COUNT,
        "likeliest_symbols_unchanged": SHARE,
        "bound": NUMBER,
        "bound_in_float32": NUMBER,
        "size_ratio": SIZE,
        "runtime?": one_of("onnxruntime"),
    },
    "seed_test": {
        "seed": COUNT,
        "rows": integer(0, 128),
        "texts": list_of(text(LARGEST_MANIFEST), 128),
    },
    "endpoints": {
        name: {
            "file": matching(
                r"[A-Za-z0-9_-]{1,100}\.onnx", "an .onnx file in the bundle's own folder"
            ),
            "size": integer(1, LARGEST_GRAPH),
            "sha256": SHA256,
        }
        for name in (*ENDPOINTS, *(f"{name}?" for name in PLAIN_ENDPOINTS))
    },
    "map?": {"file": one_of(MAP), "size": integer(1, LARGEST_MAP), "sha256": SHA256},
    "sha256": SHA256,
}

AGREEMENTS: dict[str, Callable[[Mapping[str, Any]], tuple[Any, Any]]] = {
    "length and model.length": lambda it: (it["length"], it["model"]["length"]),
    "the size of vocabulary (its special symbols included) and model.vocabulary_size": lambda it: (
        len(SPECIALS) + len(it["vocabulary"]["symbols"]),
        it["model"]["vocabulary_size"],
    ),
    "vocabulary.tokenizer and model.tokenizer": lambda it: (
        it["vocabulary"]["tokenizer"],
        it["model"]["tokenizer"],
    ),
    "vocabulary.pattern and model.token_pattern": lambda it: (
        it["vocabulary"].get("pattern", ""),
        it["model"].get("token_pattern", ""),
    ),
    "latent.kind and model.latent": lambda it: (it["latent"]["kind"], it["model"]["latent"]),
    "latent.prior and model.prior": lambda it: (it["latent"]["prior"], it["model"]["prior"]),
    "latent.levels and the levels of model.latent_size": lambda it: (
        it["latent"]["levels"],
        0 if it["model"]["latent"] == "none" else len(it["model"]["latent_size"]),
    ),
    "latent.attributes and model.attributes": lambda it: (
        it["latent"]["attributes"],
        it["model"]["attributes"],
    ),
    "seed_test.rows and the number of seed_test.texts": lambda it: (
        it["seed_test"]["rows"],
        len(it["seed_test"]["texts"]),
    ),
}
"""Pairs of values that must be equal, because the manifest states them twice."""


def check_manifest(manifest: Any) -> None:
    """Raise `BundleError` with the first field that is missing, unknown or invalid, or that
    contradicts another field."""
    fault = first_fault(DESCRIPTION, manifest)
    if fault:
        raise BundleError(fault)
    for what, values in AGREEMENTS.items():
        one, other = values(manifest)
        if one != other:
            raise BundleError(
                f"{what} must be equal, got {short_repr(one)} and {short_repr(other)}"
            )
    if len(manifest["latent"]["attributes"]) > manifest["latent"]["size"]:
        raise BundleError(
            "latent.size must be at least the number of latent.attributes, "
            f"{len(manifest['latent']['attributes'])}, got {manifest['latent']['size']}"
        )


def first_fault(description: Any, value: Any, field: str = "") -> str | None:
    """The first fault of a value, as a sentence that names the field, or None."""
    if isinstance(description, Rule):
        return (
            None
            if description.holds(value)
            else f"{field} must be {description.words}, got {short_repr(value)}"
        )
    if callable(description):
        fault: str | None = description(value)
        return fault
    if not isinstance(value, dict):
        return f"{field or 'the manifest'} must be an object, got {short_repr(value)}"
    at = f"{field}." if field else ""
    named = {key.removesuffix("?"): rule for key, rule in description.items() if key != OTHERS}
    for name in named:
        if name not in value and f"{name}?" not in description:
            return f"{at}{name} is missing"
    for name, part in value.items():
        rule = named.get(name, description.get(OTHERS))
        if rule is None:
            return f"{short_repr(name)} is no field of {field or 'a manifest'}"
        fault = first_fault(rule, part, f"{at}{name:.80}")
        if fault:
            return fault
    return None
