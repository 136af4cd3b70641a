"""Importance-weighted bounds against a linear Gaussian model, whose likelihood is known.

z ~ N(0, I), x = W z + noise. Its posterior is known too; q is a Gaussian that differs from it.
"""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp, softmax

from kvae.configuration import ObjectiveConfig
from kvae.distributions import Gaussian
from kvae.importance_weights import importance_weighted_nll, importance_weighted_terms
from kvae.misfits import check_slots
from kvae.objectives import LOSSES
from kvae.replicas import Replica, replica
from kvae.serving.errors import ConfigError
from kvae.tracking import trackers_of

from .conftest import (
    COMPILED,
    everyday,
    gradients,
    numbers,
    random_tokens,
    small_config,
    small_model,
)

pytestmark = pytest.mark.jax
SPREAD = 0.6
X = np.array([0.4, -1.1, 0.7])
W = np.array([[1.2, 0.3], [-0.5, 0.8], [0.4, -0.9]])
PRECISION = np.eye(2) + W.T @ W / SPREAD**2
POSTERIOR_MEAN = np.linalg.solve(PRECISION, W.T @ X) / SPREAD**2
NLL = -float(
    stats.multivariate_normal(cov=W @ W.T + SPREAD**2 * np.eye(3)).logpdf(X),
)
WRONG = POSTERIOR_MEAN + 0.3, -np.log(np.diag(PRECISION)) + 0.7
"""Mean and log variance of a posterior that is off the place and too wide, (2,) each."""


def bounds(
    mean: Any, log_variance: Any, noise: Any, samples: int, beta: float = 1.0, w: Any = W
) -> dict[str, Any]:
    """`importance_weighted_terms` of n copies of X, from q and noise (n * samples, 2), computed
    with the distributions of kvae."""
    posterior = Gaussian(mean, log_variance)
    z = posterior.sample(noise)
    located = keras.ops.matmul(z, keras.ops.transpose(w))
    spread = np.full((1, 3), 2 * np.log(SPREAD), np.float32)
    reconstruction = -Gaussian(located, spread).log_prob(X.astype(np.float32)[None])
    outputs = {
        "z": z,
        "mean": mean,
        "log_variance": log_variance,
        "log_ratio": posterior.log_prob(z) - Gaussian.standard_like(z).log_prob(z),
    }
    costs = reconstruction, reconstruction
    return importance_weighted_terms(*costs, outputs, np.float32(beta), samples, samples > 1)


def noise_of(texts: int, samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(texts * samples, 2)).astype(np.float32)


def repeated(values: Any, rows: int) -> np.ndarray:
    return np.repeat(np.asarray(values, np.float32)[None], rows, axis=0)


def drawn(samples: int, texts: int, q: Any = WRONG, beta: float = 1.0) -> dict[str, np.ndarray]:
    """The bounds of so many copies of X, each with codes of its own, (texts,)."""
    parameters = (repeated(part, texts * samples) for part in q)
    found = bounds(*parameters, noise_of(texts, samples), samples, beta, W.astype(np.float32))
    return {name: numbers(values).astype(np.float64) for name, values in found.items()}


def test_one_code_gives_the_elbo() -> None:
    """The mean of many is the reconstruction plus the KL, both in closed form."""
    mean, log_variance = WRONG
    variance = np.exp(log_variance)
    misses = np.sum((X - W @ mean) ** 2) + np.sum(W**2 @ variance)
    reconstruction = 1.5 * np.log(2 * np.pi * SPREAD**2) + misses / (2 * SPREAD**2)
    kl = 0.5 * np.sum(variance + mean**2 - 1 - log_variance)
    found = drawn(1, 20_000)
    error = found["loss"].std() / np.sqrt(20_000)
    assert found["loss"].mean() == pytest.approx(reconstruction + kl, abs=4 * error)
    np.testing.assert_allclose(found["loss"], found["importance_weighted_nll"], rtol=1e-6)


def test_the_bound_is_above_the_likelihood_and_falls_to_it_with_the_codes() -> None:
    texts = 4000
    found = {samples: drawn(samples, texts)["loss"] for samples in (1, 4, 16, 64)}
    means = [bound.mean() for bound in found.values()]
    errors = [bound.std() / np.sqrt(texts) for bound in found.values()]
    for tighter in range(1, 4):
        assert means[tighter - 1] > means[tighter] + 4 * errors[tighter - 1]
    assert NLL - 4 * errors[-1] < means[-1] < NLL + 0.02 < means[-2]
    assert drawn(200_000, 1)["loss"][0] == pytest.approx(NLL, abs=0.01)


@pytest.mark.parametrize("k", [1, 5, 50])
def test_with_the_exact_posterior_every_draw_gives_the_likelihood(k: int) -> None:
    generator = np.random.default_rng(0)
    exact = stats.multivariate_normal(POSTERIOR_MEAN, np.linalg.inv(PRECISION), seed=generator)
    z = exact.rvs((k, 10))
    joint = stats.norm(z @ W.T, SPREAD).logpdf(X).sum(-1) + stats.norm.logpdf(z).sum(-1)
    log_weights = (joint - exact.logpdf(z)).reshape(k, 10)
    np.testing.assert_allclose(importance_weighted_nll(log_weights), np.full(10, NLL), rtol=1e-5)


def reference(mean: Any, log_variance: Any, w: Any, noise: Any, samples: int, beta: float) -> float:
    """The mean loss over the texts, in double precision without kvae."""
    z = mean + np.exp(0.5 * log_variance) * noise
    log_weights = (
        stats.norm(z @ w.T, SPREAD).logpdf(X).sum(-1)
        + beta * stats.norm.logpdf(z).sum(-1)
        - beta * stats.norm(mean, np.exp(0.5 * log_variance)).logpdf(z).sum(-1)
    ).reshape(-1, samples)
    return float(np.mean(np.log(samples) - logsumexp(log_weights, axis=1)))


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_gradient_of_the_loss_is_that_of_finite_differences(beta: float) -> None:
    """For the parameters of q and of p, with fixed noise."""
    samples, texts = 5, 3
    noise = noise_of(texts, samples)
    values = [*WRONG, W]
    variables = [keras.Variable(value.astype(np.float32)) for value in values]

    def loss() -> Any:
        mean, log_variance, w = (keras.ops.convert_to_tensor(part) for part in variables)
        rows = (keras.ops.repeat(part[None], len(noise), axis=0) for part in (mean, log_variance))
        return keras.ops.mean(bounds(*rows, noise, samples, beta, w)["loss"])

    def shifted(place: int, index: Any, step: float) -> float:
        moved = [value.copy() for value in values]
        moved[place][index] += step
        return reference(*moved, noise.astype(np.float64), samples, beta)

    for place, found in enumerate(gradients(loss, variables)):
        expected = np.zeros_like(values[place])
        for index in np.ndindex(expected.shape):
            step = 1e-5
            expected[index] = (shifted(place, index, step) - shifted(place, index, -step)) / 2e-5
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def gradients_of_draws(name: str, samples: int, texts: int, beta: float = 1.0) -> np.ndarray:
    """The gradients of a loss of each of n copies of X for the mean and log variance of its q,
    (n, 4)."""
    parameters = [keras.Variable(repeated(part, texts)) for part in WRONG]

    def loss() -> Any:
        rows = (keras.ops.repeat(part + 0.0, samples, axis=0) for part in parameters)
        w, noise = W.astype(np.float32), noise_of(texts, samples, seed=samples)
        return keras.ops.sum(bounds(*rows, noise, samples, beta, w)[name])

    return np.concatenate(gradients(loss, parameters), axis=1).astype(np.float64)


@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_the_doubly_reparameterised_gradient_is_that_of_the_paper(beta: float) -> None:
    """At beta 1: the sum of v_k^2 d log w_k/dz_k dz_k/dphi, minus (Tucker et al. 2019)."""
    samples, texts = 6, 4
    noise = noise_of(texts, samples, seed=samples).astype(np.float64).reshape(texts, samples, 2)
    mean, deviation = WRONG[0], np.exp(0.5 * WRONG[1])
    z = mean + deviation * noise
    log_weights = (
        stats.norm(z @ W.T, SPREAD).logpdf(X).sum(-1)
        + beta * stats.norm.logpdf(z).sum(-1)
        - beta * stats.norm(mean, deviation).logpdf(z).sum(-1)
    )
    share = softmax(log_weights, axis=1)[..., None]
    slope = (X - z @ W.T) @ W / SPREAD**2 + beta * (-z + (z - mean) / deviation**2)
    factor = (1 - beta) * share + beta * share**2
    of_mean = -(factor * slope).sum(axis=1)
    of_log_variance = -(factor * slope * 0.5 * deviation * noise).sum(axis=1)
    np.testing.assert_allclose(
        gradients_of_draws("inference_loss", samples, texts, beta),
        np.concatenate([of_mean, of_log_variance], axis=1),
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_both_gradients_of_the_encoder_have_the_same_mean(beta: float) -> None:
    texts = 10_000
    standard, doubly = (gradients_of_draws(name, 4, texts, beta) for name in LOSSES)
    error = np.sqrt((standard.var(axis=0) + doubly.var(axis=0)) / texts)
    assert np.all(np.abs(standard.mean(axis=0) - doubly.mean(axis=0)) < 4 * error)
    assert np.all(np.abs(doubly.mean(axis=0)) > 5 * error), "a mean of 0 would tell nothing"


def test_more_codes_drown_the_standard_gradient_and_not_the_other() -> None:
    """The signal-to-noise ratio falls as 1 / sqrt(K) (Rainforth et al. 2018), and rises as sqrt(K)
    with the second reparameterisation (Tucker et al. 2019)."""
    texts = 5000

    def found(name: str, samples: int) -> tuple[np.ndarray, np.ndarray]:
        each = gradients_of_draws(name, samples, texts)
        return each.var(axis=0), np.abs(each.mean(axis=0)) / each.std(axis=0)

    (_, ratio_of_few), (variance, ratio) = (found("loss", samples) for samples in (4, 64))
    (_, doubly_of_few), (doubly_variance, doubly) = (
        found("inference_loss", samples) for samples in (4, 64)
    )
    assert np.all(doubly_variance < 0.1 * variance)
    assert np.all(ratio < 0.5 * ratio_of_few)
    assert np.all(doubly > doubly_of_few)


def test_with_the_exact_posterior_the_doubly_reparameterised_gradient_is_zero() -> None:
    """For every draw; the posterior of an orthogonal W is one that q can be."""
    w = np.diag([1.2, 0.7]).astype(np.float32)
    w = np.concatenate([w, np.zeros((1, 2), np.float32)])
    precision = np.diag(np.eye(2) + w.T @ w / SPREAD**2)
    exact = (w.T @ X / SPREAD**2) / precision, -np.log(precision)
    parameters = [keras.Variable(repeated(part, 10)) for part in exact]

    def loss(name: str) -> Any:
        rows = (keras.ops.repeat(part + 0.0, 5, axis=0) for part in parameters)
        return keras.ops.sum(bounds(*rows, noise_of(10, 5), 5, 1.0, w)[name])

    for found in gradients(lambda: loss("inference_loss"), parameters):
        np.testing.assert_allclose(found, np.zeros((10, 2)), atol=1e-5)
    assert all(np.abs(found).max() > 0.1 for found in gradients(lambda: loss("loss"), parameters))


# The bounds of a TextVAE

SEVERAL = {"importance_samples": 3, "beta_max": 0.7, "ramp_steps": 0}
DOUBLY = {"importance_samples": 5, "importance_gradient": "doubly_reparameterized"}
ONE_ROW = {"expander": "repeat", "head_reads": "both"}
"""A decoder without batch normalisation."""


@pytest.fixture(scope="module")
def several() -> Any:
    """A model that trains with three codes a text, and adds all losses to their bound."""
    return small_model({**SEVERAL, "bag_of_words": 0.3, "mmd": 2.0, "moments": 0.5})


@pytest.mark.parametrize("posterior", everyday(["free", "iaf"], "iaf"))
def test_row_after_row_the_outputs_are_those_of_one_code_each(posterior: str) -> None:
    """The encoder reads each text once; row b * K + k is text b with its noise k."""
    made = small_model(latent_size=(4, 3), expander="repeat", posterior=posterior)
    tokens, samples = random_tokens(4), 3
    noise = np.random.default_rng(0).normal(size=(12, made.parts.noise_size)).astype(np.float32)
    together = made.parts.outputs(tokens, noise, training=False, samples=samples)
    for k in range(samples):
        alone = made.parts.outputs(tokens, noise[k::samples], training=False)
        for name, values in alone.items():
            np.testing.assert_allclose(
                numbers(together[name])[k::samples], values, rtol=1e-4, atol=1e-5, err_msg=name
            )


@pytest.mark.parametrize("count_padding", [True, False])
def test_the_terms_of_several_codes_are_made_of_those_of_each(
    several: Any, count_padding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = several
    config = replace(made.objective_config, count_padding=count_padding)
    monkeypatch.setattr(made, "objective_config", config)
    tokens = random_tokens(6)
    noise = np.random.default_rng(0).normal(size=(18, 4)).astype(np.float32)
    outputs = made.parts.outputs(tokens, noise, training=False, samples=3)
    found = made.loss_terms(tokens, outputs, 3)
    per_code = [
        {
            "log_ratio": numbers(outputs["log_ratio"])[k::3],
            **made.loss_terms(tokens, made.parts.outputs(tokens, noise[k::3], training=False)),
        }
        for k in range(3)
    ]

    def each(name: str) -> np.ndarray:
        return np.stack([numbers(terms[name]) for terms in per_code])

    counted = each("reconstruction_with_padding" if count_padding else "reconstruction")
    auxiliary = each("loss") - counted - 0.7 * each("kl") - 2.0 * each("mmd")
    auxiliary -= 0.5 * each("moments")  # what is left: the auxiliary loss and that of the bag
    bound = np.log(3) - logsumexp(-counted - 0.7 * each("log_ratio"), axis=0)
    added = auxiliary.mean(axis=0) + 2.0 * each("mmd")[0] + 0.5 * each("moments")[0]
    np.testing.assert_allclose(found["loss"], bound + added, rtol=1e-4)
    np.testing.assert_allclose(
        found["importance_weighted_nll"],
        np.log(3) - logsumexp(-each("reconstruction") - each("log_ratio"), axis=0),
        rtol=1e-5,
    )
    for name in ("reconstruction", "kl", "elbo", "auxiliary", "bag_of_words", "beta", "positions"):
        np.testing.assert_allclose(found[name], each(name).mean(axis=0), rtol=1e-4, err_msg=name)


def test_a_guess_of_the_attribute_costs_the_bound_as_much_as_the_elbo() -> None:
    made, tokens = small_model(SEVERAL, attributes=("low", "high")), random_tokens(6)
    guessed, known = (
        made.terms({"tokens": tokens, "attribute": np.full(6, value, np.int32)})
        for value in (-1, 0)
    )
    assert np.allclose(guessed["attribute_kl"], np.log(2))
    assert np.allclose(known["attribute_kl"], 0)
    outputs = made.parts.outputs(
        tokens, np.zeros((18, 5), np.float32), np.full(6, -1), samples=3, training=False
    )
    assert outputs["attribute_logits"].shape == (6, 2)
    terms = made.loss_terms({"tokens": tokens, "attribute": np.full(6, -1)}, outputs, 3)
    plain = made.text_terms(tokens, outputs, 3)
    for name in ("elbo", "importance_weighted_nll"):
        np.testing.assert_allclose(terms[name] - plain[name], np.full(6, np.log(2)), rtol=1e-4)


@pytest.mark.slow
def test_the_gradient_of_a_text_vae_is_that_of_finite_differences(several: Any) -> None:
    """Along the gradient itself, with fixed noise."""
    made, tokens = several, random_tokens(8)
    noise = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    weights = made.trainable_weights

    def loss() -> Any:
        outputs = made.parts.outputs(tokens, noise, training=False, samples=3)
        return keras.ops.mean(made.loss_terms(tokens, outputs, 3)["loss"])

    found = gradients(loss, weights)
    norm = np.sqrt(sum(np.sum(np.square(part.astype(np.float64))) for part in found))
    before, step, values = [numbers(weight.value) for weight in weights], 1e-3, []
    for sign in (1, -1):
        for weight, value, part in zip(weights, before, found, strict=True):
            weight.assign(value + sign * step * part / norm)
        values.append(float(loss()))
    for weight, value in zip(weights, before, strict=True):
        weight.assign(value)
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(norm, rel=0.01)


@pytest.mark.both
def test_a_step_gives_the_encoder_its_own_gradient_and_the_decoder_that_of_the_loss() -> None:
    made = small_model({**SEVERAL, **DOUBLY}, **ONE_ROW)
    tokens, generator = random_tokens(8), made.get_layer("noise").generator.state
    drawn_before = numbers(generator.value)

    def gradients_of(name: str) -> dict[str, np.ndarray]:
        weights = made.trainable_weights
        generator.assign(drawn_before)
        found = gradients(lambda: keras.ops.mean(made.terms(tokens, training=True)[name]), weights)
        return {weight.path: part for weight, part in zip(weights, found, strict=True)}

    of_loss, of_encoder = (gradients_of(name) for name in LOSSES)
    before = {weight.path: numbers(weight.value) for weight in made.trainable_weights}
    generator.assign(drawn_before)
    made.compile(keras.optimizers.SGD(1.0), **COMPILED)
    made.train_on_batch(tokens)
    for weight in made.trainable_weights:
        moved = before[weight.path] - numbers(weight.value)
        is_inference = any(weight is other for other in made.inference_weights)
        expected = (of_encoder if is_inference else of_loss)[weight.path]
        np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-4, err_msg=weight.path)
    differences = [
        np.abs(of_encoder[weight.path] - of_loss[weight.path]).max()
        for weight in made.inference_weights
    ]
    assert max(differences) > 0.01, "the encoder has another gradient than that of the loss"


def test_a_model_reports_the_bound_under_its_own_name(several: Any) -> None:
    several.compile("adam", **COMPILED)
    logs = several.evaluate(random_tokens(40), verbose=0, return_dict=True)
    assert logs["importance_weighted_nll"] < logs["elbo"]
    assert logs["elbo"] == pytest.approx(logs["reconstruction"] + logs["kl"], rel=1e-5)
    assert "inference_loss" not in logs
    assert "importance_weighted_nll" not in trackers_of(small_config(), ObjectiveConfig(), {})


def test_a_part_of_a_batch_draws_the_codes_that_its_texts_have_in_the_whole(several: Any) -> None:
    tokens, layer = np.repeat(random_tokens(4), 3, axis=0), several.get_layer("noise")
    state = numbers(layer.generator.state.value)

    def draw(part: Replica, rows: np.ndarray) -> np.ndarray:
        layer.generator.state.assign(state)
        with replica(part):
            return numbers(layer(rows))

    whole = draw(Replica(), tokens)
    for index in range(2):
        part = draw(Replica(index, 2), tokens[6 * index : 6 * index + 6])
        np.testing.assert_array_equal(part, whole[6 * index : 6 * index + 6])


@pytest.mark.parametrize(
    ("objective", "model", "message"),
    [
        ({"importance_samples": 5, "penalty": "free_bits"}, {}, "penalty 'free_bits' acts on"),
        ({"importance_samples": 5, "penalty": "constrained"}, {}, "use 'annealed'"),
        (
            {"importance_samples": 5, "semi_supervised": True},
            {"attributes": ("a", "b")},
            "one code for each possible label",
        ),
        (
            {"importance_samples": 5, "alpha": 0.0},
            {"latent": "none", "encoder": "none", "expander": "repeat", "expander_base": 0}
            | {"auxiliary": False},
            "no code to sample",
        ),
        ({"importance_gradient": "doubly_reparameterized"}, {}, "importance_samples above 1"),
        (DOUBLY, {}, "normalises over the batch"),
        (DOUBLY, {**ONE_ROW, "prior": "vamp"}, "is made of the encoder"),
        (DOUBLY, {"expander": "repeat", "latent_size": (4, 3)}, "a code of one level"),
    ],
)
def test_what_the_bound_does_not_go_with_is_refused_with_the_reason(
    objective: dict[str, Any], model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_slots(small_config(**model), ObjectiveConfig(**objective))


@pytest.mark.parametrize("prior", ["mixture", "autoregressive"])
def test_the_doubly_reparameterised_gradient_takes_other_priors(prior: str) -> None:
    latent = {"latent": "map"} if prior == "autoregressive" else {}
    made = small_model(DOUBLY, prior=prior, expander="repeat", **latent)
    terms = made.terms(random_tokens(4), training=True)
    assert np.isfinite(numbers(terms["loss"])).all()
