"""The training of a run: its epochs with all callbacks, from the beginning or a checkpoint to the
end or a signal."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Any

import keras

from kvae.configuration import Config
from kvae.model import TextVAE, as_int
from kvae.objectives import ramp_at
from kvae.runs import (
    CHECKPOINTS,
    DIVERGED,
    EVALUATION,
    LOGS,
    METRICS,
    REPORT,
    describe_divergence,
    divergence_advice,
    write_json,
)
from kvae.serving.errors import CheckFailed, ConfigError
from kvae.slots import PENALTIES

from .alarm import CollapseAlarm
from .callbacks import (
    Checkpoints,
    DecoderReset,
    EarlyStop,
    EncoderAhead,
    MetricsFile,
    RampAfterConvergence,
    RunningMetrics,
)
from .checkpoints import (
    Checkpoint,
    Diverged,
    latest_checkpoint,
    restore_checkpoint,
    restore_states,
    values_of,
)
from .data.orders import batch_size_of, steps_of_a_pass
from .data.pipeline import training_stream, validation_batches
from .data.prepare import Prepared
from .devices import check_parts, equal_parts, is_split
from .evaluation import rows_differ
from .hardware import hardware
from .identity import fingerprint, identity_of
from .latent_report import LatentReport
from .messages import Say, optional, quiet
from .optimizers import optimizer
from .step_callbacks import Divergence, Progress, ProgressLines, StepCallbacks, TimeLimit

BEST = "best.npz"
"""File name of the checkpoint of the epoch with the lowest held-out bound. Only runs with early
stopping have it."""


@dataclass(frozen=True)
class Segment:
    """Consecutive epochs of the same number of steps: `epochs` is the first one and the one after
    the last."""

    first_step: int
    epochs: tuple[int, int]
    steps_per_epoch: int


def segments(first_step: int, total_steps: int, steps_per_epoch: int) -> Iterator[Segment]:
    """Yield the segments from `first_step` to `total_steps`: the rest of an epoch, whole epochs, a
    shorter last epoch."""
    while first_step < total_steps:
        epoch, done = divmod(first_step, steps_per_epoch)
        remaining = total_steps - first_step
        whole_epochs = 0 if done else remaining // steps_per_epoch
        steps = steps_per_epoch if whole_epochs else min(steps_per_epoch - done, remaining)
        epochs = max(whole_epochs, 1)
        yield Segment(first_step, (epoch, epoch + epochs), steps)
        first_step += steps * epochs


def step_counts(prepared: Prepared) -> tuple[int, int]:
    """Training steps in total, and steps per epoch. Raises `ConfigError` if `steps_per_execution`
    does not divide both."""
    settings = prepared.config.training
    steps_per_epoch = settings.steps_per_epoch or steps_of_a_pass(prepared)
    total_steps = settings.steps or settings.epochs * steps_per_epoch
    steps_per_epoch = min(steps_per_epoch, total_steps)
    per_call = settings.steps_per_execution
    if steps_per_epoch % per_call or total_steps % per_call:
        raise ConfigError(
            f"training.steps_per_execution is {per_call}: an epoch of {steps_per_epoch} steps and "
            f"a run of {total_steps} must be multiples of it; set "
            f"training.steps_per_epoch={max(steps_per_epoch // per_call, 1) * per_call} or use 1"
        )
    return total_steps, steps_per_epoch


def fit(
    model: TextVAE, prepared: Prepared, out: Path, checkpoint: Checkpoint | None, say: Say
) -> bool:
    """Train the model as configured, from `checkpoint` if there is one. Returns whether the run was
    already finished.

    Writes metrics, logs and checkpoints to the run folder `out`. Raises `CheckFailed` if training
    diverges.
    """
    total_steps, steps_per_epoch = step_counts(prepared)
    compile_for(model, prepared)
    if checkpoint:
        restore_checkpoint(model, checkpoint)
        if (
            "ended" in checkpoint.about
            and max(as_int(model.training_steps), checkpoint.about["ended"]) >= total_steps
        ):
            return True
    else:  # files of a run that was killed before its first checkpoint
        (out / METRICS).unlink(missing_ok=True)
        shutil.rmtree(out / LOGS, ignore_errors=True)
    epochs = -(-total_steps // steps_per_epoch)
    say(
        f"training for {total_steps:,} steps of {batch_size_of(prepared)} texts, {epochs} epochs, "
        f"on {hardware()}"
    )
    note_short_run(model, prepared.config, total_steps, say)
    stop, callbacks = threading.Event(), callbacks_of(prepared, out, say)
    if prepared.config.training.minutes is not None:
        callbacks.append(TimeLimit(prepared.config.training.minutes, stop, say, total_steps))
    if not sys.stderr.isatty():
        callbacks.append(ProgressLines(say, total_steps))
    checkpoints = checkpoints_of(prepared, out, callbacks, checkpoint, stop)
    note_left_out(prepared, say)
    started = time.monotonic()
    with recording_divergence(out, prepared.config, callbacks):
        try:
            with standard_output_to_error(), stopping_on_signals(stop, say):
                train(model, prepared, callbacks, checkpoints, checkpoint)
            for callback in callbacks:
                if hasattr(callback, "conclude"):
                    callback.conclude()
            values_of(model)  # raises if not finite, before anything of an earlier end is removed
            (out / REPORT / EVALUATION).unlink(missing_ok=True)  # of an earlier end
            checkpoints.write(
                -(-as_int(model.training_steps) // steps_per_epoch), ended=total_steps
            )
        except KeyboardInterrupt:
            values_of(model)
            say(
                f"stopped after {as_int(model.training_steps):,} steps; the model is saved as it "
                f"is now, `kvae train --resume --out {quote(str(out))}` continues"
            )
    say(f"trained for {time.monotonic() - started:.0f} seconds")
    return False


def compile_for(model: TextVAE, prepared: Prepared) -> None:
    """Compile the model with its configured optimizer. Raises `ConfigError` if a batch cannot be
    split between the devices."""
    settings, (total_steps, _) = prepared.config.training, step_counts(prepared)
    check_parts(batch_size_of(prepared))
    model.compile(
        optimizer(settings, total_steps),
        jit_compile=settings.jit_compile and not is_split(),
        steps_per_execution=settings.steps_per_execution,
    )


def train(
    model: TextVAE,
    prepared: Prepared,
    callbacks: Sequence[keras.callbacks.Callback],
    checkpoints: Checkpoints,
    checkpoint: Checkpoint | None,
) -> None:
    """Run the remaining steps, one segment after the other, until the end or until a callback stops
    training."""
    restored = [RunningMetrics(checkpoint)] if checkpoint else []
    for callback in (*callbacks, checkpoints):
        callback.set_model(model)
    was_stopped = checkpoint and checkpoint.about.get("stopped")
    first_step = as_int(model.training_steps)
    for segment in () if was_stopped else segments(first_step, *step_counts(prepared)):
        model.fit(
            training_stream(prepared, segment.first_step),
            steps_per_epoch=segment.steps_per_epoch,
            validation_data=validation_batches(prepared, parts=equal_parts()),
            initial_epoch=segment.epochs[0],
            epochs=segment.epochs[1],
            callbacks=StepCallbacks(
                [*restored, *callbacks, checkpoints],
                add_history=True,
                model=model,
                epochs=segment.epochs[1],
                steps=segment.steps_per_epoch,
                verbose=1 if sys.stderr.isatty() else 2,
            ),
            shuffle=False,
        )
        if model.stop_training:
            break


def checkpoints_of(
    prepared: Prepared,
    out: Path,
    callbacks: Sequence[keras.callbacks.Callback],
    checkpoint: Checkpoint | None,
    stop: threading.Event,
) -> Checkpoints:
    """The callback that writes checkpoints and ends training when `stop` is set.

    Restores the state of the other `callbacks` from `checkpoint`.
    """
    stateful = {
        type(callback).__name__: callback for callback in callbacks if hasattr(callback, "state")
    }
    if checkpoint:
        restore_states(stateful, checkpoint, new=SWITCHED_ON_LATER)
    about = {"corpus": fingerprint(prepared), "run": identity_of(out)}
    every = prepared.config.training.checkpoint_steps
    last_good = last_good_checkpoint(checkpoint)
    (divergence,) = (each for each in callbacks if isinstance(each, Divergence))
    return Checkpoints(out / CHECKPOINTS, about, stateful, every, stop, last_good, divergence.check)


SWITCHED_ON_LATER = ("EarlyStop", "CollapseAlarm")
"""Callbacks with a state that a resumed run may have without finding it in its checkpoint
(`experiment.MAY_CHANGE`)."""


def last_good_checkpoint(checkpoint: Checkpoint | None) -> Path | None:
    """The file of the newest good checkpoint of a run that is resumed from `checkpoint`; None if
    there is none."""
    if checkpoint is None:
        return None
    if checkpoint.good:
        return checkpoint.path
    newest = latest_checkpoint(checkpoint.path.parent, lambda sentence: None, good=True)
    return newest.path if newest and newest.good else None


@contextlib.contextmanager
def recording_divergence(
    out: Path, config: Config, callbacks: Sequence[keras.callbacks.Callback]
) -> Iterator[None]:
    """Context that turns `Diverged` into `CheckFailed`, whose message says how to continue.

    Writes the step and the cause to the run folder first, and calls `diverged` of each callback
    that has such a method.
    """
    try:
        yield
    except Diverged as error:
        divergence = {"step": error.step, "what": error.what}
        write_json(out / DIVERGED, divergence)
        for callback in callbacks:
            if hasattr(callback, "diverged"):
                callback.diverged(error)
        raise CheckFailed(
            f"{describe_divergence(divergence)}; {divergence_advice(out, config)}"
        ) from error


def callbacks_of(prepared: Prepared, out: Path, say: Say) -> list[keras.callbacks.Callback]:
    """The callbacks of a run, except for checkpoints. The order matters: later ones read what
    earlier ones measure."""
    settings, objective = prepared.config.training, prepared.config.objective
    report = LatentReport(prepared.validation, prepared.validation_attribute)
    monitors = monitors_of(prepared, out, report, say)
    note = monitors[0].note if monitors else quiet
    alarm = CollapseAlarm(say, note, stop=settings.on_collapse == "stop")
    best, about = out / CHECKPOINTS / BEST, {"run": identity_of(out)}
    return [
        report,
        Progress(),
        *([DecoderReset()] if objective.warm_start_steps else []),
        *([RampAfterConvergence(say)] if objective.ramp_after_convergence else []),
        *([EncoderAhead(say)] if objective.encoder_updates else []),
        *(
            [EarlyStop(settings.early_stopping, best, say, about)]
            if settings.early_stopping
            else []
        ),
        *([alarm] if settings.on_collapse != "ignore" and rows_differ(report.rows) else []),
        MetricsFile(out / METRICS),
        Divergence(),
        *monitors,
    ]


def monitors_of(prepared: Prepared, out: Path, report: LatentReport, say: Say) -> list[Any]:
    """The callback that writes for TensorBoard, if TensorBoard is installed."""
    with optional("tensorboard", "logs for TensorBoard", say):
        from .tensorboard import TensorBoardMonitor

        size = batch_size_of(prepared)
        return [TensorBoardMonitor(out / LOGS, prepared.config, prepared.alphabet, report, size)]
    return []


def note_short_run(model: TextVAE, config: Config, total_steps: int, say: Say) -> None:
    """Warn if a run is shorter than its warm start or its ramp."""
    objective = config.objective
    if total_steps < objective.warm_start_steps:
        say(
            f"the run ends within its warm start of {objective.warm_start_steps:,} steps, so its "
            f"loss never includes the KL; shorten the warm start with --set "
            f"objective.warm_start_steps=N"
        )
    elif objective.beta_max and model.hierarchy.shapes and not objective.ramp_after_convergence:
        reached = float(ramp_at(objective, total_steps))
        what = f"{reached:.2f} of its height"
        if PENALTIES[objective.penalty].has_target:
            nats = reached * objective.kl_target
            what = f"{nats:.1f} of the {objective.kl_target:g} nats of the KL target"
        if reached < 1.0:
            say(
                f"the ramp will only reach {what}, because it is longer than the run; shorten it "
                f"with --set objective.ramp_steps=N or --set objective.ramp_start=N"
            )


def note_left_out(prepared: Prepared, say: Say) -> None:
    """Report how many held-out texts are left out of validation during training, because they do
    not divide between the devices."""
    parts = equal_parts()
    left_out = len(prepared.validation) % parts
    if left_out:
        say(
            f"validation during training leaves out {left_out} held-out texts, "
            f"because the texts do not divide between {parts} devices"
        )


@contextlib.contextmanager
def stopping_on_signals(stop: threading.Event, say: Say) -> Iterator[None]:
    """Context in which Ctrl-C and SIGTERM set `stop`, so that the current step is completed. A
    second signal interrupts at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # RuntimeError: the signal came while standard error was being written to.
        with contextlib.suppress(RuntimeError):
            say("stopping after this step; send the signal again to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def standard_output_to_error() -> Iterator[None]:
    """Context that sends Keras' progress to standard error, because standard output is for
    results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
