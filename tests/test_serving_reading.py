"""What a Sampler does besides sampling: streams, scores, walks in latent space, and cancelling."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.serving import (
    Cancellation,
    Cancelled,
    ConfigError,
    DataError,
    DeadlineError,
    Sampler,
    seed_test,
    verification,
)
from kvae.serving.alphabet import Alphabet
from kvae.serving.manifest import ALL_ENDPOINTS
from kvae.serving.sampler import CHUNK
from kvae.serving.walks import PATHS

TEXTS = ["KAMITO", "RUNEKA", "MI", "NENENE"]


@pytest.mark.parametrize(
    "options", [{}, {"greedy": True}, {"temperature": 0.7, "top_k": 3}, {"max_length": 4}]
)
def test_the_pieces_of_a_stream_are_the_sampled_text(
    sampler: Sampler, options: dict[str, Any]
) -> None:
    for row in range(12):
        pieces = list(sampler.stream(seed=3, row=row, **options))
        assert "".join(pieces) == sampler.sample(1, seed=3, first_row=row, **options)[0]
        assert "" not in pieces


def test_a_stream_comes_symbol_by_symbol(sampler: Sampler) -> None:
    text = sampler.sample(1, seed=0, min_length=8)[0]
    assert len(list(sampler.stream(seed=0, min_length=8))) == len(text) >= 8


def test_rows_of_many_seeds_are_written_together(sampler: Sampler) -> None:
    seeds, rows = [5, 5, 9, 2**40], [0, 3, 1, 7]
    together = sampler.generate_rows(seeds, rows, temperature=0.8)
    alone = [
        sampler.generate(1, seed, first_row=row, temperature=0.8)[0]
        for seed, row in zip(seeds, rows, strict=True)
    ]
    assert together == alone
    with pytest.raises(ConfigError, match="equally many, got 1 and 2"):
        sampler.generate_rows([1], [1, 2])


def test_no_text_is_shorter_than_the_least_length(sampler: Sampler) -> None:
    assert min(map(len, sampler.sample(60, seed=0))) < 9
    assert min(map(len, sampler.sample(60, seed=0, min_length=9))) >= 9
    with pytest.raises(ConfigError, match="min_length must be a whole number from 0 to 5"):
        sampler.sample(1, min_length=6, max_length=5)


def test_iterating_gives_the_same_texts_one_after_the_other(sampler: Sampler) -> None:
    samples = sampler.iterate(10**6, seed=4)
    assert [next(samples) for _ in range(5)] == sampler.generate(5, seed=4)


def test_a_score_is_the_bound_of_keras(sampler: Sampler, run_folder: Path) -> None:
    from kvae.runs import load_run
    from kvae.serving.random_numbers import normals

    trained = load_run(run_folder)
    tokens = trained.alphabet.encode(TEXTS, 16)
    noise = np.repeat(normals(9, np.array([0]), 4), len(TEXTS), axis=0)
    outputs = trained.model.parts.outputs(tokens, noise, training=False)
    terms = trained.model.loss_terms(tokens, outputs)
    for place, score in enumerate(sampler.score(TEXTS, seed=9)):
        assert score.text == TEXTS[place]
        assert score.reconstruction == pytest.approx(
            float(terms["reconstruction"][place]), abs=1e-3
        )
        assert score.kl == pytest.approx(float(terms["kl"][place]), abs=1e-3)
        assert score.bound == score.reconstruction + score.kl
        assert sum(score.nats) == pytest.approx(score.reconstruction, abs=1e-3)
        assert len(score.nats) == len(score.text) + 1
        assert score.bits_per_character == pytest.approx(
            score.bound / (len(score.text) + 1) / np.log(2)
        )


def test_a_score_does_not_depend_on_the_texts_beside_it(sampler: Sampler) -> None:
    assert sampler.score(TEXTS)[2] == sampler.score([TEXTS[2]])[0]
    assert sampler.score([]) == []


def test_texts_of_similar_length_are_scored_together_in_the_order_of_the_input(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list("KAMITO"), n)) for n in generator.integers(1, 16, 300)]
    lengths: list[np.ndarray] = []
    score_tokens = sampler.score_tokens

    def recorded(tokens: np.ndarray, *arguments: Any) -> list[np.ndarray]:
        lengths.append(np.count_nonzero(tokens, axis=1))
        return score_tokens(tokens, *arguments)

    monkeypatch.setattr(sampler, "score_tokens", recorded)
    found = sampler.score(texts)
    assert [score.text for score in found] == texts
    assert [len(batch) for batch in lengths] == [128, 128, 44]
    everything = np.concatenate(lengths)
    assert (everything[1:] <= everything[:-1]).all()
    for place in (0, 150, 299):
        (alone,) = sampler.score([texts[place]])
        assert found[place].bound == pytest.approx(alone.bound, rel=1e-6)
        assert len(found[place].nats) == len(texts[place]) + 1


def test_more_samples_average_the_bound(sampler: Sampler) -> None:
    each = [sampler.score("KAMITO", seed=seed)[0].bound for seed in range(40)]
    many = sampler.score("KAMITO", samples=200)[0].bound
    assert abs(np.mean(each) - many) < 4 * np.std(each) / np.sqrt(40) + 1e-6


def test_what_the_model_never_saw_is_surprising(sampler: Sampler) -> None:
    seen, unseen = sampler.score(["KAMITO", "KAMIT%"])
    assert seen.bound < unseen.bound
    assert int(np.argmax(unseen.nats)) == 5


def test_a_text_too_long_is_refused_or_cut(sampler: Sampler) -> None:
    with pytest.raises(DataError, match="text 0 has 18 characters"):
        sampler.score(["KAMITO" * 3])
    (score,) = sampler.score(["KAMITO" * 3], too_long="cut")
    assert len(score.nats) == 16


def test_the_arc_goes_through_codes_of_the_same_length(sampler: Sampler) -> None:
    start, stop = np.array([3.0, 0.0]), np.array([0.0, 3.0])
    along = np.linspace(0, 1, 5)[:, None]
    np.testing.assert_allclose(np.linalg.norm(PATHS["spherical"](start, stop, along), axis=1), 3.0)
    np.testing.assert_allclose(
        PATHS["spherical"](start, start, along), np.repeat(start[None], 5, axis=0)
    )
    np.testing.assert_allclose(PATHS["linear"](start, stop, along)[2], [1.5, 1.5])
    line, arc = (
        sampler.interpolate("KAMITO", "NENENE", path=path) for path in ("linear", "spherical")
    )
    assert (line[0], line[-1]) == (arc[0], arc[-1])
    with pytest.raises(ConfigError, match="path must be 'linear' or 'spherical', got 'round'"):
        sampler.interpolate("KA", "MI", path="round")  # type: ignore[arg-type]


def test_variations_stay_near_at_scale_0_and_repeat_at_a_seed(sampler: Sampler) -> None:
    assert set(sampler.variations("KAMITO", 5, scale=0.0)) == set(sampler.reconstruct("KAMITO"))
    assert sampler.variations("KAMITO", 20, seed=1) == sampler.variations("KAMITO", 20, seed=1)
    assert len(set(sampler.variations("KAMITO", 20, scale=5.0))) > 5


def test_the_nearest_neighbour_of_a_text_is_itself(sampler: Sampler) -> None:
    found = sampler.neighbours("KAMITO", [*TEXTS[1:], "KAMITO", "KAMINE"], n=3)
    assert found[0] == ("KAMITO", pytest.approx(0.0, abs=1e-5))
    assert [distance for _, distance in found] == sorted(distance for _, distance in found)
    assert len(found) == 3


def test_arithmetic_adds_and_subtracts_codes(sampler: Sampler) -> None:
    assert sampler.arithmetic(["KAMITO", "RUNEKA"], ["RUNEKA"]) == sampler.reconstruct("KAMITO")[0]
    with pytest.raises(ConfigError, match="plus must hold at least one text"):
        sampler.arithmetic([])


SLOW: dict[str, Callable[..., Any]] = {
    "sample": lambda s, **limits: s.sample(200_000, seed=0, **limits),
    "score": lambda s, **limits: s.score(["KAMITO"] * 200_000, **limits),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_call_ends_at_its_deadline(sampler: Sampler, name: str) -> None:
    started = time.perf_counter()
    with pytest.raises(DeadlineError, match=r"deadline: not done in 0\.1 seconds"):
        SLOW[name](sampler, deadline=0.1)
    assert time.perf_counter() - started < 30
    assert sampler.sample(3, seed=0) == sampler.sample(3, seed=0)


def test_a_stream_ends_at_its_deadline(sampler: Sampler) -> None:
    stream = sampler.stream(seed=0, min_length=16, deadline=0.2)
    next(stream)
    time.sleep(0.5)
    with pytest.raises(DeadlineError):
        list(stream)


def test_a_call_is_cancelled_from_another_thread(sampler: Sampler) -> None:
    cancellation = Cancellation()
    threading.Timer(0.1, cancellation.cancel).start()
    with pytest.raises(Cancelled):
        SLOW["sample"](sampler, cancel=cancellation)
    with pytest.raises(Cancelled):
        sampler.sample(1, cancel=cancellation)


def test_a_deadline_that_is_met_changes_nothing(sampler: Sampler) -> None:
    assert sampler.sample(5, seed=0, deadline=60) == sampler.sample(5, seed=0)
    for wrong in (0, -1, "soon", float("nan")):
        with pytest.raises(ConfigError, match="deadline must be"):
            sampler.sample(1, deadline=wrong)


def test_graphs_start_when_they_are_needed(bundle_folder: Path) -> None:
    sampler = Sampler.load(bundle_folder)
    assert list(sampler._sessions) == ["sampler"]
    sampler.encode("KAMI")
    assert list(sampler._sessions) == ["sampler", "encoder"]
    assert set(Sampler.load(bundle_folder, endpoints=ALL_ENDPOINTS)._sessions) == set(ALL_ENDPOINTS)
    with pytest.raises(ConfigError, match="endpoints must be 'sampler' or"):
        Sampler.load(bundle_folder, endpoints=["decoder"])


def test_work_in_python_ends_at_the_deadline_too(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow work outside onnxruntime is reading texts; it is made to wait until time is up."""
    texts, read = ["KAMITO"] * 1000, []

    def slow(self: Alphabet, text: str, *others: int) -> list[int]:
        read.append(text)
        time.sleep(0.02)
        return row(self, text, *others)

    row = Alphabet.row
    monkeypatch.setattr(Alphabet, "row", slow)
    for call in (
        sampler.encode,
        sampler.score,
        sampler.reconstruct,
        lambda t, **given: sampler.neighbours("KA", t, **given),
    ):
        read.clear()
        with pytest.raises(DeadlineError, match=r"not done in 0\.1 seconds"):
            call(texts, deadline=0.1)
        assert len(read) < len(texts)


DRAWN: dict[str, Callable[..., Any]] = {
    "draw_codes": lambda s, n, **limits: s.draw_codes(n, seed=0, **limits),
    "variations": lambda s, n, **limits: s.variations("KAMITO", n, **limits),
    "interpolate": lambda s, n, **limits: s.interpolate("KAMITO", "NENENE", n, **limits),
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_is_drawn_in_pieces_that_do_not_show_and_end_at_the_deadline(
    sampler: Sampler, name: str
) -> None:
    rows: list[int] = []
    run = sampler._run

    def counting(endpoint: str, *arguments: Any, **inputs: Any) -> Any:
        rows.append(max(len(value) for value in inputs.values() if np.ndim(value)))
        return run(endpoint, *arguments, **inputs)

    sampler._run = counting  # type: ignore[method-assign]
    try:
        many = DRAWN[name](sampler, 2 * CHUNK + 3)
        assert len(many) == 2 * CHUNK + 3
        assert max(rows) <= CHUNK
        with pytest.raises(DeadlineError):
            DRAWN[name](sampler, 100_000, deadline=0.05)
    finally:
        del sampler._run  # type: ignore[method-assign]
    if name == "draw_codes":
        np.testing.assert_array_equal(
            many[CHUNK:], sampler.draw_codes(CHUNK + 3, seed=0, first_row=CHUNK)
        )
    if name == "variations":
        assert many[:5] == sampler.variations("KAMITO", 5)


def test_as_many_variations_as_steps_of_an_interpolation(sampler: Sampler) -> None:
    for call in (DRAWN["variations"], DRAWN["interpolate"]):
        with pytest.raises(
            ConfigError, match=r"must be a whole number from \d to 100000, got 1000000"
        ):
            call(sampler, 10**6, deadline=0.3)


def test_the_mean_over_codes_does_not_keep_them_and_does_not_depend_on_the_batch(
    sampler: Sampler,
) -> None:
    alone, beside = sampler.score(TEXTS[:1], samples=50), sampler.score(TEXTS, samples=50)
    assert alone[0] == beside[0]
    each = [
        sampler.score_tokens(sampler._tokens(TEXTS, "refuse"), [0] * len(TEXTS), [row] * len(TEXTS))
        for row in range(50)
    ]
    np.testing.assert_allclose(
        [score.kl for score in beside], np.mean([kl for _, kl, _ in each], axis=0), rtol=1e-6
    )


@pytest.mark.parametrize("wrong", [True, 1, "yes"])
def test_cancel_wants_a_cancellation(sampler: Sampler, wrong: Any) -> None:
    for call in (sampler.sample, lambda n, **given: list(sampler.stream(n, **given))):
        with pytest.raises(ConfigError, match="cancel must be a Cancellation"):
            call(1, cancel=wrong)


def test_a_seed_test_that_does_not_end_is_ended(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def too_slow(self: Sampler, *arguments: Any, **named: Any) -> list[str]:
        given.update(named)
        raise DeadlineError("deadline: not done in time")

    monkeypatch.setattr(Sampler, "sample", too_slow)
    with pytest.raises(DeadlineError):
        verification.verify(bundle_folder)
    assert given["deadline"] == seed_test.SEED_TEST_SECONDS
