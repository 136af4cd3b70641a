"""Settings that help a code that is unused, or whose KL is no information: each with the reason and
the source."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kvae.configuration import ModelConfig, ObjectiveConfig
from kvae.slots import EXPANDERS, HEADS, PENALTIES, POSTERIORS, PRIORS, SCHEDULES

USED, UNUSED, EMPTY = "used", "unused", "empty"
"""States of a latent code: in use; KL and information near 0; a KL that is no information."""


@dataclass(frozen=True)
class Remedy:
    """Settings by dotted name, and why they help. `name` is one of `SOURCES`, and a word for the
    folder of a run with them."""

    name: str
    settings: dict[str, Any]
    why: str
    applies: bool = True

    @property
    def source(self) -> str:
        """Who has shown that it helps."""
        return SOURCES[self.name]


SOURCES = {
    "auxiliary": "Semeniuta et al. 2017, eq. 4",
    "alpha": "Semeniuta et al. 2017, figure 5",
    "every-step": "Semeniuta et al. 2017, 3.2",
    "deconvolution": "Semeniuta et al. 2017, 3.1",
    "skip": "Dieng et al. 2019, 3",
    "input-dropout": "Bowman et al. 2016, 3.1",
    "ramp": "Bowman et al. 2016, 3.1",
    "ramp-end": "Bowman et al. 2016, 3.1",
    "beta": "Higgins et al. 2017, eq. 4",
    "free-bits": "Kingma et al. 2016, eq. 15",
    "free-bits-each": "Kingma et al. 2016, eq. 15",
    "kl-target": "Prokhorov et al. 2019, eq. 3",
    "batch-normalized": "Zhu et al. 2020, 3",
    "mmd": "Zhao et al. 2019, 4.2",
    "moments": "Kumar et al. 2018, eq. 7",
    "encoder-updates": "He et al. 2019, algorithm 1",
    "fitted": "Ghosh et al. 2020, 4",
    "mixture": "Dilokthanakul et al. 2016, 3",
    "smaller": "Burda et al. 2016, 5.2",
    "stopped": "Prechelt 1998",
    "dropout": "Zaremba et al. 2014, 3.2",
    "weight-decay": "Loshchilov and Hutter 2019, eq. 4",
    "longer": "Goodfellow et al. 2016, 5.2",
}
"""The source of each remedy, by its name."""


def flags(settings: Mapping[str, Any]) -> str:
    """Settings as `--set` options of the command line."""
    return " ".join(f"--set {key}={as_value(value)}" for key, value in settings.items())


def as_value(value: Any) -> str:
    """A value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def remedies(model: ModelConfig, objective: ObjectiveConfig, found: str = UNUSED) -> list[Remedy]:
    """What usually cures a code `found` to be `UNUSED` or `EMPTY` and is not yet in use. All
    settings are valid for the configuration.

    The order is that of the information that a technique gave in *anti-collapse* of docs/results.md
    and in docs/tutorials/collapse.md; what gave none there comes last.
    """
    chosen = remedies_of_kl(objective) if found == UNUSED else []
    return applying(
        [
            *remedies_of_decoder(model, objective),
            *remedies_of_posterior(model, objective, found),
            *chosen,
            *remedies_of_history(model, objective),
            *remedies_of_encoder(objective),
        ]
    )


def applying(candidates: Iterable[Remedy]) -> list[Remedy]:
    """The remedies that apply."""
    return [remedy for remedy in candidates if remedy.applies]


def remedies_of_decoder(model: ModelConfig, objective: ObjectiveConfig) -> list[Remedy]:
    """Remedies that make the decoder need the code."""
    return [
        Remedy(
            "auxiliary",
            {
                **deconvolution_settings(model, objective),
                "model.auxiliary": True,
                "objective.alpha": 0.2,
            },
            "the code alone has to predict the text too",
            HEADS[model.head].history and not model.auxiliary,
        ),
        Remedy(
            "alpha",
            {"objective.alpha": 2 * objective.alpha or 0.2},
            "the prediction of the text from the code alone gets a larger weight",
            model.auxiliary and objective.alpha < 0.5,
        ),
    ]


def remedies_of_history(model: ModelConfig, objective: ObjectiveConfig) -> list[Remedy]:
    """Remedies that take the history from the decoder."""
    return [
        Remedy(
            "input-dropout",
            {"objective.input_dropout": 0.3},
            "the decoder misses some of the previous tokens, and needs the code instead",
            HEADS[model.head].history and objective.input_dropout == 0,
        )
    ]


def remedies_of_kl(objective: ObjectiveConfig) -> list[Remedy]:
    """Remedies that make the KL cost less, later or nothing."""
    penalty = PENALTIES[objective.penalty]
    annealed = penalty.is_weighted_kl and objective.importance_samples == 1
    return [
        Remedy(
            "beta",
            {"objective.beta_max": 1.0},
            "the KL costs no more than the bound says",
            objective.beta_max > 1,
        ),
        Remedy(
            "free-bits",
            free_bits_settings(objective),
            "the first 5 nats of KL cost nothing",
            annealed,
        ),
        Remedy(
            "free-bits",
            {"objective.free_bits": 2 * objective.free_bits or 0.5},
            "more of the KL costs nothing",
            penalty.has_free_bits,
        ),
        Remedy(
            "kl-target",
            kl_target_settings(objective),
            "the KL is held at 10 nats",
            annealed,
        ),
        Remedy(
            "ramp",
            longer_ramp_settings(objective),
            "the code has more time to become useful before it costs",
            not PENALTIES[objective.penalty].has_target,
        ),
    ]


def remedies_of_posterior(
    model: ModelConfig, objective: ObjectiveConfig, found: str
) -> list[Remedy]:
    """Remedies that make the posteriors of the texts differ."""
    one_level, posterior = len(model.latent_size) == 1, POSTERIORS[model.posterior]
    return [
        Remedy(
            "batch-normalized",
            {"model.posterior": "batch_normalized"},
            "the means of the posteriors have to differ between the texts",
            one_level and not (posterior.normalized or posterior.flow),
        ),
        Remedy(
            "mmd",
            {"objective.mmd": 100.0},
            "the codes of all texts together have to look like the prior, so posteriors differ",
            found == EMPTY
            and objective.mmd == 0
            and one_level
            and PRIORS[model.prior].standard_normal,
        ),
    ]


def remedies_of_encoder(objective: ObjectiveConfig) -> list[Remedy]:
    """Remedies for an encoder that lags behind the decoder."""
    return [
        Remedy(
            "encoder-updates",
            {"objective.encoder_updates": 5},
            "the encoder gets five updates for each of the decoder until it has caught up",
            objective.encoder_updates == 0,
        ),
    ]


def longer_ramp_settings(objective: ObjectiveConfig) -> dict[str, Any]:
    """A ramp of twice the steps, at least 1,000. A constant schedule becomes linear."""
    ramp = {"objective.schedule": "linear"} if not SCHEDULES[objective.schedule].rises else {}
    return {**ramp, "objective.ramp_steps": max(1000, 2 * objective.ramp_steps)}


def free_bits_settings(objective: ObjectiveConfig) -> dict[str, Any]:
    """Free bits: the first five nats of the KL cost nothing."""
    return {
        "objective.penalty": "free_bits_mask" if objective.semi_supervised else "free_bits",
        "objective.free_bits_over": "total",
        "objective.free_bits": 5.0,
    }


def kl_target_settings(objective: ObjectiveConfig) -> dict[str, Any]:
    """A KL target of ten nats, without settings that delay the ramp of the target."""
    return {
        "objective.penalty": "constrained_per_example"
        if objective.semi_supervised
        else "constrained",
        "objective.kl_target": 10.0,
        **{
            f"objective.{name}": 0
            for name in ("ramp_start", "warm_start_steps")
            if getattr(objective, name)
        },
        **({"objective.ramp_after_convergence": False} if objective.ramp_after_convergence else {}),
    }


def deconvolution_settings(model: ModelConfig, objective: ObjectiveConfig) -> dict[str, Any]:
    """Deconvolutions in place of a repeated code, so that features differ between positions; empty
    if they do not fit."""
    if objective.importance_gradient != "standard":
        return {}  # it needs a decoder that reads each code by itself
    expander = next(name for name, row in EXPANDERS.items() if not row.repeats)
    if not EXPANDERS[model.expander].repeats or model.has_map or not model.has_code:
        return {}
    if model.length % replace(model, expander=expander).expander_stride:
        return {}
    return {
        "model.expander": expander,
        **({} if model.expander_base else {"model.expander_base": 128}),
        **({"model.head_reads": "steps"} if model.head_reads == "state" else {}),
    }
