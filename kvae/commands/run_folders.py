"""Load runs and their texts for commands. Notes on standard error say what a run lacks."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

from kvae.serving.errors import DataError

from .output import say

if TYPE_CHECKING:
    from kvae.runs import Run


def open_run(folder: str) -> Run:
    """Load a run for evaluation or export.

    A line on standard error says if the training diverged or if a checkpoint is newer than the
    model.
    """
    from kvae.runs import describe_divergence, divergence, divergence_advice, load_run, steps_behind

    run = load_run(folder)
    diverged, behind = divergence(run.path), steps_behind(run)
    if diverged:
        say(
            f"{folder}: {describe_divergence(diverged)}, this is its model of step "
            f"{int(run.model.training_steps):,}; {divergence_advice(run.path, run.config)}"
        )
    elif behind:
        say(
            f"the newest checkpoint of {folder} is {behind:,} steps ahead of its model: "
            f"`kvae train --resume --out {quote(folder)}` goes on from there"
        )
    return run


def training_texts(run: Run) -> list[str] | None:
    """The texts that a run was trained on, or None if their file is gone."""
    from kvae.training.data.prepare import training_texts

    try:
        return training_texts(run.config, run.alphabet)
    except DataError as error:
        say(
            f"{error} (without the training texts there is no novelty, no forward perplexity and "
            "no comparison with the nearest one)"
        )
        return None


def held_out_rows(run: Run) -> tuple[Any, Any]:
    """The token ids (N, T) of a run's held-out texts, and their labels as indices (N,) or None.

    None and None if their file is gone.
    """
    from kvae.training.data.prepare import held_out

    try:
        found = held_out(run.config, run.alphabet)
        return found.rows, found.attribute
    except DataError as error:
        say(f"{error} (compared on codes of the prior alone)")
        return None, None
