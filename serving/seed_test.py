"""The seed test: texts that a bundle sampled when it was exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import CheckFailed, short_repr
from .runtime import OWN, RUNTIMES

if TYPE_CHECKING:
    from .sampler import Sampler

SEED_TEST_SECONDS = 600.0
"""Time limit of the seed test; a graph that takes longer is assumed never to end."""


def seed_test_texts(sampler: Sampler, test: Mapping[str, Any]) -> list[str]:
    """The texts that a bundle samples for the rows and seed of its seed test, at temperature 1;
    empty texts are allowed."""
    return sampler.sample(
        test["rows"], test["seed"], temperature=1.0, min_length=0, deadline=SEED_TEST_SECONDS
    )


def check_seed_test(sampler: Sampler) -> int:
    """Compare the texts of the seed test with those in the manifest; return their number.

    Raises `CheckFailed` with the first text that differs, and `DeadlineError` after
    `SEED_TEST_SECONDS`.
    """
    test = sampler.manifest["seed_test"]
    for row, (found, expected) in enumerate(
        zip(seed_test_texts(sampler, test), test["texts"], strict=True)
    ):
        if found != expected:
            way_out = (
                "report this platform"
                if sampler.runtime == OWN
                else f"load the bundle with runtime {OWN!r}, or export it again with this kvae"
            )
            graph = "sampler_plain" if sampler.plain else "sampler"
            raise CheckFailed(
                f"{sampler.bundle.path}: in {sampler.runtime} "
                f"{RUNTIMES[sampler.runtime].version()} seed {test['seed']} gives "
                f"{short_repr(found)} in row {row} of the {graph}, at export it gave "
                f"{short_repr(expected)}; {way_out}"
            )
    return len(test["texts"])
