"""Training itself: the epochs of a run with its callbacks, from its beginning or a checkpoint to its end or a signal."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Any

from kvae.configuration import Config
from kvae.model import TextVAE, number
from kvae.objectives import TARGETED, ramp_at
from kvae.runs import CHECKPOINTS, DIVERGED, EVALUATION, LOGS, METRICS, REPORT, after_divergence, said_of, write_json
from kvae.serving.errors import CheckFailed, ConfigError

from .alarm import CollapseAlarm
from .callbacks import (
    Checkpoints,
    DecoderReset,
    Divergence,
    EarlyStop,
    EncoderAhead,
    MetricsFile,
    Progress,
    RampAfterConvergence,
    RunningMetrics,
)
from .checkpoints import Checkpoint, Diverged, latest, restore_checkpoint, restore_states, values_of
from .corpora import Prepared
from .devices import check_parts, equal_parts, is_split
from .evaluation import varied
from .identity import fingerprint, identity_of
from .latent_report import LatentReport
from .optimizers import optimizer
from .pipeline import batch_size_of, steps_of_a_pass, training_stream, validation_batches
from .tensorboard import TensorBoardMonitor

Say = Callable[[str], None]

BEST = "best.npz"
"""The checkpoint of the epoch with the lowest held-out bound, where a run may stop early."""


@dataclass(frozen=True)
class Segment:
    """Epochs of the same number of steps, or what is left of one: `epochs` are the first and the one behind the last."""

    first_step: int
    epochs: tuple[int, int]
    steps_per_epoch: int


def segments(first_step: int, total_steps: int, steps_per_epoch: int) -> Iterator[Segment]:
    """The way from a step to the last one: the rest of an epoch, whole epochs, a shorter last one."""
    while first_step < total_steps:
        epoch, done = divmod(first_step, steps_per_epoch)
        left = total_steps - first_step
        whole = 0 if done else left // steps_per_epoch
        steps = steps_per_epoch if whole else min(steps_per_epoch - done, left)
        yield Segment(first_step, (epoch, epoch + max(whole, 1)), steps)
        first_step += steps * max(whole, 1)


def length_of(prepared: Prepared) -> tuple[int, int]:
    """Steps in all and steps an epoch."""
    settings = prepared.config.training
    steps_per_epoch = settings.steps_per_epoch or steps_of_a_pass(prepared)
    total_steps = settings.steps or settings.epochs * steps_per_epoch
    steps_per_epoch = min(steps_per_epoch, total_steps)
    together = settings.steps_per_execution
    if steps_per_epoch % together or total_steps % together:
        raise ConfigError(
            f"training.steps_per_execution is {together}: an epoch of {steps_per_epoch} steps and a run of {total_steps} must "
            f"be multiples of it; set training.steps_per_epoch={max(steps_per_epoch // together, 1) * together} or use 1"
        )
    return total_steps, steps_per_epoch


def fit(model: TextVAE, prepared: Prepared, out: Path, checkpoint: Checkpoint | None, say: Say) -> bool:
    """`model.fit` with the pipelines, the optimizer and the callbacks of the configuration; whether all was done before."""
    total_steps, steps_per_epoch = length_of(prepared)
    compile_for(model, prepared)
    if checkpoint:
        restore_checkpoint(model, checkpoint)
        if "ended" in checkpoint.about and max(number(model.training_steps), checkpoint.about["ended"]) >= total_steps:
            return True
    else:  # what a run left that was killed before its first one
        (out / METRICS).unlink(missing_ok=True)
        shutil.rmtree(out / LOGS, ignore_errors=True)
    epochs = -(-total_steps // steps_per_epoch)
    say(f"training for {total_steps:,} steps of {batch_size_of(prepared)} texts, {epochs} epochs")
    note_ramp(model, prepared.config, total_steps, say)
    stop, callbacks = threading.Event(), callbacks_of(prepared, out, say)
    checkpoints = checkpoints_of(prepared, out, callbacks, checkpoint, stop)
    note_left_out(prepared, say)
    started = time.monotonic()
    with marking_divergence(out, prepared.config, callbacks):
        try:
            with standard_output_to_error(), ending_at_a_signal(stop, say):
                train(model, prepared, callbacks, checkpoints, checkpoint)
            for callback in callbacks:
                if hasattr(callback, "conclude"):
                    callback.conclude()
            values_of(model)  # finite, or the model and numbers of an earlier end stay
            (out / REPORT / EVALUATION).unlink(missing_ok=True)  # they do not belong to this end
            checkpoints.write(-(-number(model.training_steps) // steps_per_epoch), ended=total_steps)
        except KeyboardInterrupt:
            values_of(model)
            say(
                f"stopped after {number(model.training_steps):,} steps; the model of this moment is kept, "
                f"`kvae train --resume --out {quote(str(out))}` goes on"
            )
    say(f"trained for {time.monotonic() - started:.0f} seconds")
    return False


def compile_for(model: TextVAE, prepared: Prepared) -> None:
    """Compile the model with the optimizer of its configuration; raises `ConfigError` where a batch cannot be split."""
    settings, (total_steps, _) = prepared.config.training, length_of(prepared)
    check_parts(batch_size_of(prepared))
    model.compile(
        optimizer(settings, total_steps),
        jit_compile=settings.jit_compile and not is_split(),
        steps_per_execution=settings.steps_per_execution,
    )


def train(
    model: TextVAE,
    prepared: Prepared,
    callbacks: Sequence[Any],
    checkpoints: Checkpoints,
    checkpoint: Checkpoint | None,
) -> None:
    """Take the steps that are left, segment by segment, until the last one or until a callback stops the training."""
    again = [RunningMetrics(checkpoint)] if checkpoint else []
    for callback in (*callbacks, checkpoints):
        callback.set_model(model)
    stopped = checkpoint and checkpoint.about.get("stopped")
    for segment in () if stopped else segments(number(model.training_steps), *length_of(prepared)):
        model.fit(
            training_stream(prepared, segment.first_step),
            steps_per_epoch=segment.steps_per_epoch,
            validation_data=validation_batches(prepared, parts=equal_parts()),
            initial_epoch=segment.epochs[0],
            epochs=segment.epochs[1],
            callbacks=[*again, *callbacks, checkpoints],
            shuffle=False,
            verbose=1 if sys.stderr.isatty() else 2,
        )
        if model.stop_training:
            break


def checkpoints_of(
    prepared: Prepared, out: Path, callbacks: Sequence[Any], checkpoint: Checkpoint | None, stop: threading.Event
) -> Checkpoints:
    """The callback that writes checkpoints, and ends training once `stop` is set; callbacks with a state get theirs from the
    checkpoint that the run goes on from."""
    stateful = {type(callback).__name__: callback for callback in callbacks if hasattr(callback, "state")}
    if checkpoint:
        restore_states(stateful, checkpoint, new=SWITCHED_ON_LATER)
    about = {"corpus": fingerprint(prepared), "run": identity_of(out)}
    every = prepared.config.training.checkpoint_steps
    return Checkpoints(out / CHECKPOINTS, about, stateful, every, stop, last_good(checkpoint))


SWITCHED_ON_LATER = ("EarlyStop", "CollapseAlarm")
"""Callbacks with a state that `MAY_CHANGE` lets a resumed run have and its checkpoint lack."""


def last_good(checkpoint: Checkpoint | None) -> Path | None:
    """The file of the newest good checkpoint of a run that goes on from this one."""
    if checkpoint is None:
        return None
    if checkpoint.good:
        return checkpoint.path
    found = latest(checkpoint.path.parent, lambda sentence: None, good=True)
    return found.path if found and found.good else None


@contextlib.contextmanager
def marking_divergence(out: Path, config: Config, callbacks: Sequence[Any]) -> Iterator[None]:
    """Where training diverges within this, note it in the run folder, let the callbacks that have a `diverged` write what they
    know, and raise `CheckFailed` with the way on."""
    try:
        yield
    except Diverged as error:
        found = {"step": error.step, "what": error.what}
        write_json(out / DIVERGED, found)
        for callback in callbacks:
            if hasattr(callback, "diverged"):
                callback.diverged(error)
        raise CheckFailed(f"{said_of(found)}; {after_divergence(out, config)}") from error


def callbacks_of(prepared: Prepared, out: Path, say: Say) -> list[Any]:
    """The callbacks that measure, steer and show a run, in the order in which they need each other."""
    settings, objective = prepared.config.training, prepared.config.objective
    report = LatentReport(prepared.validation, prepared.validation_attribute)
    monitor = TensorBoardMonitor(out / LOGS, prepared.config, prepared.alphabet, report, batch_size_of(prepared))
    alarm = CollapseAlarm(say, monitor.note, stop=settings.on_collapse == "stop")
    best, about = out / CHECKPOINTS / BEST, {"run": identity_of(out)}
    return [
        report,
        Progress(),
        *([DecoderReset()] if objective.warm_start_steps else []),
        *([RampAfterConvergence(say)] if objective.ramp_after_convergence else []),
        *([EncoderAhead(say)] if objective.encoder_updates else []),
        *([EarlyStop(settings.early_stopping, best, say, about)] if settings.early_stopping else []),
        *([alarm] if settings.on_collapse != "ignore" and varied(report.rows) else []),
        MetricsFile(out / METRICS),
        monitor,
        Divergence(),
    ]


def note_ramp(model: TextVAE, config: Config, total_steps: int, say: Say) -> None:
    """Say where a run is too short for its own schedule."""
    objective = config.objective
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


def note_left_out(prepared: Prepared, say: Say) -> None:
    """Say how many held-out texts are not validated on while training, since they do not divide between devices."""
    parts = equal_parts()
    left_out = len(prepared.validation) % parts
    if left_out:
        say(
            f"validation while training leaves out {left_out} held-out texts, which do not divide between {parts} devices"
        )


@contextlib.contextmanager
def ending_at_a_signal(stop: threading.Event, say: Say) -> Iterator[None]:
    """Ctrl-C and SIGTERM set `stop`, so that a step is never torn; the second one interrupts at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        with contextlib.suppress(RuntimeError):  # the signal came while standard error was being written to
            say("stopping after this step; once more to stop at once")

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
    """Keras writes its progress to standard output, which belongs to results here."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
