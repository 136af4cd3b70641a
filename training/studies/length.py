"""The LSTM VAE with input dropout 0.2 and 0.5, and the hybrid with alpha 0.2, on windows of Penn
Treebank's characters. Small: {steps:,} steps of 32 windows, half of them for the ramp of the KL
weight, widths at most 128.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvae.presets import S17

from ..figures import cost_and_kl
from ..reproduction import Numbers, Row, Statement, Study
from .rows import FIGURE_COLUMNS, chapter_text, scales, windows

STEPS = 2000
"""Training steps of the small rows."""

LENGTHS = (12, 24, 36, 48, 60)
DROPOUTS = {"LSTM VAE, p 0.2": 0.2, "LSTM VAE, p 0.5": 0.5}
HYBRID = "Hybrid, alpha 0.2"


def rows(scale: str) -> list[Row]:
    """The rows of fig. 4: the LSTM VAE and the hybrid on windows of 12 to 60 characters."""
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


def kl_share(numbers: Numbers, name: str) -> float:
    """The KL as a share of the bound."""
    return numbers[name]["kl"] / numbers[name]["elbo"]


def lstm_share_vanishes(numbers: Numbers) -> tuple[bool, str]:
    shares = {
        p: [kl_share(numbers, f"lstm-vae-p{p:g}-{length}") for length in LENGTHS]
        for p in DROPOUTS.values()
    }
    falls = all(each[-1] < 0.5 * each[0] and each[-1] < 0.05 for each in shares.values())
    evidence = "; ".join(f"p {p:g}: {percentages(each)}" for p, each in shares.items())
    return falls, f"{evidence} at {', '.join(map(str, LENGTHS))} characters"


def hybrid_share_stays(numbers: Numbers) -> tuple[bool, str]:
    shares = [kl_share(numbers, f"hybrid-{length}") for length in LENGTHS]
    return max(shares) <= 2 * min(shares), f"KL / bound {percentages(shares)}"


def percentages(shares: Sequence[float]) -> str:
    """The shares in percent, separated by commas."""
    return ", ".join(f"{100 * value:.1f} %" for value in shares)


STUDY = Study(
    title="Windows of growing length",
    source=f"{S17}, fig. 4",
    about=chapter_text(__doc__, steps=STEPS),
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
