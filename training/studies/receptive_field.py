"""The hybrid with N causal convolutions of kernel 2, whose receptive field is N + 1 characters.
Small: windows of 36 characters of Penn Treebank, {steps:,} steps of 32, annealing over the first
half of them, widths at most 128, N of 1, 2, 3, 5 and 8 instead of 1 to 10. We gave up a first run,
without annealing and at 48 characters, because alpha 0.2 collapsed in it too.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvae.presets import S17

from ..figures import cost_and_kl
from ..reproduction import Numbers, Row, Statement, Study
from .rows import FIGURE_COLUMNS, chapter_text, scales, windows

STEPS = 2000
"""Training steps of the small rows."""

LAYERS = {"small": (1, 2, 3, 5, 8), "paper": (1, 2, 3, 5, 7, 10)}
"""Numbers of causal convolutions of kernel 2, by scale; the receptive field is one more."""

FIELD_ALPHAS = (0.0, 0.2)


def rows(scale: str) -> list[Row]:
    """The rows of fig. 6: receptive fields of the decoder, with and without the auxiliary loss."""
    return [
        Row(
            f"alpha-{value:g}-layers-{layers}",
            windows(
                "hybrid-bytenet-ptb",
                36 if scale == "small" else 60,
                STEPS,
                scale,
                objective__alpha=value,
                model__head_layers=layers,
            ),
            f"alpha {value:g}",
            layers + 1,
        )
        for value in FIELD_ALPHAS
        for layers in LAYERS[scale]
    ]


def collapses_without_alpha(numbers: Numbers) -> tuple[bool, str]:
    kls = kl_by_field("0", numbers)
    return all(kl < 0.5 for field, kl in kls.items() if field > 3), "alpha 0: " + kl_evidence(kls)


def near_fields_stay_alive(numbers: Numbers) -> tuple[bool, str]:
    kls = {field: kl for field, kl in kl_by_field("0", numbers).items() if field <= 3}
    return all(kl > 1.0 for kl in kls.values()), "alpha 0: " + kl_evidence(kls)


def kl_by_field(alpha: str, numbers: Numbers) -> dict[int, float]:
    """The KL by receptive field, of the scale whose last row was measured (`small` if none was)."""
    row = f"alpha-{alpha}-layers-{{}}".format
    layers = next(
        (layers for layers in LAYERS.values() if row(layers[-1]) in numbers), LAYERS["small"]
    )
    return {count + 1: numbers[row(count)]["kl"] for count in layers}


def alive_with_alpha(numbers: Numbers) -> tuple[bool, str]:
    kls = kl_by_field("0.2", numbers)
    return all(value > 1.0 for value in kls.values()), "alpha 0.2: " + kl_evidence(kls)


def kl_evidence(kls: Mapping[int, float]) -> str:
    """The KL of each receptive field as a phrase."""
    return ", ".join(f"KL {value:.2f} at a field of {field}" for field, value in kls.items())


STUDY = Study(
    title="How far the decoder sees",
    source=f"{S17}, fig. 6",
    about=chapter_text(__doc__, steps=STEPS),
    scales=scales(rows),
    columns=FIGURE_COLUMNS,
    draw=cost_and_kl("receptive field of the decoder, characters"),
    statements=(
        Statement(
            "At alpha 0 the KL collapses beyond a field of 3 characters.",
            f"{S17}, fig. 6",
            collapses_without_alpha,
        ),
        Statement(
            "At alpha 0 the KL does not collapse up to a field of 3 characters.",
            f"{S17}, fig. 6",
            near_fields_stay_alive,
        ),
        Statement(
            "At alpha 0.2 the KL does not collapse at any field.",
            f"{S17}, fig. 6",
            alive_with_alpha,
        ),
    ),
)
