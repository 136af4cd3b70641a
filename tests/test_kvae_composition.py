"""The slots compose: combinations that make sense train, and others are refused with the reason."""

import itertools
from typing import Any

import numpy as np
import pytest

from kvae.configuration import ObjectiveConfig
from kvae.model import TextVAE
from kvae.serving.errors import ConfigError

from .conftest import everyday, random_tokens, small_config

ENCODERS: dict[str, dict[str, Any]] = {
    "conv": {},
    "lstm": {"encoder": "lstm", "encoder_bidirectional": True},
    "gru": {"encoder": "gru", "encoder_embedding": 4},
    "dense": {"encoder": "dense"},
    "bag": {"encoder": "bag"},
    "transformer": {"encoder": "transformer"},
}
LATENTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "map": {"latent": "map"},
    "ladder of vectors": {"latent_size": (4, 3)},
    "ladder of maps": {"latent": "map", "latent_size": (4, 3)},
}
PRIORS = ("standard", "mixture", "vamp", "flow")
EXPANDERS = ("deconv", "repeat")
HEADS = ("none", "lstm", "gru", "bytenet", "gated_conv", "transformer")


def fits(encoder: str, latent: str, expander: str) -> bool:
    """Maps need positions; deconvolutions of a map start from as many positions as it has."""
    if "map" in latent and encoder in ("dense", "bag"):
        return False
    return not (
        expander == "deconv"
        and "map" in latent
        and (encoder != "conv" or latent == "ladder of maps")
    )


def built(encoder: str, latent: str, prior: str, expander: str, head: str) -> TextVAE:
    slots = {
        **ENCODERS[encoder],
        **LATENTS[latent],
        "prior": prior,
        "expander": expander,
        "head": head,
    }
    return TextVAE(small_config(**slots, auxiliary=False), ObjectiveConfig(alpha=0.0))


@pytest.mark.parametrize(
    ("encoder", "latent"),
    everyday(
        itertools.product(ENCODERS, LATENTS),
        ("conv", "map"),
        ("dense", "map"),
    ),
)
def test_every_combination_that_makes_sense_gives_finite_terms_and_no_other_builds(
    encoder: str, latent: str
) -> None:
    tokens = random_tokens(3)
    for number, (prior, expander) in enumerate(itertools.product(PRIORS, EXPANDERS)):
        head = HEADS[number % len(HEADS)]
        if not fits(encoder, latent, expander):
            with pytest.raises(ConfigError):
                built(encoder, latent, prior, expander, head)
            continue
        model = built(encoder, latent, prior, expander, head)
        terms = model.terms(tokens)
        assert all(np.isfinite(np.array(term)).all() for term in terms.values()), (
            prior,
            expander,
            head,
        )
        assert model.hierarchy.sample(np.zeros((2, model.parts.noise_size), np.float32)).shape == (
            2,
            model.hierarchy.size,
        )


NO_LATENT: dict[str, Any] = {
    "encoder": "none",
    "latent": "none",
    "expander": "repeat",
    "expander_base": 0,
    "auxiliary": False,
}
MISFITS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a code without an encoder": ({"encoder": "none"}, {}, "a VAE needs both"),
    "an encoder without a code": (
        {**NO_LATENT, "encoder": "conv"},
        {},
        "a language model has neither",
    ),
    "an expander without a code": ({**NO_LATENT, "expander": "deconv"}, {}, "nothing to expand"),
    "a layer without a code": (
        {**NO_LATENT, "expander_base": 8},
        {},
        "set model.expander_base to 0",
    ),
    "independent positions without a code": (
        {**NO_LATENT, "head": "none"},
        {},
        "nothing to predict from",
    ),
    "a language model without history": (
        NO_LATENT,
        {"input_dropout": 1.0},
        "nothing to predict from",
    ),
    "a prior without a code": ({**NO_LATENT, "prior": "mixture"}, {}, "no prior or posterior"),
    "a KL target without a code": (NO_LATENT, {"penalty": "constrained"}, "there is no KL"),
    "an encoder ahead without an encoder": (
        NO_LATENT,
        {"encoder_updates": 2},
        "no encoder to update",
    ),
    "an attribute without an encoder": (
        {**NO_LATENT, "attributes": ("a", "b")},
        {},
        "needs an encoder",
    ),
    "one attribute": ({"attributes": ("a",)}, {}, "the label is constant"),
    "more levels than layers": ({"latent_size": (4, 3, 2)}, {}, "needs as many encoder layers"),
    "a ladder of normalised means": (
        {"latent_size": (4, 3), "posterior": "batch_normalized"},
        {},
        "use 'free'",
    ),
    "a flow beside posteriors as a prior": (
        {"posterior": "iaf", "prior": "vamp"},
        {},
        "model.prior 'vamp' needs a Gaussian posterior",
    ),
    "a flow beside a chain": (
        {"posterior": "planar", "prior": "autoregressive", "latent": "map", "expander": "repeat"},
        {},
        "use posterior 'free', or another prior",
    ),
    "a flow without a code": ({**NO_LATENT, "posterior": "iaf"}, {}, "no prior or posterior"),
    "free bits of a flow's dimensions": (
        {"posterior": "planar"},
        {"penalty": "free_bits"},
        "posterior 'planar' has no KL of each dimension; use 'total'",
    ),
    "moments of a flow": (
        {"posterior": "iaf"},
        {"moments": 1.0},
        "objective.moments needs the mean and variance of a posterior in closed form",
    ),
    "a map without positions": (
        {"encoder": "dense", "latent": "map"},
        {},
        "has none; use 'conv', 'lstm', 'gru' or 'transformer'",
    ),
    "deconvolutions of a long map": (
        {"encoder": "lstm", "latent": "map"},
        {},
        "the code's map has 16",
    ),
    "a grid of no maps": ({"expander_base": 0}, {}, "needs feature maps"),
    "free bits of a mixture's dimensions": (
        {"prior": "mixture"},
        {"penalty": "free_bits"},
        "use 'total'",
    ),
    "MMD from a mixture": ({"prior": "mixture"}, {"mmd": 1.0}, "the 'standard' prior"),
    "a bag of words without a code": (
        {"encoder": "none", "latent": "none", "expander": "repeat", "expander_base": 0}
        | {"auxiliary": False},
        {"bag_of_words": 1.0},
        "has no code that predicts tokens",
    ),
    "a skip connection of features at the first position": (
        {"expander": "repeat", "head_reads": "state", "head_skip": True},
        {},
        "model.head_reads 'steps' or 'both'",
    ),
    "a target that waits": (
        {},
        {"penalty": "constrained", "ramp_after_convergence": True},
        "collapses the code",
    ),
    "a target that waits for a step": (
        {},
        {"penalty": "constrained", "ramp_start": 5},
        "collapses the code",
    ),
    "a target behind a warm start": (
        {},
        {"penalty": "constrained", "warm_start_steps": 5},
        "collapses the code",
    ),
    "a batch mean over guessed labels": (
        {"attributes": ("a", "b")},
        {"semi_supervised": True, "penalty": "constrained"},
        "every possible label",
    ),
    "a map read at one position": (
        {"latent": "map", "expander": "repeat", "head_reads": "state"},
        {},
        "only the features of the first position",
    ),
    "dropout of what is not read": (
        {"head": "none", "auxiliary": False},
        {"input_dropout": 0.5},
        "does not read",
    ),
    "the same label twice": ({"attributes": ("a", "a")}, {}, "must differ from each other"),
    "means without spread": (
        {"posterior": "batch_normalized", "posterior_scale": 0.0},
        {},
        "would be equal",
    ),
    "labels to guess without labels": ({}, {"semi_supervised": True}, "needs model.attributes"),
    "tied without vectors": ({"tied_embeddings": True}, {}, "set model.head_embedding above 0"),
    "dropout without vectors": ({"head_dropout": 0.5}, {}, "set model.head_embedding above 0"),
    "heads that do not divide the units": (
        {"head": "transformer", "head_attention_heads": 5},
        {},
        "model.head_attention_heads is 5 and does not divide model.head_units 12; give a divisor",
    ),
    "heads that divide one layer of two": (
        {"encoder": "transformer", "encoder_units": (8, 12), "encoder_attention_heads": 8},
        {},
        "does not divide model.encoder_units 8, 12",
    ),
    "a memory of one of many rows": (
        {"head": "transformer", "head_reads": "state"},
        {},
        "model.head_reads 'state' reads only the features of the first position",
    ),
    "a chain of one position": ({"prior": "autoregressive"}, {}, "at least three positions"),
    "a ladder that does not halve": (
        {"length": 18, "latent": "map", "latent_size": (4, 3), "expander": "repeat"},
        {},
        "a multiple of",
    ),
}


@pytest.mark.jax
@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_make_sense_is_refused_with_the_reason(case: str) -> None:
    model, objective, reason = MISFITS[case]
    with pytest.raises(ConfigError) as caught:
        TextVAE(small_config(**model), ObjectiveConfig(**{"alpha": 0.0, **objective}))
    assert reason in str(caught.value)


UNREAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a target without a constraint": ({}, {"kl_target": 30.0}, "objective.kl_target is 30.0"),
    "free bits without their penalty": ({}, {"free_bits": 2.0}, "the free-bits penalties"),
    "cycles of a line": ({}, {"cycles": 2}, "schedule 'cyclical'"),
    "components of one Gaussian": ({"prior_components": 3}, {}, "the priors 'mixture' and 'vamp'"),
    "a rate of N(0, I)": ({"prior_rate": 3.0}, {}, "the prior 'autoregressive'"),
    "steps of a Gaussian": ({"posterior_layers": 2}, {}, "the posteriors 'iaf' and 'planar'"),
    "units of a plane": (
        {"posterior": "planar", "posterior_units": 8},
        {},
        "the posterior 'iaf'",
    ),
    "layers of N(0, I)": ({"prior_layers": 2}, {}, "the prior 'flow'"),
    "a spread of free means": ({"posterior_scale": 0.7}, {}, "posterior 'batch_normalized'"),
    "a bidirectional convolution": (
        {"encoder_bidirectional": True},
        {},
        "the encoders 'lstm' and 'gru'",
    ),
    "a state in a convolution": (
        {"head": "bytenet", "head_reads": "both"},
        {},
        "the heads 'lstm', 'gru' and 'transformer'",
    ),
    "layers of an LSTM": (
        {"head_layers": 2},
        {},
        "the heads 'bytenet', 'gated_conv' and 'transformer'",
    ),
    "attention of an LSTM": ({"head_attention_heads": 2}, {}, "the head 'transformer'"),
    "attention of a convolution": (
        {"encoder_attention_heads": 2},
        {},
        "the encoder 'transformer'",
    ),
    "a skip connection of a Transformer": (
        {"head": "transformer", "head_skip": True},
        {},
        "the heads 'lstm' and 'gru'",
    ),
    "tied convolutions": (
        {"head": "bytenet", "head_embedding": 4, "tied_embeddings": True},
        {},
        "the heads 'lstm', 'gru' and 'transformer'",
    ),
    "vectors of symbols that are not read": (
        {"head": "none", "auxiliary": False, "head_embedding": 4},
        {},
        "the heads 'lstm', 'gru', 'bytenet', 'gated_conv' and 'transformer'",
    ),
    "a kernel of an LSTM": ({"head_kernel": 5}, {}, "the heads 'bytenet' and 'gated_conv'"),
    "a fall of nothing": ({}, {"alpha_decay_steps": 100}, "an auxiliary loss, objective.alpha"),
    "a hold before no fall": ({}, {"alpha_hold": 100}, "objective.alpha_decay_steps"),
    "a classifier of nothing": ({}, {"classifier_weight": 2.0}, "a model with attributes"),
}


@pytest.mark.jax
@pytest.mark.parametrize("case", UNREAD)
def test_a_setting_that_nothing_reads_is_refused_with_what_would(case: str) -> None:
    model, objective, reason = UNREAD[case]
    with pytest.raises(ConfigError) as caught:
        TextVAE(small_config(**model), ObjectiveConfig(**{"alpha": 0.0, **objective}))
    assert reason in str(caught.value)
    assert "nothing reads it" in str(caught.value)


@pytest.mark.jax
def test_a_rate_that_a_map_cannot_be_held_at_is_refused_with_the_largest() -> None:
    with pytest.raises(ConfigError, match=r"at most 15\.2 nats .*, got 50"):
        TextVAE(
            small_config(prior="autoregressive", latent="map", prior_rate=50.0),
            ObjectiveConfig(alpha=0.0),
        )
