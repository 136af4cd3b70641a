"""What each choice of a slot can do, as data that is known without Keras.

The rows of a table are the choices that a configuration has for the slot. The layers of a choice stand under the same name
in `LAYERS` of the slot's module: `kvae.encoders`, `kvae.latents`, `kvae.priors`, `kvae.expanders`, `kvae.heads`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """What the choices of every slot have."""

    reads: tuple[str, ...] = ()
    """Settings of the model that it reads. One that some other choice reads must stay at its default."""
    ignores: tuple[str, ...] = ()
    """Settings that it does not read and that may be given nevertheless: sizes that stay when another choice is tried."""


@dataclass(frozen=True)
class Encoder(Slot):
    """A text as features, a layer for each of `encoder_units`."""

    reads: tuple[str, ...] = ("encoder_units", "encoder_embedding")
    reads_text: bool = True
    """Whether there are any features."""
    positions: bool = False
    """Whether features have a row for each position, as latent `map` needs them, or are a vector alone."""
    stride: int = 1
    """How many positions of the layer below become one; `length` must be a multiple of it for each layer."""
    any_length: bool = False
    """True if trimming trailing padding changes no feature, of a recurrence in one direction."""


@dataclass(frozen=True)
class Latent(Slot):
    """What the features say about the code."""

    has_code: bool = True
    positions: bool = False
    """Whether a level of the code is a vector for each position of its features, or one vector."""


@dataclass(frozen=True)
class Prior(Slot):
    """The distribution of the top level."""

    standard_normal: bool = False
    kl_of_dimensions: bool = False
    """Whether its KL is a sum over dimensions."""


@dataclass(frozen=True)
class Expander(Slot):
    """The code as a row of features for each position."""

    repeats: bool = False
    """Whether a vector becomes the same row at every position."""
    stride: int = 1
    """By how much each of `expander_filters` multiplies the positions; `length` must be a multiple of it for each."""
    any_length: bool = False
    """Whether no weight and no row depends on T."""


@dataclass(frozen=True)
class Head(Slot):
    """Features and previous symbols as logits."""

    history: bool = True
    """Whether it reads previous symbols."""
    bounded_state: bool = False
    """Whether the numbers of its first state lie between -1 and 1, which export in eight bits makes use of."""


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
    "none": Encoder(reads=(), ignores=("encoder_units",), reads_text=False, any_length=True),
}

LATENTS: dict[str, Latent] = {
    "dense": Latent(),
    "map": Latent(positions=True),
    "none": Latent(has_code=False),
}

PRIORS: dict[str, Prior] = {
    "standard": Prior(standard_normal=True, kl_of_dimensions=True),
    "mixture": Prior(reads=("prior_components",)),
    "vamp": Prior(reads=("prior_components",)),
    "autoregressive": Prior(reads=("prior_rate",), kl_of_dimensions=True),
}

EXPANDERS: dict[str, Expander] = {
    "deconv": Expander(reads=("expander_filters", "expander_base"), stride=2),
    "repeat": Expander(
        reads=("expander_base",), ignores=("expander_filters",), repeats=True, any_length=True
    ),
}

HEAD_SIZES = ("head_units", "head_layer_normalization")
RECURRENT_HEAD = Head(
    reads=(*HEAD_SIZES, "head_embedding", "head_reads", "head_dropout", "tied_embeddings"),
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
}

SLOTS: dict[str, Mapping[str, Slot]] = {
    "encoder": ENCODERS,
    "latent": LATENTS,
    "prior": PRIORS,
    "expander": EXPANDERS,
    "head": HEADS,
}
"""Each slot's setting in `ModelConfig`, with its choices."""


def choices_by_setting(slot: str) -> dict[str, list[str]]:
    """The settings that some choices of a slot read, each with those choices."""
    choices: dict[str, list[str]] = {}
    for name, row in SLOTS[slot].items():
        for setting in row.reads:
            choices.setdefault(setting, []).append(name)
    return choices


def quoted_list(names: Iterable[str], conjunction: str = "and") -> str:
    """Names in quotes as a sentence has them: 'a', 'b' and 'c'."""
    quoted = [repr(name) for name in names]
    return f" {conjunction} ".join(filter(None, [", ".join(quoted[:-1]), *quoted[-1:]]))
