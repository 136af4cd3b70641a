"""Plain graphs write the texts of the sampler; beam search and constraints are what they say."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.configuration import Config
from kvae.export.bundle import write_bundle
from kvae.serving import BundleError, ConfigError, Sampler
from kvae.serving.alphabet import END, PAD, Alphabet
from kvae.serving.choices import choices
from kvae.serving.constraints import constraint_of
from kvae.serving.host_decoding import best
from kvae.serving.random_numbers import normals, uniforms

from .conftest import small_model

CODES = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    """A sampler of an untrained model of five letters, whose texts end at any length."""
    model = small_model(length=8)
    path = tmp_path_factory.mktemp("plain") / "bundle"
    config = Config(model=model.model_config)
    write_bundle(model, Alphabet(tuple("abcde")), config, path)
    return Sampler.load(path)


@pytest.fixture(scope="module")
def plain(sampler: Sampler) -> Sampler:
    return Sampler.load(sampler.bundle.path, plain=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"greedy": True},
        {"temperature": 0.5, "top_k": 3},
        {"top_p": 0.7, "min_length": 2, "max_length": 4},
    ],
)
def test_plain_graphs_write_the_same_texts(
    sampler: Sampler, plain: Sampler, options: dict[str, Any]
) -> None:
    found, expected = (
        plain.generate(50, 2**40 + 3, **options),
        sampler.generate(50, 2**40 + 3, **options),
    )
    assert [item.text for item in found] == [item.text for item in expected]
    assert np.allclose(
        [item.log_probability for item in found],
        [item.log_probability for item in expected],
        rtol=1e-6,
    )
    assert "sampler" not in plain._sessions
    assert list(plain.stream(7, **options)) == list(sampler.stream(7, **options))


def test_uniform_numbers_of_the_host_have_any_seed_and_row() -> None:
    seeds, rows = np.array([0, 2**63 - 1, 5]), np.array([2**32 - 1, 0, 7])
    numbers = uniforms(seeds, rows, 9)
    assert numbers.dtype == np.float32
    assert ((numbers >= 0) & (numbers < 1)).all()
    for place in range(3):
        alone = uniforms(int(seeds[place]), rows[place : place + 1], 9)
        assert (numbers[place] == alone[0]).all()
        assert (
            normals(seeds, rows, 4)[place]
            == normals(int(seeds[place]), rows[place : place + 1], 4)[0]
        ).all()


def all_texts(sampler: Sampler, code: np.ndarray) -> dict[str, float]:
    """The log-probability of every text of at most three tokens, end mark included, that decoding
    may find: a finished text, or three letters."""
    found: dict[str, float] = {}
    for length in range(4):
        for letters in itertools.product("abcde", repeat=length):
            text = "".join(letters)
            if length == 0:
                continue
            wanted = [*letters, ""] if length < 3 else [*letters]

            def next_of(before: str, wanted: list[str] = wanted) -> list[str]:
                return [wanted[len(before)]]

            start = sampler._run("expand", z=code[None])
            found[text] = forced_log_probability(sampler, start, wanted)
    return found


def forced_log_probability(sampler: Sampler, start: list[np.ndarray], wanted: list[str]) -> float:
    """log p of some tokens in nats, "" being END, by the plain step."""
    from kvae.serving.alphabet import START
    from kvae.serving.logit_masks import logit_mask

    projected, *states = start
    step = sampler.plain_step(choices(sampler.manifest, greedy=True))
    previous, total = np.array([START]), 0.0
    for position, token in enumerate(wanted):
        mask = logit_mask(len(sampler.alphabet), end=position >= 1)[None]
        _, _, logits, states = step(
            projected[:, position], previous, states, np.zeros(1, np.float32), mask
        )
        number = END if token == "" else sampler.alphabet.id_of(token)
        shifted = logits[0].astype(float) - logits.max()
        total += shifted[number] - np.log(np.exp(shifted).sum())
        previous = np.array([number])
    return total


def test_a_wide_beam_finds_the_most_probable_text_of_all(sampler: Sampler) -> None:
    for code in CODES[:4]:
        known = all_texts(sampler, code)
        most_probable = max(known, key=known.__getitem__)
        assert sampler.decode(code[None], beam=128, max_length=3) == [most_probable]


def test_a_beam_of_one_is_greedy(sampler: Sampler) -> None:
    assert sampler.decode(CODES, beam=1) == sampler.decode(CODES)


def test_a_beam_finds_texts_at_least_as_probable(sampler: Sampler) -> None:
    chosen = choices(sampler.manifest, greedy=True)
    place = (np.zeros(len(CODES), int), np.arange(len(CODES)))
    _, greedy = sampler.write_ids(CODES, *place, chosen)
    search = sampler._search(beam=8)
    assert search is not None
    ids, found = sampler.search_ids(CODES, *place, chosen, search)
    assert (found >= greedy - 1e-4).mean() > 0.9  # a beam may lose the greedy text, rarely
    assert found.mean() > greedy.mean()
    for row in ids:
        after_end = np.flatnonzero(row == END)
        assert not after_end.size or (row[after_end[0] + 1 :] == PAD).all()


def test_reconstructions_and_walks_take_a_beam(sampler: Sampler) -> None:
    texts = ["abc", "de"]
    assert sampler.reconstruct(texts, beam=4) == sampler.decode(sampler.encode(texts), beam=4)
    assert sampler.interpolate("abc", "de", 3, beam=4)[0] == sampler.reconstruct(["abc"], beam=4)[0]


def test_places_of_the_best_are_in_order() -> None:
    scores = np.array([[1.0, 5.0, 5.0, -np.inf, 2.0]])
    assert best(scores, 3).tolist() == [[1, 2, 4]]
    assert best(scores, 5).tolist() == [[1, 2, 4, 0, 3]]


def test_finished_texts_match_the_pattern(sampler: Sampler) -> None:
    pattern = "(ab|c)d{1,2}"
    samples = sampler.generate(60, 1, pattern=pattern)
    assert {item.text for item in samples} == {"abd", "abdd", "cd", "cdd"}
    assert all(item.finished for item in samples)
    assert sampler.sample(60, 1, pattern=pattern) == [item.text for item in samples]
    assert set(sampler.decode(CODES, beam=3, pattern=pattern)) <= {"abd", "abdd", "cd", "cdd"}


def test_a_constraint_that_allows_all_changes_nothing(sampler: Sampler) -> None:
    assert sampler.sample(40, 3, pattern="(?s).*") == sampler.sample(40, 3)
    assert sampler.sample(40, 3, allowed=list("abcde")) == sampler.sample(40, 3)


def test_tokens_that_are_allowed(sampler: Sampler) -> None:
    assert set("".join(sampler.sample(40, 3, allowed=["a", "b"]))) == {"a", "b"}
    turns = sampler.sample(40, 3, allowed=lambda text: ["a"] if len(text) % 2 == 0 else ["b", ""])
    assert set(turns) <= {"a", "aba", "ababa", "abababa", "abababab"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "(a"}, "pattern must be a regular expression, got '\\(a'"),
        ({"pattern": "a{9}"}, None),
        ({"pattern": "ax"}, "text 0: after 1 tokens the pattern or the list allows no token"),
        ({"allowed": ["a", "x"]}, "the model has no token 'x'"),
        ({"allowed": "abc"}, "allowed must be a list of tokens"),
    ],
)
def test_what_cannot_be_continued_is_an_error(
    sampler: Sampler, options: dict[str, Any], message: str | None
) -> None:
    if message is None:  # longer than the model: the text is cut, as any other
        (sample,) = sampler.generate(1, 0, **options)
        assert sample.text == "a" * 8
        assert not sample.finished
        return
    with pytest.raises(ConfigError, match=message):
        sampler.sample(2, 0, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam must be"),
        ({"beam": 129}, "beam must be"),
        ({"beam": 2, "temperature": 0.5}, "beam searches the most probable text: give it without"),
    ],
)
def test_beams_that_make_no_sense_are_refused(
    sampler: Sampler, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sampler.decode(CODES, **options)


def test_words_are_whole_in_a_pattern() -> None:
    alphabet = Alphabet(("c", "cat", "the"), "word")
    constraint = constraint_of(alphabet, "the cats?|the cat sat", None)
    assert constraint is not None
    the, cat, c = (alphabet.id_of(word) for word in ("the", "cat", "c"))
    allowed = constraint([the])
    assert allowed[cat]
    assert not allowed[c]
    assert not allowed[END]
    assert constraint([the, cat])[END]


def test_a_bundle_without_plain_graphs_says_so(tmp_path: Path) -> None:
    model = small_model(length=8)
    config = Config(model=model.model_config)
    manifest = write_bundle(
        model, Alphabet(tuple("abcde")), config, tmp_path / "bundle", with_plain=False
    )
    assert "step_plain" not in manifest["endpoints"]
    sampler = Sampler.load(tmp_path / "bundle")
    with pytest.raises(ConfigError, match="this bundle lacks; export the run again"):
        sampler.reconstruct(["abc"], beam=2)
    with pytest.raises(BundleError, match="has no sampler_plain; export the run again"):
        Sampler.load(tmp_path / "bundle", plain=True)
