"""The LSTM VAE with input dropout 0.2 and 0.5, and the hybrid with alpha 0.2, on windows of Penn Treebank's characters.
Small: {steps:,} steps of 32 windows, the ramp of the KL half of them, widths at most 128.
"""

from __future__ import annotations

from kvae.presets import S17

from ..figures import cost_and_kl
from ..reproduction import Numbers, Row, Statement, Study
from .rows import FIGURE_COLUMNS, chapter, scales, windows

STEPS = 2000
"""How long small rows are trained."""

LENGTHS = (12, 24, 36, 48, 60)
DROPOUTS = {"LSTM VAE, p 0.2": 0.2, "LSTM VAE, p 0.5": 0.5}
HYBRID = "Hybrid, alpha 0.2"


def rows(scale: str) -> list[Row]:
    """Fig. 4: the LSTM VAE and the hybrid on windows of 12 to 60 characters."""
    lstm = [
        Row(
            f"lstm-vae-p{dropout:g}-{length}",
            windows("lstm-vae-ptb", length, STEPS, scale, objective__input_dropout=dropout),
            series,
            length,
        )
        for series, dropout in DROPOUTS.items()
        for length in LENGTHS
    ]
    hybrid = [
        Row(f"hybrid-{length}", windows("hybrid-lstm-ptb", length, STEPS, scale), HYBRID, length)
        for length in LENGTHS
    ]
    return [*lstm, *hybrid]


def share(numbers: Numbers, name: str) -> float:
    """What part of the bound is KL."""
    return numbers[name]["kl"] / numbers[name]["elbo"]


def lstm_share_vanishes(numbers: Numbers) -> tuple[bool, str]:
    shares = {
        p: [share(numbers, f"lstm-vae-p{p:g}-{length}") for length in LENGTHS]
        for p in DROPOUTS.values()
    }
    falls = all(each[-1] < 0.5 * each[0] and each[-1] < 0.05 for each in shares.values())
    return falls, "; ".join(
        f"p {p:g}: " + ", ".join(f"{100 * value:.1f} %" for value in each)
        for p, each in shares.items()
    ) + f" at {', '.join(map(str, LENGTHS))} characters"


def hybrid_share_stays(numbers: Numbers) -> tuple[bool, str]:
    shares = [share(numbers, f"hybrid-{length}") for length in LENGTHS]
    return max(shares) <= 2 * min(shares), "KL / bound " + ", ".join(
        f"{100 * value:.1f} %" for value in shares
    )


STUDY = Study(
    title="Windows of growing length",
    source=f"{S17}, fig. 4",
    about=chapter(__doc__, steps=STEPS),
    scales=scales(rows),
    columns=FIGURE_COLUMNS,
    draw=cost_and_kl("characters in a window"),
    statements=(
        Statement(
            "The LSTM VAE's share of KL falls towards zero with length.",
            f"{S17}, fig. 4",
            lstm_share_vanishes,
        ),
        Statement(
            "The hybrid's share of KL stays within a factor of two from 12 to 60 characters.",
            f"{S17}, fig. 4",
            hybrid_share_stays,
        ),
    ),
)
