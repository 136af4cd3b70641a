"""A manifest with one changed value and a correct checksum.

It is refused in one line, or the bundle gives the same texts as before.
"""

import contextlib
import copy
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from kvae.serving import BundleError, KvaeError, Sampler
from kvae.serving.alphabet import Alphabet
from kvae.serving.bundle import LARGEST_MANIFEST, manifest_text, metadata_text
from kvae.serving.manifest import (
    ALL_ENDPOINTS,
    DESCRIPTION,
    OTHERS,
    PLAIN_ENDPOINTS,
    check_manifest,
)
from kvae.serving.verification import verify

Change = Callable[[Any], Any]
"""A manifest as it is -> as it is changed."""

DELETED = object()
STRANGE = (
    None,
    True,
    0,
    -1,
    1,
    2**63,
    10**9,
    1e300,
    float("nan"),
    "",
    "x",
    "\ud800",
    [],
    [[]],
    {},
    {"x": 1},
    [None],
    DELETED,
)
"""What takes the place of a value."""

OPERATIONS: dict[str, Change] = {
    "doubled": lambda it: (
        [*it, *it]
        if isinstance(it, list)
        else {**it, "again": 1}
        if isinstance(it, dict)
        else it * 2
    ),
    "halved": lambda it: (
        it[: len(it) // 2]
        if isinstance(it, str | list)
        else it / 2
        if isinstance(it, int | float)
        else {}
    ),
    "one more": lambda it: (
        [*it, *it[-1:]] if isinstance(it, list) else it + (1 if not isinstance(it, str) else "a")
    ),
    "reversed": lambda it: it[::-1],
    "in a list": lambda it: [it],
    "as a text": str,
    "shuffled": lambda it: sorted(it, key=lambda part: hashlib.sha256(str(part).encode()).digest()),
}
"""What is done to a value; where it makes no sense the value stays."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a JSON value."""
    if path:
        yield path
    for key, part in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield from places(part, (*path, key))


def changed(manifest: Any, path: tuple[Any, ...], change: Any) -> Any:
    """A copy with another value in one place: one of `STRANGE`, or a result of `OPERATIONS`."""
    result = copy.deepcopy(manifest)
    holder = result
    for key in path[:-1]:
        holder = holder[key]
    if change is DELETED:
        del holder[path[-1]]
        return result
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        holder[path[-1]] = change(holder[path[-1]]) if callable(change) else change
    return result


def random_change(manifest: Any, generator: random.Random) -> Any:
    """A copy with one value changed at random.

    The top-level field is drawn first, so that long lists do not get all changes.
    """
    fields = sorted(manifest)
    if not fields:
        return manifest
    under = generator.choice(fields)
    below = [(under, *path) for path in places(manifest[under])]
    path = generator.choice(below) if below and generator.random() < 0.8 else (under,)
    return changed(manifest, path, generator.choice([*STRANGE, *OPERATIONS.values()]))


def resummed(bundle: Path, manifest: Any) -> None:
    """Write a manifest whose sum is right."""
    (bundle / "manifest.json").write_text(
        manifest_text(manifest), encoding="utf-8", errors="surrogatepass"
    )


def answers(bundle: Path) -> Any:
    """What a bundle gives in every way that the manifest decides on."""
    sampler = Sampler.load(bundle, threads=1)
    codes = sampler.encode(["KAMITO", "NE"])
    verify(bundle)
    return (
        sampler.generate(3, seed=7),
        codes.tolist(),
        sampler.decode(codes),
        [(score.text, score.bound) for score in sampler.score(["KAMITO"])],
        "".join(sampler.stream(seed=7)),
    )


def attempted(bundle: Path) -> tuple[Any, str]:
    """The answers of a bundle, or the error of kvae, a short line."""
    try:
        return answers(bundle), ""
    except KvaeError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000
    return None, message


def outcome(bundle: Path, manifest: Any, expected: Any) -> str:
    """Refused with which error, or the same; anything else fails."""
    resummed(bundle, manifest)
    found, error = attempted(bundle)
    assert error or found == expected
    return error or "the same"


@pytest.fixture
def bundle(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


@pytest.fixture
def manifest(bundle: Path) -> Any:
    return json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))


def symbols(change: Change) -> Change:
    return lambda it: {
        **it,
        "vocabulary": {**it["vocabulary"], "symbols": change(it["vocabulary"]["symbols"])},
    }


def at(path: str, value: Any) -> Change:
    """A value put at a dotted path."""
    return lambda it: changed(it, tuple(path.split(".")), value)


CHOSEN: dict[str, tuple[Change, str]] = {
    "a length of a thousand million": (
        at("length", 10**9),
        "length must be a whole number from 1 to 65536",
    ),
    "a length of 2^63": (
        at("length", 2**63),
        "length must be a whole number from 1 to 65536, got 9223372036854775808",
    ),
    "a length of 0": (at("length", 0), "length must be"),
    "a top-p of 0": (at("defaults.top_p", 0), "defaults.top_p must be a number from"),
    "a length as a text": (
        at("length", "16"),
        "length must be a whole number from 1 to 65536, got '16'",
    ),
    "a length that is true": (at("length", True), "got True"),
    "another length": (at("length", 15), "length and model.length must be equal, got 15 and 16"),
    "no length": (at("length", DELETED), "length is missing"),
    "no mode": (at("mode", DELETED), "mode is missing"),
    "another mode": (at("mode", "fixed"), "its mode is 'lines' and not 'fixed'"),
    "a mode that nobody knows": (
        at("mode", "words"),
        "mode must be 'lines' or 'windows' or 'fixed', got 'words'",
    ),
    "a latent that is a list": (at("latent", []), "latent must be an object, got []"),
    "a negative code": (
        at("latent.size", -1),
        "latent.size must be a whole number from 0 to 1048576, got -1",
    ),
    "another code": (at("latent.size", 5), "its latent is"),
    "labels that are no list": (at("latent.attributes", 3), "latent.attributes must be"),
    "labels": (
        at("latent.attributes", ["a", "b"]),
        "latent.attributes and model.attributes must be equal",
    ),
    "another prior": (at("latent.prior", "vamp"), "latent.prior and model.prior must be equal"),
    "a symbol taken out": (symbols(lambda it: it[1:]), "model.vocabulary_size must be equal"),
    "a symbol too many": (symbols(lambda it: [*it, "Z"]), "model.vocabulary_size must be equal"),
    "a symbol doubled": (
        symbols(lambda it: [*it[:-1], it[0]]),
        "must differ from all before it, got 'A' twice",
    ),
    "an empty symbol": (
        symbols(lambda it: ["", *it[1:]]),
        "vocabulary.symbols[0] must be one character, got ''",
    ),
    "a symbol of two characters": (
        symbols(lambda it: ["AB", *it[1:]]),
        "must be one character, got 'AB'",
    ),
    "a symbol that is a number": (
        symbols(lambda it: [7, *it[1:]]),
        "vocabulary.symbols[0] must be one character, got 7",
    ),
    "half a character": (symbols(lambda it: ["\ud800", *it[1:]]), "it is not JSON"),
    "another symbol": (symbols(lambda it: ["Z", *it[1:]]), "its vocabulary is"),
    "two symbols exchanged": (symbols(lambda it: [it[1], it[0], *it[2:]]), "its vocabulary is"),
    "no symbols": (
        at("vocabulary.symbols", DELETED),
        "vocabulary must be an object of tokenizer, specials, symbols",
    ),
    "symbols as a text": (symbols("".join), "vocabulary.symbols must be a list"),
    "another tokenizer": (
        at("vocabulary.tokenizer", "word"),
        "vocabulary.tokenizer and model.tokenizer must be equal",
    ),
    "a tokenizer that nobody knows": (
        at("vocabulary.tokenizer", "syllable"),
        "vocabulary.tokenizer must be 'char' or",
    ),
    "a tokenizer that is a list": (
        at("vocabulary.tokenizer", []),
        "vocabulary.tokenizer must be 'char' or",
    ),
    "specials in another order": (
        at("vocabulary.specials", ["<start>", "<pad>", "<end>", "<unknown>"]),
        "vocabulary.specials must be",
    ),
    "no model": (at("model", DELETED), "model is missing"),
    "another head": (at("model.head", "gru"), "its model is"),
    "a setting that is an object": (at("model.head", {}), "model.head must be a setting"),
    "a seed test of a million rows": (
        at("seed_test.rows", 10**6),
        "seed_test.rows must be a whole number from 0 to 128",
    ),
    "a seed test without texts": (
        at("seed_test.texts", []),
        "seed_test.rows and the number of seed_test.texts must be",
    ),
    "a seed that is negative": (at("seed_test.seed", -1), "seed_test.seed must be"),
    "other texts": (at("seed_test.texts", ["a", "b", "c"]), "its seed_test is"),
    "no parity": (at("parity", {}), "parity.rows is missing"),
    "parity of no number": (
        at("parity.tolerance", float("nan")),
        "parity.tolerance must be a number from 0",
    ),
    "a temperature of a text": (
        at("defaults.temperature", "1"),
        "defaults.temperature must be a number",
    ),
    "a temperature that divides by nothing": (
        at("defaults.temperature", 1e-30),
        "defaults.temperature must be a number from 0.001",
    ),
    "versions that are no texts": (at("versions.kvae", 1), "versions.kvae must be a text"),
    "a field that nobody knows": (at("extra", 1), "'extra' is no field of a manifest"),
    "a file elsewhere": (
        at("endpoints.prior.file", "../prior.onnx"),
        "must be an .onnx file in the bundle's own folder",
    ),
    "a file with a zero": (
        at("endpoints.prior.file", "\0.onnx"),
        "must be an .onnx file in the bundle's own folder",
    ),
    "a file that is a number": (at("endpoints.prior.file", 7), "endpoints.prior.file must be"),
    "a file of another graph": (at("endpoints.prior.file", "step.onnx"), "truncated or extended"),
    "a size of 2^63": (
        at("endpoints.sampler.size", 2**63),
        "endpoints.sampler.size must be a whole number from 1 to 107",
    ),
    "a sum that is no text": (
        at("endpoints.sampler.sha256", None),
        "endpoints.sampler.sha256 must be 64 hexadecimal",
    ),
    "endpoints that are a list": (at("endpoints", [1]), "endpoints must be an object"),
    "another model's name": (at("model_id", "0" * 16), "its model_id is"),
    "training of deep brackets": (
        at("training.deep", [[[[[[]]]]]]),
        "training.deep must be JSON whose brackets nest",
    ),
    "a map outside the bundle": (
        at("map", {"file": "../map.json", "size": 9, "sha256": "0" * 64}),
        "map.file must be 'map.json'",
    ),
    "a map of a gigabyte": (
        at("map", {"file": "map.json", "size": 2**30, "sha256": "0" * 64}),
        "map.size must be a whole number from 1 to 8388608",
    ),
    "another source": (at("training.source", "x"), "its training is"),
}
"""What is changed, and what is said."""


@pytest.mark.parametrize("name", CHOSEN)
def test_a_changed_manifest_whose_sum_is_right_is_refused_with_the_field(
    bundle: Path, manifest: Any, name: str
) -> None:
    change, message = CHOSEN[name]
    resummed(bundle, change(manifest))
    with pytest.raises(BundleError) as caught:
        answers(bundle)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_every_field_of_a_written_manifest_stands_in_the_description(manifest: Any) -> None:
    def undescribed(description: Any, value: Any) -> set[str]:
        if not isinstance(description, dict) or OTHERS in description:
            return set()
        below = [undescribed(description.get(key), part) for key, part in value.items()]
        return set(value) - {key.removesuffix("?") for key in description} | set().union(*below)

    assert undescribed(DESCRIPTION, manifest) == set()
    check_manifest(manifest)


def test_every_field_is_missed(manifest: Any) -> None:
    for path in places(manifest):
        described = len(path) == 1 or path[0] in (
            "latent",
            "defaults",
            "parity",
            "seed_test",
            "endpoints",
        )
        optional = path[0] == "endpoints" and path[-1] in PLAIN_ENDPOINTS
        if described and not optional and not any(isinstance(key, int) for key in path):
            with pytest.raises(BundleError, match=r"^[\w.]*\b" + path[-1] + " is missing$"):
                check_manifest(changed(manifest, path, DELETED))


def test_changes_at_random_are_refused_or_change_nothing(bundle: Path, manifest: Any) -> None:
    expected, generator = answers(bundle), random.Random(0)
    for _ in range(60):
        outcome(bundle, random_change(manifest, generator), expected)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(8))
def test_a_thousand_changes_at_random_are_refused_or_change_nothing(
    bundle: Path, manifest: Any, seed: int
) -> None:
    expected, generator = answers(bundle), random.Random(seed + 1)
    for _ in range(1000):
        outcome(bundle, random_change(manifest, generator), expected)


def forged(bundle: Path, manifest: Any, graphs: dict[str, onnx.ModelProto]) -> None:
    """Write a manifest, have every graph repeat it, and make all sums right."""
    for name, graph in graphs.items():
        entry = (
            manifest.get("endpoints", {}).get(name)
            if isinstance(manifest.get("endpoints"), dict)
            else None
        )
        onnx.helper.set_model_props(graph, {"kvae": metadata_text(manifest, name)})
        content = graph.SerializeToString(deterministic=True)
        (bundle / f"{name}.onnx").write_bytes(content)
        if isinstance(entry, dict) and {"size", "sha256"} <= entry.keys():
            entry |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    resummed(bundle, manifest)


def survives(bundle: Path, manifest: Any, graphs: dict[str, onnx.ModelProto]) -> str:
    """What comes of a change that every file agrees on: an answer or a `KvaeError`."""
    forged(bundle, manifest, graphs)
    return attempted(bundle)[1] or "an answer"


@pytest.fixture
def graphs(bundle: Path) -> dict[str, onnx.ModelProto]:
    return {name: onnx.load(bundle / f"{name}.onnx") for name in ALL_ENDPOINTS}


AGREED: dict[str, Change] = {
    "fewer symbols than the graph has": lambda it: {
        **symbols(lambda known: known[:-2])(it),
        "model": {**it["model"], "vocabulary_size": it["model"]["vocabulary_size"] - 2},
    },
    "more symbols than the graph has": lambda it: {
        **symbols(lambda known: ["K", *(chr(97 + i) for i in range(20))])(it),
        "model": {**it["model"], "vocabulary_size": 25},
    },
    "a longer text": lambda it: {**it, "length": 20, "model": {**it["model"], "length": 20}},
    "a longer code": lambda it: {**it, "latent": {**it["latent"], "size": 9}},
    "a shorter text": lambda it: {**it, "length": 12, "model": {**it["model"], "length": 12}},
    "a shorter code": lambda it: {**it, "latent": {**it["latent"], "size": 3}},
    "labels": lambda it: {
        **it,
        "latent": {**it["latent"], "attributes": ["a", "b"]},
        "model": {**it["model"], "attributes": ["a", "b"]},
    },
}


@pytest.mark.parametrize("name", AGREED)
def test_a_change_that_every_file_agrees_on_ends_in_an_answer_or_an_error_of_kvae(
    bundle: Path, manifest: Any, graphs: dict[str, onnx.ModelProto], name: str
) -> None:
    assert survives(bundle, AGREED[name](manifest), graphs)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4))
def test_five_hundred_changes_that_every_file_agrees_on(
    bundle: Path, manifest: Any, graphs: dict[str, onnx.ModelProto], seed: int
) -> None:
    generator = random.Random(seed)
    for _ in range(500):
        survives(bundle, random_change(manifest, generator), graphs)


# --- files that are no manifest of anything -------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "brackets nest deeper"),
        ("[" * 100_000 + "]" * 100_000, "brackets nest deeper"),
        ('{"format":' * 100_000, "brackets nest deeper"),
        ("[" * 600 + "]" * 600, "not the manifest of a kvae bundle"),
        (
            '{"format": "kvae-bundle", "format_version": 2, "x": ' + "[" * 600 + "]" * 600 + "}",
            "its sha256 differs",
        ),
        ("9" * 10_000, "it is not JSON"),
        ("1e999", "not the manifest"),
        (
            '{"format": "kvae-bundle", "format_version": [2]}',
            "bundle format [2], this kvae reads 2 and 3",
        ),
        ('{"format": "kvae-bundle", "format_version": ' + str(2**70) + "}", "update kvae"),
        (" " * (LARGEST_MANIFEST + 1), f"larger than {LARGEST_MANIFEST:,} bytes"),
        ("null", "not the manifest"),
        ("\ud800", "it is not JSON"),
    ],
    ids=lambda value: value[:24],
)
def test_a_manifest_that_is_none_is_refused_before_much_is_made(
    bundle: Path, content: str, message: str
) -> None:
    (bundle / "manifest.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(BundleError, match=r"manifest\.json|bundle format") as caught:
        Sampler.load(bundle)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_no_more_of_a_manifest_is_read_than_one_can_need(bundle: Path) -> None:
    with (bundle / "manifest.json").open("r+b") as file:
        file.truncate(2**40)  # a hole of a terabyte
    with pytest.raises(BundleError, match="larger than 16,777,216 bytes"):
        Sampler.load(bundle)


def test_a_graph_of_gigabytes_is_refused_by_its_size(bundle: Path, manifest: Any) -> None:
    with (bundle / "sampler.onnx").open("r+b") as file:
        file.truncate(2**40)
    resummed(bundle, at("endpoints.sampler.size", 2**40)(manifest))
    with pytest.raises(
        BundleError, match=r"endpoints\.sampler\.size must be a whole number from 1 to 1073741824"
    ):
        Sampler.load(bundle)


# --- vocabularies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokenizer", "good", "bad"),
    [
        ("char", ["a", "\n", " ", "é", "🙂"], ["", "ab", "e\u0301", "\ud800", 1, None, ["a"]]),
        ("byte", ["\0", "a", "\xff"], ["", "\u0100", "ab"]),
        (
            "word",
            ["a", "\n", "a-b", "日本"],
            ["", " ", "a b", "a\n", "\t", "a\u3000b", "\n\n", "\udfff"],
        ),
        ("wordpiece", ["a", "##b", "\n", "a\u00a0b"], ["", "a b", "##\n", "a\ud800"]),
    ],
)
def test_a_symbol_is_what_its_tokenizer_makes(
    tokenizer: str, good: list[str], bad: list[Any]
) -> None:
    data = Alphabet(tuple(good), tokenizer).to_dict()
    assert Alphabet.from_dict(data) == Alphabet(tuple(good), tokenizer)
    for symbol in [*bad, good[0]]:
        with pytest.raises(BundleError, match=rf"vocabulary\.symbols\[{len(good)}\] must"):
            Alphabet.from_dict({**data, "symbols": [*good, symbol]})


def test_whatever_stands_in_a_vocabulary_is_an_alphabet_or_an_error() -> None:
    data = Alphabet(tuple("abc")).to_dict()
    for path in [*places(data), ()]:
        for change in (*STRANGE, *OPERATIONS.values()):
            given = changed(data, path, change) if path else change
            with contextlib.suppress(BundleError):
                assert len(Alphabet.from_dict(given)) >= 4
