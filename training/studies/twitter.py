"""The systems that P18 trained on short tweets, here on 66,639 tweets of another collection with 82
symbols; P18 has 150,000 of Sentiment140. The units are those of *toy*; P18's texts have 31
positions, where guessing costs 136.6 nats. Small: {steps:,} steps of 64 tweets, widths at most 128,
the KL at full weight from the middle of training on. A row whose KL is near 0 leads as a language
model.
"""

from __future__ import annotations

from functools import partial

from kvae.presets import P18, SMALL, preset

from ..figures import stacked_bars
from ..reproduction import Row, Statement, Study
from .petersen import (
    COLUMNS,
    POSITIONS,
    in_petersen_units,
    ladders_lead,
    petersen_row,
    with_ramp_from_start,
)
from .rows import chapter_text, scales, with_steps

STEPS = 2500
"""Training steps of the small rows."""

TWITTER = {
    "hybrid-dense": (-7.08, 1.8679, 5.21),
    "rnn-map": (-54.45, 0.5846, 53.86),
    "cnn-map": (-48.19, 0.5796, 47.61),
    "hybrid-map": (-59.43, 0.5022, 58.92),
    "lvae-3": (-72.83, 0.5495, 72.28),
    "lcnnvae-3": (-53.41, 0.4337, 52.98),
    "lvae-5": (-69.37, 1.5351, 67.83),
    "lcnnvae-5": (-42.27, 0.8711, 41.40),
}
"""The numbers that P18 prints: its ELBO, reconstruction in nats a character, KL in nats a text."""


def rows(scale: str) -> list[Row]:
    """The rows of table 2: tweets shorter than 32 characters."""
    small = scale == "small"
    settings = {
        "data.source": "tweets",
        "data.too_long": "drop",
        "model.length": 32,
        "data.max_symbols": 82,
    }
    return [
        petersen_row(
            name,
            (
                with_ramp_from_start(with_steps(preset(f"{name}-twitter{SMALL}"), STEPS, 64))
                if small
                else preset(f"{name}-twitter")
            ).with_settings(settings),
            POSITIONS["twitter"],
            printed,
        )
        for name, printed in TWITTER.items()
    ]


STUDY = Study(
    title="Tweets shorter than 32 characters",
    source=f"{P18}, table 2",
    about=chapter_text(__doc__, steps=STEPS),
    scales=scales(rows),
    columns=COLUMNS,
    measure=in_petersen_units,
    draw=stacked_bars(),
    statements=(
        Statement(
            "A ladder has the lowest bound in nats a text.",
            f"{P18}, 6",
            partial(ladders_lead, tuple(TWITTER)),
        ),
    ),
)
