"""What to change in a run, in which order: rules from the measurements of `training.diagnosis`.

A rule is a row of `RULES`: the symptom, when it is there, and the remedies with their sources. The
first rules say that a measurement is too early, the next that the code is not used, the last what
is left to gain.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kvae.configuration import Config
from kvae.misfits import has_free_bits_per_dimension
from kvae.runs import CHECKPOINTS, Run, list_checkpoints
from kvae.slots import HEADS, PENALTIES, POSTERIORS, PRIORS

from .remedies import (
    EMPTY,
    UNUSED,
    USED,
    Remedy,
    applying,
    as_value,
    deconvolution_settings,
    remedies,
    remedies_of_decoder,
    remedies_of_history,
)
from .verdict import OVERFIT_SHARE

FIRST_QUARTER = 0.7
"""The code is forgotten if at least this share of its effect is in the first quarter of a text."""

FAR_NATS, FAR_SHARE = 0.5, 0.05
"""The aggregated posterior is far from the prior if a Gaussian in its place saves more nats than
these, more than this share of the KL and more than three standard errors."""

REST_SHARE = 0.1
"""A fitted prior may help if more than this share of the KL, and `FAR_NATS`, may be no information.
"""

FEW_UNITS = 0.25
"""Few dimensions are in use if less than this share of them is active."""

STILL_FALLING = 0.01
"""Training ended too early if the bound fell by more than this share in the last quarter."""

Found = Mapping[str, Any]
"""A result of `training.diagnosis.diagnose` for a model with a code."""


@dataclass(frozen=True)
class Rule:
    """A symptom: `holds` tells from the measurements whether it is there, `sentence` says it with
    their numbers, `helps` are the remedies for a configuration, the best first."""

    symptom: str
    holds: Callable[[Found], bool]
    sentence: Callable[[Found], str]
    helps: Callable[[Config, Found], Iterable[Remedy]]


FIT_PRIOR, MORE_STEPS = "fitted", ("ramp-end", "longer")
"""Names of the remedies whose command is not that of a new training."""


def advised(run: Run, found: Found) -> dict[str, Any]:
    """{"findings", "advice"}: sentences on what the measurements mean, and what to change.

    Each advice has its `symptom`, `why`, `source`, `settings` and the whole `command`. A language
    model has neither code nor advice.
    """
    if not found["has_code"]:
        sentence = "The model has no latent code: a language model, with nothing to diagnose."
        return {"findings": [finding("code", True, sentence)], "advice": []}
    rules = [rule for rule in RULES if rule.holds(found)]
    sentences = [finding(rule.symptom, False, rule.sentence(found)) for rule in rules]
    if found["state"] == USED:
        sentences.insert(0, finding("code", True, used_sentence(found)))
    return {
        "findings": sentences,
        "advice": [
            {
                "symptom": rule.symptom,
                "why": remedy.why,
                "source": remedy.source,
                "settings": remedy.settings,
                "command": command_of(run, remedy),
            }
            for rule in rules
            for remedy in rule.helps(run.config, found)
        ],
    }


def finding(about: str, good: bool, sentence: str) -> dict[str, Any]:
    return {"about": about, "good": good, "sentence": sentence}


def command_of(run: Run, remedy: Remedy) -> str:
    """The complete command line of a remedy."""
    path = str(run.path)
    options = [f"--set={key}={as_value(value)}" for key, value in remedy.settings.items()]
    out = ["--out", f"{path}-{remedy.name}"]
    if remedy.name == FIT_PRIOR:
        return shlex.join(["kvae", "fit-prior", path, *out])
    if remedy.name in MORE_STEPS and list_checkpoints(run.path / CHECKPOINTS):
        return shlex.join(["kvae", "train", "--resume", "--out", path, *options])
    if remedy.name in MORE_STEPS:
        options.append(f"--set=training.start_from={path}")
        if run.config.objective.warm_start_steps:
            options.append("--set=objective.warm_start_steps=0")
    return shlex.join(["kvae", "train", "--like", path, *out, *options])


def numbers(found: Found) -> str:
    """KL, information and active units for a sentence."""
    return (
        f"KL {found['kl']:.2f} nats, information {found['mutual_information']:.2f} of at most "
        f"{found['mutual_information_ceiling']:.2f}, {found['active_units']} of "
        f"{found['latent_size']} units active"
    )


def used_sentence(found: Found) -> str:
    """That the code is used, and what it is worth."""
    exchanged = found["exchanged"]
    return (
        f"The latent code is used ({numbers(found)}). With the code of another text a text costs "
        f"{exchanged['cost']:.2f} nats more, {exchanged['share_of_reconstruction']:.0%} of its "
        "reconstruction."
    )


def ramp_not_over(found: Found) -> bool:
    return not found["training"]["ramp_is_over"]


def ramp_sentence(found: Found) -> str:
    left = found["training"]["steps_to_go"]
    when = "still waits" if left is None else f"needs {left:,} more steps"
    return f"The KL does not have its full weight yet: its ramp {when}. All numbers will change."


def to_the_end_of_the_ramp(config: Config, found: Found) -> Iterator[Remedy]:
    step, left = found["training"]["step"], found["training"]["steps_to_go"]
    steps = 2 * step if left is None else step + left + max(1, left // 2)
    why = "the ramp ends, and the model trains at the full weight of its KL"
    yield more_steps(config, "ramp-end", steps, why)


def more_steps(config: Config, name: str, steps: int, why: str) -> Remedy:
    """A longer training, without a limit of time."""
    settings: dict[str, Any] = {"training.steps": steps}
    if config.training.minutes is not None:
        settings |= {"training.minutes": None}
    return Remedy(name, settings, why)


def does_not_pay(found: Found) -> bool:
    left = found["exchanged"]
    return bool(found["state"] == USED and left["left_after_kl"] < -3 * left["left_error"])


def does_not_pay_sentence(found: Found) -> str:
    return (
        "The code costs more than it saves: with a code of the prior, which says nothing and has "
        f"no KL, the bound would be {-found['exchanged']['left_after_kl']:.2f} nats lower."
    )


def for_the_decoder(config: Config, found: Found) -> list[Remedy]:
    return applying(
        [
            *remedies_of_decoder(config.model, config.objective),
            *skip_connection(config),
            *remedies_of_history(config.model, config.objective),
        ]
    )


def skip_connection(config: Config) -> Iterator[Remedy]:
    """Features added to the outputs of a recurrent head."""
    model = config.model
    yield Remedy(
        "skip",
        {"model.head_skip": True},
        "every prediction sees the features of the code directly",
        "head_skip" in HEADS[model.head].reads
        and not model.head_skip
        and model.head_reads != "state",
    )


def forgotten(found: Found) -> bool:
    cost, first = found["exchanged"]["cost"], found["quarters"][0]
    return bool(found["state"] == USED and cost > 0.5 and first >= FIRST_QUARTER * cost)


def forgotten_sentence(found: Found) -> str:
    shares = ", ".join(f"{nats:.2f}" for nats in found["quarters"])
    return (
        "The code helps the beginning of a text and is forgotten then: by quarter of the text it "
        f"saves {shares} nats."
    )


def for_later_positions(config: Config, found: Found) -> list[Remedy]:
    model = config.model
    every_step = {"model.head_reads": "both"}
    deconvolution = deconvolution_settings(model, config.objective)
    return applying(
        [
            Remedy(
                "every-step",
                every_step,
                "the decoder reads the code at every position, not only at the first",
                model.head_reads == "state",
            ),
            *skip_connection(config),
            Remedy(
                "deconvolution",
                deconvolution,
                "deconvolutions give every position features of its own",
                bool(deconvolution),
            ),
        ]
    )


def far_from_prior(found: Found) -> bool:
    together = found["aggregated"]
    least = max(FAR_NATS, FAR_SHARE * together["kl"], 3 * together["gaussian_error"])
    return bool(found["state"] != UNUSED and together["gaussian_saves"] > least)


def far_sentence(found: Found) -> str:
    together = found["aggregated"]
    return (
        "The codes of all texts together are not distributed as the prior: one Gaussian in its "
        f"place would save {together['gaussian_saves']:.2f} of {together['kl']:.2f} nats of KL."
    )


def may_be_far(found: Found) -> bool:
    together = found["aggregated"]
    least = max(FAR_NATS, REST_SHARE * together["kl"])
    possible = found["state"] != UNUSED and not together["fitted"] and not far_from_prior(found)
    return bool(possible and together["marginal_kl"] > least)


def may_be_far_sentence(found: Found) -> str:
    together = found["aggregated"]
    return (
        f"Up to {together['marginal_kl']:.2f} of {together['kl']:.2f} nats of KL are no "
        "information: the codes of all texts together may differ from the prior."
    )


def fitted_prior(config: Config, found: Found) -> list[Remedy]:
    return [
        Remedy(
            FIT_PRIOR,
            {},
            "a prior fitted to the codes; encoder and decoder stay as they are",
        )
    ]


def for_the_prior(config: Config, found: Found) -> list[Remedy]:
    model, objective = config.model, config.objective
    plain = PRIORS[model.prior].standard_normal and not objective.mmd and not objective.moments
    per_dimension = has_free_bits_per_dimension(objective)
    return applying(
        [
            *fitted_prior(config, found),
            Remedy(
                "moments",
                {"objective.moments": 1.0},
                "a loss on the moments of all codes together moves them to those of the prior",
                plain and len(model.latent_size) == 1 and not POSTERIORS[model.posterior].flow,
            ),
            Remedy(
                "mixture",
                {"model.prior": "mixture"},
                "the prior learns where the codes are",
                plain and not per_dimension,
            ),
        ]
    )


def few_dimensions(found: Found) -> bool:
    active, size = found["active_units"], found["latent_size"]
    return bool(found["state"] == USED and active < FEW_UNITS * size)


def few_sentence(found: Found) -> str:
    return (
        f"{found['active_units']} of {found['latent_size']} dimensions carry the code; the "
        "posterior means of the others are nearly the same for every text."
    )


def for_idle_dimensions(config: Config, found: Found) -> list[Remedy]:
    model, objective = config.model, config.objective
    one_level = len(model.latent_size) == 1 and not model.has_map
    nats = max(0.05, round(found["kl"] / found["latent_size"], 2))
    penalty = "free_bits_mask" if objective.semi_supervised else "free_bits"
    return applying(
        [
            Remedy(
                "smaller",
                {"model.latent_size": [max(1, 2 * found["active_units"])]},
                "a smaller code has room enough for what is used",
                one_level,
            ),
            Remedy(
                "free-bits-each",
                {"objective.penalty": penalty, "objective.free_bits": nats},
                "each dimension has some nats of KL that cost nothing",
                PENALTIES[objective.penalty].is_weighted_kl
                and objective.importance_samples == 1
                and PRIORS[model.prior].kl_of_dimensions
                and not POSTERIORS[model.posterior].flow,
            ),
        ]
    )


def overfits(found: Found) -> bool:
    training = found["training"].get("training_elbo")
    return bool(training) and found["elbo"] > (1 + OVERFIT_SHARE) * training


def overfits_sentence(found: Found) -> str:
    return (
        f"The model overfits: {found['elbo']:.1f} nats on held-out texts, "
        f"{found['training']['training_elbo']:.1f} in training."
    )


def against_overfitting(config: Config, found: Found) -> list[Remedy]:
    model, training = config.model, config.training
    return applying(
        [
            Remedy(
                "stopped",
                {"training.early_stopping": 3},
                "training ends with the weights of the best held-out bound",
                not training.early_stopping,
            ),
            Remedy(
                "dropout",
                {"model.head_dropout": 0.3},
                "the head cannot rely on single features",
                "head_dropout" in HEADS[model.head].reads
                and bool(model.head_embedding)
                and not model.head_dropout,
            ),
            Remedy(
                "weight-decay",
                {"training.weight_decay": 0.01},
                "weights that nothing needs become small",
                not training.weight_decay,
            ),
        ]
    )


def undertrained(found: Found) -> bool:
    fell = found["training"].get("falling", 0.0)
    possible = found["state"] == USED and not overfits(found)
    return bool(possible and fell > STILL_FALLING * found["elbo"])


def undertrained_sentence(found: Found) -> str:
    return (
        f"The held-out bound was still falling: by {found['training']['falling']:.2f} nats in the "
        "last quarter of the epochs."
    )


def for_longer_training(config: Config, found: Found) -> Iterator[Remedy]:
    if not ramp_not_over(found):
        why = "the bound goes on falling"
        yield more_steps(config, "longer", 2 * found["training"]["step"], why)


RULES: tuple[Rule, ...] = (
    Rule("ramp", ramp_not_over, ramp_sentence, to_the_end_of_the_ramp),
    Rule(
        "unused",
        lambda found: bool(found["state"] == UNUSED),
        lambda found: f"The latent code is not used ({numbers(found)}): the decoder ignores it.",
        lambda config, found: remedies(config.model, config.objective, UNUSED),
    ),
    Rule(
        "empty",
        lambda found: bool(found["state"] == EMPTY),
        lambda found: (
            f"The KL is not information ({numbers(found)}): the code is nearly the same "
            "for every text."
        ),
        lambda config, found: remedies(config.model, config.objective, EMPTY),
    ),
    Rule("does not pay", does_not_pay, does_not_pay_sentence, for_the_decoder),
    Rule("forgotten", forgotten, forgotten_sentence, for_later_positions),
    Rule("far from the prior", far_from_prior, far_sentence, for_the_prior),
    Rule("perhaps far from the prior", may_be_far, may_be_far_sentence, fitted_prior),
    Rule("few dimensions", few_dimensions, few_sentence, for_idle_dimensions),
    Rule("overfitting", overfits, overfits_sentence, against_overfitting),
    Rule("undertrained", undertrained, undertrained_sentence, for_longer_training),
)
"""All rules, in the order in which their advice is tried."""
