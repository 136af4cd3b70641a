"""Autoencoders (beta 0: the KL costs nothing and grows at will) of windows of Penn Treebank's characters whose decoder
sees no history: an LSTM, and deconvolutions. Small: windows of 12, 28 and 52 characters, {steps:,} steps of 32,
widths at most 128. What counts as not fitted, a bit a character, and as worse, a fiftieth, was set before these runs;
in 5,000 steps at half the learning rate the statement had failed: the LSTM knew only the frequencies of characters at
28 and at 52, and the convolutions had 1.03 bits at 52.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kvae.configuration import Config
from kvae.model import TextVAE
from kvae.presets import S17
from kvae.runs import Run

from ..corpora import Prepared, prepare
from ..figures import training_curves
from ..pipeline import training_stream
from ..reproduction import Numbers, Row, Say, Statement, Study
from .rows import chapter, scales, windows

STEPS = 15_000
"""How long small rows are trained."""

NOT_FITTED, WORSE = 1.0, 1.02
"""Bits a character above which an autoencoder has not fitted its texts, and the factor from which on one is worse."""

HISTORYLESS = {"LSTM": "historyless-lstm-ptb", "convolutional": "historyless-cnn-ptb"}


def rows(scale: str) -> list[Row]:
    """Fig. 3: autoencoders whose decoder sees no history, beta 0, at several lengths."""
    lengths = (12, 28, 52) if scale == "small" else (12, 20, 28, 40, 52, 60, 80, 100)
    return [
        Row(
            f"{series}-{length}",
            windows(name, length, STEPS, scale),
            series,
            length,
        )
        for series, name in HISTORYLESS.items()
        for length in lengths
    ]


def lstm_fails_to_fit(numbers: Numbers) -> tuple[bool, str]:
    lstm, convolutional = (
        {length: numbers[f"{series}-{length}"]["reconstruction_bits"] for length in (12, 28, 52)}
        for series in HISTORYLESS
    )
    evidence = "reconstruction in bits a character: " + "; ".join(
        f"{series} " + ", ".join(f"{found:.2f} at {length}" for length, found in bits.items())
        for series, bits in zip(HISTORYLESS, (lstm, convolutional), strict=True)
    )
    fails = lstm[28] > NOT_FITTED and lstm[52] > WORSE * lstm[28]
    return fails and max(convolutional.values()) <= NOT_FITTED, evidence


def reconstruction_bits(run: Run, prepared: Prepared) -> dict[str, float]:
    """Bits a character of the reconstruction alone: beta is 0 there, and the KL no part of the cost."""
    found = run.evaluation
    return {
        "reconstruction_bits": found["reconstruction"]
        / found["positions"]
        * found["texts"]
        / float(np.log(2.0))
    }


def convolutional_is_faster(numbers: Numbers) -> tuple[bool, str]:
    ratio = numbers["study"]["step_ratio"]
    return (
        ratio >= 1.5,
        f"an LSTM step takes {ratio:.1f} times as long as a convolutional one, windows of 52, median of 5",
    )


def step_ratio(rows: Sequence[Row], say: Say) -> dict[str, float]:
    """Seconds of an LSTM step over those of a convolutional one, the two in turn in one process, median of 5."""
    say("timing a training step of both, in turn")
    models = {row.series: ready(row.config) for row in rows if row.x == 52}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(5):
        for name, (model, batches) in models.items():
            started = time.perf_counter()
            model.fit(batches, steps_per_epoch=20, epochs=1, verbose=0)
            seconds[name].append((time.perf_counter() - started) / 20)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    keras.backend.clear_session()
    return {
        "step_ratio": medians["LSTM"] / medians["convolutional"],
        **{f"step_seconds_{k}": v for k, v in medians.items()},
    }


def ready(config: Config) -> tuple[TextVAE, Any]:
    """A compiled model with its first steps done, and its batches."""
    prepared = prepare(config)
    model = TextVAE(prepared.config.model, prepared.config.objective)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=prepared.config.training.jit_compile)
    batches = training_stream(prepared)
    model.fit(batches, steps_per_epoch=2, epochs=1, verbose=0)
    return model, batches


STUDY = Study(
    title="Decoders without history",
    source=f"{S17}, fig. 3",
    about=chapter(__doc__, steps=STEPS),
    scales=scales(rows),
    columns={
        "reconstruction": "reconstruction",
        "reconstruction_bits": "bits a character of it",
    },
    measure=reconstruction_bits,
    measure_study=step_ratio,
    draw=training_curves,
    statements=(
        Statement(
            "The LSTM autoencoder fails to fit from about 30 characters on and is worse at 50; the convolutional one fits.",
            f"{S17}, 4.1",
            lstm_fails_to_fit,
        ),
        Statement(
            "A convolutional step is about twice as fast.", f"{S17}, 4.1", convolutional_is_faster
        ),
    ),
)
