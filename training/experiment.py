"""A training run from a configuration to a run folder: prepare, build, fit, save, evaluate, and go on after an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Any

import keras
import numpy as np

from kvae.configuration import Config, dotted_keys, dotted_value
from kvae.disk import add_path_to_errors
from kvae.misfits import check_training
from kvae.model import TextVAE, as_int, computing_in
from kvae.objectives import TARGETED, ramp_at
from kvae.runs import (
    CHECKPOINTS,
    CONFIG,
    DIVERGED,
    EVALUATION,
    IDENTITY,
    LOGS,
    METRICS,
    MODEL,
    REPORT,
    VOCABULARY,
    Run,
    describe_divergence,
    divergence,
    divergence_advice,
    read_config,
    read_json,
    write_json,
)
from kvae.saved_models import is_intact
from kvae.serving.errors import CheckFailed, ConfigError, ModelError
from kvae.writing import LOCK, claimed, remove

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
from .checkpoints import (
    Checkpoint,
    Diverged,
    check_run,
    latest,
    read_checkpoint,
    restore_checkpoint,
    restore_states,
    values_of,
)
from .corpora import Prepared, entropy_of, prepare
from .devices import check_parts, equal_parts, is_split, split_between, synchronize, worker
from .evaluation import evaluate, spread, varied
from .latent_report import LatentReport
from .ngram import character_count
from .optimizers import optimizer
from .pipeline import batch_size_of, steps_of_a_pass, training_stream, validation_batches
from .plots import plot_curves
from .store import StoredRows
from .tensorboard import TensorBoardMonitor
from .transfer import note_gap, note_other_split, start_from

Say = Callable[[str], None]

BEST = "best.npz"
"""The checkpoint of the epoch with the lowest held-out bound, where a run may stop early."""

PARTS = (MODEL, METRICS, LOGS, REPORT, CHECKPOINTS, DIVERGED, IDENTITY, VOCABULARY, CONFIG)
"""What a run consists of, in the order in which it is removed: a folder with the last two is a run to the end."""

BESIDE = ("bundle", "bundle-int8", "result.json", "results.json")
"""What other commands put into a run folder about that run: `kvae export`, `kvae reproduce`, `kvae tune`."""


class AnotherConfiguration(ConfigError):
    """A run folder that holds a run of another configuration."""


class AnotherCorpus(ModelError):
    """A run folder whose run has learned from other texts."""


def run(config: Config, out: str | Path, say: Say, overwrite: bool = False) -> tuple[Run, Prepared]:
    """Train what `config` describes into the new folder `out`; `say` gets a sentence now and then.

    The folder is this process's from the first moment on, before the data is read; where nothing comes of it, it is gone
    again. With `overwrite` an earlier run gives way when the data and the model are ready; other files in its folder stay.
    Ctrl-C ends the run after the step that is under way, with a checkpoint, and the model of that moment is saved. Raises
    `ConfigError` when `out` is in the way or another process writes it, and whatever `prepare` and `TextVAE` raise.
    """
    with running(config, out, say, overwrite) as found:
        return found


@contextlib.contextmanager
def running(config: Config, out: str | Path, say: Say, overwrite: bool = False) -> Iterator[tuple[Run, Prepared]]:
    """`run`, whose folder stays this process's until the block ends."""
    with own_folder(Path(out)) as own, add_path_to_errors(out), split_between(config), claimed(own) as kept:
        earlier = giving_way(own, overwrite)
        if earlier:
            note_lock(own, kept, say)
        prepared = read_corpus(config, say)
        model = built(prepared, say)
        if config.training.start_from is not None:
            start_from(model, config.training.start_from, prepared.alphabet, say)
            note_other_split(prepared.config, config.training.start_from, say)
        for path in earlier:
            remove(path)
        try:
            appear(own, prepared, secrets.token_hex(8))
            found = trained(own, prepared, model, None, say), prepared
        except Exception:
            if not any((own / CHECKPOINTS).glob("*.npz")) and not (own / DIVERGED).is_file():
                for name in PARTS:
                    remove(own / name)
            raise
        yield found


def resume(config: Config, out: str | Path, say: Say) -> tuple[Run, Prepared]:
    """Go on with the run in `out` from its last checkpoint, to the same losses as if it had not been interrupted (CPU).

    `config` must be the run's own (`stored_config`) but for settings in `MAY_CHANGE`. Raises `ConfigError` where something
    else differs or another process trains the run, and `ModelError` when the texts or a checkpoint are not those of the run.
    """
    out = Path(out)
    with own_folder(out) as own, add_path_to_errors(out), split_between(config), claimed(own) as kept:
        note_lock(own, kept, say)
        prepared = read_corpus(config, say)
        compare(stored_config(out), prepared.config, say)
        checkpoint = last_state(out, say)
        identity = identity_of(out) or (checkpoint and checkpoint.about.get("run")) or secrets.token_hex(8)
        if checkpoint:
            check_run(checkpoint, identity)
        if checkpoint and checkpoint.about["corpus"] != fingerprint(prepared):
            raise AnotherCorpus(
                f"{out}: {config.data.source} is not the corpus of this run, or has changed since; give the same texts"
            )
        best = out / CHECKPOINTS / BEST
        if config.training.early_stopping and best.is_file():
            check_run(read_checkpoint(best), identity)
        model = built(prepared, say)
        if config.training.start_from is not None and checkpoint is None:
            start_from(model, config.training.start_from, prepared.alphabet, say)
        appear(own, prepared, identity)
        if own != out and best.is_file():
            (own / CHECKPOINTS).mkdir()
            shutil.copy(best, own / CHECKPOINTS / BEST)
        say(f"going on at step {checkpoint.step:,}" if checkpoint else "the run has no checkpoint yet, starting")
        return trained(own, prepared, model, checkpoint, say), prepared


def completed(config: Config, out: Path, say: Say) -> tuple[Run, Prepared]:
    """The run of `config` in `out`, trained to its end: an interrupted one goes on, with the split that it began with, one of
    another configuration or corpus gives way. Raises `KeyboardInterrupt` when it is stopped before."""
    if (out / CONFIG).is_file():
        try:
            finished, prepared = resume(config.with_split_of(stored_config(out)), out, say)
        except (AnotherConfiguration, AnotherCorpus) as error:
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
    return read_config(out)


def last_state(out: Path, say: Say) -> Checkpoint | None:
    """Where a run goes on: at its newest whole checkpoint, after a divergence at the newest good one; None where it begins.
    Raises `ModelError` where a run that has a model or checkpoints would have to begin anew."""
    diverged = divergence(out)
    if diverged:
        say(f"{describe_divergence(diverged)}; with the same settings it may again, a lower training.learning_rate usually helps")
    start = f"or begin a new run with its weights: `kvae train --set training.start_from={quote(str(out))} --out NEW`"
    way = start if (out / MODEL).is_file() else "or train a new run in another --out"
    try:
        found = latest(out / CHECKPOINTS, say, good=diverged is not None)
    except ModelError as error:
        raise ModelError(f"--resume: {error}, {way}; nothing was changed") from error
    if found is None and (out / MODEL).is_file():
        raise ModelError(
            f"--resume: {out} has a model and no checkpoint to go on from; take one from a copy, {way}; nothing was changed"
        )
    return found


def compare(stored: Config, asked: Config, say: Say) -> None:
    """Refuse a configuration that is not that of the run; say what differs where it may."""
    values = {key: (dotted_value(stored, key), dotted_value(asked, key)) for key in dotted_keys()}
    changes = {key: pair for key, pair in values.items() if pair[0] != pair[1]}
    for key, (old, new) in changes.items():
        if key not in MAY_CHANGE:
            raise AnotherConfiguration(
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


def appear(out: Path, prepared: Prepared, identity: str) -> None:
    """Make a run of the claimed folder `out`. The configuration comes first: with it alone, `resume` makes the rest again."""
    write_json(out / CONFIG, prepared.config.to_dict())
    write_json(out / VOCABULARY, prepared.alphabet.to_dict())
    write_json(out / IDENTITY, {"run": identity})
    (out / REPORT).mkdir(exist_ok=True)


def identity_of(out: Path) -> str | None:
    """What names the run in `out`; None where an earlier version has begun it."""
    file = out / IDENTITY
    return read_json(file, "remove this file, its checkpoints name the run too").get("run") if file.is_file() else None


def note_lock(out: Path, kept: bool, say: Say) -> None:
    """Say where nothing keeps two processes from one run folder."""
    if not kept:
        say(
            f"{out} lies on a disk that keeps no locks: nothing keeps a second process from training it at the same time"
        )


def trained(out: Path, prepared: Prepared, model: TextVAE, checkpoint: Checkpoint | None, say: Say) -> Run:
    """Fit, save and evaluate in the run folder `out`, from a checkpoint where there is one."""
    finished = fit(model, prepared, out, checkpoint, say)
    run = Run(out, prepared.config, prepared.alphabet, model)
    if finished and is_intact(out / MODEL) and is_evaluated(run):
        say("the run was finished already")
        (out / DIVERGED).unlink(missing_ok=True)  # of an attempt to make it longer, which is given up
        return run
    (out / REPORT / EVALUATION).unlink(missing_ok=True)  # what is there was measured on the model that gives way
    save_model(model, out / MODEL)
    say(f"evaluating on {len(prepared.validation):,} held-out texts")
    report = evaluated(model, prepared)
    write_json(out / REPORT / EVALUATION, report)
    if prepared.config.training.start_from is not None:
        note_gap(report, prepared.config.training.start_from, say)
    plot_curves(out / METRICS, out / REPORT / "curves.png")
    return run


def is_evaluated(run: Run) -> bool:
    """Whether the numbers of a finished run are there and can be read."""
    try:
        return bool(run.evaluation)
    except ModelError:
        return False


def evaluated(model: TextVAE, prepared: Prepared) -> dict[str, Any]:
    """The evaluation on the held-out split, beside the entropy of a corpus that knows its own."""
    characters = character_count(prepared.validation_texts, prepared.config.data.mode == "lines")
    report = evaluate(model, prepared.validation, attribute=prepared.validation_attribute, characters=characters)
    entropy = entropy_of(prepared.config)
    return report if entropy is None else {**report, "entropy": entropy}


def giving_way(out: Path, overwrite: bool) -> list[Path]:
    """What a new run in the claimed folder `out` removes: nothing of an empty one, with `overwrite` the parts of the run that
    it holds now but for the two files that are then replaced. Raises `ConfigError` where the folder is not free."""
    there = [path for path in out.iterdir() if path.name != LOCK]
    if not there:
        return []
    if not overwrite:
        raise ConfigError(
            f"--out {out}: exists already; go on with it (--resume), give a new folder, or replace it with --overwrite"
        )
    missing = [name for name in (CONFIG, VOCABULARY) if not (out / name).is_file()]
    if missing:
        raise ConfigError(
            f"--overwrite: {out} is not a run folder (no {missing[0]}), it is left alone; give another --out"
        )
    return [out / name for name in (*BESIDE, *PARTS[:-2]) if out / name in there]


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
    first_step = as_int(model.training_steps)
    if checkpoint and "ended" in checkpoint.about and max(first_step, checkpoint.about["ended"]) >= total_steps:
        return True
    if not checkpoint:  # what a run left that was killed before its first one
        (out / METRICS).unlink(missing_ok=True)
        shutil.rmtree(out / LOGS, ignore_errors=True)
    epochs = -(-total_steps // steps_per_epoch)
    say(f"training for {total_steps:,} steps of {batch_size_of(prepared)} texts, {epochs} epochs")
    note_ramp(model, prepared.config, total_steps, say)
    callbacks = callbacks_of(prepared, out, say)
    stateful = {type(callback).__name__: callback for callback in callbacks if hasattr(callback, "state")}
    if checkpoint:
        restore_states(stateful, checkpoint, new=SWITCHED_ON_LATER)
    parts = equal_parts()
    left_out = len(prepared.validation) % parts
    if left_out:
        say(
            f"validation while training leaves out {left_out} held-out texts, which do not divide between {parts} devices"
        )
    stop = threading.Event()
    about = {"corpus": fingerprint(prepared), "run": identity_of(out)}
    good = last_good(checkpoint)
    checkpoints = Checkpoints(out / CHECKPOINTS, about, stateful, settings.checkpoint_steps, stop, good)
    again = [RunningMetrics(checkpoint)] if checkpoint else []
    started = time.monotonic()
    with marking_divergence(out, prepared.config, callbacks):
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
            values_of(model)  # finite, or the model and numbers of an earlier end stay
            (out / REPORT / EVALUATION).unlink(missing_ok=True)  # they do not belong to this end
            checkpoints.write(-(-as_int(model.training_steps) // steps_per_epoch), ended=total_steps)
        except KeyboardInterrupt:
            values_of(model)
            say(
                f"stopped after {as_int(model.training_steps):,} steps; the model of this moment is kept, "
                f"`kvae train --resume --out {quote(str(out))}` goes on"
            )
    say(f"trained for {time.monotonic() - started:.0f} seconds")
    return False


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
        raise CheckFailed(f"{describe_divergence(found)}; {divergence_advice(out, config)}") from error


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
    """Write a `.keras` file that is complete or not there, without running means; raises `Diverged` where a number is not
    finite."""
    model.reset_metrics()
    values_of(model)
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
