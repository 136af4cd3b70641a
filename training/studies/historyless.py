"""Autoencoders (beta 0: the KL costs nothing and grows without limit) on windows of Penn Treebank's
characters. Their decoder sees no history; it is an LSTM or deconvolutions. Small: windows of 12, 28
and 52 characters, {steps:,} steps of 32, widths at most 128. We set the thresholds before these
runs: above one bit a character an autoencoder has not fitted its texts, and with 2 % more bits it
is worse. In 5,000 steps at half the learning rate the statement had failed: the LSTM knew only the
frequencies of characters at 28 and at 52, and the convolutions had 1.03 bits at 52.
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

from ..data.pipeline import training_stream
from ..data.prepare import Prepared, prepare
from ..figures import training_curves
from ..messages import Say
from ..reproduction import Numbers, Row, Statement, Study
from .rows import chapter_text, scales, windows

STEPS = 15_000
"""Training steps of the small rows."""

NOT_FITTED, WORSE = 1.0, 1.02
"""An autoencoder has not fitted its texts above this number of bits a character; it is worse than
another one if it has more than this factor times as many."""

HISTORYLESS = {"LSTM": "historyless-lstm-ptb", "convolutional": "historyless-cnn-ptb"}


def rows(scale: str) -> list[Row]:
    """The rows of fig. 3: autoencoders whose decoder sees no history, by length."""
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
        f"{series} " + ", ".join(f"{value:.2f} at {length}" for length, value in bits.items())
        for series, bits in zip(HISTORYLESS, (lstm, convolutional), strict=True)
    )
    fails = lstm[28] > NOT_FITTED and lstm[52] > WORSE * lstm[28]
    return fails and max(convolutional.values()) <= NOT_FITTED, evidence


def reconstruction_bits(run: Run, prepared: Prepared) -> dict[str, float]:
    """Reconstruction in bits a character; with beta 0 the KL is not a part of the cost."""
    evaluation = run.evaluation
    nats = evaluation["reconstruction"] / evaluation["positions"] * evaluation["texts"]
    return {"reconstruction_bits": nats / float(np.log(2.0))}


def convolutional_is_faster(numbers: Numbers) -> tuple[bool, str]:
    ratio = numbers["study"]["step_ratio"]
    return ratio >= 1.5, (
        f"an LSTM step takes {ratio:.1f} times as long as a convolutional one, windows of 52, "
        "median of 5"
    )


def step_ratio(rows: Sequence[Row], say: Say) -> dict[str, float]:
    """Seconds of an LSTM training step / those of a convolutional one, and both in seconds.

    Each is the median of 5 measurements; the two models take turns in one process.
    """
    say("timing a training step of both models, in turn")
    models = {row.series: warmed_up_model(row.config) for row in rows if row.x == 52}
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
        **{f"step_seconds_{name}": median for name, median in medians.items()},
    }


def warmed_up_model(config: Config) -> tuple[TextVAE, Any]:
    """A compiled model after its first two steps, which trace it, and its batches."""
    prepared = prepare(config)
    model = TextVAE(prepared.config.model, prepared.config.objective)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=prepared.config.training.jit_compile)
    batches = training_stream(prepared)
    model.fit(batches, steps_per_epoch=2, epochs=1, verbose=0)
    return model, batches


STUDY = Study(
    title="Decoders without history",
    source=f"{S17}, fig. 3",
    about=chapter_text(__doc__, steps=STEPS),
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
            "The LSTM autoencoder fails to fit from about 30 characters on and is worse at 50; the "
            "convolutional one fits.",
            f"{S17}, 4.1",
            lstm_fails_to_fit,
        ),
        Statement(
            "A convolutional step is about twice as fast.", f"{S17}, 4.1", convolutional_is_faster
        ),
    ),
)
