"""Priors: their densities by hand, samples that follow them, and gradients to what they learn."""

from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
from scipy import stats
from scipy.linalg import toeplitz
from scipy.special import log_softmax, logsumexp, softmax

from kvae.distributions import Autoregressive
from kvae.serving.errors import ConfigError

from .conftest import COMPILED, everyday, random_tokens, small_model, spread_model

pytestmark = pytest.mark.jax

MAP = {"latent": "map", "latent_size": 2, "expander": "repeat"}
MODELS: dict[str, dict[str, Any]] = {
    "standard": {"prior": "standard"},
    "mixture": {"prior": "mixture", "prior_components": 3},
    "mixture, correlated": {
        "prior": "mixture",
        "prior_components": 3,
        "prior_covariance": "full",
    },
    "mixture, correlated, map": {"prior": "mixture", "prior_covariance": "full", **MAP},
    "vamp": {"prior": "vamp", "prior_components": 3},
    "vamp, embedded": {"prior": "vamp", "prior_components": 3, "encoder_embedding": 5},
    "vamp, map": {"prior": "vamp", "prior_components": 3, **MAP},
    "autoregressive": {"prior": "autoregressive", "prior_rate": 3.0, **MAP},
}
LEARNED = [name for name in MODELS if name.startswith(("mixture", "vamp"))]


@cache
def model_of(name: str) -> Any:
    return spread_model(**MODELS[name])


def prior_of(model: Any) -> Any:
    """The prior's distribution for its own samples."""
    return model.hierarchy.prior.distribution(np.zeros((1, model.hierarchy.size), np.float32))


def noise(model: Any, rows: int, seed: int = 0) -> np.ndarray:
    return (
        np.random.default_rng(seed).normal(size=(rows, model.parts.noise_size)).astype(np.float32)
    )


def pseudo_posteriors(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log variance (K, d) of the soft texts, through encoder and posterior by hand."""
    texts = np.array(model.hierarchy.prior.texts)
    symbols = texts if model.model_config.encoder_embedding else softmax(texts, axis=-1)
    features = model.encoder([symbols, np.full(len(texts), 15, np.int32)], training=False)
    used = features[-len(model.posterior.inputs) :]
    statistics = model.posterior(used, training=False)
    return np.array(statistics["mean"]), np.array(statistics["log_variance"])


class Reference:
    """A mixture of normals by numpy and scipy; `covariances` are full."""

    def __init__(self, log_weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> None:
        self.log_weights, self.means, self.covariances = np.float64(log_weights), means, covariances

    def log_pdf(self, z: np.ndarray) -> np.ndarray:
        each = [
            stats.multivariate_normal(mean, covariance).logpdf(z)
            for mean, covariance in zip(self.means, self.covariances, strict=True)
        ]
        return logsumexp(np.stack(each, axis=-1) + self.log_weights, axis=-1)

    def rvs(self, rows: int) -> np.ndarray:
        generator = np.random.default_rng(1)
        counts = generator.multinomial(rows, np.exp(self.log_weights))
        parts = zip(self.means, self.covariances, counts, strict=True)
        return np.concatenate(
            [generator.multivariate_normal(mean, cov, count) for mean, cov, count in parts]
        )


def with_ones_on_the_diagonal(below: np.ndarray, size: int) -> np.ndarray:
    """The triangle of a correlated component, entry by entry."""
    entries, triangle = iter(below), np.eye(size)
    for row in range(size):
        for column in range(row):
            triangle[row, column] = next(entries)
    return triangle


def reference(name: str) -> Reference:
    """What the prior of that model should be, from its weights and its configuration."""
    model = model_of(name)
    prior, size = model.hierarchy.prior, model.hierarchy.size
    if name == "standard":
        return Reference(np.zeros(1), np.zeros((1, size)), np.eye(size)[None])
    if name == "autoregressive":
        powers = prior.chain.coefficient ** np.arange(4)
        return Reference(
            np.zeros(1), np.zeros((1, size)), np.kron(toeplitz(powers), np.eye(2))[None]
        )
    if name.startswith("mixture"):
        weights, mean, log_variance = (
            log_softmax(np.array(prior.logits)),
            np.array(prior.mean),
            prior.log_variance,
        )
        if prior.below is not None:
            triangles = [with_ones_on_the_diagonal(row, size) for row in np.array(prior.below)]
            variances = np.exp(np.array(prior.log_variance))
            scaled = zip(triangles, variances, strict=True)
            covariances = [triangle @ np.diag(row) @ triangle.T for triangle, row in scaled]
            return Reference(weights, mean, np.stack(covariances))
    else:
        mean, log_variance = pseudo_posteriors(model)
        weights = np.full(3, np.log(1 / 3))
    return Reference(
        weights, mean, np.stack([np.diag(np.exp(row)) for row in np.array(log_variance)])
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_density_of_a_prior_is_that_of_its_weights(name: str) -> None:
    model = model_of(name)
    z = 2 * noise(model, 20)[:, : model.hierarchy.size]
    np.testing.assert_allclose(prior_of(model).log_prob(z), reference(name).log_pdf(z), rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_samples_of_a_prior_follow_its_own_density(name: str) -> None:
    model, expected, rows = model_of(name), reference(name), 40_000
    samples, independent = np.array(model.codes(noise(model, rows)), np.float64), expected.rvs(rows)
    np.testing.assert_allclose(
        np.cov(samples.T), np.cov(independent.T), atol=0.05 * np.cov(independent.T).max()
    )
    for measured in (expected.log_pdf, lambda z: z):
        ours, theirs = measured(samples), measured(independent)
        error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / rows)
        assert np.all(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * error)


def test_a_soft_text_that_is_a_text_stands_for_that_texts_posterior() -> None:
    model = small_model(prior="vamp", prior_components=3)
    tokens = np.random.default_rng(0).integers(4, 9, (3, 16)).astype(np.int32)
    model.hierarchy.prior.texts.assign(100.0 * np.eye(9, dtype=np.float32)[tokens])
    posteriors = {name: np.array(tensor) for name, tensor in model.encode(tokens).items()}
    components = prior_of(model).components
    np.testing.assert_allclose(components.mean, posteriors["mean"], atol=1e-5)
    np.testing.assert_allclose(components.log_variance, posteriors["log_variance"], atol=1e-5)


def test_in_a_ladder_the_soft_texts_speak_of_the_top_level() -> None:
    model = small_model(prior="vamp", prior_components=5, latent_size=(4, 3))
    mean, log_variance = pseudo_posteriors(model)
    components = prior_of(model).components
    assert components.mean.shape == (5, 3)
    np.testing.assert_allclose(components.mean, mean[:, 4:], atol=1e-5)
    np.testing.assert_allclose(components.log_variance, log_variance[:, 4:], atol=1e-5)


@pytest.mark.parametrize("name", everyday(LEARNED, "vamp", "mixture"))
def test_training_moves_every_weight_of_a_prior(name: str) -> None:
    model = small_model({"ramp_steps": 0}, **MODELS[name])
    model.compile(keras.optimizers.SGD(0.1), **COMPILED)
    before = [np.array(weight) for weight in model.hierarchy.prior.trainable_weights]
    model.fit(random_tokens(16), batch_size=16, verbose=0)
    assert before
    for weight, old in zip(model.hierarchy.prior.trainable_weights, before, strict=True):
        assert np.any(np.array(weight) != old), weight.name


def test_a_prior_with_its_posterior_as_the_only_component_has_no_kl_on_average() -> None:
    """The estimated KL is from the prior that the code is drawn from.

    It is 0 for a mixture that is the posterior itself.
    """
    model, tokens = small_model(prior="mixture", prior_components=1), random_tokens(1)
    posterior = model.encode(tokens)
    model.hierarchy.prior.mean.assign(posterior["mean"])
    model.hierarchy.prior.log_variance.assign(posterior["log_variance"])
    found = model.parts.outputs(tokens, noise(model, 1), training=False)
    assert float(found["kl_level_0"][0]) == pytest.approx(0.0, abs=1e-5)
    assert "kl_per_dimension" not in found


@pytest.mark.parametrize("encoder", [{"encoder": "conv"}, {"encoder": "lstm"}])
def test_the_autoregressive_prior_refuses_a_code_without_positions(encoder: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"set model\.latent to 'map'"):
        small_model(prior="autoregressive", **encoder)


def test_the_autoregressive_prior_refuses_fewer_than_three_positions() -> None:
    with pytest.raises(ConfigError, match="at least three positions"):
        small_model(prior="autoregressive", **MAP, encoder_units=(8, 8, 8))


def test_no_text_has_a_kl_below_the_rate_of_the_autoregressive_prior() -> None:
    """The closest posterior, one for all texts, has the rate as its KL; all others exceed it."""
    model, tokens = model_of("autoregressive"), random_tokens(64)
    kl = np.array(model.parts.outputs(tokens, noise(model, 64), training=False)["kl_level_0"])
    assert (kl > 3.0).all()
    square = model.hierarchy.prior.chain.coefficient**2
    inner = np.log((1 - square) / (1 + square))
    closest = np.repeat([np.log(1 - square), inner, inner, np.log(1 - square)], 2)[None].astype(
        np.float32
    )
    still = np.zeros_like(closest)
    evidence = {"mean": still, "log_variance": closest}
    least = np.array(model.hierarchy(evidence, still)["kl_level_0"])
    assert least[0] == pytest.approx(3.0, rel=1e-4)
    assert 2 * Autoregressive.committed_rate(
        model.hierarchy.prior.chain.coefficient, 4
    ) == pytest.approx(3.0)
