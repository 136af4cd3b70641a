"""A training run from a configuration to a run folder: prepare, build, fit, save, evaluate."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kvae.configuration import Config
from kvae.model import TextVAE
from kvae.objectives import TARGETED, ramp_at
from kvae.runs import CONFIG, EVALUATION, LOGS, METRICS, MODEL, REPORT, VOCABULARY, Run, write_json
from kvae.serving.errors import CheckFailed, ConfigError

from .callbacks import (
    DecoderReset,
    EncoderAhead,
    MetricsFile,
    Progress,
    RampAfterConvergence,
    StopAtStep,
    TensorBoardMonitor,
)
from .corpora import Prepared, entropy_of, prepare
from .evaluation import evaluate
from .optimizers import optimizer
from .pipeline import training_batches, validation_batches
from .plots import plot_curves


def run(config: Config, out: str | Path, say: Callable[[str], None], overwrite: bool = False) -> tuple[Run, Prepared]:
    """Train what `config` describes into the new folder `out`; `say` gets a sentence now and then.

    The folder appears, and with `overwrite` an earlier run gives way to it, only when the data and the model are ready.
    Stopping with Ctrl-C keeps the model of that moment. Raises `ConfigError` when `out` is in the way, and whatever
    `prepare` and `TextVAE` raise.
    """
    out = Path(out)
    check_free(out, overwrite)
    say(f"reading {config.data.source}")
    prepared = prepare(config)
    config = prepared.config
    for note in prepared.notes:
        say(note)
    keras.utils.set_random_seed(config.training.seed)
    model = TextVAE(config.model, config.objective)
    windows = config.data.mode == "windows"
    learned = f"a stream of {len(prepared.train):,} tokens" if windows else f"{len(prepared.train):,} texts"
    say(
        f"{learned} to learn from, {len(prepared.validation_texts):,} held out, "
        f"{len(prepared.alphabet)} symbols, {config.model.length} positions, {model.count_params():,} parameters"
    )
    if out.exists():
        shutil.rmtree(out)
    (out / REPORT).mkdir(parents=True)
    try:
        write_json(out / CONFIG, config.to_dict())
        write_json(out / VOCABULARY, prepared.alphabet.to_dict())
        fit(model, prepared, out, say)
        save_model(model, out / MODEL)
    except Exception:
        shutil.rmtree(out, ignore_errors=True)
        raise
    say(f"evaluating on {len(prepared.validation):,} held-out texts")
    write_json(out / REPORT / EVALUATION, evaluated(model, prepared))
    plot_curves(out / METRICS, out / REPORT / "curves.png")
    return Run(out, config, prepared.alphabet, model), prepared


def evaluated(model: TextVAE, prepared: Prepared) -> dict[str, Any]:
    """The evaluation on the held-out split, beside the entropy of a corpus that knows its own."""
    report = evaluate(model, prepared.validation, attribute=prepared.validation_attribute)
    entropy = entropy_of(prepared.config)
    return report if entropy is None else {**report, "entropy": entropy}


def check_free(out: Path, overwrite: bool) -> None:
    """Raise `ConfigError` unless a run may be written to `out`; what is not a run is never overwritten."""
    if not out.exists():
        return
    if not overwrite:
        raise ConfigError(f"--out {out}: exists already; give a new folder, remove it, or add --overwrite")
    missing = [name for name in (CONFIG, VOCABULARY) if not (out / name).is_file()]
    if missing:
        raise ConfigError(
            f"--overwrite: {out} is not a run folder (no {missing[0]}), it is left alone; give another --out"
        )


def fit(model: TextVAE, prepared: Prepared, out: Path, say: Callable[[str], None]) -> None:
    """`model.fit` with the pipelines, the optimizer and the callbacks of the configuration."""
    settings, objective = prepared.config.training, prepared.config.objective
    train = training_batches(prepared)
    steps_per_epoch = settings.steps_per_epoch or int(train.cardinality())
    total_steps = settings.steps or settings.epochs * steps_per_epoch
    steps_per_epoch = min(steps_per_epoch, total_steps)
    epochs = -(-total_steps // steps_per_epoch)
    model.compile(optimizer(settings, total_steps), jit_compile=settings.jit_compile)
    say(f"training for {total_steps:,} steps of {min(settings.batch_size, len(prepared.train))} texts, {epochs} epochs")
    if total_steps < objective.warm_start_steps:
        say(
            f"the run ends within its warm start of {objective.warm_start_steps:,} steps: there will be no KL in its loss; "
            f"shorten it with --set objective.warm_start_steps=N"
        )
    elif objective.beta_max and model.hierarchy.shapes and not objective.ramp_after_convergence:
        reached = float(ramp_at(objective, total_steps))
        what = f"{reached:.2f} of its height"
        if objective.penalty in TARGETED:
            what = f"{reached * objective.kl_target:.1f} of the {objective.kl_target:g} nats of the KL target"
        if reached < 1.0:
            say(
                f"the ramp will only reach {what}: it is longer than the run; shorten it with "
                f"--set objective.ramp_steps=N or --set objective.ramp_start=N"
            )
    started = time.monotonic()
    callbacks = [
        Progress(),
        *([DecoderReset()] if objective.warm_start_steps else []),
        *([RampAfterConvergence(say)] if objective.ramp_after_convergence else []),
        *([EncoderAhead(prepared.validation, say, prepared.validation_attribute)] if objective.encoder_updates else []),
        MetricsFile(out / METRICS),
        TensorBoardMonitor(out / LOGS, prepared.alphabet, prepared.validation, prepared.validation_attribute),
        StopAtStep(total_steps),
        keras.callbacks.TerminateOnNaN(),
    ]
    try:
        with standard_output_to_error():
            model.fit(
                train.repeat(),
                steps_per_epoch=steps_per_epoch,
                validation_data=validation_batches(prepared),
                epochs=epochs,
                callbacks=callbacks,
                shuffle=False,
                verbose=1 if sys.stderr.isatty() else 2,
            )
    except KeyboardInterrupt:
        say(f"stopped after {int(model.training_steps):,} steps; the model of this moment is kept")
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        raise CheckFailed(
            f"training diverged within {int(model.training_steps):,} steps, the weights are no numbers any more; "
            f"lower the rate, as with --set training.learning_rate={settings.learning_rate / 4:g}"
        )
    say(f"trained for {time.monotonic() - started:.0f} seconds")


def save_model(model: TextVAE, path: Path) -> None:
    """Write a `.keras` file that is complete or not there."""
    partial = path.with_name("partial-" + path.name)
    model.save(partial)
    partial.replace(path)


@contextlib.contextmanager
def standard_output_to_error() -> Iterator[None]:
    """Keras writes its progress to standard output, which belongs to results here."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
