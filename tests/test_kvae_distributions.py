"""Gaussians against Monte Carlo and scipy."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from kvae.distributions import Gaussian


def gaussian(seed: int, rows: int = 3, size: int = 4) -> Gaussian:
    generator = np.random.default_rng(seed)
    mean, log_variance = generator.normal(size=(2, rows, size)).astype(np.float32)
    return Gaussian(mean, log_variance)


def scipy_normal(distribution: Gaussian) -> Any:
    return stats.norm(
        np.array(distribution.mean, np.float64), np.exp(0.5 * np.array(distribution.log_variance, np.float64))
    )


def test_log_prob_is_scipys_summed_over_dimensions() -> None:
    distribution, z = gaussian(0), gaussian(1).mean
    expected = scipy_normal(distribution).logpdf(z).sum(axis=-1)
    np.testing.assert_allclose(distribution.log_prob(z), expected, rtol=1e-5)


def test_kl_is_the_mean_log_ratio_of_samples() -> None:
    q, p = gaussian(2), gaussian(3)
    z = scipy_normal(q).rvs((200_000, 3, 4), random_state=0)
    log_ratio = (scipy_normal(q).logpdf(z) - scipy_normal(p).logpdf(z)).sum(axis=-1)
    error = log_ratio.std(axis=0) / np.sqrt(len(z))
    assert np.all(np.abs(np.array(q.kl_divergence(p)) - log_ratio.mean(axis=0)) < 5 * error)


def test_kl_from_the_standard_normal_is_the_closed_form_of_kingma_and_welling() -> None:
    q = gaussian(4)
    variance = np.exp(q.log_variance)
    expected = -0.5 * (1 + q.log_variance - np.square(q.mean) - variance).sum(axis=-1)
    np.testing.assert_allclose(q.kl_divergence(Gaussian.standard_like(q.mean)), expected, rtol=1e-5)


def test_kl_of_a_distribution_from_itself_is_zero_in_every_dimension() -> None:
    q = gaussian(5)
    np.testing.assert_allclose(q.kl_per_dimension(q), 0.0, atol=1e-6)


def test_samples_have_the_mean_and_variance_they_should() -> None:
    q = gaussian(6, rows=1)
    samples = np.array(q.sample(np.random.default_rng(0).normal(size=(100_000, 4)).astype(np.float32)))
    np.testing.assert_allclose(samples.mean(axis=0), q.mean[0], atol=0.05)
    np.testing.assert_allclose(np.log(samples.var(axis=0)), q.log_variance[0], atol=0.05)


def test_a_map_is_summed_over_both_its_axes() -> None:
    q = Gaussian(*np.random.default_rng(0).normal(size=(2, 3, 5, 2)).astype(np.float32))
    flat = Gaussian(q.mean.reshape(3, 10), q.log_variance.reshape(3, 10))
    expected = flat.kl_divergence(Gaussian.standard_like(flat.mean))
    np.testing.assert_allclose(q.kl_divergence(Gaussian.standard_like(q.mean)), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 7])
def test_event_axes_are_summed_and_callers_get_one_number_a_row(size: int) -> None:
    q, p = gaussian(7, rows=5, size=size), gaussian(8, rows=5, size=size)
    assert np.shape(q.kl_divergence(p)) == np.shape(q.log_prob(p.mean)) == (5,)
