"""The configurations of the published systems, before a preset gives them a name and a source.

Published systems use the settings of the paper where the paper gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .configuration import Config, DataConfig, ModelConfig, ObjectiveConfig, TrainingConfig
from .token_patterns import TOKEN_PATTERNS


def with_changes(config: Config, **sections: Mapping[str, Any]) -> Config:
    """A copy with some fields of some sections replaced."""
    return replace(
        config,
        **{name: replace(getattr(config, name), **fields) for name, fields in sections.items()},
    )


LSTM_DECODER: dict[str, Any] = {
    "expander": "repeat",
    "expander_base": 0,
    "head": "lstm",
    "auxiliary": False,
}
"""Settings of a recurrent decoder that reads the code directly."""

NO_LATENT: dict[str, Any] = {**LSTM_DECODER, "encoder": "none", "latent": "none"}

HYBRID = Config(
    model=ModelConfig(
        encoder_units=(64, 128),
        latent_size=(32,),
        expander_base=128,
        expander_filters=(128, 64),
        head="lstm",
        head_units=192,
    ),
    objective=ObjectiveConfig(alpha=0.3, ramp_start=0, ramp_steps=1000),
    training=TrainingConfig(
        epochs=4, batch_size=64, learning_rate=4e-3, learning_rate_schedule="cosine"
    ),
)
CNN = with_changes(HYBRID, model={"head": "none", "auxiliary": False}, objective={"alpha": 0.0})
ATTRIBUTE = with_changes(
    HYBRID, data={"labels": "corpus"}, model={"attributes": ("letter", "other")}
)
SEMI_SUPERVISED = with_changes(
    ATTRIBUTE, objective={"semi_supervised": True}, data={"labelled_fraction": 0.1}
)

# Transformers (Vaswani et al. 2017). Attention trains with a smaller learning rate than the
# recurrent heads, after a warm-up.
ATTENTION: dict[str, Any] = {"head": "transformer", "head_layers": 2}
ATTENTION_TRAINING: dict[str, Any] = {"learning_rate": 1e-3, "learning_rate_warmup": 200}
HYBRID_TRANSFORMER = with_changes(HYBRID, model=ATTENTION, training=ATTENTION_TRAINING)
TRANSFORMER_VAE = with_changes(
    HYBRID_TRANSFORMER,
    model={
        "encoder": "transformer",
        "encoder_units": (192, 192),
        "expander": "repeat",
        "expander_base": 0,
        "head_reads": "both",
        "auxiliary": False,
    },
    objective={"alpha": 0.0, "penalty": "free_bits", "free_bits": 0.25},
)

# Semeniuta et al. 2017, Penn Treebank in characters: 50 different ones. An epoch is 1,000 batches
# of 64 random windows.
PTB = (60, 54)
HYBRID_PTB = Config(
    model=ModelConfig(
        length=60,
        encoder_units=(128, 256),
        latent_size=(50,),
        expander_base=256,
        expander_filters=(128, 200),
        head_units=500,
    ),
    objective=ObjectiveConfig(alpha=0.2, ramp_start=1000, ramp_steps=7000),
    training=TrainingConfig(
        epochs=100,
        steps_per_epoch=1000,
        batch_size=64,
        learning_rate=1e-3,
        learning_rate_schedule="exponential",
    ),
    data=DataConfig(mode="windows"),
)
BYTENET_PTB = with_changes(
    HYBRID_PTB,
    model={
        "head": "bytenet",
        "head_units": 256,
        "head_layers": 3,
        "head_layer_normalization": False,
    },
)
CNN_PTB = with_changes(
    HYBRID_PTB,
    model={"head": "none", "auxiliary": False},
    objective={"alpha": 0.0, "ramp_start": 10_000},
)
LSTM_PTB = with_changes(
    HYBRID_PTB,
    model={
        **LSTM_DECODER,
        "encoder": "lstm",
        "encoder_units": (500,),
        "latent_size": (100,),
        "head_reads": "state",
    },
    objective={"alpha": 0.0, "ramp_start": 10_000, "input_dropout": 0.2},
)
LANGUAGE_MODEL_PTB = with_changes(HYBRID_PTB, model=NO_LATENT, objective={"alpha": 0.0})

# Semeniuta et al. 2017, tweets in bytes: 256 bytes and three special ids.
TWEETS = (128, 259)
HYBRID_TWEETS = replace(
    with_changes(
        HYBRID_PTB,
        model={
            "length": 128,
            "encoder_units": (128, 256, 512, 512, 512),
            "latent_size": (100,),
            "expander_base": 512,
            "expander_filters": (512, 512, 256, 128, 200),
            "head_units": 1000,
        },
        objective={"ramp_start": 50_000, "ramp_steps": 10_000},
        training={"epochs": 300, "batch_size": 32},
    ),
    data=DataConfig(),
)
LSTM_TWEETS = with_changes(
    HYBRID_TWEETS,
    model={
        **LSTM_DECODER,
        "encoder": "lstm",
        "encoder_units": (1000,),
        "head_reads": "state",
    },
    objective={"alpha": 0.0, "input_dropout": 0.2},
)
LANGUAGE_MODEL_TWEETS = with_changes(HYBRID_TWEETS, model=NO_LATENT, objective={"alpha": 0.0})

# Petersen 2018. Toy: 50 epochs of 5,000 sine waves. Twitter: 20 epochs of 3,000 batches of tweets
# with fewer than 32 characters.
TOY = (16, 14)
TWITTER = (32, 86)


def toy(head: str, auxiliary: bool = False, **model: Any) -> Config:
    """The configuration of a row of Petersen 2018, table 1."""
    return Config(
        model=ModelConfig(
            **{
                "latent_size": (64,),
                "expander_base": 256,
                "expander_filters": (256, 200, 150),
                "encoder_units": (150, 200, 256),
                "head": head,
                "head_units": 256,
                "head_layer_normalization": False,
                "auxiliary": auxiliary,
                **model,
            }
        ),
        objective=ObjectiveConfig(alpha=0.3 if auxiliary else 0.0, beta_max=0.01, ramp_steps=7800),
        training=TrainingConfig(
            epochs=50,
            steps_per_epoch=156,
            batch_size=32,
            learning_rate=1e-4,
            learning_rate_schedule="constant",
            weight_decay=1e-3,
        ),
        data=DataConfig(source="sines"),
    )


def twitter(config: Config, **model: Any) -> Config:
    """The configuration of the same system in Petersen 2018, table 2."""
    return with_changes(
        config,
        model={"length": 32, **model},
        objective={"ramp_steps": 60_000},
        training={"epochs": 20, "steps_per_epoch": 3000},
        data={"source": "unicode-names", "too_long": "drop"},
    )


RNN: dict[str, Any] = {
    "encoder": "lstm",
    "encoder_units": (256,),
    "expander": "repeat",
    "expander_base": 0,
}
LADDER: dict[str, Any] = {
    "encoder_units": (256, 128, 64),
    "latent_size": (64, 32, 16),
    "expander": "repeat",
    "expander_base": 256,
}
LADDER_5: dict[str, Any] = {
    "encoder_units": (512, 256, 128, 64, 32),
    "latent_size": (128, 64, 32, 16, 8),
}

RNN_DENSE = toy("lstm", head_reads="both", **RNN)
CNN_DENSE = toy("none")
HYBRID_DENSE = toy("lstm", auxiliary=True)
RNN_MAP = toy("lstm", latent="map", **RNN)
CNN_MAP = toy("none", latent="map")
HYBRID_MAP = toy("lstm", auxiliary=True, latent="map")
LVAE = toy("lstm", encoder="dense", **LADDER)
LCNNVAE = toy("lstm", encoder="conv", latent="map", **LADDER)
LADDER_RNN = toy(
    "lstm", encoder="lstm", latent="map", **{**LADDER, "encoder_units": (128, 128, 64)}
)
MIXTURE = {"prior": "mixture", "prior_components": 10}

# Prokhorov et al. 2019: C is ramped over two epochs, of 1,000 batches here.
KL_TARGET = Config(
    model=ModelConfig(
        **{
            **LSTM_DECODER,
            "encoder": "lstm",
            "encoder_units": (512,),
            "encoder_embedding": 256,
            "latent_size": (64,),
            "head_units": 512,
            "head_embedding": 256,
            "head_reads": "both",
            "head_layer_normalization": False,
        }
    ),
    objective=ObjectiveConfig(penalty="constrained", kl_target=15.0, alpha=0.0, ramp_steps=2000),
    training=TrainingConfig(
        epochs=10,
        steps_per_epoch=1000,
        batch_size=128,
        learning_rate=7.5e-4,
        learning_rate_schedule="constant",
    ),
)
KL_TARGET_GRU = with_changes(KL_TARGET, model={"encoder": "gru", "head": "gru"})
KL_TARGET_GATED = with_changes(
    KL_TARGET,
    model={"head": "gated_conv", "head_layers": 2, "head_kernel": 20, "head_reads": "steps"},
)

# Penn Treebank in words, one sentence per text (Bowman et al. 2016, section 4). Tied embeddings
# (Press and Wolf 2017) and dropout (Zaremba et al. 2014) give a strong language model; the VAE
# starts from its weights.
PTB_WORD = (84, 10_003)
LANGUAGE_MODEL_PTB_WORD = Config(
    model=ModelConfig(
        **NO_LATENT,
        head_units=512,
        head_embedding=256,
        tied_embeddings=True,
        head_dropout=0.4,
        head_layer_normalization=False,
    ),
    objective=ObjectiveConfig(alpha=0.0, count_padding=False),
    training=TrainingConfig(
        epochs=6,
        batch_size=32,
        length_buckets=True,
        learning_rate=2e-3,
        clip_norm=20.0,
        jit_compile=False,
    ),
    data=DataConfig(source="ptb-word"),
)
LSTM_PTB_WORD = with_changes(
    LANGUAGE_MODEL_PTB_WORD,
    model={
        **LSTM_DECODER,
        "encoder": "lstm",
        "encoder_units": (256,),
        "encoder_embedding": 256,
        "latent": "dense",
        "latent_size": (32,),
        "head_reads": "both",
    },
    objective={
        "penalty": "free_bits",
        "free_bits_over": "total",
        "free_bits": 4.5,
        "ramp_steps": 0,
    },
    training={"epochs": 3, "learning_rate": 1e-3},
)

# The same with a Transformer decoder of the size of texar's VAE-Transformer.
TRANSFORMER_WORDS: dict[str, Any] = {
    "head": "transformer",
    "head_units": 256,
    "head_layers": 3,
    "head_attention_heads": 8,
    "head_dropout": 0.2,
    "head_layer_normalization": True,
}
LANGUAGE_MODEL_TRANSFORMER_PTB_WORD = with_changes(
    LANGUAGE_MODEL_PTB_WORD, model=TRANSFORMER_WORDS, training=ATTENTION_TRAINING
)
TRANSFORMER_PTB_WORD = with_changes(
    LSTM_PTB_WORD, model=TRANSFORMER_WORDS, training=ATTENTION_TRAINING
)

# Molecules of MOSES (Polykovskiy et al. 2020) as SMILES strings; our own systems. The batch
# normalisation of the posterior sets the rate of a code of d numbers: -d log(1 - scale^2) / 2 nats,
# 10 here (Zhu et al. 2020).
MOSES = (56, 31)
HYBRID_MOSES = Config(
    model=ModelConfig(
        tokenizer="pattern",
        token_pattern=TOKEN_PATTERNS["smiles"],
        encoder_units=(256, 512),
        latent_size=(32,),
        posterior="batch_normalized",
        posterior_scale=0.682,
        expander_base=512,
        expander_filters=(512, 256),
        head="lstm",
        head_units=768,
        head_embedding=128,
        head_skip=True,
    ),
    objective=ObjectiveConfig(
        alpha=1.0,
        bag_of_words=1.0,
        alpha_hold=20_000,
        alpha_decay_steps=20_000,
        moments=2.0,
        ramp_start=0,
        ramp_steps=20_000,
        count_padding=False,
    ),
    training=TrainingConfig(
        epochs=20,
        batch_size=512,
        learning_rate=2e-3,
        learning_rate_schedule="cosine",
        learning_rate_warmup=1000,
        frequency_bias=True,
    ),
    data=DataConfig(source="moses", too_long="drop"),
)
LSTM_MOSES = with_changes(
    HYBRID_MOSES,
    model={
        **LSTM_DECODER,
        "encoder": "lstm",
        "encoder_units": (768,),
        "encoder_embedding": 128,
        "head_reads": "both",
    },
    objective={"alpha": 0.0, "input_dropout": 0.2},
)
LANGUAGE_MODEL_MOSES = with_changes(
    HYBRID_MOSES,
    model={
        **NO_LATENT,
        "encoder_units": (64, 128),
        "posterior": "free",
        "posterior_scale": 0.5,
        "head_skip": False,
    },
    objective={
        "alpha": 0.0,
        "bag_of_words": 0.0,
        "moments": 0.0,
        "alpha_hold": 0,
        "alpha_decay_steps": 0,
    },
)
SELFIES: dict[str, Any] = {
    "model": {"token_pattern": TOKEN_PATTERNS["selfies"]},
    "data": {"source": "moses-selfies"},
}
HIGH_RATE: dict[str, Any] = {
    "model": {"latent_size": (128,), "posterior_scale": 0.78},
    "objective": {"input_dropout": 0.1},
}
"""A code of 60 nats, about twice as many as a molecule has."""


def small_moses(config: Config) -> Config:
    """The small size of a system for molecules: for two cores.

    Molecules of more than 47 tokens, 3 of 1,000, are left out.
    """
    model, objective = config.model, config.objective
    decays = objective.alpha_decay_steps > 0
    return with_changes(
        config,
        model={
            "length": 48,
            "encoder_units": tuple(min(units, 256) for units in model.encoder_units),
            "encoder_embedding": min(model.encoder_embedding, 64),
            "expander_base": min(model.expander_base, 256),
            "expander_filters": tuple(min(filters, 128) for filters in model.expander_filters),
            "head_units": 256,
            "head_embedding": 64,
        },
        objective={
            "ramp_steps": 2800,
            "alpha_hold": 2800 if decays else 0,
            "alpha_decay_steps": 2800 if decays else 0,
        },
        training={
            "epochs": 7,
            "steps_per_epoch": 1000,
            "batch_size": 64,
            "learning_rate": 4e-3,
            "learning_rate_warmup": 200,
        },
    )
