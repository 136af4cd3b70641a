"""The JavaScript examples write what Python writes, in Node and in a browser."""

import json
import os
import random
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvae.serving import Sampler
from kvae.serving.alphabet import SPECIALS, Alphabet, lower_case
from kvae.serving.bundle import manifest_text
from kvae.serving.errors import BundleError, ConfigError, DataError
from kvae.serving.patterns import pattern_fault, units_of_pattern

from .conftest import made_once, small_model
from .test_serving_manifest import CHOSEN, random_change
from .test_serving_patterns import KNOWN, MOLECULES, PATTERNS, REFUSED, SMILES
from .test_serving_patterns import TEXTS as PATTERN_TEXTS
from .test_training_vocabularies import MADE, TRAINED_ON, read
from .test_training_vocabularies import TEXTS as TRAINED_TEXTS

EXAMPLES = Path(__file__).parents[1] / "examples" / "javascript"
NODE = shutil.which("node")
CHROMIUM = (
    os.environ.get("KVAE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
)

pytestmark = [
    pytest.mark.javascript,
    pytest.mark.skipif(NODE is None, reason="needs Node 20 or newer on the PATH"),
    pytest.mark.skipif(
        not (EXAMPLES / "node_modules").is_dir(),
        reason="needs examples/javascript/node_modules: make test-javascript",
    ),
]
in_a_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium on the PATH or its path in KVAE_CHROMIUM"
)

CHOICES: dict[str, dict[str, Any]] = {
    "greedy": {"greedy": True},
    "sampled": {"temperature": 1.0},
    "hot": {"temperature": 1.4, "min_length": 3, "max_length": 9, "first_row": 2**32 - 20},
    "restricted": {"temperature": 0.9, "top_k": 4, "top_p": 0.8},
}
SEEDS = (0, 7, 2**40 + 5)
ROWS = 6

LOADED = """
    const { Sampler } = await import("./kvae/index.js");
    const { inFolder } = await import("./kvae/folder.js");
    const sampler = await Sampler.load(inFolder(given.bundle));
"""


def node(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(NODE), *arguments],
        cwd=EXAMPLES,
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
    )


def evaluated(body: str, given: Any) -> Any:
    """What the JavaScript function body `body` returns for the object `given`."""
    code = f"""
        import {{ text }} from "node:stream/consumers";
        const work = async (given) => {{ {body} }};
        console.log(JSON.stringify(await work(JSON.parse(await text(process.stdin)))));
    """
    done = node("--input-type=module", "--eval", code, given=json.dumps(given))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def javascript_name(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


# --- bundles --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's system and alphabet, untrained: texts of 48 nearly equally likely symbols."""
    from kvae.commands.demo import demo_config
    from kvae.export.bundle import write_bundle
    from kvae.model import TextVAE
    from kvae.training.data.named_corpora import unicode_names

    alphabet = Alphabet.build(unicode_names())
    shape = replace(demo_config().model, length=48, vocabulary_size=len(alphabet))
    config = replace(demo_config(), model=shape)
    return made_once(
        tmp_path_factory,
        "demo-like",
        lambda path: write_bundle(TextVAE(shape, config.objective), alphabet, config, path),
    )


@pytest.fixture(scope="module")
def labelled_bytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of bytes with labels and a code of more numbers than there are sliders for."""
    return small_bundle(
        tmp_path_factory, "bytes", Alphabet.of_bytes(), latent_size=70, attributes=("short", "long")
    )


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of words that reads and writes windows."""
    words = Alphabet(("\n", "a", "cat", "sat", "über"), "word")
    shape = {
        "encoder": "none",
        "latent": "none",
        "expander": "repeat",
        "expander_base": 0,
        "auxiliary": False,
    }
    return small_bundle(tmp_path_factory, "words", words, mode="windows", **shape)


@pytest.fixture(scope="module")
def molecules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the units of a pattern."""
    alphabet = Alphabet.build(MOLECULES[:6], tokenizer="pattern", pattern=SMILES)
    return small_bundle(tmp_path_factory, "molecules", alphabet, token_pattern=SMILES)


@pytest.fixture(scope="module")
def folding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of texts in lower case."""
    alphabet = Alphabet(tuple("iklorsdßλ\u03c3"), fold_case=True)
    return small_bundle(tmp_path_factory, "folding", alphabet)


@pytest.fixture(scope="module")
def byte_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of byte pairs."""
    return small_bundle(tmp_path_factory, "byte-pairs", read("bytes")[1])


def small_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    alphabet: Alphabet,
    mode: str = "lines",
    **shape: Any,
) -> Path:
    """The bundle `name` of a small model; the processes of a session share it."""
    from kvae.configuration import Config
    from kvae.export.bundle import write_bundle

    def make(path: Path) -> None:
        model = small_model(vocabulary_size=len(alphabet), tokenizer=alphabet.tokenizer, **shape)
        config = Config().with_settings({"data.mode": mode})
        write_bundle(model, alphabet, replace(config, model=model.model_config), path)

    return made_once(tmp_path_factory, name, make)


REAL_SIZE = pytest.param("demo_like", marks=pytest.mark.nightly)
BUNDLES = ["bundle_folder", REAL_SIZE, "labelled_bytes", "language_model"]


@pytest.fixture(params=[*BUNDLES, "molecules", "byte_pairs"])
def bundle(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


# --- texts in Node --------------------------------------------------------------------------------


def test_node_writes_the_texts_of_python_with_both_graphs(bundle: Path) -> None:
    """With the graph that draws its own numbers, and with the one that is given them."""
    work = f"""{LOADED} const plain = await Sampler.load(inFolder(given.bundle), {{ plain: true }});
        const written = async (by) => (await Promise.all(given.choices.flatMap((choice) =>
            given.seeds.map((seed) => by.generate(given.rows, seed, choice))))).flat();
        return [await written(sampler), await written(plain)];"""
    choices = [
        {javascript_name(name): value for name, value in options.items()}
        for options in CHOICES.values()
    ]
    given = {"bundle": str(bundle), "seeds": SEEDS, "rows": ROWS, "choices": choices}
    found, by_plain = evaluated(work, given)
    sampler = Sampler.load(bundle)
    expected = [
        sample
        for choice in CHOICES.values()
        for seed in SEEDS
        for sample in sampler.generate(ROWS, seed, **choice)
    ]
    assert [(it["text"], it["seed"], it["row"], it["finished"]) for it in found] == [
        (it.text, it.seed, it.row, it.finished) for it in expected
    ]
    logarithms = [it.log_probability for it in expected]
    np.testing.assert_allclose(
        [it["logProbability"] for it in found], logarithms, rtol=1e-4, atol=1e-3
    )
    for one, other in zip(by_plain, found, strict=True):
        assert one.pop("logProbability") == pytest.approx(other.pop("logProbability"), rel=1e-5)
        assert one == other


def test_rows_of_several_chunks_are_the_rows_of_python(bundle_folder: Path) -> None:
    work = f"{LOADED} return sampler.sample(300, 1);"
    assert evaluated(work, {"bundle": str(bundle_folder)}) == Sampler.load(bundle_folder).sample(
        300, seed=1
    )


def test_node_samples_at_the_temperature_of_the_bundle(bundle_folder: Path) -> None:
    """The seed test has a temperature of its own."""
    work = f"""{LOADED} sampler.manifest.defaults.temperature = 0.5;
        await sampler.verify();
        return [await sampler.sample(5, 3), await sampler.sample(5, 3, {{ temperature: 1 }})];"""
    sampler = Sampler.load(bundle_folder)
    assert evaluated(work, {"bundle": str(bundle_folder)}) == [
        sampler.sample(5, seed=3, temperature=0.5),
        sampler.sample(5, seed=3),
    ]


def test_node_folds_case_as_python_does(folding: Path) -> None:
    texts = ["İSKOS", "ßẞ", "ΛΣ", "λ\u03c3", "ΣΛΣ ", "Kλk"]
    work = f"""{LOADED} const codes = await sampler.encode(given.texts, {{ unknown: "replace" }});
        return {{
        codes: codes.map((code) => Array.from(code)),
        refused: await sampler.encode("X").catch((error) => error.message),
    }};"""
    found = evaluated(work, {"bundle": str(folding), "texts": texts})
    sampler = Sampler.load(folding)
    codes = sampler.encode(texts, "replace")
    np.testing.assert_allclose(found["codes"], codes, atol=1e-5)
    np.testing.assert_array_equal(codes[2], codes[3])
    assert '"x" 1' in found["refused"]


def test_every_character_has_the_lower_case_of_python() -> None:
    """Of those that this version of Python knows."""
    points = [it for it in range(0x110000) if unicodedata.category(chr(it)) not in ("Cn", "Cs")]
    work = """
        const { lowerCase } = await import("./kvae/alphabet.js");
        return given.map((point) => lowerCase(String.fromCodePoint(point)));
    """
    assert evaluated(work, points) == [lower_case(chr(point)) for point in points]


def test_node_writes_for_a_label_as_python_does(labelled_bytes: Path) -> None:
    work = f'{LOADED} return sampler.sample(5, 3, {{ attribute: "long" }});'
    expected = Sampler.load(labelled_bytes).sample(5, seed=3, attribute="long")
    assert evaluated(work, {"bundle": str(labelled_bytes)}) == expected


def test_node_reads_texts_as_python_does(bundle_folder: Path) -> None:
    texts = ["KAMITO", "NE", ""]
    work = f"""{LOADED} return {{
        codes: (await sampler.encode(given.texts)).map((code) => Array.from(code)),
        reconstructions: await sampler.reconstruct(given.texts),
        between: await sampler.interpolate(given.texts[0], given.texts[1], 5),
        replaced: await sampler.reconstruct("KA?", {{ unknown: "replace" }}),
    }};"""
    found = evaluated(work, {"bundle": str(bundle_folder), "texts": texts})
    sampler = Sampler.load(bundle_folder)
    np.testing.assert_allclose(found["codes"], sampler.encode(texts), atol=1e-5)
    assert found["reconstructions"] == sampler.reconstruct(texts)
    assert found["between"] == sampler.interpolate("KAMITO", "NE", steps=5)
    assert found["replaced"] == sampler.reconstruct("KA?", unknown="replace")


WINDOWS = ["a cat " * 8, "\n".join(["über the sat a"] * 3 + ["cat"])]
"""Texts of sixteen words, line breaks and an unknown one among them."""


def test_node_scores_texts_as_python_does(bundle: Path) -> None:
    sampler = Sampler.load(bundle)
    texts = ["KAMITO", "NE", "", "KA?🙂", "N" * 15]
    if sampler.manifest["mode"] == "windows":
        texts = WINDOWS
    every = [{}, {"samples": 3, "seed": 2**40 + 5}]
    work = f"""{LOADED} return (await Promise.all(given.every.map((options) =>
        sampler.score(given.texts, options)))).flat();"""
    found = evaluated(work, {"bundle": str(bundle), "texts": texts, "every": every})
    expected = [score for options in every for score in sampler.score(texts, **options)]
    for score, by_python in zip(found, expected, strict=True):
        assert score["text"] == by_python.text
        for name in ("bound", "reconstruction", "kl", "bits_per_character"):
            value = getattr(by_python, name)
            assert score[javascript_name(name)] == pytest.approx(value, rel=1e-4, abs=1e-4)
        assert score["nats"] == pytest.approx(list(by_python.nats), rel=1e-4, abs=1e-4)


def test_node_scores_many_texts_in_the_order_of_the_input(
    labelled_bytes: Path, bundle_folder: Path
) -> None:
    texts = ["KAMITORUNE"[: 1 + number * 7 % 10] for number in range(300)]
    work = f"{LOADED} return sampler.score(given.texts, {{ attribute: given.attribute }});"
    for bundle, attribute in ((labelled_bytes, "long"), (bundle_folder, None)):
        given = {"bundle": str(bundle), "texts": texts}
        found = evaluated(work, {**given, **({"attribute": attribute} if attribute else {})})
        expected = Sampler.load(bundle).score(texts, attribute=attribute)
        assert [score["text"] for score in found] == texts
        bounds = [score.bound for score in expected]
        assert [score["bound"] for score in found] == pytest.approx(bounds, rel=1e-4, abs=1e-4)
    done = node("node.mjs", str(bundle_folder), "score", "KAMITO", "--samples", "2", "--json")
    (score,) = json.loads(done.stdout)["scores"]
    expected = Sampler.load(bundle_folder).score("KAMITO", samples=2)
    assert score["bound"] == pytest.approx(expected[0].bound, rel=1e-4)


def test_the_command_prints_texts_or_json(bundle_folder: Path) -> None:
    expected = Sampler.load(bundle_folder).sample(4, seed=2, temperature=0.8, top_k=3)
    arguments = [
        str(bundle_folder),
        "-n",
        "4",
        "--seed",
        "2",
        "--temperature",
        "0.8",
        "--top-k",
        "3",
    ]
    assert node("node.mjs", *arguments).stdout.splitlines() == expected
    samples = json.loads(node("node.mjs", *arguments, "--json").stdout)["samples"]
    assert [sample["text"] for sample in samples] == expected


def test_a_bundle_can_be_checked_without_python(bundle: Path) -> None:
    assert node("node.mjs", str(bundle), "verify").returncode == 0


def test_a_bundle_with_a_map_is_used_and_published_without_it(
    map_folder: Path, tmp_path: Path
) -> None:
    assert node("node.mjs", str(map_folder), "verify").returncode == 0
    assert node("serve.mjs", str(map_folder), "--write", str(tmp_path / "site")).returncode == 0
    written = {path.name for path in (tmp_path / "site" / "bundle").iterdir()}
    assert written == {path.name for path in map_folder.iterdir()} - {"map.json"}


# --- symbols --------------------------------------------------------------------------------------

TEXTS = [
    "",
    "the  cat's Ümlaut\tsat 🙂",
    "line\none \n\n two\r\nthree\u2028four\x85five\x1csix\ufeffseven\u00a0eight",
    "日本語, 한국어: §5 \u2013 «quoted» a\u200db e\u0301 [x]^_`~ $1+1=2",
    "\ud7ff\ue000\U00010000\U0010ffff",
    "a" * 101 + " " + "é" * 50 + " " + "é" * 51,
]
A_FEW_TEXTS = [
    "don't  they'RE 'll\t 's\n\n x   ",
    "ⓐⅣ½ x\u0301_\u200d \u061d\u2e4e \u08e2\ufffd\x07\ue000 \U0002b825",
    " ",
    "  two",
    "a" * 5000,
]
ALPHABETS = {
    "char": Alphabet.build(TEXTS[1:3]),
    "byte": Alphabet.of_bytes(),
    "word": Alphabet.build([*TEXTS[1:4], "\n"], tokenizer="word"),
    "wordpiece": Alphabet(
        (
            "\n",
            "a",
            "##a",
            "cat",
            "the",
            "s",
            "##at",
            "'",
            "é",
            "##é",
            "日",
            "\U0001f642",
            "##🙂",
            "line",
            "one",
        ),
        "wordpiece",
    ),
    "pattern": Alphabet.build([*TEXTS, *MOLECULES[:4]], 40, "pattern", pattern=SMILES),
}


@pytest.mark.parametrize("name", [*ALPHABETS, *MADE])
def test_javascript_takes_texts_apart_and_together_as_python_does(name: str) -> None:
    alphabet = ALPHABETS[name] if name in ALPHABETS else read(name)[1]
    texts = [*TEXTS, *TRAINED_ON, *MOLECULES, *A_FEW_TEXTS]
    generator = np.random.default_rng(0)
    rows = generator.integers(0, len(alphabet), (200, 12)).tolist()
    rows += (generator.integers(len(SPECIALS), len(alphabet), (200, 12))).tolist()
    work = """
        const { Alphabet } = await import("./kvae/alphabet.js");
        const alphabet = new Alphabet(given.vocabulary);
        return {
            ids: given.texts.map((text) => alphabet.ids(text)),
            texts: given.rows.map((row) => alphabet.decode(row)),
            unknown: Object.fromEntries(alphabet.unknown(given.texts)),
        };
    """
    found = evaluated(work, {"vocabulary": alphabet.to_dict(), "texts": texts, "rows": rows})
    assert found["ids"] == [alphabet.ids(text) for text in texts]
    assert found["texts"] == alphabet.decode(np.array(rows))
    assert found["unknown"] == dict(alphabet.unknown(texts))


UNITS = """
    const { patternFault, unitsOfPattern } = await import("./kvae/patterns.js");
    const bySticky = (pattern, text) => {
        const units = [];
        for (let place = 0, end; place < text.length; place = end) {
            pattern.lastIndex = place;
            const one = text.codePointAt(place) > 0xffff ? 2 : 1;
            end = pattern.exec(text) ? pattern.lastIndex : place + one;
            units.push(text.slice(place, end));
        }
        return units;
    };
    const regExp = (pattern) => {
        try {
            return new RegExp(pattern, "uy");
        } catch {} // an escape that only Python knows
    };
    return given.pairs.map(([pattern, text]) => {
        const fault = patternFault(pattern) ?? null;
        if (fault) return { fault };
        const own = regExp(pattern);
        const units = unitsOfPattern(pattern)(text);
        return { fault, units, own: own ? bySticky(own, text) : units };
    });
"""
"""The units of patterns and texts by the automaton and, where it takes the pattern, by `RegExp`."""


@given(st.lists(st.tuples(PATTERNS, PATTERN_TEXTS), min_size=40, max_size=80))
@settings(max_examples=15, deadline=None)
def test_javascript_finds_the_units_of_python(pairs: list[tuple[str, str]]) -> None:
    pairs = [*pairs, *((pattern, text) for pattern in KNOWN.values() for text in MOLECULES)]
    results = evaluated(UNITS, {"pairs": pairs})
    for (pattern, text), found in zip(pairs, results, strict=True):
        assert (found["fault"] is None) == (pattern_fault(pattern) is None), pattern
        if found["fault"] is None:
            assert found["units"] == found["own"] == units_of_pattern(pattern, text), pattern


@given(st.lists(st.text(st.sampled_from("ab[]()|*+?{}\\^$.-,01:=!<\n"), max_size=12), max_size=200))
@settings(max_examples=10, deadline=None)
def test_javascript_refuses_the_patterns_that_python_refuses(patterns: list[str]) -> None:
    patterns = [*REFUSED, *patterns]
    results = evaluated(UNITS, {"pairs": [(pattern, "") for pattern in patterns]})
    faults = [found["fault"] is None for found in results]
    assert faults == [pattern_fault(pattern) is None for pattern in patterns]


@pytest.mark.parametrize("name", MADE)
@given(st.lists(TRAINED_TEXTS, min_size=40, max_size=80))
@settings(max_examples=3, deadline=None)
def test_javascript_gives_the_ids_of_python_for_vocabularies_of_files(
    name: str, texts: list[str]
) -> None:
    alphabet = read(name)[1]
    work = """
        const { Alphabet } = await import("./kvae/alphabet.js");
        const alphabet = new Alphabet(given.vocabulary);
        const ids = given.texts.map((text) => alphabet.ids(text));
        return { ids, texts: ids.map((row) => alphabet.decode(row)) };
    """
    found = evaluated(work, {"vocabulary": alphabet.to_dict(), "texts": texts})
    assert found["ids"] == list(map(alphabet.ids, texts))
    rows = [np.array([ids], np.int64) for ids in found["ids"]]
    assert found["texts"] == [alphabet.decode(row)[0] for row in rows]


def test_a_bundle_of_format_2_is_read(old_bundle: Path) -> None:
    texts = json.loads((old_bundle / "manifest.json").read_text(encoding="utf-8"))["seed_test"]
    body = LOADED + "return sampler.sample(given.rows, given.seed, { minLength: 0 });"
    assert evaluated(body, {"bundle": str(old_bundle), **texts}) == texts["texts"]


# --- what goes wrong ------------------------------------------------------------------------------


def changed_manifest(bundle: Path, **entries: Any) -> None:
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8")) | entries
    file.write_text(
        json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
    )


def flipped_byte(bundle: Path) -> None:
    file = bundle / "sampler.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no manifest": (lambda bundle: (bundle / "manifest.json").unlink(), "cannot be read"),
    "no JSON": (lambda bundle: (bundle / "manifest.json").write_text("{"), "not JSON"),
    "foreign": (lambda bundle: (bundle / "manifest.json").write_text("[]"), "not the manifest"),
    "other version": (partial(changed_manifest, format_version=1), "bundle format 1"),
    "other length": (partial(changed_manifest, length=3), "its sum differs"),
    "no sampler": (lambda bundle: (bundle / "sampler.onnx").unlink(), "cannot be read"),
    "truncated": (
        lambda bundle: (bundle / "sampler.onnx").write_bytes(b"short"),
        "5 bytes instead of",
    ),
    "flipped byte": (flipped_byte, "sha256"),
}


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_refused_with_the_reason(copy: Path, damage: str) -> None:
    spoil, reason = DAMAGES[damage]
    spoil(copy)
    done = node("node.mjs", str(copy))
    assert done.returncode == BundleError.exit_code
    assert done.stdout == ""
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_bundle_that_writes_other_texts_is_told_apart(bundle_folder: Path) -> None:
    work = f"""{LOADED}
        sampler.manifest.seed_test.texts[1] += "!";
        return sampler.verify().catch((error) => error.message);
    """
    assert "row 1 of seed 7" in evaluated(work, {"bundle": str(bundle_folder)})


ANSWERS = """
    const { Sampler } = await import("./kvae/index.js");
    const { inFolder } = await import("./kvae/folder.js");
    const { KvaeError } = await import("./kvae/errors.js");
    const folder = inFolder(given.bundle);
    const answers = async (manifest) => {
        const read = async (name, most) =>
            name === "manifest.json" ? new TextEncoder().encode(manifest) : folder(name, most);
        try {
            const sampler = await Sampler.load(read);
            await sampler.verify();
            const codes = (await sampler.encode(["KAMITO", "NE"])).map((code) => Array.from(code));
            const drawn = (await sampler.drawCodes(1, 7)).map((code) => Array.from(code));
            const texts = await sampler.sample(3, 7);
            return { found: [texts, codes, drawn, await sampler.decode(codes)] };
        } catch (error) {
            const name = error instanceof KvaeError ? error.constructor.name : error.stack;
            return { error: name, message: error.message };
        }
    };
    const results = [];
    for (const manifest of given.manifests) results.push(await answers(manifest));
    return results;
"""
"""What a bundle gives with each of several manifests in the place of its own."""


def of_changed(bundle: Path, manifests: list[Any]) -> tuple[Any, list[Any]]:
    """What JavaScript makes of a bundle as it is, and of changed manifests whose sums are right."""
    own = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    texts = [manifest_text(manifest) for manifest in (own, *manifests)]
    expected, *found = evaluated(ANSWERS, {"bundle": str(bundle), "manifests": texts})
    assert "error" not in expected, expected
    return expected, found


def test_a_changed_manifest_whose_sum_is_right_is_refused_as_in_python(bundle_folder: Path) -> None:
    manifest = json.loads((bundle_folder / "manifest.json").read_text(encoding="utf-8"))
    _, found = of_changed(bundle_folder, [change(manifest) for change, _ in CHOSEN.values()])
    for (name, (_, message)), result in zip(CHOSEN.items(), found, strict=True):
        assert result.get("error") == "BundleError", (name, result)
        assert "\n" not in result["message"]
        assert len(result["message"]) < 1000
        field = re.match(r"[\w. ]+(?= must be (?!equal))|[\w. ]+ is missing", message)
        assert field is None or field[0] in result["message"] or "not JSON" in result["message"], (
            name,
            result,
        )


def check_random_changes(bundle: Path, count: int, seed: int) -> None:
    manifest, generator = (
        json.loads((bundle / "manifest.json").read_text(encoding="utf-8")),
        random.Random(seed),
    )
    expected, found = of_changed(bundle, [random_change(manifest, generator) for _ in range(count)])
    for result in found:
        assert result == expected or result["error"] in ("BundleError", "CheckFailed"), result


def test_changes_at_random_are_refused_by_javascript_or_change_nothing(bundle_folder: Path) -> None:
    check_random_changes(bundle_folder, 40, 0)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 11))
def test_hundreds_of_changes_at_random_are_refused_by_javascript_or_change_nothing(
    bundle_folder: Path, seed: int
) -> None:
    check_random_changes(bundle_folder, 200, seed)


def test_javascript_reads_no_more_of_a_file_than_it_can_need(copy: Path) -> None:
    os.truncate(copy / "manifest.json", 2**40)  # a hole of a terabyte
    assert "more than 16777216 bytes" in node("node.mjs", str(copy)).stderr
    for nested in ("[" * 10**6, '{"format":' * 10**6, "[" * 10**6 + "]" * 10**6):
        (copy / "manifest.json").write_text(nested)
        done = node("node.mjs", str(copy))
        assert done.returncode == BundleError.exit_code
        assert len(done.stderr.splitlines()) == 1


def test_a_server_that_sends_more_than_a_manifest_can_be_is_left(bundle_folder: Path) -> None:
    work = """
        const { createServer } = await import("node:http");
        const { atUrl, Sampler } = await import("./kvae/index.js");
        let sent = 0;
        const server = createServer(async (request, response) => {
            while (!response.destroyed) {
                sent += 2 ** 20;
                if (!response.write(" ".repeat(2 ** 20))) {
                    const next = (event) => new Promise((go) => response.once(event, go));
                    await Promise.race(["drain", "close"].map(next));
                }
            }
        });
        await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
        const { port } = server.address();
        const loaded = Sampler.load(atUrl(`http://127.0.0.1:${port}/`));
        const message = await loaded.catch((error) => error.message);
        server.closeAllConnections();
        server.close();
        return { message, sent };
    """
    found = evaluated(work, {})
    assert "more than 16777216 bytes" in found["message"]
    assert found["sent"] < 2**27


@pytest.mark.parametrize(
    ("tokenizer", "good", "bad"),
    [
        ("char", ["a", "\n", " ", "é", "🙂"], ["", "ab", "e\u0301", "\ud800", 1, None, ["a"]]),
        ("byte", ["\0", "a", "\xff", "\n"], ["", "\u0100", "ab"]),
        (
            "word",
            ["a", "\n", "a-b", "日本"],
            ["", " ", "a b", "a\n", "\t", "a\u3000b", "\n\n", "\udfff"],
        ),
        ("wordpiece", ["a", "##b", "\n", "a\u00a0b"], ["", "a b", "##\n", "a\ud800"]),
    ],
)
def test_a_symbol_of_javascript_is_what_its_tokenizer_makes(
    tokenizer: str, good: list[str], bad: list[Any]
) -> None:
    data = Alphabet(tuple(good), tokenizer).to_dict()
    others = [{**data, "symbols": [*good, symbol]} for symbol in [*bad, good[0]]]
    work = """
        const { vocabularyFault } = await import("./kvae/alphabet.js");
        return given.map((vocabulary) => vocabularyFault(vocabulary) ?? null);
    """
    right, *wrong = evaluated(work, [data, *others])
    assert right is None
    assert all(f"symbols[{len(good)}] must" in fault for fault in wrong), wrong


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        (["--seed", "-1"], ConfigError, "argument is ambiguous"),
        (["--seed", "x"], ConfigError, "seed must be a whole number"),
        (["--seed", str(2**63)], ConfigError, "seed must be a whole number"),
        (["-n", "1.5"], ConfigError, "n must be a whole number"),
        (["--temperature", "0"], ConfigError, "temperature must be a number from 0.001"),
        (["--greedy", "--top-k", "3"], ConfigError, "give it alone"),
        (["--steps", "3"], ConfigError, "'steps' is unknown"),
        (["--attribute", "x"], ConfigError, "trained without labels"),
        (["sing"], ConfigError, "'sing' is unknown"),
        (["encode", "KA?"], DataError, '"?" 1'),
        (["score", "KA?", "--unknown", "refuse"], DataError, '"?" 1'),
        (["score", "KA", "--samples", "0"], ConfigError, "samples must be a whole number"),
        (["encode", "KA" * 20], DataError, "has 40 characters, the model takes at most 15"),
    ],
)
def test_what_makes_no_sense_is_refused_as_in_python(
    bundle_folder: Path, arguments: list[str], error: type[Exception], reason: str
) -> None:
    done = node("node.mjs", str(bundle_folder), *arguments)
    assert (done.returncode, done.stdout) == (error.exit_code, "")  # type: ignore[attr-defined]
    assert reason in done.stderr


def test_a_language_model_has_no_codes_of_texts(language_model: Path) -> None:
    done = node("node.mjs", str(language_model), "encode", "a cat")
    assert done.returncode == ConfigError.exit_code
    assert "language model" in done.stderr


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture
def page_of() -> Iterator[Callable[[Path], str]]:
    """The address of the page for a bundle, from the example's own server."""
    servers: list[subprocess.Popen[str]] = []

    def serve(path: Path) -> str:
        command = [str(NODE), "serve.mjs", str(path), "--port", "0"]
        servers.append(subprocess.Popen(command, cwd=EXAMPLES, stdout=subprocess.PIPE, text=True))
        assert servers[-1].stdout
        return servers[-1].stdout.readline().strip()

    yield serve
    for server in servers:
        server.terminate()
        server.communicate()


def driven(page: str, *actions: tuple[Any, ...]) -> list[dict[str, Any]]:
    """What the page shows after it was opened, and after each action."""
    done = subprocess.run(
        [str(NODE), "drive.mjs", page],
        cwd=EXAMPLES,
        env={**os.environ, "KVAE_CHROMIUM": str(CHROMIUM)},
        input=json.dumps(actions),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    observed: list[dict[str, Any]] = json.loads(done.stdout)
    return observed


@in_a_browser
@pytest.mark.parametrize("bundle", ["bundle_folder", REAL_SIZE, "language_model"], indirect=True)
def test_the_page_shows_the_text_of_a_seed(bundle: Path, page_of: Callable[[Path], str]) -> None:
    actions = [
        action
        for seed in SEEDS
        for action in (("fill", "seed", seed), *(("fill", "temperature", t) for t in (1, 0)))
    ]
    opened, *observed = driven(page_of(bundle), *actions)
    assert opened["problem"] == ""
    assert "same texts as where it was made" in opened["model"]
    sampler = Sampler.load(bundle)
    for number, seed in enumerate(SEEDS):
        greedy = sampler.sample(1, seed, greedy=True)[0]
        texts = [shown["text"] for shown in observed[3 * number : 3 * number + 3]]
        assert texts == [greedy, sampler.sample(1, seed)[0], greedy]
    assert all(address.startswith(opened["origin"]) for address in observed[-1]["addresses"])


@in_a_browser
@pytest.mark.parametrize("bundle", ["bundle_folder", REAL_SIZE, "labelled_bytes"], indirect=True)
def test_a_slider_moves_the_code_and_the_text_follows(
    bundle: Path, page_of: Callable[[Path], str]
) -> None:
    positions = [("drag", number, place) for number in (0, 1, 2) for place in (4, -4)]
    opened, *observed = driven(page_of(bundle), *positions)
    assert len(opened["sliders"]) == min(8, Sampler.load(bundle).latent_size)
    assert len({shown["text"] for shown in [opened, *observed]}) > 1
    for shown, (_, number, place) in zip(observed, positions, strict=True):
        assert float(shown["sliders"][number]) == pytest.approx(place, abs=0.01)
        assert shown["text"] == said_by_python(shown["python"], bundle)


def said_by_python(code: str, bundle: Path) -> str:
    """The text that the code shown on the page gives."""
    *lines, last = code.replace('"bundle"', repr(str(bundle))).splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    (text,) = eval(last, names)
    return str(text)


@in_a_browser
def test_the_page_starts_from_a_text_and_goes_towards_another(
    bundle_folder: Path, page_of: Callable[[Path], str]
) -> None:
    _, _, encoded, _, _, half, arrived, _, refused, random = driven(
        page_of(bundle_folder),
        ("fill", "own", "KAMITO"),
        ("press", "encode"),
        ("fill", "goal", "RUNENE"),
        ("press", "set"),
        ("fill", "way", 0.5),
        ("fill", "way", 1),
        ("fill", "own", "KA?"),
        ("press", "encode"),
        ("press", "random"),
    )
    sampler = Sampler.load(bundle_folder)
    assert (
        encoded["text"]
        == sampler.reconstruct("KAMITO")[0]
        == said_by_python(encoded["python"], bundle_folder)
    )
    assert half["text"] == sampler.interpolate("KAMITO", "RUNENE", steps=3)[1]
    assert arrived["text"] == sampler.reconstruct("RUNENE")[0]
    assert '"?" 1' in refused["problem"]
    assert refused["usable"]
    assert random["problem"] == ""
    assert random["text"] == said_by_python(random["python"], bundle_folder)


@in_a_browser
def test_the_page_writes_for_a_label(labelled_bytes: Path, page_of: Callable[[Path], str]) -> None:
    *_, shown = driven(
        page_of(labelled_bytes), ("fill", "seed", 3), ("choose", "attribute", "long")
    )
    assert (
        shown["text"]
        == Sampler.load(labelled_bytes).sample(1, seed=3, greedy=True, attribute="long")[0]
    )


@in_a_browser
@pytest.mark.parametrize("damage", ["no manifest", "flipped byte"])
def test_the_page_says_what_is_wrong_with_a_bundle(
    copy: Path, damage: str, page_of: Callable[[Path], str]
) -> None:
    DAMAGES[damage][0](copy)
    (shown,) = driven(page_of(copy))
    assert not shown["usable"]
    assert {
        "no manifest": "manifest.json: is missing (404)",
        "flipped byte": "sampler.onnx: damaged",
    }[damage] in shown["problem"]


def test_the_server_gives_the_page_and_the_bundle_and_nothing_else(
    bundle_folder: Path, page_of: Callable[[Path], str]
) -> None:
    root = page_of(bundle_folder).removesuffix("web/")
    assert (
        urlopen(f"{root}bundle/manifest.json").read()
        == (bundle_folder / "manifest.json").read_bytes()
    )
    for path in (
        "node.mjs",
        "package.json",
        "bundle/../node.mjs",
        "bundle/%2e%2e/config.json",
        "bundle/map.json",
        "kvae/",
        "%00",
        "%",
    ):
        with pytest.raises(HTTPError, match=r"40[04]"):
            urlopen(root + path)


@in_a_browser
def test_the_page_runs_from_any_web_server(bundle_folder: Path, tmp_path: Path) -> None:
    assert node("serve.mjs", str(bundle_folder), "--write", str(tmp_path / "site")).returncode == 0
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        (shown,) = driven(f"http://localhost:{server.server_port}/site/web/")
        server.shutdown()
    assert shown["text"] == Sampler.load(bundle_folder).sample(1, seed=0, greedy=True)[0]
