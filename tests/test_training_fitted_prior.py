"""Priors fitted after training: the mixture, the model that holds it, and its bound."""

import hashlib
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax, logsumexp

from kvae.runs import EVALUATION, MODEL, REPORT, Run, load_run, write_json
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError
from kvae.training import gaussian_mixture
from kvae.training.data.prepare import held_out
from kvae.training.evaluation import collect, evaluate
from kvae.training.experiment import resume, save_model, stored_config
from kvae.training.fitted_prior import (
    RECORD,
    Fit,
    fit_prior,
    prior_log_prob,
    top_codes,
    warning_of,
    with_mixture,
    with_weights_of,
)
from kvae.training.gaussian_mixture import GaussianMixture, fit

from .conftest import everyday, numbers, random_tokens, small_model


def clusters(rows: int, seed: int = 0) -> np.ndarray:
    """Codes of three correlated clusters, with shares 1/2, 1/4 and 1/4."""
    generator = np.random.default_rng(seed)
    kind = generator.choice(3, rows, p=[0.5, 0.25, 0.25])
    centres = np.array([[0.0, 0.0], [4.0, 1.0], [-3.0, 3.0]])
    shapes = np.array(
        [[[1.0, 0.0], [0.9, 0.3]], [[0.5, 0.0], [0.0, 1.0]], [[0.3, 0.0], [0.2, 0.3]]]
    )
    noise = generator.normal(size=(rows, 2))
    return np.asarray(centres[kind] + np.einsum("nij,nj->ni", shapes[kind], noise))


def covariances(mixture: GaussianMixture) -> np.ndarray:
    return np.asarray(mixture.factors @ mixture.factors.transpose(0, 2, 1))


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_single_component_has_the_moments_of_the_codes(covariance: str) -> None:
    codes = clusters(500)
    mixture, densities = fit(codes, 1, covariance)
    expected = np.cov(codes.T, bias=True)
    if covariance == "diagonal":
        expected = np.diag(np.diag(expected))
    np.testing.assert_allclose(mixture.means[0], codes.mean(axis=0))
    np.testing.assert_allclose(covariances(mixture)[0], expected, rtol=1e-4, atol=1e-4)
    assert densities == pytest.approx([mixture.log_prob(codes).mean()])


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_no_iteration_lowers_the_likelihood(
    covariance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaussian_mixture, "TOLERANCE", 1e-9)
    _, densities = fit(clusters(2000), 5, covariance, seed=3)
    assert len(densities) > 10
    assert (np.diff(densities) > -1e-9).all()
    assert densities[-1] > densities[0]


def test_three_clusters_are_found() -> None:
    mixture, _ = fit(clusters(4000), 3, seed=0)
    order = np.argsort(mixture.means[:, 0])
    np.testing.assert_allclose(mixture.means[order], [[-3, 3], [0, 0], [4, 1]], atol=0.1)
    np.testing.assert_allclose(np.exp(mixture.log_weights[order]), [0.25, 0.5, 0.25], atol=0.03)
    np.testing.assert_allclose(covariances(mixture)[order[1]], [[1.0, 0.9], [0.9, 0.9]], atol=0.1)


def test_the_density_is_scipys() -> None:
    mixture, _ = fit(clusters(300), 2)
    codes = clusters(50, seed=1)
    each = [
        stats.multivariate_normal(mean, covariance).logpdf(codes)
        for mean, covariance in zip(mixture.means, covariances(mixture), strict=True)
    ]
    expected = logsumexp(np.stack(each, axis=1) + mixture.log_weights, axis=1)
    np.testing.assert_allclose(mixture.log_prob(codes), expected)


def test_components_without_codes_of_their_own_keep_a_density() -> None:
    """More components than different codes."""
    codes = np.repeat(clusters(3), 10, axis=0)
    mixture, _ = fit(codes, 6)
    assert np.isfinite(mixture.log_prob(codes)).all()


SYSTEMS: dict[str, dict[str, Any]] = {
    "vector": {},
    "one number": {"latent_size": 1},
    "map": {"latent": "map", "latent_size": 2, "expander": "repeat"},
    "ladder": {"latent_size": (4, 3)},
    "labels": {"attributes": ("low", "high")},
    "autoregressive": {
        "prior": "autoregressive",
        "prior_rate": 3.0,
        "latent": "map",
        "latent_size": 2,
        "expander": "repeat",
    },
    "vamp": {"prior": "vamp", "prior_components": 3},
}


def run_of(model: Any) -> Run:
    from kvae.configuration import Config

    config = Config(model=model.model_config, objective=model.objective_config)
    return Run(Path("run"), config, Alphabet(tuple("abcde")), model)


@pytest.mark.parametrize(
    ("system", "covariance"),
    everyday(
        product(SYSTEMS, ["full", "diagonal"]),
        ("ladder", "full"),
        ("labels", "diagonal"),
    ),
)
def test_the_model_with_the_fitted_prior_has_its_density_and_nothing_else_changed(
    system: str, covariance: str
) -> None:
    model, tokens = small_model(**SYSTEMS[system]), random_tokens(40)
    model.training_steps.assign(17)
    labels = np.arange(40, dtype=np.int32) % 2 if model.model_config.attributes else None
    codes = np.concatenate([top_codes(model, tokens, labels, seed) for seed in range(20)])
    mixture, _ = fit(codes, 2, covariance)
    wish = Fit(2, covariance)
    config = with_mixture(run_of(model), wish, lambda sentence: None)
    fitted = with_weights_of(model, config, mixture)
    np.testing.assert_allclose(
        prior_log_prob(fitted, codes), mixture.log_prob(codes), rtol=1e-3, atol=1e-3
    )
    assert int(fitted.training_steps) == 17
    before, after = (each.encode(tokens, labels) for each in (model, fitted))
    np.testing.assert_allclose(after["mean"], before["mean"], atol=1e-6)
    code = numbers(before["mean"])
    np.testing.assert_allclose(
        numbers(fitted.expander(code)), numbers(model.expander(code)), atol=1e-6
    )


@pytest.mark.slow
def test_samples_of_the_fitted_prior_have_the_moments_of_the_codes() -> None:
    model, tokens = small_model(), random_tokens(200)
    codes = np.concatenate([top_codes(model, tokens, seed=seed) for seed in range(50)])
    mixture, _ = fit(codes, 3)
    config = with_mixture(run_of(model), Fit(3), lambda sentence: None)
    fitted = with_weights_of(model, config, mixture)
    noise = np.random.default_rng(0).normal(size=(40_000, fitted.parts.noise_size))
    samples = numbers(fitted.codes(noise.astype(np.float32)))
    spread = codes.std(axis=0)
    np.testing.assert_allclose(samples.mean(axis=0), codes.mean(axis=0), atol=0.03 * spread.max())
    expected = np.cov(codes.T)
    np.testing.assert_allclose(np.cov(samples.T), expected, atol=0.03 * expected.max())


def test_terms_that_need_a_standard_prior_are_left_out_and_named() -> None:
    said: list[str] = []
    free = {"penalty": "free_bits", "free_bits": 0.5}
    config = with_mixture(run_of(small_model({"mmd": 3.0, **free})), Fit(2), said.append)
    assert config.objective.mmd == 0
    assert (config.objective.free_bits, config.objective.free_bits_over) == (2.0, "total")
    assert "objective.mmd=0.0" in said[0]


@pytest.mark.parametrize(
    ("saved", "training", "expected"),
    [
        (2.0, 2.2, ""),
        (2.0, 3.5, "overfits: it saves 3.50 nats on training texts and 2.00 on held-out ones; try"),
        (-0.5, 4.0, "no better than that of the run"),
    ],
)
def test_a_prior_that_overfits_or_saves_nothing_is_named(
    saved: float, training: float, expected: str
) -> None:
    record = {"saved": saved, "saved_error": 0.05, "saved_training": training, "run": "runs/a"}
    found = warning_of(record, Fit(8))
    assert expected in found["warning"]
    assert bool(found["warning"]) == bool(expected)
    assert found["overfits"] == (training - saved > 1)


@pytest.fixture(scope="module")
def shifted(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the tests with codes that lie 1.5 from 0 in each dimension, and so far from its
    prior."""
    out = shutil.copytree(run_folder, tmp_path_factory.mktemp("shifted") / "run")
    run = load_run(out)
    (bias,) = [each for each in run.model.posterior.weights if each.path == "mean_0/bias"]
    bias.assign(bias + 1.5)
    data = held_out(run.config, run.alphabet)
    save_model(run.model, out / MODEL)
    write_json(out / REPORT / EVALUATION, evaluate(run.model, data.rows))
    return out


@pytest.fixture(scope="module")
def fitted(shifted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """That run with a fitted prior, and the record of the fit."""
    out = tmp_path_factory.mktemp("fitted") / "run"
    before = files_of(shifted)
    record = fit_prior(load_run(shifted), out, Fit(2), lambda sentence: None)
    assert files_of(shifted) == before
    return out, record


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_the_bound_with_the_fitted_prior_is_that_of_an_independent_estimate(
    fitted: tuple[Path, dict[str, Any]], shifted: Path
) -> None:
    """KL by scipy, at codes that numpy draws from the posteriors of the old run."""
    out, record = fitted
    old, new = load_run(shifted), load_run(out)
    data = held_out(old.config, old.alphabet)
    posterior = old.model.encode(data.rows.astype(np.int32))
    mean, deviation = numbers(posterior["mean"]), np.exp(0.5 * numbers(posterior["log_variance"]))
    prior = new.model.hierarchy.prior
    triangle = np.eye(mean.shape[1]) + np.zeros((2, 1, 1))
    triangle[:, *np.tril_indices(mean.shape[1], -1)] = np.array(prior.below)
    variances = np.exp(np.array(prior.log_variance))
    shapes = np.einsum("kij,kj,klj->kil", triangle, variances, triangle)
    generator, ratios = np.random.default_rng(1), []
    for _ in range(400):
        z = mean + deviation * generator.normal(size=mean.shape)
        each = [
            stats.multivariate_normal(centre, shape).logpdf(z)
            for centre, shape in zip(np.array(prior.mean), shapes, strict=True)
        ]
        density = logsumexp(np.stack(each, 1) + log_softmax(np.array(prior.logits)), axis=1)
        ratios.append(stats.norm(mean, deviation).logpdf(z).sum(axis=1) - density)
    kl, spread = np.mean(ratios), np.std(ratios) / np.sqrt(len(mean))
    assert record["kl"] == pytest.approx(kl, abs=4 * spread)
    many = [collect(new.model, data.rows, seed=seed)["kl"].mean() for seed in range(30)]
    assert np.mean(many) == pytest.approx(kl, abs=5 * spread / np.sqrt(30))


def test_what_the_prior_saves_is_the_difference_of_the_bounds(
    fitted: tuple[Path, dict[str, Any]], shifted: Path
) -> None:
    out, record = fitted
    old, new = load_run(shifted), load_run(out)
    rows = held_out(old.config, old.alphabet).rows
    before, after = (
        np.mean([collect(run.model, rows, seed=seed)["elbo"].mean() for seed in range(30)])
        for run in (old, new)
    )
    assert before - after > 0.5 * 4 * 1.5**2 - 1  # the shift alone
    assert record["saved"] == pytest.approx(before - after, abs=4 * record["saved_error"])
    assert record["elbo_before"] == old.evaluation["elbo"]
    assert not record["overfits"]
    assert record["prior_parameters"] == 2 * (1 + 4 + 10) - 1


def test_the_fitted_run_is_a_run(fitted: tuple[Path, dict[str, Any]], kvae: Any) -> None:
    out, record = fitted
    run = load_run(out)
    assert (run.config.model.prior, run.config.model.prior_components) == ("mixture", 2)
    assert run.evaluation["elbo"] == record["elbo"]
    assert json.loads((out / "report" / RECORD).read_text())["saved"] == record["saved"]
    code, printed, _ = kvae("evaluate", out, "--texts", 2, "--samples", 2, "--json")
    assert code == 0
    assert json.loads(printed)["elbo"] == pytest.approx(record["elbo"])
    code, _, said = kvae("train", "--resume", "--out", out)
    assert code == 3
    assert "training.start_from" in said


@pytest.mark.slow
def test_training_goes_on_from_a_fitted_prior(
    fitted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    from kvae.training.experiment import run

    out, record = fitted
    config = stored_config(out).with_settings({"training.start_from": str(out)})
    further, _ = run(config, tmp_path / "further", lambda sentence: None)
    assert further.evaluation["elbo"] < record["elbo"] + 0.5
    assert resume(config, tmp_path / "further", lambda sentence: None)


@pytest.mark.slow
def test_a_bundle_of_a_fitted_run_draws_its_codes(
    fitted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """`prior.onnx` and the density in `scorer.onnx` are those of the weights."""
    from kvae.export.bundle import write_bundle
    from kvae.serving import Sampler

    run = load_run(fitted[0])
    write_bundle(run.model, run.alphabet, run.config, tmp_path / "bundle", run.evaluation)
    sampler = Sampler.load(tmp_path / "bundle")
    prior = run.model.hierarchy.prior
    shares = np.exp(log_softmax(np.array(prior.logits)))
    codes = sampler.draw_codes(20_000, seed=0)
    np.testing.assert_allclose(codes.mean(axis=0), shares @ np.array(prior.mean), atol=0.05)
    texts = held_out(run.config, run.alphabet).texts
    scores = [score.bound for score in sampler.score(texts, seed=0)]
    assert np.mean(scores) == pytest.approx(fitted[1]["elbo"], rel=0.1)


def test_what_cannot_be_fitted_is_refused(
    run_folder: Path, kvae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, said = kvae("fit-prior", run_folder, "--out", tmp_path)
    assert code == 2
    assert "exists already" in said
    code, _, said = kvae("fit-prior", run_folder, "--out", tmp_path / "a", "--components", 0)
    assert code == 2
    assert "components must be at least 1" in said
    code, _, said = kvae("fit-prior", run_folder, "--out", tmp_path / "a", "--components", 1000)
    assert code == 2
    assert "more than the" in said
    assert not (tmp_path / "a").exists()
    language = small_model(
        latent="none", encoder="none", expander="repeat", expander_base=0, auxiliary=False
    )
    with pytest.raises(ConfigError, match="language model has no code"):
        fit_prior(run_of(language), tmp_path / "a", Fit(), lambda sentence: None)
