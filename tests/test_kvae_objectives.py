"""Loss terms and schedules against numpy written by hand."""

import numpy as np
import pytest
from scipy.special import log_softmax

from kvae.configuration import ObjectiveConfig
from kvae.objectives import beta_at, bits_per_character, loss_terms, ramp_at
from kvae.serving.alphabet import PAD

from .conftest import random_tokens


def outputs(tokens: np.ndarray, auxiliary: bool = True) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    logits, other = generator.normal(size=(2, *tokens.shape, 9)).astype(np.float32)
    made = {"logits": logits, "kl_level_0": generator.gamma(1.0, size=len(tokens)).astype(np.float32)}
    return {**made, "auxiliary_logits": other} if auxiliary else made


def nats(tokens: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    rows, positions = np.indices(tokens.shape)
    return -(weights * log_softmax(logits, axis=-1)[rows, positions, tokens]).sum(axis=1)


def test_terms_are_nats_per_sequence_without_padding() -> None:
    tokens = random_tokens(6)
    made = outputs(tokens)
    terms = loss_terms(
        ObjectiveConfig(alpha=0.3, ramp_steps=10, beta_max=0.5, count_padding=False), tokens, made, np.int32(4)
    )
    weights = tokens != PAD
    reconstruction = nats(tokens, made["logits"], weights)
    auxiliary = nats(tokens, made["auxiliary_logits"], weights)
    kl = made["kl_level_0"]
    np.testing.assert_allclose(terms["reconstruction"], reconstruction, rtol=1e-5)
    np.testing.assert_allclose(terms["auxiliary"], auxiliary, rtol=1e-5)
    np.testing.assert_allclose(terms["elbo"], reconstruction + kl, rtol=1e-5)
    np.testing.assert_allclose(terms["loss"], reconstruction + 0.5 * 0.4 * kl + 0.3 * auxiliary, rtol=1e-5)
    np.testing.assert_array_equal(terms["positions"], weights.sum(axis=1))


def test_padding_counts_in_the_loss_only_if_the_configuration_says_so() -> None:
    tokens = random_tokens(6)
    made = outputs(tokens, auxiliary=False)
    everywhere = nats(tokens, made["logits"], np.ones_like(tokens))
    counted, ignored = (
        loss_terms(ObjectiveConfig(alpha=0.0, beta_max=0.0, count_padding=choice), tokens, made, np.int32(0))
        for choice in (True, False)
    )
    np.testing.assert_allclose(counted["loss"], everywhere, rtol=1e-5)
    np.testing.assert_allclose(ignored["loss"], ignored["reconstruction"], rtol=1e-6)
    np.testing.assert_allclose(counted["reconstruction"], ignored["reconstruction"], rtol=1e-6)
    np.testing.assert_allclose(ignored["reconstruction_with_padding"], everywhere, rtol=1e-5)


@pytest.mark.parametrize(("step", "beta"), [(0, 0.0), (100, 0.0), (150, 0.25), (200, 0.5), (5000, 0.5)])
def test_the_linear_schedule_rises_from_its_start_to_beta_max(step: int, beta: float) -> None:
    config = ObjectiveConfig(ramp_start=100, ramp_steps=100, beta_max=0.5)
    assert float(beta_at(config, ramp_at(config, np.int32(step)))) == pytest.approx(beta)


@pytest.mark.parametrize(("step", "beta"), [(0, 0.0), (9, 0.0), (10, 1.0)])
def test_a_ramp_of_no_steps_is_a_switch(step: int, beta: float) -> None:
    config = ObjectiveConfig(ramp_start=10, ramp_steps=0)
    assert float(beta_at(config, ramp_at(config, np.int32(step)))) == beta


def test_one_bit_a_character_is_ln_2_nats_a_position() -> None:
    assert bits_per_character(10 * np.log(2.0), 10) == pytest.approx(1.0)
