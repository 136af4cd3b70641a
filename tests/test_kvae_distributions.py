"""Distributions against scipy, numerical integration and Monte Carlo."""

from typing import Any

import numpy as np
import pytest
from scipy import integrate, optimize, stats
from scipy.linalg import toeplitz
from scipy.special import logsumexp

from kvae.distributions import Autoregressive, Gaussian, Mixture, component_index

pytestmark = pytest.mark.both

GRID = np.linspace(-60.0, 60.0, 20_001)[:, None, None]


def gaussian(seed: int, rows: int = 3, size: int = 4) -> Gaussian:
    generator = np.random.default_rng(seed)
    mean, log_variance = generator.normal(size=(2, rows, size)).astype(np.float32)
    return Gaussian(mean, log_variance)


def scipy_normal(distribution: Gaussian) -> Any:
    return stats.norm(
        np.array(distribution.mean, np.float64),
        np.exp(0.5 * np.array(distribution.log_variance, np.float64)),
    )


def noise(rows: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)


def repeated(distribution: Gaussian, rows: int) -> Gaussian:
    """The first row, `rows` times."""
    parts = (np.array(part)[:1] for part in (distribution.mean, distribution.log_variance))
    return Gaussian(*(np.repeat(part, rows, axis=0) for part in parts))


def agree(samples: np.ndarray, expected: Any) -> bool:
    """Whether the mean of the rows is `expected` within five standard errors."""
    samples = np.array(samples, np.float64)
    return bool(
        np.all(
            np.abs(samples.mean(axis=0) - expected)
            < 5 * samples.std(axis=0) / np.sqrt(len(samples))
        )
    )


def test_log_prob_is_scipys_summed_over_dimensions() -> None:
    distribution, z = gaussian(0), gaussian(1).mean
    expected = scipy_normal(distribution).logpdf(z).sum(axis=-1)
    np.testing.assert_allclose(distribution.log_prob(z), expected, rtol=1e-5)


def test_kl_is_the_integral_of_the_log_ratio_in_every_dimension() -> None:
    p, q = gaussian(2), gaussian(3)
    ratio = scipy_normal(q).logpdf(GRID) - scipy_normal(p).logpdf(GRID)
    expected = integrate.simpson(scipy_normal(q).pdf(GRID) * ratio, x=GRID[:, 0, 0], axis=0)
    np.testing.assert_allclose(p.kl_from(q), expected, rtol=1e-4, atol=1e-6)


def test_kl_is_the_mean_log_ratio_of_samples() -> None:
    p, q = gaussian(2), gaussian(3)
    z = scipy_normal(q).rvs((200_000, 3, 4), random_state=0)
    assert agree(scipy_normal(q).logpdf(z) - scipy_normal(p).logpdf(z), p.kl_from(q))


def test_kl_from_the_standard_normal_is_the_closed_form_of_kingma_and_welling() -> None:
    q = gaussian(4)
    expected = -0.5 * (1 + q.log_variance - np.square(q.mean) - np.exp(q.log_variance))
    np.testing.assert_allclose(
        Gaussian.standard_like(q.mean).kl_from(q), expected, rtol=1e-4, atol=1e-6
    )


def test_kl_of_a_distribution_from_itself_is_zero_in_every_dimension() -> None:
    q = gaussian(5)
    np.testing.assert_allclose(q.kl_from(q), np.zeros((3, 4)), atol=1e-6)


def test_samples_have_the_mean_and_variance_they_should() -> None:
    q = gaussian(6, rows=1)
    samples = np.array(q.sample(noise(100_000, 4)))
    np.testing.assert_allclose(samples.mean(axis=0), q.mean[0], atol=0.05)
    np.testing.assert_allclose(np.log(samples.var(axis=0)), q.log_variance[0], atol=0.05)


@pytest.mark.parametrize("size", [1, 7])
def test_log_prob_gives_one_number_a_row_and_kl_one_a_dimension(size: int) -> None:
    q, p = gaussian(7, rows=5, size=size), gaussian(8, rows=5, size=size)
    assert np.shape(q.log_prob(p.mean)) == (5,)
    assert np.shape(p.kl_from(q)) == (5, size)


def test_merging_is_the_normalised_product_of_the_two_densities() -> None:
    ours, theirs = gaussian(9), gaussian(10)
    product = scipy_normal(ours).pdf(GRID) * scipy_normal(theirs).pdf(GRID)
    product /= integrate.simpson(product, x=GRID[:, 0, 0], axis=0)
    np.testing.assert_allclose(scipy_normal(ours.merged(theirs)).pdf(GRID), product, atol=1e-5)


def test_a_merged_variance_is_smaller_than_both() -> None:
    ours, theirs = gaussian(9), gaussian(10)
    merged = np.array(ours.merged(theirs).log_variance)
    assert (merged < np.minimum(ours.log_variance, theirs.log_variance)).all()


def mixture(seed: int, components: int = 3, size: int = 2) -> Mixture:
    weights = np.random.default_rng(seed).dirichlet(np.ones(components))
    return Mixture(np.log(weights).astype(np.float32), gaussian(seed + 1, components, size))


def mixture_log_pdf(distribution: Mixture, z: np.ndarray) -> np.ndarray:
    """z (B, d) -> (B,), by scipy."""
    each = scipy_normal(distribution.components).logpdf(z[:, None, :]).sum(axis=-1)
    return logsumexp(each, b=np.exp(np.array(distribution.log_weights, np.float64)), axis=-1)


def test_log_prob_of_a_mixture_is_scipys() -> None:
    p, z = mixture(0), 2 * noise(20, 2)
    np.testing.assert_allclose(p.log_prob(z), mixture_log_pdf(p, z), rtol=1e-5)


def test_a_mixture_of_one_component_is_that_gaussian() -> None:
    component, q, rows = gaussian(11, rows=1), gaussian(12, rows=1), 100_000
    p = Mixture(np.zeros(1, np.float32), component)
    many = repeated(q, rows)
    z = np.array(many.sample(noise(rows, 4)))
    np.testing.assert_allclose(p.log_prob(z[:50]), component.log_prob(z[:50]), rtol=1e-5)
    estimates = np.array(p.kl_from(many, z))
    assert estimates.shape == (rows, 1)
    assert agree(estimates[:, 0], np.sum(component.kl_from(q)))


def test_kl_from_a_mixture_has_the_integral_as_its_mean() -> None:
    p, q, rows = mixture(3, size=1), gaussian(13, rows=1, size=1), 100_000
    grid = GRID[:, 0]
    q_log_pdf = scipy_normal(q).logpdf(grid)[:, 0]
    expected = integrate.simpson(
        np.exp(q_log_pdf) * (q_log_pdf - mixture_log_pdf(p, grid)), x=grid[:, 0]
    )
    many = repeated(q, rows)
    assert agree(np.array(p.kl_from(many, many.sample(noise(rows, 1))))[:, 0], expected)


def test_samples_of_a_mixture_choose_components_in_proportion_to_their_weights() -> None:
    weights = np.array([0.5, 0.1, 0.4])
    centres = np.array([[-10.0], [0.0], [10.0]], np.float32)
    p = Mixture(np.log(weights).astype(np.float32), Gaussian(centres, np.zeros_like(centres)))
    samples = np.array(p.sample(noise(50_000, 2)))
    found = np.bincount(np.abs(samples - centres.T).argmin(axis=1), minlength=3) / len(samples)
    np.testing.assert_allclose(found, weights, atol=0.01)


def test_samples_of_a_mixture_have_its_mean_and_covariance() -> None:
    p = mixture(4)
    weights, means = np.exp(p.log_weights), np.array(p.components.mean)
    variances = np.exp(p.components.log_variance)
    mean = weights @ means
    covariance = np.einsum("k,ki,kj->ij", weights, means - mean, means - mean) + np.diag(
        weights @ variances
    )
    samples = np.array(p.sample(noise(200_000, 3)))
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(samples.T), covariance, atol=0.06)


def test_choice_inverts_the_cumulated_weights() -> None:
    weights = np.array([0.2, 0.0, 0.5, 0.3], np.float32)
    uniform = np.linspace(0.005, 0.995, 100)
    found = component_index(stats.norm.ppf(uniform).astype(np.float32), weights)
    np.testing.assert_array_equal(found, np.searchsorted(np.cumsum(weights), uniform, side="right"))


def test_choice_stays_within_the_weights_at_any_noise() -> None:
    found = np.array(
        component_index(np.array([-50.0, 50.0], np.float32), np.full(3, 1 / 3, np.float32))
    )
    np.testing.assert_array_equal(found, [0, 2])


def chain_covariance(coefficient: float, positions: int, channels: int = 1) -> np.ndarray:
    """a^|i-j| in every channel, of maps (positions, channels) flattened."""
    return np.kron(toeplitz(coefficient ** np.arange(positions)), np.eye(channels))


def kl_of_normals(mean: np.ndarray, variance: np.ndarray, covariance: np.ndarray) -> float:
    """KL(N(mean, diag variance) || N(0, covariance))."""
    precision = np.linalg.inv(covariance)
    log_determinants = np.linalg.slogdet(covariance)[1] - np.log(variance).sum()
    return 0.5 * float(
        np.diag(precision) @ variance + mean @ precision @ mean - len(mean) + log_determinants
    )


@pytest.mark.parametrize("coefficient", [0.0, 0.6, -0.9])
def test_log_prob_of_a_chain_is_that_of_a_normal_with_its_covariance(coefficient: float) -> None:
    z = noise(20, 10)
    expected = stats.multivariate_normal(cov=chain_covariance(coefficient, 5, 2)).logpdf(z)
    np.testing.assert_allclose(Autoregressive(coefficient, 5).log_prob(z), expected, rtol=1e-4)


@pytest.mark.parametrize("coefficient", [0.0, 0.6, -0.9])
def test_kl_from_a_chain_is_the_closed_form_for_normals(coefficient: float) -> None:
    q = gaussian(14, rows=6, size=10)
    covariance = chain_covariance(coefficient, 5, 2)
    rows = zip(
        np.array(q.mean, np.float64), np.exp(np.array(q.log_variance, np.float64)), strict=True
    )
    found = np.array(Autoregressive(coefficient, 5).kl_from(q))
    assert found.shape == (6, 10)
    expected = [kl_of_normals(mean, variance, covariance) for mean, variance in rows]
    np.testing.assert_allclose(found.sum(axis=-1), expected, rtol=1e-4)


def test_samples_of_a_chain_have_its_covariance() -> None:
    samples = np.array(Autoregressive(0.8, 4).sample(noise(200_000, 8)))
    np.testing.assert_allclose(np.cov(samples.T), chain_covariance(0.8, 4, 2), atol=0.02)


@pytest.mark.parametrize("coefficient", [0.3, 0.7, 0.95])
def test_the_committed_rate_is_the_least_kl_of_any_independent_posterior(
    coefficient: float,
) -> None:
    covariance, positions = chain_covariance(coefficient, 4), 4

    def kl(parameters: np.ndarray) -> float:
        return kl_of_normals(parameters[:positions], np.exp(parameters[positions:]), covariance)

    least = optimize.minimize(kl, np.random.default_rng(0).normal(size=2 * positions)).fun
    assert Autoregressive.committed_rate(coefficient, positions) == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.1, 2.0, 15.0])
def test_a_chain_is_found_for_a_rate(rate: float) -> None:
    chain = Autoregressive.with_rate(rate, positions=8, channels=3)
    assert 0 <= chain.coefficient < 1
    assert 3 * Autoregressive.committed_rate(chain.coefficient, 8) == pytest.approx(rate, abs=1e-6)
