"""Evaluation against closed forms and against itself."""

import numpy as np
import pytest

from kvae.serving.alphabet import PAD
from kvae.serving.errors import ConfigError
from kvae.training.evaluation import (
    UNITS,
    active_units,
    aggregated_posterior,
    collect,
    evaluate,
    information_ceiling,
    mutual_information,
    perplexity,
)
from kvae.training.latent_report import LatentReport

from .conftest import COMPILED, everyday, random_tokens, small_model

pytestmark = pytest.mark.jax


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_mutual_information_of_a_linear_gaussian_channel_is_its_closed_form(sigma: float) -> None:
    """x ~ N(0, 1) in each of 2 dimensions, z = x + sigma * noise: I = ln(1 + 1 / sigma^2)."""
    generator = np.random.default_rng(0)
    mean = generator.normal(size=(4000, 2))
    z = mean + sigma * generator.normal(size=mean.shape)
    found = mutual_information(mean, np.full_like(mean, 2 * np.log(sigma)), z)
    assert found == pytest.approx(np.log(1 + sigma**-2), abs=0.05)


def test_mutual_information_is_zero_when_the_posterior_ignores_the_text() -> None:
    zeros = np.zeros((100, 3))
    assert mutual_information(
        zeros, zeros, np.random.default_rng(0).normal(size=(100, 3))
    ) == pytest.approx(0.0, abs=1e-9)


def test_mutual_information_reaches_ln_n_when_every_text_has_a_place_of_its_own() -> None:
    mean = 100.0 * np.arange(50)[:, None]
    assert mutual_information(mean, np.zeros_like(mean), mean) == pytest.approx(np.log(50))


def test_mutual_information_is_never_negative_and_nan_stays_nan() -> None:
    """A posterior that is nearly the same for every text: half of such estimates are below 0."""
    for seed in range(20):
        generator = np.random.default_rng(seed)
        mean = 1e-4 * generator.normal(size=(100, 3))
        found = mutual_information(mean, np.zeros_like(mean), generator.normal(size=(100, 3)))
        assert f"{found:.3f}" == "0.000"
    assert np.isnan(mutual_information(np.full((3, 2), np.nan), np.zeros((3, 2)), mean[:3, :2]))


def test_mutual_information_of_tiny_variances_is_ln_n() -> None:
    """The products of precisions and means round by more than the distances they cancel to."""
    generator = np.random.default_rng(0)
    mean = 1e3 * generator.normal(size=(60, 4))
    log_variance = np.full_like(mean, -40.0)
    z = mean + np.exp(0.5 * log_variance) * generator.normal(size=mean.shape)
    assert mutual_information(mean, log_variance, z) == pytest.approx(np.log(60))


def test_the_ceiling_of_information_is_the_entropy_of_the_texts() -> None:
    rows = random_tokens(8)
    assert len(np.unique(rows, axis=0)) == 8
    assert information_ceiling(rows) == pytest.approx(np.log(8))
    assert information_ceiling(rows[[0, 0, 1, 1]]) == pytest.approx(np.log(2))
    assert information_ceiling(rows[[0, 0, 0]]) == 0.0


def test_active_units_are_those_whose_mean_moves() -> None:
    mean = np.random.default_rng(0).normal(size=(1000, 4)) * [1.0, 0.2, 0.05, 0.0]
    assert active_units(mean) == 2


def test_texts_that_are_all_the_same_have_neither_active_units_nor_information() -> None:
    """With equal texts, both are 0 for any model, so they are left out."""
    model, rows = small_model(), random_tokens(1).repeat(20, axis=0)
    spoiled = {"active_units", "mutual_information", "mutual_information_texts"}
    spoiled |= {"mutual_information_ceiling"}
    assert not spoiled & evaluate(model, rows).keys()
    assert spoiled <= evaluate(model, np.concatenate([rows, random_tokens(2)])).keys()
    report, logs = LatentReport(rows), {}
    report.set_model(model)
    report.on_epoch_end(0, logs)
    assert set(logs) == {"val_kl", "val_kl_level_0"}
    bare = small_model(
        encoder="none", latent="none", expander="repeat", expander_base=0, auxiliary=False
    )
    assert evaluate(bare, rows)["active_units"] == 0


def test_the_aggregated_posterior_is_the_gaussian_of_its_samples() -> None:
    """Means are correlated, and variances are unequal.

    The moments are those of many z, each drawn from the posterior of a text.
    """
    generator = np.random.default_rng(0)
    mean = generator.normal(size=(200, 3)) @ generator.normal(size=(3, 3)) + [1.0, -2.0, 0.5]
    log_variance = generator.normal(size=(200, 3))
    z = mean + np.exp(0.5 * log_variance) * generator.normal(size=(5000, 200, 3))
    found = aggregated_posterior(mean, log_variance)
    assert found["log_determinant"] == pytest.approx(
        np.log(np.linalg.det(np.cov(z.reshape(-1, 3).T))), abs=0.02
    )
    assert found["aggregated_mean_norm"] == pytest.approx(
        np.linalg.norm(z.mean(axis=(0, 1))), rel=0.01
    )
    assert found["code_norm"] == pytest.approx(np.mean([np.linalg.norm(row) for row in mean]))


def test_the_aggregated_posterior_of_a_collapsed_code_is_the_prior() -> None:
    found = aggregated_posterior(np.zeros((10, 4), np.float32), np.zeros((10, 4), np.float32))
    assert found == {"log_determinant": 0.0, "aggregated_mean_norm": 0.0, "code_norm": 0.0}


def test_a_covariance_without_inverse_has_no_log_determinant() -> None:
    """It has no inverse with variances of 0 and all means on a line.

    Two texts in 50 dimensions are enough when the variances are there.
    """
    line = np.arange(5.0)[:, None] * [1.0, 1.0]
    assert "log_determinant" not in aggregated_posterior(line, np.full((5, 2), -2000.0))
    assert aggregated_posterior(np.zeros((2, 50)), np.full((2, 50), -2.0))[
        "log_determinant"
    ] == pytest.approx(-100.0)


def test_perplexity_is_per_token_and_bits_are_per_character() -> None:
    """With tokens of several characters the two count differently."""
    model, rows = small_model(), random_tokens(50)
    nats = evaluate(model, rows)["elbo"] * 50
    found = evaluate(model, rows, characters=3000)
    assert found["perplexity"] == pytest.approx(np.exp(nats / (rows != PAD).sum()))
    assert found["bits_per_character"] == pytest.approx(nats / 3000 / np.log(2))


def test_numbers_do_not_depend_on_the_order_they_are_asked_in() -> None:
    model, rows = small_model(), random_tokens(50)
    assert evaluate(model, rows, seed=1) == evaluate(model, rows, seed=1)
    assert evaluate(model, rows, seed=1)["elbo"] != evaluate(model, rows, seed=2)["elbo"]


def test_the_parts_add_up_over_the_whole_split() -> None:
    model, rows = small_model(), random_tokens(50)
    found, each = evaluate(model, rows, batch_size=16), collect(model, rows, batch_size=16)
    assert found["texts"] == 50
    assert found["positions"] == (rows != PAD).sum()
    assert found["elbo"] == pytest.approx(each["reconstruction"].mean() + each["kl"].mean())
    assert found["kl"] == pytest.approx(each["kl_per_dimension"].sum(axis=1).mean(), rel=1e-5)
    assert found["bits_per_character"] == pytest.approx(
        found["elbo"] * 50 / found["positions"] / np.log(2)
    )
    assert found["reconstruction_with_padding"] > found["reconstruction"]
    assert set(found) - set(UNITS) == {"kl_level_0", "latent_size"}


def test_it_agrees_with_keras_evaluate_up_to_the_noise_of_z() -> None:
    model, rows = small_model(), random_tokens(500)
    model.compile("adam", **COMPILED)
    keras_found = model.evaluate(rows, verbose=0, return_dict=True)
    found = evaluate(model, rows)
    assert found["kl"] == pytest.approx(keras_found["kl"], rel=1e-4)
    assert found["elbo"] == pytest.approx(keras_found["elbo"], rel=0.05)


def test_the_importance_weighted_bound_is_below_the_elbo_and_falls_with_samples() -> None:
    model, rows = small_model(), random_tokens(200)
    one, few, many = (
        evaluate(model, rows, importance_samples=samples)["importance_weighted_nll"]
        for samples in (1, 5, 25)
    )
    assert one == pytest.approx(evaluate(model, rows)["elbo"], rel=0.02)
    assert many < few < one


def test_a_language_model_has_an_exact_likelihood_and_no_code() -> None:
    model = small_model(
        encoder="none", latent="none", expander="repeat", expander_base=0, auxiliary=False
    )
    found = evaluate(model, random_tokens(50), importance_samples=3)
    assert (
        found["kl"],
        found["active_units"],
        found["mutual_information"],
        found["latent_size"],
    ) == (0, 0, 0, 0)
    assert not {"log_determinant", "code_norm"} & found.keys()
    assert (
        found["importance_weighted_nll"]
        == pytest.approx(found["elbo"])
        == pytest.approx(found["reconstruction"])
    )


def test_a_guessed_attribute_is_paid_for() -> None:
    """Without labels the classifier chooses: -log p(x) costs ln K more than -log p(x | label)."""
    model, rows = small_model(attributes=("low", "high")), random_tokens(50)
    chosen = np.array(
        model.parts.outputs(rows, np.zeros((50, 5), np.float32))["attribute_logits"]
    ).argmax(axis=1)
    given = evaluate(model, rows, attribute=chosen.astype(np.int32))
    guessed = evaluate(model, rows)
    assert guessed["elbo"] == pytest.approx(given["elbo"] + np.log(2), rel=1e-5)
    assert given["attribute_accuracy"] == 1.0
    assert "attribute_accuracy" not in guessed


@pytest.mark.parametrize("latent", everyday(["dense", "map"], "map"))
def test_a_ladder_whose_text_says_nothing_has_no_active_units(latent: str) -> None:
    """The means of a level follow the level above; only what the text adds to them counts."""
    model = small_model(latent=latent, latent_size=(4, 3), expander="repeat")
    rows = random_tokens(200)
    assert evaluate(model, rows)["active_units"] > 0
    for level in range(2):
        for weight in model.posterior.get_layer(f"mean_{level}").weights:
            weight.assign(np.zeros(weight.shape))
        log_variance = model.posterior.get_layer(f"log_variance_{level}")
        log_variance.kernel.assign(np.zeros(log_variance.kernel.shape))
        log_variance.bias.assign(np.full(log_variance.bias.shape, 12.0))  # evidence of no precision
    assert evaluate(model, rows)["active_units"] == 0


def test_fewer_than_no_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 0, got -3"):
        evaluate(small_model(), random_tokens(5), importance_samples=-3)


def test_a_perplexity_beyond_all_numbers_is_left_out() -> None:
    assert perplexity(700.0) == pytest.approx({"perplexity": np.exp(700.0)})
    assert perplexity(710.0) == {}
