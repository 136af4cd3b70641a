"""Ladders, compared with numpy by hand: the KL of every level, the walk down and generation.

Other tests measure how far evidence and gradients reach.
"""

from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from kvae.distributions import Autoregressive, Gaussian
from kvae.hierarchy import Level

from .conftest import everyday, gradients, random_tokens, small_model, spread_model

SIZES = {"encoder_units": (8, 7, 6), "latent_size": (4, 3, 2), "expander": "repeat"}
LADDERS: dict[str, dict[str, Any]] = {
    "dense": {"encoder": "dense", **SIZES},
    "conv map": {"encoder": "conv", "latent": "map", **SIZES},
    "lstm map": {"encoder": "lstm", "latent": "map", **SIZES},
}
WIDTHS = {
    "dense": (4, 3, 2),
    "conv map": (8 * 4, 4 * 3, 2 * 2),
    "lstm map": (16 * 4, 16 * 3, 16 * 2),
}
ROWS = 6

each_ladder = pytest.mark.parametrize("name", LADDERS)


@cache
def ladder(name: str) -> Any:
    return spread_model(**LADDERS[name])


def noise(name: str, rows: int = ROWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, sum(WIDTHS[name]))).astype(np.float32)


def share(name: str, level: int) -> slice:
    """The columns of a level in a flat code."""
    start = sum(WIDTHS[name][:level])
    return slice(start, start + WIDTHS[name][level])


def features_of(name: str, tokens: np.ndarray) -> list[Any]:
    model = ladder(name)
    return model.encoder(list(model.parts.reader(tokens)), training=False)


def told(mean: np.ndarray, log_variance: np.ndarray) -> dict[str, np.ndarray]:
    """Evidence as the hierarchy takes it."""
    return {"mean": mean, "log_variance": log_variance}


def evidence(name: str, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log variance (B, d): what the text says about each level."""
    found = ladder(name).posterior(features_of(name, tokens), training=False)
    return np.array(found["mean"]), np.array(found["log_variance"])


def top_down(name: str, level: int, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the prior of a level given z above."""
    found = ladder(name).hierarchy.downs[level](above.astype(np.float32), training=False)
    return np.array(found["mean"], np.float64), np.exp(np.array(found["log_variance"], np.float64))


def by_hand(name: str, tokens: np.ndarray, drawn: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Inference in numpy, a dict for each level, bottom level first.

    The posterior merges evidence and prior. Its sample is passed on to the level below.
    """
    mean, log_variance = evidence(name, tokens)
    levels: list[dict[str, np.ndarray]] = []
    for level in reversed(range(3)):
        own = share(name, level)
        q_mean, q_variance = (
            mean[:, own].astype(np.float64),
            np.exp(log_variance[:, own].astype(np.float64)),
        )
        if level == 2:
            p_mean, p_variance = np.zeros_like(q_mean), np.ones_like(q_variance)
        else:
            p_mean, p_variance = top_down(name, level, levels[0]["z"])
            precision = 1 / q_variance + 1 / p_variance
            q_mean, q_variance = (
                (q_mean / q_variance + p_mean / p_variance) / precision,
                1 / precision,
            )
        kl = 0.5 * (
            np.log(p_variance / q_variance) + (q_variance + (q_mean - p_mean) ** 2) / p_variance - 1
        )
        z = q_mean + np.sqrt(q_variance) * drawn[:, own]
        shift = (q_mean - p_mean) / np.sqrt(p_variance)
        levels.insert(
            0,
            {"mean": q_mean, "variance": q_variance, "z": z, "kl": kl.sum(axis=-1), "shift": shift},
        )
    return levels


@each_ladder
def test_the_kl_of_every_level_is_that_of_the_merged_posterior_from_the_prior_given_the_sample_above(  # noqa: E501
    name: str,
) -> None:
    tokens = random_tokens(ROWS)
    found = ladder(name).parts.outputs(tokens, noise(name), training=False)
    expected = by_hand(name, tokens, noise(name))
    for number, level in enumerate(expected):
        np.testing.assert_allclose(found[f"kl_level_{number}"], level["kl"], rtol=1e-3, atol=1e-4)
        own = share(name, number)
        np.testing.assert_allclose(found["z"][:, own], level["z"], atol=1e-3)
        np.testing.assert_allclose(found["mean"][:, own], level["mean"], atol=1e-3)
        np.testing.assert_allclose(
            np.exp(found["log_variance"][:, own]), level["variance"], rtol=1e-3
        )
        np.testing.assert_allclose(
            np.sum(found["kl_per_dimension"][:, own], axis=-1), level["kl"], rtol=1e-3, atol=1e-4
        )


@each_ladder
def test_the_kl_of_the_objective_is_the_sum_of_the_levels(name: str) -> None:
    model, tokens = ladder(name), random_tokens(ROWS)
    outputs = model.parts.outputs(tokens, noise(name), training=False)
    expected = sum(level["kl"] for level in by_hand(name, tokens, noise(name)))
    np.testing.assert_allclose(model.loss_terms(tokens, outputs)["kl"], expected, rtol=1e-3)


@pytest.mark.parametrize(("name", "rows"), [("dense", 40_000), ("conv map", 10_000)])
def test_the_log_ratio_has_the_kl_as_its_mean(name: str, rows: int) -> None:
    mean, log_variance = (
        np.repeat(part, rows, axis=0) for part in evidence(name, random_tokens(1))
    )
    found = ladder(name).hierarchy(told(mean, log_variance), noise(name, rows))
    kl = sum(np.array(found[f"kl_level_{number}"], np.float64) for number in range(3))
    difference = np.array(found["log_ratio"], np.float64) - kl
    error = difference.std() / np.sqrt(rows)
    assert error < 0.01 * kl.mean()
    assert abs(difference.mean()) < 5 * error


@each_ladder
def test_generation_samples_every_level_from_its_prior_given_the_sample_above(name: str) -> None:
    drawn = noise(name, seed=1)
    expected = [drawn[:, share(name, 2)].astype(np.float64)]
    for level in (1, 0):
        mean, variance = top_down(name, level, expected[0])
        expected.insert(0, mean + np.sqrt(variance) * drawn[:, share(name, level)])
    np.testing.assert_allclose(
        ladder(name).hierarchy.sample(drawn),
        np.concatenate(expected, axis=-1),
        rtol=1e-3,
        atol=1e-3,
    )


@each_ladder
def test_inference_without_evidence_is_generation(name: str) -> None:
    drawn = noise(name, seed=2)
    silent = np.full_like(drawn, 60.0)
    silent[:, share(name, 2)] = 0.0
    walked = ladder(name).hierarchy(told(np.zeros_like(drawn), silent), drawn)
    np.testing.assert_allclose(
        walked["z"], ladder(name).hierarchy.sample(drawn), rtol=1e-4, atol=1e-4
    )
    assert max(np.abs(walked[f"kl_level_{number}"]).max() for number in range(3)) < 1e-4


@each_ladder
def test_the_shift_is_what_the_text_moves_in_deviations_of_the_prior(name: str) -> None:
    mean, log_variance = evidence(name, random_tokens(ROWS))
    for number, level in enumerate(by_hand(name, random_tokens(ROWS), noise(name))):
        found = ladder(name).hierarchy.infer(told(mean, log_variance), noise(name))[number].shift
        np.testing.assert_allclose(found, level["shift"], rtol=1e-3, atol=1e-3)


@each_ladder
def test_evidence_that_carries_nothing_shifts_nothing(name: str) -> None:
    mean, silent = np.full_like(noise(name), 5.0), np.full_like(noise(name), 60.0)
    mean[:, share(name, 2)] = silent[:, share(name, 2)] = 0.0
    for level in ladder(name).hierarchy.infer(told(mean, silent), noise(name)):
        np.testing.assert_allclose(level.shift, np.zeros(level.shift.shape), atol=1e-5)


def test_the_shift_from_a_prior_that_is_no_gaussian_is_the_posterior_mean() -> None:
    posterior = Gaussian(np.full((2, 8), 3.0, np.float32), np.zeros((2, 8), np.float32))
    np.testing.assert_array_equal(
        Level(posterior.mean, Autoregressive(0.5, 4), posterior).shift, posterior.mean
    )


@each_ladder
@pytest.mark.parametrize("level", [0, 1, 2])
def test_evidence_reaches_its_level_and_those_below_and_no_other(name: str, level: int) -> None:
    mean, log_variance = evidence(name, random_tokens(ROWS))
    moved = mean.copy()
    moved[:, share(name, level)] += 1.0
    before, after = (
        ladder(name).hierarchy(told(part, log_variance), noise(name))["mean"]
        for part in (mean, moved)
    )
    changes = [np.abs(after - before)[:, share(name, other)].max() for other in range(3)]
    assert min(changes[: level + 1]) > 1e-3
    assert changes[level + 1 :] == [0.0] * (2 - level)


@each_ladder
def test_the_noise_of_a_level_reaches_the_posteriors_below_it(name: str) -> None:
    """The sample of the merged posterior is passed down, not its mean or a sample of the prior."""
    mean, log_variance = evidence(name, random_tokens(ROWS))
    moved = noise(name)
    moved[:, share(name, 1)] += 1.0
    before, after = (
        ladder(name).hierarchy(told(mean, log_variance), drawn)["mean"]
        for drawn in (noise(name), moved)
    )
    changes = np.abs(after - before)
    assert changes[:, share(name, 0)].max() > 1e-3
    assert changes[:, share(name, 1)].max() == changes[:, share(name, 2)].max() == 0.0


@each_ladder
def test_every_level_reads_its_own_layer_of_the_encoder(name: str) -> None:
    tokens = random_tokens(ROWS)
    features, found = features_of(name, tokens), evidence(name, tokens)
    layers = features if name == "dense" else features[1::2]
    for level, rows in enumerate(layers):
        for part, statistic in zip(("mean", "log_variance"), found, strict=True):
            linear = ladder(name).posterior.get_layer(f"{part}_{level}")
            expected = (np.array(rows) @ np.array(linear.kernel) + np.array(linear.bias)).reshape(
                ROWS, -1
            )
            np.testing.assert_allclose(statistic[:, share(name, level)], expected, atol=1e-4)


@pytest.mark.parametrize("level", [0, 1])
def test_the_way_down_between_vectors_is_linear_normalised_rectified_and_linear(level: int) -> None:
    down, above = (
        ladder("dense").hierarchy.downs[level],
        noise("dense")[:, share("dense", level + 1)],
    )
    normalization = down.get_layer(f"down_normalization_{level}")
    gain, offset, mean, variance = (np.array(weight) for weight in normalization.get_weights())
    hidden = above @ np.array(down.get_layer(f"down_dense_{level}").kernel)
    hidden = np.maximum(
        gain * (hidden - mean) / np.sqrt(variance + normalization.epsilon) + offset, 0
    )
    for part, found in down(above, training=False).items():
        linear = down.get_layer(f"prior_{part}_{level}")
        np.testing.assert_allclose(
            found, hidden @ np.array(linear.kernel) + np.array(linear.bias), atol=1e-5
        )


@pytest.mark.jax
@pytest.mark.parametrize("name", everyday(LADDERS, "conv map"))
def test_gradients_of_reconstruction_and_of_kl_reach_every_weight_on_the_way_up_and_down(
    name: str,
) -> None:
    model, tokens = small_model(**LADDERS[name]), random_tokens(16)
    weights = [*model.encoder.trainable_weights, *model.posterior.trainable_weights]
    weights += model.hierarchy.trainable_weights
    names = {weight.path.split("/")[-2] for weight in weights}
    assert {f"{part}_{level}" for level in range(3) for part in ("mean", "log_variance")} <= names
    assert {
        f"prior_{part}_{level}" for level in range(2) for part in ("mean", "log_variance")
    } <= names

    for term in ("reconstruction", "kl"):
        found = gradients(
            lambda term=term: keras.ops.sum(model.terms(tokens, training=True)[term]), weights
        )
        for weight, gradient in zip(weights, found, strict=True):
            assert np.abs(gradient).max() > 0, (term, weight.path)


@pytest.mark.parametrize("name", ["dense", "conv map"])
def test_training_moves_the_statistics_of_every_normalisation_on_the_way_down(name: str) -> None:
    model = small_model(**LADDERS[name])
    moving = [weight for weight in model.hierarchy.weights if weight.path.endswith("moving_mean")]
    assert len(moving) == 2
    model.parts.outputs(random_tokens(16), noise(name, 16), training=False)
    assert not any(np.any(np.array(weight)) for weight in moving)
    model(random_tokens(16), training=True)
    assert all(np.any(np.array(weight)) for weight in moving)


@pytest.mark.parametrize("latent", ["dense", "map"])
def test_batch_normalised_means_have_the_spread_that_bounds_the_kl_from_below(latent: str) -> None:
    model = small_model(
        posterior="batch_normalized", posterior_scale=0.7, latent=latent, expander="repeat"
    )
    drawn = np.random.default_rng(0).normal(size=(64, model.parts.noise_size)).astype(np.float32)
    found = model.parts.outputs(random_tokens(64), drawn, training=True)
    means = np.array(found["mean"]).reshape(-1, 4)
    np.testing.assert_allclose(means.std(axis=0), 0.7, rtol=0.01)
    kl = np.array(found["kl_per_dimension"]).reshape(-1, 4).mean(axis=0)
    assert (kl >= 0.99 * 0.7**2 / 2).all()


def test_batch_normalised_means_keep_their_spread_however_small_the_weights() -> None:
    """The architecture sets the spread, so it stays when a penalty shrinks the weights."""
    model = small_model(posterior="batch_normalized", posterior_scale=0.7)
    linear = model.posterior.get_layer("mean_0")
    linear.kernel.assign(linear.kernel / 10)
    drawn = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    found = model.parts.outputs(random_tokens(64), drawn, training=True)
    np.testing.assert_allclose(np.std(found["mean"], axis=0), 0.7, rtol=0.1)


@pytest.mark.parametrize("log_variance", [pytest.param(-200.0, marks=pytest.mark.slow), 200.0])
def test_a_prior_or_a_text_that_is_far_too_sure_or_unsure_leaves_all_numbers_finite(
    log_variance: float,
) -> None:
    model = small_model(**LADDERS["dense"])
    for weight in model.trainable_weights:
        if "log_variance" in weight.path and weight.path.endswith("bias"):
            weight.assign(log_variance + 0.0 * weight)
    tokens = random_tokens(ROWS)
    outputs = model.parts.outputs(tokens, noise("dense"), training=True)
    for name in ("kl_level_0", "kl_level_1", "kl_level_2", "log_ratio"):
        assert np.isfinite(outputs[name]).all()
    for gradient in gradients(
        lambda: ops.mean(model.terms(tokens, training=True)["loss"]), model.trainable_weights
    ):
        assert np.isfinite(gradient).all()
