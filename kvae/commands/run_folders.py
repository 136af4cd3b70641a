"""Runs as the commands open them, with a sentence where something of theirs is not as one would expect."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

from kvae.serving.errors import DataError

from .output import say

if TYPE_CHECKING:
    from kvae.runs import Run


def opened(folder: str) -> Run:
    """A run for evaluation or export; a sentence where its model is not the latest of its training, or that diverged."""
    from kvae.runs import after_divergence, divergence, load_run, said_of, steps_behind

    run = load_run(folder)
    diverged, behind = divergence(run.path), steps_behind(run)
    if diverged:
        say(
            f"{folder}: {said_of(diverged)}, this is its model of step {int(run.model.training_steps):,}; "
            f"{after_divergence(run.path, run.config)}"
        )
    elif behind:
        say(
            f"the newest checkpoint of {folder} is {behind:,} steps ahead of its model: "
            f"`kvae train --resume --out {quote(folder)}` goes on from there"
        )
    return run


def training_texts(run: Run) -> list[str] | None:
    """What a run learned from, where it is still there."""
    from kvae.training.corpora import training_texts

    try:
        return training_texts(run.config, run.alphabet)
    except DataError as error:
        say(f"{error} (without the training texts there is no novelty and no forward perplexity)")
        return None


def held_out_tokens(run: Run) -> Any:
    """The tokens of a run's held-out texts, where they are still there."""
    from kvae.training.corpora import held_out

    try:
        return held_out(run.config, run.alphabet).rows
    except DataError as error:
        say(f"{error} (compared on codes of the prior alone)")
        return None
