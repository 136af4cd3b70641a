"""Presets: complete configurations as data, each with the table or figure that it comes from.

Published presets use the settings of the paper where the paper gives them. Each has a `-small`
variant of our own (`small`), which trains in minutes on two cores and gives the KL its full weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvae.serving.errors import ConfigError

from .configuration import Config
from .preset_configs import (
    ATTRIBUTE,
    BYTENET_PTB,
    CNN,
    CNN_DENSE,
    CNN_MAP,
    CNN_PTB,
    HIGH_RATE,
    HYBRID,
    HYBRID_DENSE,
    HYBRID_MAP,
    HYBRID_MOSES,
    HYBRID_PTB,
    HYBRID_TRANSFORMER,
    HYBRID_TWEETS,
    KL_TARGET,
    KL_TARGET_GATED,
    KL_TARGET_GRU,
    LADDER_5,
    LADDER_RNN,
    LANGUAGE_MODEL_MOSES,
    LANGUAGE_MODEL_PTB,
    LANGUAGE_MODEL_PTB_WORD,
    LANGUAGE_MODEL_TRANSFORMER_PTB_WORD,
    LANGUAGE_MODEL_TWEETS,
    LCNNVAE,
    LSTM_MOSES,
    LSTM_PTB,
    LSTM_PTB_WORD,
    LSTM_TWEETS,
    LVAE,
    MIXTURE,
    MOSES,
    PTB,
    PTB_WORD,
    RNN_DENSE,
    RNN_MAP,
    SELFIES,
    SEMI_SUPERVISED,
    TOY,
    TRANSFORMER_PTB_WORD,
    TRANSFORMER_VAE,
    TWEETS,
    TWITTER,
    small_moses,
    twitter,
    with_changes,
)
from .sections import nearest

NAMES = (48, 42)
"""T and V of `unicode-names`: the sizes at which presets without a published corpus are counted."""


@dataclass(frozen=True)
class Preset:
    """A configuration with its description and its source."""

    description: str
    source: str
    config: Config
    shape: tuple[int, int] = NAMES
    """T and V for the parameter counts of `kvae.preset_parameters`. In training the corpus sets
    them."""
    published_nats: float | None = None
    """The result of the source in nats per sequence: its reconstruction per position times T, plus
    its KL."""


S17, P18, K19 = "Semeniuta et al. 2017", "Petersen 2018", "Prokhorov et al. 2019"
P20, OWN = "data and measures of Polykovskiy et al. 2020, table 2", "our own"

PUBLISHED: dict[str, Preset] = {
    "hybrid-lstm": Preset(
        "deconvolutions and a layer-normalised LSTM; the default", f"after {S17}, fig. 2b", HYBRID
    ),
    "cnn": Preset(
        "deconvolutions alone, p(x|z) factorises over positions", f"after {S17}, fig. 2a", CNN
    ),
    "hybrid-transformer": Preset(
        "deconvolutions and a Transformer decoder",
        f"after {S17}, fig. 2b; Vaswani et al. 2017, fig. 1",
        HYBRID_TRANSFORMER,
    ),
    "transformer-vae": Preset(
        "Transformer encoder and decoder, which reads the code as embedding and memory",
        "after Li et al. 2020, without its pretraining",
        TRANSFORMER_VAE,
    ),
    "hybrid-attribute": Preset("texts conditioned on a label", f"{S17}, section 5", ATTRIBUTE),
    "hybrid-semi-supervised": Preset(
        "a label known for a tenth of the texts",
        f"{S17}, section 5; Kingma et al. 2014, M2",
        SEMI_SUPERVISED,
    ),
    "lstm-vae-ptb": Preset(
        "LSTM encoder and decoder, input dropout 0.2 (0.5 by --set)",
        f"{S17}, fig. 4; Bowman et al. 2016",
        LSTM_PTB,
        shape=PTB,
    ),
    "lstm-lm-ptb": Preset(
        "the decoder without a code: the baseline", f"{S17}, 4.1", LANGUAGE_MODEL_PTB, shape=PTB
    ),
    "lstm-lm-ptb-word": Preset(
        "sentences in words, tied embeddings and dropout: the baseline of lstm-vae-ptb-word",
        "Bowman et al. 2016, table 2; Press and Wolf 2017",
        LANGUAGE_MODEL_PTB_WORD,
        shape=PTB_WORD,
    ),
    "lstm-vae-ptb-word": Preset(
        "the decoder of lstm-lm-ptb-word with a code of 32; training.start_from loads its weights",
        "Bowman et al. 2016, table 2; Press and Wolf 2017",
        LSTM_PTB_WORD,
        shape=PTB_WORD,
    ),
    "transformer-lm-ptb-word": Preset(
        "sentences in words, a Transformer without a code: the baseline",
        "Vaswani et al. 2017, fig. 1; Press and Wolf 2017",
        LANGUAGE_MODEL_TRANSFORMER_PTB_WORD,
        shape=PTB_WORD,
    ),
    "transformer-vae-ptb-word": Preset(
        "an LSTM encoder and a Transformer decoder of the size of texar's; start_from as above",
        "texar's VAE example, table of results; Li et al. 2020",
        TRANSFORMER_PTB_WORD,
        shape=PTB_WORD,
    ),
    "historyless-lstm-ptb": Preset(
        "an LSTM autoencoder that sees no history, beta 0",
        f"{S17}, fig. 3",
        with_changes(LSTM_PTB, objective={"beta_max": 0.0, "input_dropout": 1.0}),
        shape=PTB,
    ),
    "historyless-cnn-ptb": Preset(
        "the convolutional autoencoder, beta 0",
        f"{S17}, fig. 3",
        with_changes(CNN_PTB, objective={"beta_max": 0.0}),
        shape=PTB,
    ),
    "cnn-ptb": Preset("deconvolutions alone", f"{S17}, fig. 2a", CNN_PTB, shape=PTB),
    "hybrid-lstm-ptb": Preset(
        "windows of 60 characters", f"{S17}, fig. 4 and 5", HYBRID_PTB, shape=PTB
    ),
    "hybrid-bytenet-ptb": Preset(
        "a receptive field of four characters", f"{S17}, fig. 6", BYTENET_PTB, shape=PTB
    ),
    "lstm-vae-tweets": Preset(
        "input dropout 0.2 (0.5 and 0.8 by --set); wants a GPU",
        f"{S17}, table 2",
        LSTM_TWEETS,
        shape=TWEETS,
    ),
    "lstm-lm-tweets": Preset(
        "the decoder without a code; wants a GPU",
        f"{S17}, 4.1",
        LANGUAGE_MODEL_TWEETS,
        shape=TWEETS,
    ),
    "hybrid-lstm-tweets": Preset(
        "alpha 0.2; wants a GPU", f"{S17}, table 2", HYBRID_TWEETS, shape=TWEETS
    ),
    "rnn-dense-toy": Preset(
        "LSTM encoder and decoder", f"{P18}, table 1", RNN_DENSE, shape=TOY, published_nats=40.8
    ),
    "cnn-dense-toy": Preset(
        "deconvolutions alone", f"{P18}, table 1", CNN_DENSE, shape=TOY, published_nats=38.8
    ),
    "hybrid-dense-toy": Preset(
        "deconvolutions and an LSTM",
        f"{P18}, table 1",
        HYBRID_DENSE,
        shape=TOY,
        published_nats=50.6,
    ),
    "rnn-map-toy": Preset(
        "a code for every position", f"{P18}, table 1", RNN_MAP, shape=TOY, published_nats=64.1
    ),
    "cnn-map-toy": Preset(
        "a code for every eighth position",
        f"{P18}, table 1",
        CNN_MAP,
        shape=TOY,
        published_nats=48.5,
    ),
    "hybrid-map-toy": Preset(
        "the same, and an LSTM", f"{P18}, table 1", HYBRID_MAP, shape=TOY, published_nats=54.0
    ),
    "lvae-3-toy": Preset(
        "a ladder of three vectors", f"{P18}, table 1", LVAE, shape=TOY, published_nats=41.3
    ),
    "lcnnvae-3-toy": Preset(
        "a ladder of three feature maps", f"{P18}, table 1", LCNNVAE, shape=TOY, published_nats=41.1
    ),
    "ladder-rnn-3-toy": Preset(
        "a ladder with recurrent layers", f"{P18}, 7.2", LADDER_RNN, shape=TOY
    ),
    "rnn-mixture-toy": Preset(
        "a learned mixture as prior",
        f"{P18}, 7.3",
        with_changes(RNN_DENSE, model=MIXTURE),
        shape=TOY,
    ),
    "cnn-mixture-toy": Preset(
        "a learned mixture as prior",
        f"{P18}, 7.3",
        with_changes(CNN_DENSE, model=MIXTURE),
        shape=TOY,
    ),
    "hybrid-mixture-toy": Preset(
        "a learned mixture as prior",
        f"{P18}, 7.3",
        with_changes(HYBRID_DENSE, model=MIXTURE),
        shape=TOY,
    ),
    "hybrid-dense-twitter": Preset(
        "deconvolutions and an LSTM",
        f"{P18}, table 2",
        twitter(HYBRID_DENSE),
        shape=TWITTER,
        published_nats=63.1,
    ),
    "rnn-map-twitter": Preset(
        "a code for every position",
        f"{P18}, table 2",
        twitter(RNN_MAP),
        shape=TWITTER,
        published_nats=72.0,
    ),
    "cnn-map-twitter": Preset(
        "a code for every eighth position",
        f"{P18}, table 2",
        twitter(CNN_MAP),
        shape=TWITTER,
        published_nats=65.6,
    ),
    "hybrid-map-twitter": Preset(
        "the same, and an LSTM",
        f"{P18}, table 2",
        twitter(HYBRID_MAP),
        shape=TWITTER,
        published_nats=74.5,
    ),
    "lvae-3-twitter": Preset(
        "a ladder of three vectors",
        f"{P18}, table 2",
        twitter(LVAE),
        shape=TWITTER,
        published_nats=89.3,
    ),
    "lcnnvae-3-twitter": Preset(
        "a ladder of three feature maps",
        f"{P18}, table 2",
        twitter(LCNNVAE),
        shape=TWITTER,
        published_nats=66.4,
    ),
    "lvae-5-twitter": Preset(
        "a ladder of five vectors",
        f"{P18}, table 2",
        twitter(LVAE, **LADDER_5),
        shape=TWITTER,
        published_nats=115.4,
    ),
    "lcnnvae-5-twitter": Preset(
        "a ladder of five feature maps",
        f"{P18}, table 2",
        twitter(LCNNVAE, **LADDER_5),
        shape=TWITTER,
        published_nats=68.4,
    ),
    "kl-target-lstm": Preset("KL held at 15 nats, LSTMs", f"{K19}, C = 15 of 3 to 100", KL_TARGET),
    "kl-target-gru": Preset(
        "KL held at 15 nats, GRUs", f"{K19}, C = 15 of 3 to 100", KL_TARGET_GRU
    ),
    "kl-target-gated-conv": Preset(
        "KL held at 15 nats, gated causal convolutions",
        f"{K19}, C = 15 of 3 to 100",
        KL_TARGET_GATED,
    ),
    "hybrid-moses": Preset(
        "molecules as SMILES strings; wants a GPU", f"{OWN}, {P20}", HYBRID_MOSES, shape=MOSES
    ),
    "hybrid-moses-high-rate": Preset(
        "a code that holds the whole molecule; wants a GPU",
        f"{OWN}, {P20}",
        with_changes(HYBRID_MOSES, **HIGH_RATE),
        shape=MOSES,
    ),
    "hybrid-moses-selfies": Preset(
        "molecules as SELFIES strings, of which every one is valid; wants a GPU",
        f"{OWN}, {P20}; Krenn et al. 2020",
        with_changes(HYBRID_MOSES, **SELFIES),
        shape=MOSES,
    ),
    "lstm-vae-moses": Preset(
        "molecules with an LSTM encoder and decoder; wants a GPU",
        f"{OWN}, {P20}",
        LSTM_MOSES,
        shape=MOSES,
    ),
    "lstm-lm-moses": Preset(
        "molecules, the decoder without a code; wants a GPU",
        f"{OWN}, {P20}",
        LANGUAGE_MODEL_MOSES,
        shape=MOSES,
    ),
}

SMALL = "-small"
CAPS = {
    "encoder_units": 128,
    "encoder_embedding": 64,
    "latent_size": 32,
    "prior_components": 10,
    "expander_base": 128,
    "expander_filters": 128,
    "head_units": 128,
    "head_embedding": 64,
}
"""Maximum widths of a small model."""


def small(item: Preset) -> Preset:
    """The small variant of a preset: capped widths, at most three layers each in encoder and
    expander (ladders keep the depth of the encoder), layer normalisation in the head, beta up to 1
    and 2,000 steps of 128 texts."""
    if item.shape == MOSES:
        description = f"{item.description.split(';')[0]}; small"
        config = small_moses(item.config)
        return Preset(description, item.source, config, (config.model.length, MOSES[1]))
    model = item.config.model
    depth = slice(None) if len(model.latent_size) > 1 else slice(None, 3)
    capped: dict[str, Any] = {
        name: capped_width(getattr(model, name), limit) for name, limit in CAPS.items()
    }
    capped["encoder_units"], capped["expander_filters"] = (
        capped["encoder_units"][depth],
        capped["expander_filters"][-3:],
    )
    objective = item.config.objective
    config = with_changes(
        item.config,
        model={
            **capped,
            "length": 0,
            "head_kernel": min(model.head_kernel, 5),
            "head_layer_normalization": True,
        },
        objective={
            "beta_max": 1.0 if objective.beta_max else 0.0,
            "ramp_start": 0,
            "ramp_steps": 1400,
        },
        training={
            "epochs": 8,
            "steps_per_epoch": 250,
            "batch_size": 128,
            "length_buckets": False,
            "learning_rate": 4e-3,
            "learning_rate_schedule": "cosine",
            "weight_decay": 0.0,
        },
    )
    stride = config.model.encoder_stride
    shape = (
        item.shape
        if item.config.data.source == "sines"
        else (-(-NAMES[0] // stride) * stride, NAMES[1])
    )
    return Preset(f"{item.description.split(';')[0]}; small", item.source, config, shape)


def capped_width(width: int | tuple[int, ...], limit: int) -> int | tuple[int, ...]:
    """A width, or each of several widths, limited to `limit`."""
    return (
        tuple(min(each, limit) for each in width) if isinstance(width, tuple) else min(width, limit)
    )


PRESETS: Mapping[str, Preset] = {
    **PUBLISHED,
    **{f"{name}{SMALL}": small(item) for name, item in PUBLISHED.items()},
}
"""Every preset by its name: the published settings, then the `-small` variant of each."""


def preset(name: str) -> Config:
    """The configuration of a preset. Raises `ConfigError` with the nearest name if there is no such
    preset."""
    if name not in PRESETS:
        raise ConfigError(f"no preset is called {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name].config
