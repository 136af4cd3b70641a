"""Presets: whole configurations as data, each naming the table or figure it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as variant

from kvae.serving.errors import ConfigError

from .configuration import Config, DataConfig, ModelConfig, ObjectiveConfig, TrainingConfig, nearest


@dataclass(frozen=True)
class Preset:
    """A configuration with a sentence about it and its source."""

    description: str
    source: str
    config: Config


HYBRID = Config(
    model=ModelConfig(
        encoder_filters=(64, 128),
        latent_size=32,
        expander_base=128,
        expander_filters=(128, 64),
        head="lstm",
        head_units=192,
    ),
    objective=ObjectiveConfig(alpha=0.3, ramp_start=0, ramp_steps=1000),
    training=TrainingConfig(epochs=4, batch_size=64, learning_rate=4e-3, learning_rate_schedule="cosine"),
)

HYBRID_PTB = Config(
    model=ModelConfig(
        length=60,
        encoder_filters=(128, 256),
        latent_size=50,
        expander_base=256,
        expander_filters=(128, 200),
        head_units=500,
    ),
    objective=ObjectiveConfig(alpha=0.2, ramp_start=1000, ramp_steps=7000),
    training=TrainingConfig(steps=100_000, batch_size=64, learning_rate=1e-3, learning_rate_schedule="exponential"),
    data=DataConfig(mode="windows"),
)

HYBRID_TWEETS = variant(
    HYBRID_PTB,
    model=ModelConfig(
        length=128,
        encoder_filters=(128, 256, 512, 512, 512),
        latent_size=100,
        expander_base=512,
        expander_filters=(512, 512, 512, 256, 200),
        head_units=1000,
    ),
    objective=ObjectiveConfig(alpha=0.2, ramp_start=50_000, ramp_steps=10_000),
    training=TrainingConfig(epochs=10, batch_size=32, learning_rate=1e-3, learning_rate_schedule="exponential"),
    data=DataConfig(mode="lines"),
)

CNN = variant(
    HYBRID,
    model=variant(HYBRID.model, head="none", auxiliary=False),
    objective=variant(HYBRID.objective, alpha=0.0),
)

PRESETS: Mapping[str, Preset] = {
    "hybrid-lstm": Preset(
        "deconvolutions and a layer-normalised LSTM; minutes on two cores",
        "after Semeniuta et al. 2017, fig. 2b",
        HYBRID,
    ),
    "hybrid-lstm-ptb": Preset(
        "the published sizes for windows of 60 characters", "Semeniuta et al. 2017, fig. 4 and 5", HYBRID_PTB
    ),
    "hybrid-lstm-tweets": Preset(
        "the published sizes for tweets; wants a GPU", "Semeniuta et al. 2017, table 2", HYBRID_TWEETS
    ),
    "cnn": Preset(
        "deconvolutions alone, p(x|z) factorises over positions", "after Semeniuta et al. 2017, fig. 2a", CNN
    ),
}


def preset(name: str) -> Config:
    """The configuration of a preset; raises `ConfigError` with the nearest name for one that does not exist."""
    if name not in PRESETS:
        raise ConfigError(f"no preset is called {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name].config
