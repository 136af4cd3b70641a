"""Loss terms, schedules and bounds, compared with numpy by hand and with known likelihoods."""

import math
from typing import Any

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from kvae.configuration import ObjectiveConfig
from kvae.distributions import Gaussian
from kvae.objectives import (
    PENALTIES,
    SCHEDULES,
    auxiliary_height,
    bag_of_words,
    beta_at,
    bits_per_character,
    classification_terms,
    loss_terms,
    marginal_terms,
    moment_distance,
    ramp_at,
    squared_mmd,
)
from kvae.serving.alphabet import PAD

from .conftest import gradients, random_tokens, small_model

pytestmark = pytest.mark.both


def outputs(tokens: np.ndarray, auxiliary: bool = True) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    logits, other = generator.normal(size=(2, *tokens.shape, 9)).astype(np.float32)
    made = {
        "logits": logits,
        "kl_level_0": generator.gamma(1.0, size=len(tokens)).astype(np.float32),
    }
    return {**made, "auxiliary_logits": other} if auxiliary else made


def nats(tokens: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    rows, positions = np.indices(tokens.shape)
    return -(weights * log_softmax(logits, axis=-1)[rows, positions, tokens]).sum(axis=1)


def test_alpha_stays_or_falls_to_zero() -> None:
    assert float(auxiliary_height(ObjectiveConfig(alpha=0.4), np.int32(10_000))) == 1.0
    falling = ObjectiveConfig(alpha=0.4, alpha_hold=100, alpha_decay_steps=200)
    found = [
        0.4 * float(auxiliary_height(falling, np.int32(step)))
        for step in (0, 100, 150, 200, 300, 1000)
    ]
    np.testing.assert_allclose(found, [0.4, 0.4, 0.3, 0.2, 0.0, 0.0], atol=1e-6)
    tokens = random_tokens(3)
    made = outputs(tokens)
    late, never = (
        loss_terms(config, tokens, made, np.int32(300))
        for config in (falling, ObjectiveConfig(alpha=0.0, ramp_steps=1000))
    )
    np.testing.assert_allclose(late["loss"], never["loss"], rtol=1e-6)


def test_terms_are_nats_per_sequence_without_padding() -> None:
    tokens = random_tokens(6)
    made = outputs(tokens)
    terms = loss_terms(
        ObjectiveConfig(alpha=0.3, ramp_steps=10, beta_max=0.5, count_padding=False),
        tokens,
        made,
        np.int32(4),
    )
    weights = tokens != PAD
    reconstruction = nats(tokens, made["logits"], weights)
    auxiliary = nats(tokens, made["auxiliary_logits"], weights)
    kl = made["kl_level_0"]
    np.testing.assert_allclose(terms["reconstruction"], reconstruction, rtol=1e-5)
    np.testing.assert_allclose(terms["auxiliary"], auxiliary, rtol=1e-5)
    np.testing.assert_allclose(terms["elbo"], reconstruction + kl, rtol=1e-5)
    np.testing.assert_allclose(
        terms["loss"], reconstruction + 0.5 * 0.4 * kl + 0.3 * auxiliary, rtol=1e-5
    )
    np.testing.assert_array_equal(terms["positions"], weights.sum(axis=1))


def test_padding_counts_in_the_loss_only_if_the_configuration_says_so() -> None:
    tokens = random_tokens(6)
    made = outputs(tokens, auxiliary=False)
    everywhere = nats(tokens, made["logits"], np.ones_like(tokens))
    counted, ignored = (
        loss_terms(
            ObjectiveConfig(alpha=0.0, beta_max=0.0, count_padding=choice),
            tokens,
            made,
            np.int32(0),
        )
        for choice in (True, False)
    )
    np.testing.assert_allclose(counted["loss"], everywhere, rtol=1e-5)
    np.testing.assert_allclose(ignored["loss"], ignored["reconstruction"], rtol=1e-6)
    np.testing.assert_allclose(counted["reconstruction"], ignored["reconstruction"], rtol=1e-6)
    np.testing.assert_allclose(ignored["reconstruction_with_padding"], everywhere, rtol=1e-5)


def test_the_kl_is_the_sum_of_all_levels() -> None:
    tokens = random_tokens(6)
    made = outputs(tokens, auxiliary=False)
    made |= {"kl_level_1": 2 * made["kl_level_0"], "kl_level_10": 3 * made["kl_level_0"]}
    terms = loss_terms(ObjectiveConfig(), tokens, made, np.int32(0))
    np.testing.assert_allclose(terms["kl"], 6 * made["kl_level_0"], rtol=1e-5)


def ramps(steps: range, **settings: Any) -> np.ndarray:
    return np.array([float(ramp_at(ObjectiveConfig(**settings), np.int32(step))) for step in steps])


@pytest.mark.parametrize(
    ("step", "beta"), [(0, 0.0), (100, 0.0), (150, 0.25), (200, 0.5), (5000, 0.5)]
)
def test_the_linear_schedule_rises_from_its_start_to_beta_max(step: int, beta: float) -> None:
    config = ObjectiveConfig(ramp_start=100, ramp_steps=100, beta_max=0.5)
    assert float(beta_at(config, ramp_at(config, np.int32(step)))) == pytest.approx(beta)


@pytest.mark.parametrize("schedule", ["linear", "sigmoid", "cosine"])
def test_a_monotone_schedule_goes_from_0_through_its_middle_to_1(schedule: str) -> None:
    found = ramps(range(61), schedule=schedule, ramp_start=10, ramp_steps=40)
    np.testing.assert_allclose(found[[0, 10, 30, 50, 60]], [0, 0, 0.5, 1, 1], atol=1e-6)
    assert (np.diff(found[10:51]) > 0).all()


def test_the_sigmoid_schedule_is_a_logistic_curve_stretched_to_its_ends() -> None:
    logistic = 1 / (1 + np.exp(-10 * (np.arange(41) / 40 - 0.5)))
    expected = (logistic - logistic[0]) / (logistic[-1] - logistic[0])
    np.testing.assert_allclose(
        ramps(range(41), schedule="sigmoid", ramp_steps=40), expected, atol=1e-6
    )


def test_the_cosine_schedule_is_half_a_wave() -> None:
    expected = np.sin(np.pi * np.arange(41) / 80) ** 2
    np.testing.assert_allclose(
        ramps(range(41), schedule="cosine", ramp_steps=40), expected, atol=1e-6
    )


def test_the_cyclical_schedule_rises_in_half_of_each_cycle_and_stays_up_in_the_other() -> None:
    cycle = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]
    found = ramps(range(30), schedule="cyclical", cycles=3, ramp_steps=24)
    np.testing.assert_allclose(found, cycle * 3 + [1.0] * 6, atol=1e-6)


def test_the_constant_schedule_is_1_from_the_first_step_on() -> None:
    np.testing.assert_array_equal(ramps(range(30), schedule="constant", ramp_steps=20), 1.0)


@pytest.mark.parametrize(("step", "beta"), [(0, 0.0), (9, 0.0), (10, 1.0)])
def test_a_ramp_of_no_steps_is_a_switch(step: int, beta: float) -> None:
    config = ObjectiveConfig(ramp_start=10, ramp_steps=0)
    assert float(beta_at(config, ramp_at(config, np.int32(step)))) == beta


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_ramp_waits_for_the_warm_start_and_then_runs_as_ever(schedule: str) -> None:
    settings = {"schedule": schedule, "ramp_start": 5, "ramp_steps": 20, "cycles": 2}
    found = ramps(range(60), warm_start_steps=30, **settings)
    np.testing.assert_array_equal(found[:30], 0.0)
    np.testing.assert_allclose(found[30:], ramps(range(30), **settings))


def test_a_ramp_that_waited_takes_the_start_and_the_steps_that_it_is_given() -> None:
    config = ObjectiveConfig(ramp_start=7, ramp_steps=3)
    found = [
        float(ramp_at(config, np.int32(step), np.int32(100), np.int32(10)))
        for step in (50, 100, 105, 110)
    ]
    np.testing.assert_allclose(found, [0, 0, 0.5, 1])


def penalty_of(per_dimension: Any, step: int = 10, **settings: Any) -> Any:
    """What the objective adds to the reconstruction, (B,); the ramp is half way up at step 10."""
    settings = {"ramp_steps": 20, "alpha": 0.0, "count_padding": False, **settings}
    tokens = random_tokens(len(per_dimension))
    kl = keras.ops.sum(per_dimension, axis=-1)
    made = {**outputs(tokens, auxiliary=False), "kl_level_0": kl, "kl_per_dimension": per_dimension}
    terms = loss_terms(ObjectiveConfig(**settings), tokens, made, np.int32(step))
    return terms["loss"] - terms["reconstruction"]


def kls() -> np.ndarray:
    """KL (5, 3) with dimensions above, around and below half a nat."""
    return np.random.default_rng(0).gamma(2.0, [[2.0, 0.25, 0.05]], (5, 3)).astype(np.float32)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_no_penalty_during_the_warm_start(penalty: str) -> None:
    settings = {"penalty": penalty, "schedule": "constant", "warm_start_steps": 5}
    np.testing.assert_allclose(penalty_of(kls(), 4, **settings), np.zeros(5), atol=1e-5)
    assert np.mean(penalty_of(kls(), 5, **settings)) > 0.1


def test_the_annealed_penalty_is_the_kl_times_the_ramp() -> None:
    expected = 0.7 * 0.5 * kls().sum(axis=-1)
    np.testing.assert_allclose(
        penalty_of(kls(), penalty="annealed", beta_max=0.7), expected, rtol=1e-3
    )


@pytest.mark.parametrize("target", [1.0, 40.0])
def test_the_constrained_penalty_is_the_distance_of_the_mean_kl_from_the_risen_target(
    target: float,
) -> None:
    expected = np.full(5, 0.7 * abs(kls().sum(axis=-1).mean() - 0.5 * target))
    found = penalty_of(kls(), penalty="constrained", beta_max=0.7, kl_target=target)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_constrained_penalty_per_example_is_the_distance_of_each_kl_from_the_risen_target() -> (
    None
):
    expected = 0.7 * np.abs(kls().sum(axis=-1) - 0.5 * 8.0)
    found = penalty_of(kls(), penalty="constrained_per_example", beta_max=0.7, kl_target=8.0)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("penalty", "beta"), [("annealed", 0.35), ("constrained", 0.7), ("free_bits", 0.35)]
)
def test_beta_is_scaled_by_the_ramp_unless_the_target_is(penalty: str, beta: float) -> None:
    config = ObjectiveConfig(penalty=penalty, beta_max=0.7)
    assert float(beta_at(config, np.float32(0.5))) == pytest.approx(beta)


@pytest.mark.parametrize(("over", "bits"), [("dimension", 0.5), ("total", 0.5), ("total", 50.0)])
def test_free_bits_are_a_floor_under_the_mean_of_the_batch(over: str, bits: float) -> None:
    pieces = kls() if over == "dimension" else kls().sum(axis=-1, keepdims=True)
    expected = np.full(5, 0.7 * 0.5 * np.maximum(pieces.mean(axis=0), bits).sum())
    found = penalty_of(
        kls(), penalty="free_bits", beta_max=0.7, free_bits=bits, free_bits_over=over
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(("over", "bits"), [("dimension", 0.5), ("total", 4.0)])
def test_masked_free_bits_leave_out_what_is_below_them_text_by_text(over: str, bits: float) -> None:
    pieces = kls() if over == "dimension" else kls().sum(axis=-1, keepdims=True)
    assert 0 < (pieces > bits).sum() < pieces.size
    expected = 0.7 * 0.5 * np.where(pieces > bits, pieces, 0).sum(axis=-1)
    found = penalty_of(
        kls(), penalty="free_bits_mask", beta_max=0.7, free_bits=bits, free_bits_over=over
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def penalty_gradient(means: np.ndarray, **settings: Any) -> np.ndarray:
    """The gradient of the mean penalty at the top of the ramp.

    It is taken with respect to the means of posteriors of variance 1.
    """
    mean = keras.Variable(means)

    def loss() -> Any:
        value = keras.ops.convert_to_tensor(mean)
        kl = Gaussian.standard_like(value).kl_from(Gaussian(value, keras.ops.zeros_like(value)))
        return keras.ops.mean(penalty_of(kl, 20, **settings))

    return gradients(loss, [mean])[0]


SPREAD = np.array([[0.1, 2.0], [0.2, 0.3], [0.3, 3.0]], np.float32)
"""Means (3, 2) of posteriors whose KL is half their square.

The KL of the first dimension is below 0.5 nats. That of the second is above in all texts but one.
"""


def test_free_bits_cut_the_gradient_of_the_dimensions_whose_mean_is_below_them() -> None:
    found = penalty_gradient(SPREAD, penalty="free_bits", free_bits=0.5)
    np.testing.assert_allclose(found, SPREAD * [0, 1] / 3, atol=1e-6)


def test_masked_free_bits_cut_the_gradient_of_each_text_on_its_own() -> None:
    found = penalty_gradient(SPREAD, penalty="free_bits_mask", free_bits=0.5)
    np.testing.assert_allclose(found, SPREAD * [[0, 1], [0, 0], [0, 1]] / 3, atol=1e-6)


@pytest.mark.parametrize(("bits", "kept"), [(2.0, 1.0), (2.5, 0.0)])
def test_free_bits_in_total_cut_the_gradient_of_all_dimensions_or_none(
    bits: float, kept: float
) -> None:
    """The mean total is 2.21 nats."""
    found = penalty_gradient(SPREAD, penalty="free_bits", free_bits=bits, free_bits_over="total")
    np.testing.assert_allclose(found, kept * SPREAD / 3, atol=1e-6)


def test_masked_free_bits_in_total_cut_the_gradient_of_whole_texts() -> None:
    found = penalty_gradient(
        SPREAD, penalty="free_bits_mask", free_bits=1.0, free_bits_over="total"
    )
    np.testing.assert_allclose(found, SPREAD * [[1], [0], [1]] / 3, atol=1e-6)


@pytest.mark.parametrize(("target", "sign"), [(1.0, 1.0), (4.0, -1.0)])
def test_the_constrained_penalty_pulls_the_kl_towards_its_target_from_both_sides(
    target: float, sign: float
) -> None:
    found = penalty_gradient(SPREAD, penalty="constrained", kl_target=target)
    np.testing.assert_allclose(found, sign * SPREAD / 3, atol=1e-6)


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """exp(-|x - y|^2 / 2d)."""
    return np.exp(-np.square(x - y).sum(axis=-1) / (2 * x.shape[-1]))


def test_the_mmd_is_that_of_the_codes_and_many_samples_of_the_prior() -> None:
    generator = np.random.default_rng(0)
    z = (0.5 + 1.5 * generator.normal(size=(20, 3))).astype(np.float32)
    ours, others = generator.normal(size=(2, 200_000, 3))
    among_codes = np.mean(
        [kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]
    )
    to_prior = np.mean([kernel(a, ours).mean() for a in z])
    expected = among_codes - 2 * to_prior + kernel(ours, others).mean()
    assert float(squared_mmd(z)) == pytest.approx(expected, abs=2e-3)
    assert expected > 0.02


def test_the_mmd_of_samples_of_the_prior_is_0_on_average() -> None:
    z = np.random.default_rng(0).normal(size=(300, 8, 3)).astype(np.float32)
    found = np.array([squared_mmd(batch) for batch in z], np.float64)
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(len(found)) < 0.03


@pytest.mark.parametrize("changed", [lambda z: z + 1, lambda z: 2 * z, lambda z: 0.3 * z])
def test_the_mmd_of_codes_that_are_elsewhere_is_positive(changed: Any) -> None:
    z = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    assert float(squared_mmd(changed(z))) > 0.03 > 10 * abs(float(squared_mmd(z)))


def test_moments_of_posteriors_that_make_up_the_prior_have_no_distance() -> None:
    """Means with variance 0.7 and posteriors with variance 0.3 add up to N(0, I)."""
    mean = np.random.default_rng(0).normal(0.0, 0.7**0.5, (20_000, 6)).astype(np.float32)
    log_variance = np.full(mean.shape, math.log(0.3), np.float32)
    assert abs(float(moment_distance(mean, log_variance))) < 1e-3


def test_the_distance_of_moments_is_the_kl_of_a_gaussian_whose_dimensions_are_independent() -> None:
    centre, variance = np.array([0.5, -1.0, 0.0]), np.array([1.2, 0.3, 0.9])
    mean = np.random.default_rng(0).normal(centre, (variance - 0.2) ** 0.5, (200_000, 3))
    expected = 0.5 * (centre**2 + variance - 1 - np.log(variance)).sum()
    found = moment_distance(mean.astype(np.float32), np.full(mean.shape, math.log(0.2), np.float32))
    assert float(found) == pytest.approx(expected, abs=0.01)


def test_the_distance_of_moments_sees_dimensions_that_say_the_same() -> None:
    """Two dimensions with correlation r are log(1 - r^2) / -2 nats apart from independent ones."""
    shared = np.random.default_rng(0).normal(size=(200_000, 1))
    both = np.repeat(0.5 * shared, 2, axis=1).astype(np.float32)
    log_variance = np.full(both.shape, math.log(0.75), np.float32)
    assert float(moment_distance(both, log_variance)) == pytest.approx(
        -0.5 * math.log(1 - 0.25**2), abs=2e-3
    )


def test_the_mmd_joins_the_loss_with_its_weight() -> None:
    tokens, z = (
        random_tokens(6),
        np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32) + 2,
    )
    with_it, without = (
        loss_terms(
            ObjectiveConfig(mmd=weight, alpha=0.0),
            tokens,
            {**outputs(tokens, False), "z": z},
            np.int32(0),
        )
        for weight in (5.0, 0.0)
    )
    np.testing.assert_allclose(
        with_it["loss"] - without["loss"], np.full(6, 5 * squared_mmd(z)), rtol=1e-4
    )
    np.testing.assert_allclose(with_it["elbo"], without["elbo"])


def test_a_bag_of_words_has_one_distribution_for_all_tokens_of_a_text_and_leaves_out_padding() -> (
    None
):
    tokens = np.array([[4, 5, 5, 1, 0, 0], [4, 4, 4, 4, 4, 1]], np.int32)
    probabilities = np.array([[0.0, 0.1, 0, 0, 0.2, 0.7], [0.0, 0.5, 0, 0, 0.25, 0.25]])
    logits = np.log(probabilities + 1e-30).astype(np.float32)
    expected = [-math.log(0.2 * 0.7**2 * 0.1), -math.log(0.25**5 * 0.5)]
    np.testing.assert_allclose(bag_of_words(tokens, logits), expected, rtol=1e-5)
    with_it, without = (
        loss_terms(ObjectiveConfig(bag_of_words=weight, alpha=0.0), tokens, made, np.int32(0))
        for weight, made in (
            (3.0, {**outputs(tokens, False), "bag_logits": logits}),
            (0.0, outputs(tokens, False)),
        )
    )
    np.testing.assert_allclose(
        with_it["loss"] - without["loss"], 3.0 * np.array(expected), rtol=1e-4
    )
    np.testing.assert_allclose(with_it["elbo"], without["elbo"])


def test_the_bag_of_words_is_predicted_from_the_code_alone() -> None:
    model, tokens = small_model({"bag_of_words": 1.0}), random_tokens(5)
    outputs = model(tokens)
    assert outputs["bag_logits"].shape == (5, model.model_config.vocabulary_size)
    np.testing.assert_allclose(
        outputs["bag_logits"], model.parts.bag(outputs["z"]), rtol=1e-5, atol=1e-6
    )
    weights = [weight.path for weight in model.generative_weights]
    assert any("bag" in path for path in weights)


ATTRIBUTE = np.array([-1, 2, 0, -1, 1], np.int32)


def per_value(values: int = 3) -> list[dict[str, np.ndarray]]:
    """Terms of five texts under each value."""
    generator = np.random.default_rng(0)
    return [
        {name: generator.gamma(3.0, size=5).astype(np.float32) for name in ("elbo", "loss", "kl")}
        for _ in range(values)
    ]


def attribute_logits() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)


def test_terms_of_texts_with_and_without_label_are_those_of_m2_by_hand() -> None:
    terms, logits = per_value(), attribute_logits()
    found = marginal_terms(terms, ATTRIBUTE, logits)
    for text, label in enumerate(ATTRIBUTE):
        q = np.exp(log_softmax(logits[text])) if label < 0 else np.eye(3)[label]
        # KL(q || uniform) of what is not given; a given label conditions the bound.
        kl = sum(p * np.log(p * 3) for p in q) if label < 0 else 0.0
        assert float(found["attribute_kl"][text]) == pytest.approx(kl, rel=1e-4)
        for name in ("elbo", "loss", "kl"):
            mean = sum(p * values[name][text] for p, values in zip(q, terms, strict=True))
            assert float(found[name][text]) == pytest.approx(
                mean + (kl if name != "kl" else 0.0), rel=1e-4
            )


def test_the_bound_of_texts_without_label_is_never_below_the_sum_over_values() -> None:
    terms, unknown = per_value(), np.full(5, -1, np.int32)
    elbos = np.stack([values["elbo"] for values in terms], axis=-1)
    exact = -logsumexp(-elbos - np.log(3), axis=-1)
    for seed in range(20):
        logits = 3 * np.random.default_rng(seed).normal(size=(5, 3)).astype(np.float32)
        assert (np.array(marginal_terms(terms, unknown, logits)["elbo"]) > exact - 1e-4).all()


def test_the_bound_of_texts_without_label_is_exact_with_the_exact_posterior_of_the_value() -> None:
    terms = per_value()
    elbos = np.stack([values["elbo"] for values in terms], axis=-1)
    found = marginal_terms(terms, np.full(5, -1, np.int32), 7.0 - elbos)["elbo"]
    np.testing.assert_allclose(found, -logsumexp(-elbos - np.log(3), axis=-1), rtol=1e-5)


def test_classification_counts_known_labels_alone() -> None:
    logits = attribute_logits()
    found = classification_terms(ATTRIBUTE, logits)
    known = ATTRIBUTE >= 0
    expected = np.where(known, -log_softmax(logits, axis=-1)[np.arange(5), ATTRIBUTE], 0)
    np.testing.assert_allclose(found["classification"], expected, rtol=1e-5)
    np.testing.assert_array_equal(found["labelled"], known)


def test_a_classification_is_correct_where_a_known_label_is_the_likeliest() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 2, 1, 1, 1]]
    found = classification_terms(ATTRIBUTE, logits)
    np.testing.assert_array_equal(found["correct"], [0, 1, 0, 0, 1])


def test_one_bit_a_character_is_ln_2_nats_a_position() -> None:
    assert bits_per_character(10 * np.log(2.0), 10) == pytest.approx(1.0)
