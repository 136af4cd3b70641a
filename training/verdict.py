"""What the numbers of a run mean, in sentences: is the code used, are reconstructions and samples
good, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .alarm import judged
from .plan import RATES
from .remedies import EMPTY, UNUSED

GOOD_SAMPLES = 1.25
"""Samples are good if their reverse perplexity is at most this multiple of that of real texts."""

DISTINCT_SHARE = 0.9
"""Smallest share of distinct texts among greedy samples from a prior whose code is used."""

OVERFIT_SHARE = 0.1
"""A model overfits if its held-out bound is worse than its training bound by more than this
share."""

MORE = "more --minutes, or more texts"
"""What is left where the goal is right."""

NEAR_RATE = 1.5
"""Tolerance of the KL. It fits the goal `generation` if it is at most the rate of the goal times
this factor, and another goal if it is at least the rate divided by this factor."""


@dataclass(frozen=True)
class Finding:
    """One sentence about a run; `advice` is an argument of `kvae train` that helps, or empty."""

    about: str
    good: bool
    sentence: str
    advice: str = ""


def findings(report: Mapping[str, Any]) -> list[Finding]:
    """The findings about a run from its `report` (`kvae.training.end_report`).

    Numbers that the report does not have are left out.
    """
    parts = (code_use, reconstructions, samples, rival, overfitting)
    return [finding for part in parts for finding in part(report)]


def goal_or(goal: str, report: Mapping[str, Any], otherwise: str) -> str:
    """The goal as advice, or `otherwise` if the code already carries what the goal plans."""
    kl, rate = report.get("kl"), RATES[goal]
    if kl is None:
        return f"--goal {goal}"
    is_near = kl <= NEAR_RATE * rate if goal == "generation" else kl >= rate / NEAR_RATE
    return otherwise if is_near else f"--goal {goal}"


def code_use(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the code is used: information and active units, not KL alone."""
    if "mutual_information_ceiling" not in report:
        return
    information, kl = report["mutual_information"], report["kl"]
    units, ceiling = report["active_units"], report["mutual_information_ceiling"]
    levels = [name for name in report if name.startswith("kl_level_")]
    kl_of_top = report[max(levels, key=lambda name: int(name.rsplit("_", 1)[1]))] if levels else kl
    state = judged(kl, units, information, kl_of_top, ceiling)
    numbers = (
        f"{information:.1f} nats of information at a KL of {kl:.1f} nats, {units} active units; "
        f"the estimate cannot exceed {ceiling:.1f}"
    )
    if state == UNUSED:
        yield Finding(
            "code", False, f"The latent code is not used ({numbers}).", "--goal reconstruction"
        )
    elif state == EMPTY:
        yield Finding(
            "code",
            False,
            f"The latent code costs more than it says ({numbers}): it is nearly the same whatever "
            "the text.",
            "--set model.posterior=batch_normalized",
        )
    else:
        yield Finding("code", True, f"The latent code is used ({numbers}).")


def reconstructions(report: Mapping[str, Any]) -> Iterator[Finding]:
    """How reconstructions compare with copies of the nearest training text, and with random
    texts."""
    distances = report.get("edit_distances")
    if not distances:
        return
    ours, nearest, random = (distances[name] for name in ("reconstruction", "nearest", "random"))
    numbers = (
        f"{ours:.2f} edits a character; the nearest training text has {nearest:.2f}, a random one "
        f"{random:.2f}"
    )
    more = goal_or("reconstruction", report, MORE)
    if ours >= 0.95 * random:
        yield Finding(
            "reconstruction",
            False,
            f"Reconstructions are as far from the texts as random texts are ({numbers}).",
            more,
        )
    elif ours > nearest:
        yield Finding(
            "reconstruction",
            False,
            f"Reconstructions keep less of a text than its nearest training text ({numbers}).",
            more,
        )
    else:
        yield Finding(
            "reconstruction",
            True,
            f"Reconstructions are closer than the nearest training text ({numbers}).",
        )


def samples(report: Mapping[str, Any]) -> Iterator[Finding]:
    """How samples stand beside real texts."""
    drawn, real = report.get("samples", {}), report.get("real_texts", {})
    if "reverse_perplexity" in drawn and "reverse_perplexity" in real:
        ratio = drawn["reverse_perplexity"] / real["reverse_perplexity"]
        is_good = ratio <= GOOD_SAMPLES
        yield Finding(
            "samples",
            is_good,
            f"An n-gram model of samples predicts held-out texts {ratio:.2f} times as badly as one "
            f"of as many training texts (reverse perplexity {drawn['reverse_perplexity']:.1f} "
            f"against {real['reverse_perplexity']:.1f}).",
            "" if is_good else goal_or("generation", report, MORE),
        )
    greedy = report.get("greedy_samples", {})
    if greedy and greedy["distinct_texts"] < DISTINCT_SHARE:
        yield Finding(
            "variety",
            False,
            f"Only {greedy['distinct_texts']:.0%} of the greedy samples are distinct: the code "
            "decides little.",
            goal_or("balanced", report, "--set objective.input_dropout=0.5"),
        )


def rival(report: Mapping[str, Any]) -> Iterator[Finding]:
    """The bound beside that of a character n-gram model on the same texts."""
    ours, theirs = report.get("bits_per_character"), report.get("rival_bits_per_character")
    if ours is None or theirs is None:
        return
    numbers = f"{ours:.3f} bits a character against {theirs:.3f}"
    name = (
        f"a character n-gram model of order {report['rival_order']} of "
        f"{report['rival_texts']:,} training texts"
    )
    if ours <= theirs:
        yield Finding("rival", True, f"The bound is lower than that of {name} ({numbers}).")
    else:
        yield Finding(
            "rival",
            False,
            f"The bound is higher than that of {name} ({numbers}).",
            goal_or("generation", report, MORE),
        )


def overfitting(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether held-out texts are much harder than training texts."""
    training, held_out = report.get("training_elbo"), report.get("elbo")
    if training and held_out and held_out > (1 + OVERFIT_SHARE) * training:
        yield Finding(
            "overfitting",
            False,
            f"The model overfits: {held_out:.1f} nats on held-out texts, {training:.1f} in "
            "training.",
            "fewer --minutes, or --set model.head_units=128",
        )
