"""Evaluation against closed forms and against itself."""

import numpy as np
import pytest

from kvae.serving.alphabet import PAD
from kvae.training.evaluation import UNITS, active_units, collect, evaluate, mutual_information

from .conftest import random_tokens, small_model


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
    assert mutual_information(zeros, zeros, np.random.default_rng(0).normal(size=(100, 3))) == pytest.approx(
        0.0, abs=1e-9
    )


def test_mutual_information_reaches_ln_n_when_every_text_has_a_place_of_its_own() -> None:
    mean = 100.0 * np.arange(50)[:, None]
    assert mutual_information(mean, np.zeros_like(mean), mean) == pytest.approx(np.log(50))


def test_active_units_are_those_whose_mean_moves() -> None:
    mean = np.random.default_rng(0).normal(size=(1000, 4)) * [1.0, 0.2, 0.05, 0.0]
    assert active_units(mean) == 2


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
    assert found["bits_per_character"] == pytest.approx(found["elbo"] * 50 / found["positions"] / np.log(2))
    assert found["reconstruction_with_padding"] > found["reconstruction"]
    assert set(found) - set(UNITS) == {"kl_level_0", "latent_size"}


def test_it_agrees_with_keras_evaluate_up_to_the_noise_of_z() -> None:
    model, rows = small_model(), random_tokens(500)
    model.compile("adam")
    keras_found = model.evaluate(rows, verbose=0, return_dict=True)
    found = evaluate(model, rows)
    assert found["kl"] == pytest.approx(keras_found["kl"], rel=1e-4)
    assert found["elbo"] == pytest.approx(keras_found["elbo"], rel=0.05)
