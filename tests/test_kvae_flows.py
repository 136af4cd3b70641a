"""Flows: determinants against Jacobians, densities against integrals, and what a code made by one
says of a text."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import expit, logsumexp

from kvae.distributions import Gaussian, Invertible, Transformed
from kvae.flows import UNIT_BIAS, AffineCoupling, InverseAutoregressive, Planar, planar_step
from kvae.objectives import cross_entropy, token_mask
from kvae.parts import shifted
from kvae.training.evaluation import evaluate, mutual_information

from .conftest import COMPILED, JAX, everyday, numbers, random_tokens, small_config, small_model

pytestmark = pytest.mark.jax

POSTERIORS = {"iaf": InverseAutoregressive, "planar": Planar}
each_posterior = pytest.mark.parametrize("name", POSTERIORS)


def noise(rows: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)


def spread(layer: Any, scale: float = 0.7) -> Any:
    """A layer whose weights are random, so that it is not near the identity."""
    generator = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(scale * generator.normal(size=weight.shape))
    return layer


def posterior_flow(name: str, size: int, layers: int = 3, units: int = 12) -> Any:
    reads = {"posterior_units": units} if name == "iaf" else {}
    config = small_config(posterior=name, posterior_layers=layers, **reads)
    return spread(POSTERIORS[name](config, size))


def context_of(flow: Any, rows: int, seed: int = 2) -> np.ndarray:
    """A context as wide as the flow reads, other numbers for each row."""
    width = flow.context(np.ones((1, 3), np.float32)).shape[-1]
    return noise(rows, width, seed)


def coupling(size: int, layers: int = 4) -> AffineCoupling:
    config = small_config(prior="flow", prior_layers=layers, prior_units=10)
    return spread(AffineCoupling(config, size))


def jacobians(transform: Callable[[Any], tuple[Any, Any]], z: np.ndarray) -> np.ndarray:
    """d image / d z of each row, (B, d, d), by the backend's own differentiation."""
    if JAX:
        import jax

        each = jax.jacrev(lambda row: transform(row)[0].sum(axis=0))(z)
        return np.array(each).transpose(1, 0, 2)
    import tensorflow as tf

    inputs = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        images, _ = transform(inputs)
    return np.array(tape.batch_jacobian(images, inputs))


def transforms(size: int, rows: int) -> dict[str, Callable[[Any], tuple[Any, Any]]]:
    """All transforms of codes (rows, size), with a context for each row."""
    found: dict[str, Callable[[Any], tuple[Any, Any]]] = {}
    for name in POSTERIORS:
        flow = posterior_flow(name, size)
        context = context_of(flow, rows)
        found[name] = lambda z, flow=flow, context=context: flow.forward(z, context)
    found["coupling"] = coupling(size).forward
    return found


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_log_determinant_is_that_of_the_jacobian(size: int) -> None:
    z = 1.5 * noise(20, size)
    for name, transform in transforms(size, 20).items():
        sign, expected = np.linalg.slogdet(np.float64(jacobians(transform, z)))
        assert (sign == 1).all(), name
        found = numbers(transform(z)[1])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4, err_msg=name)
        assert np.abs(expected).max() > 0.1, name


@pytest.mark.parametrize(("size", "units"), [(4, 12), (6, 3)])
def test_a_step_of_the_autoregressive_flow_reads_the_dimensions_before_and_no_other(
    size: int, units: int
) -> None:
    """Every second step reads those behind. The diagonal is the gate, between 0 and 1."""
    flow = posterior_flow("iaf", size, layers=2, units=units)
    z, width = noise(8, size), flow.units
    context = context_of(flow, 8)
    for step, triangle in enumerate((np.tril, np.triu)):
        alone = posterior_flow("iaf", size, layers=1, units=units)
        alone.masks, alone.networks = [flow.masks[step]], [flow.networks[step]]
        own = context[:, step * width : (step + 1) * width]
        found = jacobians(lambda z, alone=alone, own=own: alone.forward(z, own), z)
        np.testing.assert_array_equal(found, triangle(found))
        diagonal = np.diagonal(found, axis1=1, axis2=2)
        assert (diagonal > 0).all()
        assert (diagonal < 1).all()
        if units >= size:  # a unit for each place: every entry of the triangle is used
            assert np.count_nonzero(found[0]) == size * (size + 1) // 2


@each_posterior
def test_the_context_of_a_text_changes_its_flow_in_every_dimension(name: str) -> None:
    flow, z = posterior_flow(name, 5), np.repeat(noise(1, 5), 2, axis=0)
    images = numbers(flow.forward(z, context_of(flow, 2))[0])
    assert (images[0] != images[1]).all()


def test_the_inverse_of_the_coupling_layers_gives_the_code_and_the_determinant_back() -> None:
    for size in (1, 2, 7):
        flow, z = coupling(size), noise(50, size)
        image, log_determinant = flow.forward(z)
        before, same = flow.inverse(image)
        np.testing.assert_allclose(before, z, atol=2e-4)
        np.testing.assert_allclose(same, log_determinant, atol=2e-4)
        assert np.abs(numbers(image) - z).max() > 0.5


def test_a_planar_step_stays_invertible_whatever_the_network_says() -> None:
    """Along w, which alone is bent, it rises, also where w.u is far below -1."""
    grid = np.linspace(-6.0, 6.0, 401, dtype=np.float32)[:, None]
    for strength in (-20.0, -2.0, 0.0, 5.0):
        w, u = np.array([[1.3]], np.float32), np.array([[strength]], np.float32)
        images, log_determinants = planar_step(grid, u, w, np.array([[0.2]], np.float32))
        slopes = np.diff(numbers(images)[:, 0]) / np.diff(grid[:, 0])
        assert (slopes > 0).all(), strength
        between = np.exp(0.5 * (numbers(log_determinants)[1:] + numbers(log_determinants)[:-1]))
        np.testing.assert_allclose(slopes, between, rtol=0.02, atol=0.01)


def test_the_flow_along_the_plane_is_that_of_the_paper() -> None:
    """u is changed along w only, to w.u' = m(w.u), which is never below -1 (appendix A.1)."""
    z, u, w, b = noise(30, 3), noise(30, 3, 1), noise(30, 3, 2), noise(30, 1, 3)
    product = (w * u).sum(axis=1, keepdims=True)
    allowed = np.log1p(np.exp(product + UNIT_BIAS)) - 1.0
    bent = u + (allowed - product) * w / (w**2).sum(axis=1, keepdims=True)
    expected = z + bent * np.tanh((w * z).sum(axis=1, keepdims=True) + b)
    image, log_determinant = planar_step(z, u, w, b)
    np.testing.assert_allclose(image, expected, atol=1e-5)
    slope = 1.0 - np.tanh((w * z).sum(axis=1) + b[:, 0]) ** 2
    determinant = 1.0 + slope * (w * bent).sum(axis=1)  # eq. 12
    np.testing.assert_allclose(log_determinant, np.log(determinant), atol=1e-4)


def standard(rows: int, size: int) -> Gaussian:
    return Gaussian.standard_like(np.zeros((rows, size), np.float32))


def test_the_density_of_the_prior_integrates_to_one() -> None:
    flow = spread(coupling(2, layers=2), 0.4)
    line = np.linspace(-15.0, 15.0, 601, dtype=np.float32)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    prior = Invertible(standard(1, 2), flow.forward, flow.inverse)
    density = np.exp(np.float64(numbers(prior.log_prob(grid))))
    assert density.sum() * (line[1] - line[0]) ** 2 == pytest.approx(1.0, abs=0.005)
    samples, log_density = prior.sample_with_log_prob(noise(500, 2))
    np.testing.assert_allclose(prior.log_prob(samples), log_density, atol=1e-3)


@each_posterior
def test_a_density_weighted_by_that_of_a_flow_has_the_mean_one(name: str) -> None:
    """E[r(z) / q(z)] = 1 for z of q and any density r, if q is the density of its samples."""
    rows = 100_000
    flow = posterior_flow(name, 2, layers=2)
    context = np.repeat(0.5 * context_of(flow, 1), rows, axis=0)
    q = Transformed(standard(rows, 2), lambda z: flow.forward(z, context))
    z, log_density = q.sample_with_log_prob(noise(rows, 2))
    z = np.float64(numbers(z))
    narrow = -0.5 * ((z - np.median(z, axis=0)) ** 2 / 0.04).sum(axis=1) - np.log(2 * np.pi * 0.04)
    ratios = np.exp(narrow - np.float64(numbers(log_density)))
    assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / np.sqrt(rows) < 0.2


@each_posterior
def test_a_new_flow_has_the_kl_of_its_gaussian_in_closed_form_on_average(name: str) -> None:
    """It shrinks every dimension by its gates, or is the identity; so its variance is exact too."""
    rows, layers = 50_000, 4
    keras.utils.set_random_seed(0)
    made = POSTERIORS[name](small_config(posterior=name), 3)
    context = numbers(made.context(noise(1, 6)))
    base = Gaussian(noise(1, 3, 3), noise(1, 3, 4))
    shrinkage = expit(2.0) ** layers if name == "iaf" else 1.0
    closed = Gaussian(shrinkage * base.mean, base.log_variance + 2 * np.log(shrinkage))
    q = Transformed(base, lambda z: made.forward(z, context))
    np.testing.assert_allclose(q.mean, closed.mean, rtol=1e-4)
    np.testing.assert_allclose(q.log_variance, closed.log_variance, atol=1e-4)
    many = Gaussian(*(np.repeat(part, rows, axis=0) for part in (base.mean, base.log_variance)))
    z, log_density = Transformed(many, q.forward).sample_with_log_prob(noise(rows, 3))
    ratios = numbers(log_density - standard(rows, 3).log_prob(z))
    kl = float(ops.sum(standard(1, 3).kl_from(closed)))
    assert abs(ratios.mean() - kl) < 5 * ratios.std() / np.sqrt(rows) < 0.1 * kl


@each_posterior
def test_mean_and_variance_of_a_flow_describe_its_samples(name: str) -> None:
    rows = 20_000
    flow = posterior_flow(name, 4)
    base, context = Gaussian(noise(3, 4, 5), -1.0 + noise(3, 4, 6)), 0.5 * context_of(flow, 3)
    q = Transformed(base, lambda z: flow.forward(z, context))
    np.testing.assert_array_equal(q.mean, flow.forward(base.mean, context)[0])
    samples = numbers(q.sample(noise(rows, 12).reshape(rows, 3, 4)))
    squares = np.mean((np.float64(samples) - numbers(q.mean)) ** 2, axis=0)
    np.testing.assert_allclose(q.log_variance, np.log(squares), atol=0.6)
    assert np.abs(numbers(q.log_variance) - np.log(squares)).mean() < 0.25


FLOWS: dict[str, dict[str, Any]] = {
    "iaf": {"posterior": "iaf", "posterior_units": 8, "posterior_layers": 2},
    "planar, ladder": {"posterior": "planar", "latent_size": (4, 3)},
    "planar, map": {"posterior": "planar", "latent": "map", "expander": "repeat"},
    "prior": {"prior": "flow", "prior_units": 8},
    "both": {"posterior": "iaf", "prior": "flow", "attributes": ("a", "b")},
}


@pytest.mark.parametrize("name", everyday(FLOWS, "planar, map", "both"))
def test_the_kl_of_a_flow_is_the_log_ratio_at_the_sample(name: str) -> None:
    model, tokens = small_model(**FLOWS[name]), random_tokens(6)
    drawn = noise(6, model.parts.noise_size)
    attribute = -np.ones(6, np.int32) if model.model_config.attributes else None
    outputs, _ = model.parts.infer(tokens, drawn, attribute, training=False)
    assert "kl_per_dimension" not in outputs
    if len(model.hierarchy.shapes) == 1:
        np.testing.assert_array_equal(outputs["kl_level_0"], outputs["log_ratio"])
    z = model.hierarchy.split(outputs["z"])[-1]
    prior = model.hierarchy.prior.distribution(z)
    levels, _ = model.parts.levels(tokens, attribute)
    assert isinstance(levels[-1].posterior, Transformed if model.flow else Gaussian)
    own = drawn[:, model.hierarchy.size - z.shape[-1] : model.hierarchy.size]
    image, log_density = levels[-1].posterior.sample_with_log_prob(own)
    np.testing.assert_allclose(z, image, rtol=1e-5, atol=1e-5)
    top = numbers(outputs[f"kl_level_{len(model.hierarchy.shapes) - 1}"])
    np.testing.assert_allclose(
        top, numbers(log_density) - numbers(prior.log_prob(z)), rtol=1e-3, atol=1e-3
    )


def test_codes_of_texts_are_the_images_of_the_means_of_their_bases() -> None:
    model, tokens = small_model(**FLOWS["iaf"]), random_tokens(5)
    evidence = model.parts.evidence(
        model.parts.features_of(*model.parts.reader(tokens)), None, noise(5, 4), training=False
    )
    image, _ = model.flow.forward(evidence["mean"], evidence["context"])
    np.testing.assert_allclose(model.encode(tokens)["mean"], image, atol=1e-5)
    assert np.abs(numbers(image) - numbers(evidence["mean"])).max() > 0.1
    silent = model.parts.infer(tokens, np.zeros((5, 4), np.float32), training=False)[1]
    np.testing.assert_allclose(silent, image, atol=1e-5)


def log_likelihoods(model: Any, text: np.ndarray, z: Any, log_ratio: Any) -> np.ndarray:
    """log p(x) of a text (T,) from codes (N, d) with log q(z) - log p(z) (N,), in eight
    estimates."""
    tokens = np.repeat(text[None], len(z), axis=0)
    logits = model.parts.head(model.expander(z, training=False), shifted(tokens))
    nats = ops.sum(token_mask(tokens) * cross_entropy(tokens, logits), axis=-1)
    log_weights = np.float64(-numbers(nats) - numbers(log_ratio)).reshape(8, -1)
    return np.asarray(logsumexp(log_weights, axis=1) - np.log(log_weights.shape[1]))


def agree(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether estimates have equal means within five standard errors, which are small."""
    error = np.sqrt((ours.var() + theirs.var()) / 8)
    return bool(error < 0.2 and abs(ours.mean() - theirs.mean()) < 5 * error + 0.02)


@pytest.mark.parametrize("name", everyday(["iaf", "prior"], "iaf"))
def test_codes_weighted_by_their_log_ratio_give_the_likelihood_that_codes_of_the_prior_give(
    name: str,
) -> None:
    """The mean weight of codes of q is p(x), for a flow as q, and for a flow as the prior of
    codes that are drawn from N(0, 9 I)."""
    model, rows = small_model(**{**FLOWS[name], "latent_size": 2}), 16_000
    for weight in model.hierarchy.prior.trainable_weights:
        weight.assign(0.3 * weight)  # so that the codes reach all of it
    text, drawn = random_tokens(1, seed=3)[0], noise(rows, 2, seed=7)
    of_prior = log_likelihoods(model, text, model.codes(drawn), np.zeros(rows))
    if name == "prior":
        z, log_density = Gaussian(
            np.zeros((rows, 2), np.float32), np.full((rows, 2), np.log(9), np.float32)
        ).sample_with_log_prob(drawn)
        log_ratio = log_density - model.hierarchy.prior.distribution(z).log_prob(z)
    else:
        wide = model.posterior.get_layer("log_variance_0").bias
        wide.assign([4.0, 4.0])  # so that the posterior reaches all of the prior
        outputs, z = model.parts.infer(np.repeat(text[None], rows, axis=0), drawn, training=False)
        log_ratio = outputs["log_ratio"]
    assert agree(log_likelihoods(model, text, z, log_ratio), of_prior)


@pytest.mark.parametrize("name", everyday(["iaf", "planar, map", "prior"], "prior"))
def test_training_moves_every_weight_of_a_flow(name: str) -> None:
    model = small_model({"ramp_steps": 0}, **FLOWS[name])
    model.compile(keras.optimizers.SGD(0.01), **COMPILED)
    contexts = [layer for layer in model.posterior.layers if layer.name.startswith("context")]
    parts = [*contexts, *([model.flow] if model.flow else [model.hierarchy.prior])]
    weights = [weight for part in parts for weight in part.trainable_weights]
    assert len(weights) >= 4
    assert model.flow is None or {id(weight) for weight in weights} <= {
        id(weight) for weight in model.inference_weights
    }
    before = [numbers(weight) for weight in weights]
    model.fit(random_tokens(16), batch_size=16, verbose=0)
    for weight, old in zip(weights, before, strict=True):
        assert np.any(numbers(weight) != old), weight.path


class Fitted(keras.layers.Layer):
    """Minus the evidence of a flow on a target of two dimensions, for `fit`: (B, 2) -> (B,)."""

    def __init__(self, part: Any, nats: Callable[..., Any], context: int = 0) -> None:
        super().__init__()
        self.part, self.nats = part, nats
        self.extra = self.add_weight(shape=(1, context), name="context") if context else None
        self.base = self.add_weight(shape=(2, 2), initializer="zeros", name="base")
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self.nats(self, inputs)


def lowest(layer: Fitted, inputs: np.ndarray, epochs: int) -> float:
    """The mean of its nats after training on inputs (N, 2), in batches of 250."""
    given = keras.Input((2,))
    model = keras.Model(given, layer(given))
    model.compile(
        keras.optimizers.Adam(0.01), loss=lambda wanted, found: ops.mean(found), **COMPILED
    )
    model.fit(inputs, np.zeros(len(inputs), np.float32), batch_size=250, epochs=epochs, verbose=0)
    return float(numbers(model(inputs)).mean())


def ring(rows: int) -> np.ndarray:
    """Points around a circle of radius 2."""
    generator = np.random.default_rng(0)
    angle, radius = generator.uniform(0, 2 * np.pi, rows), 2.0 + 0.2 * generator.normal(size=rows)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


@pytest.mark.slow
def test_a_prior_with_a_flow_fits_a_ring_better_than_any_gaussian() -> None:
    def nats(layer: Fitted, z: Any) -> Any:
        flow = layer.part
        return -Invertible(Gaussian.standard_like(z), flow.forward, flow.inverse).log_prob(z)

    keras.utils.set_random_seed(0)
    points = ring(2000)
    flow = AffineCoupling(small_config(prior="flow", prior_layers=6, prior_units=32), 2)
    found = lowest(Fitted(flow, nats), points, epochs=60)
    best_gaussian = 0.5 * np.log(np.linalg.det(2 * np.pi * np.e * np.cov(points.T)))
    entropy = np.log(2 * np.pi * 2.0) + 0.5 * np.log(2 * np.pi * np.e * 0.04)
    assert entropy - 0.05 < found < best_gaussian - 0.3


def banana(z: Any) -> Any:
    """Log density of a curved target: z_1 ~ N(0, 4) and z_2 ~ N(z_1^2 / 2, 0.25), nats."""
    first, second = z[:, 0], z[:, 1]
    around = -0.5 * ops.square(second - 0.5 * ops.square(first)) / 0.25 - 0.5 * np.log(0.25)
    return around - 0.5 * ops.square(first) / 4.0 - 0.5 * np.log(4.0) - np.log(2 * np.pi)


def kl_to_banana(layer: Fitted, drawn: Any) -> Any:
    zeros = ops.zeros_like(drawn)
    base = Gaussian(zeros + layer.base[0], zeros + layer.base[1])
    q = (
        Transformed(base, lambda z: layer.part.forward(z, layer.extra))
        if layer.part is not None
        else base
    )
    z, log_density = q.sample_with_log_prob(drawn)
    return log_density - banana(z)


@pytest.mark.slow
def test_posteriors_with_flows_fit_a_curved_target_better_than_a_gaussian() -> None:
    """Their KL from the target is less than three fifths of the 0.85 nats of a Gaussian."""
    drawn, found = noise(2000, 2), {}
    for name in ("free", *POSTERIORS):
        keras.utils.set_random_seed(0)
        flow = None if name == "free" else POSTERIORS[name](small_config(posterior=name), 2)
        width = context_of(flow, 1).shape[-1] if flow else 0
        found[name] = lowest(Fitted(flow, kl_to_banana, width), drawn, epochs=50)
    gaussian = found.pop("free")
    assert 0.8 < gaussian < 0.9
    assert all(-0.05 < kl < 0.6 * gaussian for kl in found.values()), found


def inverted(transform: Callable[[np.ndarray], np.ndarray], z: np.ndarray) -> np.ndarray:
    """The codes before one autoregressive step: a dimension is an affine function of itself, and
    depends on none behind it."""
    before = np.zeros_like(z)
    for place in range(z.shape[1]):
        at = []
        for value in (0.0, 1.0):
            before[:, place] = value
            at.append(transform(before)[:, place])
        before[:, place] = (z[:, place] - at[0]) / (at[1] - at[0])
    return before


@pytest.mark.slow
def test_the_mutual_information_of_flows_is_at_most_the_exact_one() -> None:
    """The exact one inverts the flow of every text at every code."""
    texts, size = 150, 2
    flow, base = posterior_flow("iaf", size, layers=1), Gaussian(noise(texts, size, 8), None)
    base = Gaussian(1.5 * base.mean, np.full((texts, size), -1.5, np.float32))
    context = 0.7 * context_of(flow, texts)
    q = Transformed(base, lambda z: flow.forward(z, context))
    z, own = (numbers(part) for part in q.sample_with_log_prob(noise(texts, size, 9)))
    everywhere = np.stack(
        [
            log_density_of_all(flow, base, context, np.repeat(code[None], texts, axis=0))
            for code in z
        ]
    )
    np.testing.assert_allclose(np.diagonal(everywhere), own, atol=2e-3)
    exact = np.mean(own - (logsumexp(everywhere, axis=1) - np.log(texts)))
    bound = mutual_information(numbers(q.mean), numbers(q.log_variance), z)
    assert 0.95 * exact < bound < exact + 0.02
    assert exact < np.log(texts)


def log_density_of_all(flow: Any, base: Gaussian, context: np.ndarray, z: np.ndarray) -> np.ndarray:
    """log q(z | x) under the posterior of every text, (N,), for codes z (N, d)."""
    before = inverted(lambda codes: numbers(flow.forward(codes, context)[0]), z)
    return numbers(base.log_prob(before)) - numbers(flow.forward(before, context)[1])


@pytest.mark.parametrize("name", everyday(["iaf", "planar, ladder"], "iaf"))
def test_a_model_with_a_flow_is_evaluated_with_all_numbers_of_a_code(name: str) -> None:
    """Moments of the aggregated posterior are those of its samples."""
    model, rows = small_model(**FLOWS[name]), random_tokens(64)
    metrics = evaluate(model, rows, importance_samples=20)
    assert metrics["importance_weighted_nll"] < metrics["elbo"]
    assert 0 <= metrics["mutual_information"] <= metrics["mutual_information_ceiling"]
    assert metrics["active_units"] > 0
    assert {"log_determinant", "aggregated_mean_norm", "code_norm"} <= metrics.keys()
