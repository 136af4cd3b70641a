"""A training run from a configuration to a run folder: prepare, build, fit, save, evaluate, and go on after an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Any

import keras
import numpy as np

from kvae.configuration import Config, dotted_keys, dotted_value
from kvae.disk import writing
from kvae.misfits import check_training
from kvae.model import TextVAE, computing_in, number
from kvae.objectives import TARGETED, ramp_at
from kvae.runs import CHECKPOINTS, CONFIG, EVALUATION, LOGS, METRICS, MODEL, REPORT, VOCABULARY, Run, write_json
from kvae.serving.errors import CheckFailed, ConfigError, ModelError

from .alarm import CollapseAlarm
from .callbacks import (
    Checkpoints,
    DecoderReset,
    EarlyStop,
    EncoderAhead,
    MetricsFile,
    Progress,
    RampAfterConvergence,
    RunningMetrics,
)
from .checkpoints import Checkpoint, latest, restore_checkpoint
from .corpora import Prepared, entropy_of, prepare
from .devices import check_parts, equal_parts, is_split, split_between, synchronize, worker
from .evaluation import evaluate, spread
from .latent_report import LatentReport
from .ngram import character_count
from .optimizers import optimizer
from .pipeline import batch_size_of, steps_of_a_pass, training_stream, validation_batches
from .plots import plot_curves
from .store import StoredRows
from .tensorboard import TensorBoardMonitor
from .transfer import note_gap, start_from

Say = Callable[[str], None]

BEST = "best.npz"
"""The checkpoint of the epoch with the lowest held-out bound, where a run may stop early."""


def run(config: Config, out: str | Path, say: Say, overwrite: bool = False) -> tuple[Run, Prepared]:
    """Train what `config` describes into the new folder `out`; `say` gets a sentence now and then.

    The folder appears, and with `overwrite` an earlier run gives way to it, only when the data and the model are ready.
    Ctrl-C ends it after the step that is under way, with a checkpoint, and the model of that moment is saved. Raises
    `ConfigError` when `out` is in the way, and whatever `prepare` and `TextVAE` raise.
    """
    out = Path(out)
    with own_folder(out) as own, split_between(config), writing(out):
        check_free(own, overwrite)
        prepared = read_corpus(config, say)
        model = built(prepared, say)
        if config.training.start_from is not None:
            start_from(model, config.training.start_from, prepared.alphabet, say)
        appear(own, prepared)
        try:
            return trained(own, prepared, model, None, say), prepared
        except Exception:
            if not any((own / CHECKPOINTS).glob("*.npz")):
                shutil.rmtree(own, ignore_errors=True)
            raise


def resume(config: Config, out: str | Path, say: Say) -> tuple[Run, Prepared]:
    """Go on with the run in `out` from its last checkpoint, to the same losses as if it had not been interrupted (CPU).

    `config` must be the run's own (`stored_config`) but for settings in `MAY_CHANGE`. Raises `ConfigError` where something
    else differs, and `ModelError` when the texts are not those of the run.
    """
    out = Path(out)
    with own_folder(out) as own, split_between(config), writing(out):
        prepared = read_corpus(config, say)
        compare(stored_config(out), prepared.config, say)
        checkpoint = latest(out / CHECKPOINTS, say)
        if checkpoint and checkpoint.about["corpus"] != fingerprint(prepared):
            raise ModelError(
                f"{out}: {config.data.source} is not the corpus of this run, or has changed since; give the same texts"
            )
        model = built(prepared, say)
        if config.training.start_from is not None and checkpoint is None:
            start_from(model, config.training.start_from, prepared.alphabet, say)
        if own == out:
            write_json(out / CONFIG, prepared.config.to_dict())
        else:
            appear(own, prepared)
            best = out / CHECKPOINTS / BEST
            if best.is_file():
                (own / CHECKPOINTS).mkdir()
                shutil.copy(best, own / CHECKPOINTS / BEST)
        say(f"going on at step {checkpoint.step:,}" if checkpoint else "the run has no checkpoint yet, starting")
        return trained(own, prepared, model, checkpoint, say), prepared


def completed(config: Config, out: Path, say: Say) -> tuple[Run, Prepared]:
    """The run of `config` in `out`, trained to its end: an interrupted one goes on, one of another configuration gives way.
    Raises `KeyboardInterrupt` when it is stopped before."""
    if (out / CONFIG).is_file():
        try:
            finished, prepared = resume(config, out, say)
        except (ConfigError, ModelError) as error:
            say(f"{error}: training {out} anew")
            finished, prepared = run(config, out, say, overwrite=True)
    else:
        finished, prepared = run(config, out, say)
    checkpoint = latest(out / CHECKPOINTS, say)
    if checkpoint is None or "ended" not in checkpoint.about:
        raise KeyboardInterrupt
    return finished, prepared


@contextlib.contextmanager
def own_folder(out: Path) -> Iterator[Path]:
    """Where this process writes: the run folder, or a temporary one where another worker writes the run."""
    if worker() == 0:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="kvae-worker-") as folder:
        yield Path(folder) / "run"


MAY_CHANGE = {
    *(f"data.{name}" for name in ("source", "validation", "labels", "validation_labels", "storage")),
    *(
        f"training.{name}"
        for name in (
            "epochs",
            "steps",
            "learning_rate",
            "learning_rate_schedule",
            "learning_rate_decay",
            "learning_rate_hold",
            "weight_decay",
            "clip_norm",
            "jit_compile",
            "devices",
            "checkpoint_steps",
            "early_stopping",
            "on_collapse",
            "start_from",
        )
    ),
}
"""Settings that a resumed run may have otherwise: files may have moved, or be kept elsewhere, and a run may get longer or
another rate, which is then not what an uninterrupted one would have been."""


def stored_config(out: Path) -> Config:
    """The configuration of a run folder."""
    try:
        return Config.from_dict(json.loads((out / CONFIG).read_text(encoding="utf-8")))
    except (ValueError, ConfigError) as error:
        raise ModelError(f"{out / CONFIG}: damaged ({error}); train the run anew") from error


def compare(stored: Config, asked: Config, say: Say) -> None:
    """Refuse a configuration that is not that of the run; say what differs where it may."""
    values = {key: (dotted_value(stored, key), dotted_value(asked, key)) for key in dotted_keys()}
    changes = {key: pair for key, pair in values.items() if pair[0] != pair[1]}
    for key, (old, new) in changes.items():
        if key not in MAY_CHANGE:
            raise ConfigError(
                f"--resume: {key} is {old!r} in the run and {new!r} now; leave it out, or start a new run"
            )
    for key, (old, new) in changes.items():
        say(f"{key} is {new!r} from here on, it was {old!r}")


def read_corpus(config: Config, say: Say) -> Prepared:
    """The corpus of a configuration, and what is to be said of it."""
    check_training(config)
    say(f"reading {config.data.source}")
    prepared = prepare(config)
    for note in prepared.notes:
        say(note)
    return prepared


def built(prepared: Prepared, say: Say) -> TextVAE:
    """The model with the weights that the seed gives it."""
    config = prepared.config
    keras.utils.set_random_seed(config.training.seed)
    with computing_in(config.training.precision):
        model = TextVAE(config.model, config.objective)
    synchronize(model)
    windows = config.data.mode == "windows"
    learned = f"a stream of {len(prepared.train):,} tokens" if windows else f"{len(prepared.train):,} texts"
    say(
        f"{learned} to learn from, {len(prepared.validation_texts):,} held out, "
        f"{len(prepared.alphabet)} symbols, {config.model.length} positions, {model.count_params():,} parameters"
    )
    return model


def appear(out: Path, prepared: Prepared) -> None:
    """Make the run folder, whole from its first moment, in the place of an earlier run."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / REPORT).mkdir(parents=True)
    try:
        write_json(partial / CONFIG, prepared.config.to_dict())
        write_json(partial / VOCABULARY, prepared.alphabet.to_dict())
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def trained(out: Path, prepared: Prepared, model: TextVAE, checkpoint: Checkpoint | None, say: Say) -> Run:
    """Fit, save and evaluate in the run folder `out`, from a checkpoint where there is one."""
    finished = fit(model, prepared, out, checkpoint, say)
    run = Run(out, prepared.config, prepared.alphabet, model)
    if finished and (out / REPORT / EVALUATION).is_file():
        say("the run was finished already")
        return run
    save_model(model, out / MODEL)
    say(f"evaluating on {len(prepared.validation):,} held-out texts")
    report = evaluated(model, prepared)
    write_json(out / REPORT / EVALUATION, report)
    if prepared.config.training.start_from is not None:
        note_gap(report, prepared.config.training.start_from, say)
    plot_curves(out / METRICS, out / REPORT / "curves.png")
    return run


def evaluated(model: TextVAE, prepared: Prepared) -> dict[str, Any]:
    """The evaluation on the held-out split, beside the entropy of a corpus that knows its own."""
    characters = character_count(prepared.validation_texts, prepared.config.data.mode == "lines")
    report = evaluate(model, prepared.validation, attribute=prepared.validation_attribute, characters=characters)
    entropy = entropy_of(prepared.config)
    return report if entropy is None else {**report, "entropy": entropy}


def check_free(out: Path, overwrite: bool) -> None:
    """Raise `ConfigError` unless a run may be written to `out`; what is not a run is never overwritten."""
    if not out.exists():
        return
    if not overwrite:
        raise ConfigError(
            f"--out {out}: exists already; go on with it (--resume), give a new folder, remove it, or add --overwrite"
        )
    missing = [name for name in (CONFIG, VOCABULARY) if not (out / name).is_file()]
    if missing:
        raise ConfigError(
            f"--overwrite: {out} is not a run folder (no {missing[0]}), it is left alone; give another --out"
        )


def fingerprint(prepared: Prepared) -> str:
    """Sixteen hexadecimal digits that name the texts of a run and their labels, by their number and a thousand of each."""
    train = prepared.train
    places = np.linspace(0, len(train) - 1, min(1000, len(train))).astype(np.int64)
    if isinstance(train, np.ndarray):
        found = train[places].astype(np.int32)
    else:
        found = train.take(places if isinstance(train, StoredRows) else places[:, None])
    digest = hashlib.sha256(f"{len(train)} {len(prepared.validation)} ".encode())
    for values in (found, spread(prepared.validation, 1000), prepared.train_attribute, prepared.validation_attribute):
        if values is not None:
            digest.update(np.ascontiguousarray(values).astype(np.int32).tobytes())
    return digest.hexdigest()[:16]


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
    settings = prepared.config.training
    total_steps, steps_per_epoch = length_of(prepared)
    check_parts(batch_size_of(prepared))
    compiled = settings.jit_compile and not is_split()
    model.compile(
        optimizer(settings, total_steps), jit_compile=compiled, steps_per_execution=settings.steps_per_execution
    )
    if checkpoint:
        restore_checkpoint(model, checkpoint)
    first_step = number(model.training_steps)
    if checkpoint and "ended" in checkpoint.about and max(first_step, checkpoint.about["ended"]) >= total_steps:
        return True
    (out / REPORT / EVALUATION).unlink(missing_ok=True)  # what is there was measured on other weights
    if not checkpoint:  # what a run left that was killed before its first one
        (out / METRICS).unlink(missing_ok=True)
        shutil.rmtree(out / LOGS, ignore_errors=True)
    epochs = -(-total_steps // steps_per_epoch)
    say(f"training for {total_steps:,} steps of {batch_size_of(prepared)} texts, {epochs} epochs")
    note_ramp(model, prepared.config, total_steps, say)
    callbacks = callbacks_of(prepared, out, say)
    stateful = {type(callback).__name__: callback for callback in callbacks if hasattr(callback, "state")}
    for name, state in checkpoint.about["callbacks"].items() if checkpoint else ():
        if name in stateful:
            stateful[name].restore(state)
    parts = equal_parts()
    left_out = len(prepared.validation) % parts
    if left_out:
        say(
            f"validation while training leaves out {left_out} held-out texts, which do not divide between {parts} devices"
        )
    stop = threading.Event()
    about = {"corpus": fingerprint(prepared)}
    checkpoints = Checkpoints(out / CHECKPOINTS, about, stateful, settings.checkpoint_steps, stop)
    again = [RunningMetrics(checkpoint)] if checkpoint else []
    started = time.monotonic()
    try:
        with standard_output_to_error(), ending_at_a_signal(stop, say):
            for callback in (*callbacks, checkpoints):
                callback.set_model(model)
            stopped = checkpoint and checkpoint.about.get("stopped")
            for segment in () if stopped else segments(first_step, total_steps, steps_per_epoch):
                model.fit(
                    training_stream(prepared, segment.first_step),
                    steps_per_epoch=segment.steps_per_epoch,
                    validation_data=validation_batches(prepared, parts=parts),
                    initial_epoch=segment.epochs[0],
                    epochs=segment.epochs[1],
                    callbacks=[*again, *callbacks, checkpoints],
                    shuffle=False,
                    verbose=1 if sys.stderr.isatty() else 2,
                )
                if model.stop_training:
                    break
        for callback in callbacks:
            if hasattr(callback, "conclude"):
                callback.conclude()
        checkpoints.write(-(-number(model.training_steps) // steps_per_epoch), ended=total_steps)
    except KeyboardInterrupt:
        say(
            f"stopped after {number(model.training_steps):,} steps; the model of this moment is kept, "
            f"`kvae train --resume --out {quote(str(out))}` goes on"
        )
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        raise CheckFailed(
            f"training diverged within {number(model.training_steps):,} steps, the weights are no numbers any more; "
            f"lower the rate, as with --set training.learning_rate={settings.learning_rate / 4:g}"
        )
    say(f"trained for {time.monotonic() - started:.0f} seconds")
    return False


def callbacks_of(prepared: Prepared, out: Path, say: Say) -> list[Any]:
    """The callbacks that measure, steer and show a run, in the order in which they need each other."""
    settings, objective = prepared.config.training, prepared.config.objective
    report = LatentReport(prepared.validation, prepared.validation_attribute)
    monitor = TensorBoardMonitor(out / LOGS, prepared.config, prepared.alphabet, report, batch_size_of(prepared))
    alarm = CollapseAlarm(say, monitor.note, stop=settings.on_collapse == "stop")
    return [
        report,
        Progress(),
        *([DecoderReset()] if objective.warm_start_steps else []),
        *([RampAfterConvergence(say)] if objective.ramp_after_convergence else []),
        *([EncoderAhead(say)] if objective.encoder_updates else []),
        *([EarlyStop(settings.early_stopping, out / CHECKPOINTS / BEST, say)] if settings.early_stopping else []),
        *([alarm] if settings.on_collapse != "ignore" else []),
        MetricsFile(out / METRICS),
        monitor,
        keras.callbacks.TerminateOnNaN(),
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


def save_model(model: TextVAE, path: Path) -> None:
    """Write a `.keras` file that is complete or not there."""
    partial = path.with_name("partial-" + path.name)
    try:
        model.save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def standard_output_to_error() -> Iterator[None]:
    """Keras writes its progress to standard output, which belongs to results here."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
