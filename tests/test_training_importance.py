"""The importance-weighted bound of an evaluation, and runs that train with several codes a text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

from kvae.cli import main
from kvae.presets import preset
from kvae.runs import load_run
from kvae.serving.sampler import Sampler
from kvae.training import callbacks, importance, messages
from kvae.training.alarm import UNUSED, remedies
from kvae.training.evaluation import collect, evaluate
from kvae.training.experiment import resume, run
from kvae.training.importance import LogSums, importance_weighted

from .conftest import random_tokens, small_model
from .test_training_resume import interrupted as interrupted
from .test_training_resume import largest_difference


@pytest.mark.parametrize("codes", [1, 2, 7, 1000])
def test_added_up_in_pieces_weights_give_the_sum_of_all(codes: int) -> None:
    """Also where the weights themselves would underflow."""
    generator = np.random.default_rng(0)
    log_weights = generator.normal(-3000.0, 30.0, size=(codes, 20))
    sums = LogSums(20)
    for piece in np.array_split(log_weights, max(1, codes // 13)):
        sums.add(piece)
    found = sums.bound()
    expected = np.log(codes) - logsumexp(log_weights, axis=0)
    np.testing.assert_allclose(found.nats, expected, rtol=1e-12)
    if codes == 1:
        assert found.with_half is None
        return
    halves = [log_weights[half::2] for half in range(2)]
    of_halves = [np.log(len(half)) - logsumexp(half, axis=0) for half in halves]
    np.testing.assert_allclose(found.with_half, np.mean(of_halves, axis=0), rtol=1e-12)
    assert sums.sums.shape == (2, 20), "two numbers a text are kept"


def test_the_standard_error_is_that_of_the_mean_and_the_bias_is_what_is_left() -> None:
    """Weights are log-normal with mean 1, so that -log of the true mean is 0."""
    generator, texts, codes = np.random.default_rng(0), 4000, 64
    sums = LogSums(texts)
    sums.add(generator.normal(-0.5, 1.0, size=(codes, texts)))
    found = sums.bound().numbers(codes)
    nats, error = found["importance_weighted_nll"], found["importance_weighted_error"]
    assert error == pytest.approx(np.sqrt((np.e - 1) / codes / texts), rel=0.1)
    assert nats == pytest.approx((np.e - 1) / 2 / codes, abs=4 * error)  # Nowozin 2018
    assert found["importance_weighted_bias"] == pytest.approx(nats, rel=0.15)
    assert found["importance_samples"] == codes


def test_one_text_has_no_standard_error_and_one_code_no_estimate_of_the_bias() -> None:
    sums = LogSums(1)
    sums.add(np.zeros((1, 1)))
    assert sums.bound().numbers(1) == {"importance_weighted_nll": 0.0, "importance_samples": 1}


@pytest.mark.both
@pytest.mark.parametrize("attributes", [pytest.param((), marks=pytest.mark.slow), ("low", "high")])
def test_the_bound_is_that_of_all_weights_at_once(attributes: tuple[str, ...]) -> None:
    """They are collected code by code, with an encoder that reads the texts each time."""
    model, rows, codes = small_model(attributes=attributes), random_tokens(11), 19
    labels = np.arange(11, dtype=np.int32) % 3 - 1 if attributes else None
    log_weights = []
    for code in range(codes):
        terms = collect(model, rows, 8, seed=4 + 1 + code, attribute=labels)
        nats = terms["reconstruction"] + terms["log_ratio"] + terms.get("attribute_kl", 0.0)
        log_weights.append(-nats.astype(np.float64))
    found = importance_weighted(model, rows, codes, batch_size=8, seed=4, attribute=labels)
    expected = np.log(codes) - logsumexp(log_weights, axis=0)
    np.testing.assert_allclose(found.nats, expected, rtol=1e-5)


@pytest.mark.slow
def test_thousands_of_codes_are_decoded_a_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows, shapes = small_model(), random_tokens(6), []
    compiled = importance.compiled_log_weights(model)

    def recorded(tokens: Any, noise: Any, labels: Any) -> Any:
        shapes.append((len(tokens), len(noise)))
        return compiled(tokens, noise, labels)

    monkeypatch.setattr(importance, "compiled_log_weights", lambda model: recorded)
    few, many = (importance_weighted(model, rows, codes, 32) for codes in (1, 1008))
    assert max(rows for _, rows in shapes) == 32
    assert sum(rows for _, rows in shapes) == 6 * 1009
    assert max(texts for texts, rows in shapes if texts < rows) == 32 // importance.CODES_TOGETHER
    assert many.nats.mean() < few.nats.mean()


def test_long_work_says_how_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = iter([0.0, 10.0, 31.0, 40.0, 62.0]), []
    monkeypatch.setattr(messages.time, "monotonic", lambda: next(clock))
    pace = messages.Pace(said.append, "codes", 4000)
    for done in (500, 1000, 1500, 2000):
        pace.done(done)
    assert said == [
        "1,000 of 4,000 codes, 1.6 minutes left",
        "2,000 of 4,000 codes, 1.0 minutes left",
    ]


def test_an_evaluation_takes_as_many_codes_as_training_did() -> None:
    model, rows = small_model({"importance_samples": 3}), random_tokens(30)
    found = evaluate(model, rows)
    assert found["importance_samples"] == 3
    assert found["importance_weighted_nll"] < found["elbo"]
    assert found == evaluate(model, rows, importance_samples=3)
    assert "importance_weighted_nll" not in evaluate(model, rows, importance_samples=0)
    assert "importance_weighted_nll" not in evaluate(small_model(), rows)


def test_early_stopping_watches_the_bound_that_training_minimises(tmp_path: Path) -> None:
    model = small_model({"importance_samples": 3, "ramp_steps": 0})
    stop = callbacks.EarlyStop(1, tmp_path / "best", lambda sentence: None)
    stop.set_model(model)
    stop.on_epoch_end(0, {"val_elbo": 9.0, "val_importance_weighted_nll": 8.0})
    stop.on_epoch_end(1, {"val_elbo": 9.5, "val_importance_weighted_nll": 7.0})
    assert (stop.best, stop.waited) == (7.0, 0)
    stop.on_epoch_end(2, {"val_elbo": 8.5, "val_importance_weighted_nll": 7.5})
    assert stop.waited == 1


def test_no_remedy_is_a_penalty_that_several_codes_do_not_go_with() -> None:
    def penalties(codes: int) -> list[Any]:
        config = preset("lstm-vae-ptb-small").with_settings({"objective.importance_samples": codes})
        found = remedies(config.model, config.objective, UNUSED)
        offered = [remedy.settings for remedy in found]
        return [settings for settings in offered if "objective.penalty" in settings]

    assert penalties(1)
    assert not penalties(5)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["standard", "doubly_reparameterized"])
def test_a_run_with_several_codes_is_resumed_measured_and_exported(
    tmp_path: Path,
    shared_settings: dict[str, Any],
    interrupted: Any,
    gradient: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = preset("hybrid-lstm").with_settings(
        {
            **shared_settings,
            "objective.importance_samples": 5,
            "objective.importance_gradient": gradient,
            **({} if gradient == "standard" else {"model.expander": "repeat"}),
        }
    )
    said: list[str] = []
    run(config, tmp_path / "whole", said.append)
    interrupted(3)
    run(config, tmp_path / "broken", said.append)
    interrupted(0)
    trained, _ = resume(config, tmp_path / "broken", said.append)
    assert largest_difference(tmp_path / "whole", tmp_path / "broken") <= 1e-6
    lines = [json.loads(line) for line in (trained.path / "metrics.jsonl").open()]
    assert lines[-1]["importance_weighted_nll"] < lines[0]["importance_weighted_nll"]
    assert lines[-1]["val_importance_weighted_nll"] < lines[-1]["val_elbo"]
    stored = load_run(trained.path).evaluation
    assert stored["importance_samples"] == 5
    capsys.readouterr()
    main(["evaluate", str(trained.path), "--json", "--texts", "0", "--samples", "0"])
    printed = json.loads(capsys.readouterr().out)
    for name in ("importance_weighted_nll", "importance_weighted_error", "importance_samples"):
        assert printed[name] == pytest.approx(stored[name], rel=1e-5)
    assert main(["export", str(trained.path), str(tmp_path / "bundle")]) == 0
    assert len(Sampler.load(tmp_path / "bundle").sample(3, seed=0)) == 3
