"""Properties of each choice of a slot, a penalty and a schedule, as data that needs no Keras.

The rows of a table are the choices that a configuration has for the slot. `LAYERS` in the module of
the slot has the layers of a choice under the same name: `kvae.encoders`, `kvae.latents`,
`kvae.flows` (posteriors), `kvae.priors`, `kvae.expanders`, `kvae.heads`. The functions of penalties
and schedules are in `kvae.objectives`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Slot:
    """Properties that the choices of every slot have."""

    reads: tuple[str, ...] = ()
    """Settings of `ModelConfig` that it reads. A setting that only other choices read must keep its
    default."""
    ignores: tuple[str, ...] = ()
    """Settings that it does not read but accepts, so that sizes can stay when you try another
    choice."""


@dataclass(frozen=True)
class Encoder(Slot):
    """Encoder: text to features, one layer for each of `encoder_units`."""

    reads: tuple[str, ...] = ("encoder_units", "encoder_embedding")
    reads_text: bool = True
    """Whether it reads the text and has features; False for a language model."""
    positions: bool = False
    """Whether features have one row per position (latent `map` needs this). Otherwise they are one
    vector."""
    stride: int = 1
    """Stride of each layer. `length` must be a multiple of stride ** layers."""
    any_length: bool = False
    """True if trimming trailing padding changes no feature (for recurrent layers: in one
    direction)."""


@dataclass(frozen=True)
class Latent(Slot):
    """Latent: features to the posterior of the latent code."""

    has_code: bool = True
    positions: bool = False
    """Whether a level of the code has one vector per position of its features. Otherwise it is one
    vector."""


@dataclass(frozen=True)
class Posterior(Slot):
    """Posterior: the distribution of the top level given the text."""

    normalized: bool = False
    """Whether its means are batch-normalised."""
    flow: bool = False
    """Whether a flow transforms its Gaussian. Its KL is then estimated at a sample."""


@dataclass(frozen=True)
class Prior(Slot):
    """Prior: the distribution of the top level."""

    standard_normal: bool = False
    kl_of_dimensions: bool = False
    """Whether its KL is a sum over dimensions."""
    gaussian_posterior: bool = False
    """Whether it needs posteriors that are Gaussians of independent dimensions."""
    reads_encoder: bool = False
    """Whether weights of the encoder are part of its density."""


@dataclass(frozen=True)
class Expander(Slot):
    """Expander: latent code to one row of features per position."""

    repeats: bool = False
    """Whether every position gets the same row."""
    stride: int = 1
    """Factor by which each of `expander_filters` multiplies the positions. `length` must be a
    multiple of stride ** layers."""
    any_length: bool = False
    """True if no weight and no row depends on T."""
    batch_normalized: bool = False
    """Whether in training the features of a code depend on the other codes of the batch."""


@dataclass(frozen=True)
class Head(Slot):
    """Head: features and previous tokens to logits."""

    history: bool = True
    """Whether it reads previous tokens."""
    bounded_state: bool = False
    """Whether the values of its first state lie in [-1, 1]; int8 export then uses a fixed scale for
    it."""
    embeds_tokens: bool = False
    """Whether previous tokens have embeddings also if `head_embedding` is 0, then of size
    `head_units`."""


@dataclass(frozen=True)
class Penalty:
    """Penalty: how the KL enters the loss."""

    reads: tuple[str, ...] = ("kl_target", "free_bits", "free_bits_over")
    """Settings of `ObjectiveConfig` that it reads."""
    is_weighted_kl: bool = False
    """Whether it is beta * KL, the term of the bound."""
    has_target: bool = False
    """Whether the ramp scales the target C. Otherwise it scales beta."""
    averages: bool = False
    """Whether it depends on the mean KL of the batch."""
    has_free_bits: bool = False
    """Whether `free_bits` nats of KL have no penalty, of each dimension or of the total."""


@dataclass(frozen=True)
class Schedule:
    """Schedule: the height of the ramp over training steps."""

    reads: tuple[str, ...] = ("cycles",)
    """Settings of `ObjectiveConfig` that it reads."""
    rises: bool = True
    """Whether it has a ramp. Otherwise its height is 1 from the first step."""


RECURRENT_ENCODER = Encoder(
    reads=("encoder_units", "encoder_embedding", "encoder_bidirectional"),
    positions=True,
    any_length=True,
)
ENCODERS: dict[str, Encoder] = {
    "conv": Encoder(positions=True, stride=2),
    "lstm": RECURRENT_ENCODER,
    "gru": RECURRENT_ENCODER,
    "dense": Encoder(),
    "bag": Encoder(any_length=True),
    "transformer": Encoder(
        reads=(
            "encoder_units",
            "encoder_embedding",
            "encoder_attention_heads",
            "encoder_dropout",
            "encoder_summary",
            "encoder_normalization",
        ),
        positions=True,
        any_length=True,
    ),
    "none": Encoder(reads=(), ignores=("encoder_units",), reads_text=False, any_length=True),
}

LATENTS: dict[str, Latent] = {
    "dense": Latent(),
    "map": Latent(positions=True),
    "none": Latent(has_code=False),
}

POSTERIORS: dict[str, Posterior] = {
    "free": Posterior(),
    "batch_normalized": Posterior(reads=("posterior_scale",), normalized=True),
    "iaf": Posterior(reads=("posterior_layers", "posterior_units"), flow=True),
    "planar": Posterior(reads=("posterior_layers",), flow=True),
}

PRIORS: dict[str, Prior] = {
    "standard": Prior(standard_normal=True, kl_of_dimensions=True),
    "mixture": Prior(reads=("prior_components", "prior_covariance")),
    "vamp": Prior(reads=("prior_components",), gaussian_posterior=True, reads_encoder=True),
    "autoregressive": Prior(reads=("prior_rate",), kl_of_dimensions=True, gaussian_posterior=True),
    "flow": Prior(reads=("prior_layers", "prior_units")),
}

EXPANDERS: dict[str, Expander] = {
    "deconv": Expander(
        reads=("expander_filters", "expander_base"), stride=2, batch_normalized=True
    ),
    "repeat": Expander(
        reads=("expander_base",), ignores=("expander_filters",), repeats=True, any_length=True
    ),
}

HEAD_SIZES = ("head_units", "head_layer_normalization")
RECURRENT_HEAD = Head(
    reads=(
        *HEAD_SIZES,
        "head_embedding",
        "head_reads",
        "head_skip",
        "head_dropout",
        "tied_embeddings",
    ),
    bounded_state=True,
)
CONVOLUTIONAL_HEAD = Head(
    reads=(*HEAD_SIZES, "head_embedding", "head_layers", "head_kernel", "head_dilation")
)
HEADS: dict[str, Head] = {
    "none": Head(ignores=(*HEAD_SIZES, "head_layers"), history=False),
    "lstm": RECURRENT_HEAD,
    "gru": RECURRENT_HEAD,
    "bytenet": CONVOLUTIONAL_HEAD,
    "gated_conv": CONVOLUTIONAL_HEAD,
    "transformer": Head(
        reads=(
            "head_units",
            "head_layers",
            "head_attention_heads",
            "head_embedding",
            "head_reads",
            "head_dropout",
            "tied_embeddings",
        ),
        embeds_tokens=True,
    ),
}

SLOTS: dict[str, dict[str, Any]] = {
    "encoder": ENCODERS,
    "latent": LATENTS,
    "posterior": POSTERIORS,
    "prior": PRIORS,
    "expander": EXPANDERS,
    "head": HEADS,
}
"""The slots: name of the setting in `ModelConfig` -> its choices."""

FREE_BITS = ("free_bits", "free_bits_over")
PENALTIES: dict[str, Penalty] = {
    "annealed": Penalty(reads=(), is_weighted_kl=True),
    "constrained": Penalty(reads=("kl_target",), has_target=True, averages=True),
    "constrained_per_example": Penalty(reads=("kl_target",), has_target=True),
    "free_bits": Penalty(reads=FREE_BITS, averages=True, has_free_bits=True),
    "free_bits_mask": Penalty(reads=FREE_BITS, has_free_bits=True),
}

SCHEDULES: dict[str, Schedule] = {
    "linear": Schedule(reads=()),
    "sigmoid": Schedule(reads=()),
    "cosine": Schedule(reads=()),
    "cyclical": Schedule(),
    "constant": Schedule(reads=(), rises=False),
}


def choices_by_setting(slot: str) -> dict[str, list[str]]:
    """The settings that choices of a slot read: setting -> names of those choices."""
    choices: dict[str, list[str]] = {}
    for name, row in SLOTS[slot].items():
        for setting in row.reads:
            choices.setdefault(setting, []).append(name)
    return choices


def quoted_list(names: Iterable[str], conjunction: str = "and") -> str:
    """Join names for a sentence: 'a', 'b' and 'c'."""
    quoted = [repr(name) for name in names]
    return f" {conjunction} ".join(filter(None, [", ".join(quoted[:-1]), *quoted[-1:]]))
