"""Every preset is a model that trains, is saved, and writes texts."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.configuration import Config
from kvae.decoding import decode, sample
from kvae.model import TextVAE
from kvae.preset_parameters import PARAMETERS
from kvae.presets import PRESETS, PUBLISHED, SMALL, preset
from kvae.serving.alphabet import END, NEVER_SAMPLED, PAD
from kvae.tracking import bits_name

from .conftest import COMPILED, JAX, everyday, random_tokens


def sized(config: Config, length: int, vocabulary_size: int) -> TextVAE:
    shape = {
        "model.length": config.model.length or length,
        "model.vocabulary_size": vocabulary_size,
    }
    config = config.with_settings(shape)
    return TextVAE(config.model, config.objective)


def inputs(model: TextVAE, rows: int) -> Any:
    shape = model.model_config
    tokens = random_tokens(rows, shape.length, shape.vocabulary_size)
    values = len(shape.attributes)
    return (
        {"tokens": tokens, "attribute": np.arange(rows, dtype=np.int32) % values}
        if values
        else tokens
    )


def is_text(tokens: np.ndarray) -> bool:
    """Written symbols, then perhaps END, then PAD alone."""
    behind = np.cumsum(tokens == END, axis=1) - (tokens == END) > 0
    return bool((tokens[behind] == PAD).all()) and not np.isin(tokens[~behind], NEVER_SAMPLED).any()


REPRESENTATIVES = (
    "hybrid-bytenet-ptb-small",
    "transformer-vae-small",
)
"""Presets that are trained every day; `make test-all` trains all.

They have a causal convolution and attention. Other tests train the hybrid and each kind of prior.
"""


@pytest.mark.jax
@pytest.mark.parametrize("name", everyday(PRESETS, *REPRESENTATIVES))
def test_a_preset_trains_is_saved_and_writes_texts(name: str, tmp_path: Path) -> None:
    item = PRESETS[name]
    model = sized(item.config, 16, 9 if name.endswith(SMALL) else item.shape[1])
    model.compile("adam", **COMPILED)
    rows = inputs(model, 8)
    found = model.fit(rows, batch_size=4, verbose=0).history
    wanted = {"loss", "reconstruction", "kl", "elbo", "beta", "gradient_norm"}
    wanted.add(bits_name(item.config.model))
    wanted |= {f"kl_level_{level}" for level in range(len(model.hierarchy.shapes))}
    wanted |= {"auxiliary"} if item.config.model.auxiliary else set()
    assert wanted <= set(found)
    assert all(np.isfinite(values).all() for values in found.values())

    tokens = rows["tokens"] if isinstance(rows, dict) else rows
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    # JAX would compile each operation for each shape; test_training_backends compares outputs.
    if JAX:
        for weight, other in zip(model.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, other)
        return
    noise = np.random.default_rng(0).normal(size=(8, model.parts.noise_size)).astype(np.float32)
    expected = model.parts.outputs(tokens, noise, training=False)
    for output, tensor in again.parts.outputs(tokens, noise, training=False).items():
        np.testing.assert_array_equal(tensor, expected[output], err_msg=output)

    assert is_text(np.array(sample(model, 2, seed=0)))
    assert is_text(np.array(decode(model, model.encode(tokens[:2])["mean"])))


@pytest.mark.parametrize(
    "name",
    everyday(PRESETS, "hybrid-lstm-tweets", "lvae-3-toy", "hybrid-moses-small", *REPRESENTATIVES),
)
def test_the_parameters_that_a_preset_states_are_those_of_its_model(name: str) -> None:
    assert sized(PRESETS[name].config, *PRESETS[name].shape).count_params() == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "millions"),
    [("hybrid-lstm-tweets", 10.8), ("lstm-vae-tweets", 10.5)],
    ids=["hybrid", "lstm"],
)
def test_the_published_tweet_models_have_the_published_size(name: str, millions: float) -> None:
    """Semeniuta et al. 2017, 4.3."""
    assert PARAMETERS[name] == pytest.approx(millions * 1e6, rel=0.1)


def test_every_published_preset_has_a_small_one_and_names_its_source() -> None:
    assert {f"{name}{SMALL}" for name in PUBLISHED} | set(PUBLISHED) == set(PRESETS)
    assert all(
        any(
            part in item.source
            for part in ("fig.", "table", "section", "4.1", "7.", "C =", "after ")
        )
        for item in PRESETS.values()
    )


def test_small_presets_count_the_kl_in_full() -> None:
    betas = {name: preset(name).objective.beta_max for name in PRESETS if name.endswith(SMALL)}
    assert {name for name, beta in betas.items() if beta != 1.0} == {
        f"historyless-{kind}-ptb{SMALL}" for kind in ("lstm", "cnn")
    }
