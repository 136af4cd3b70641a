"""A training run from a configuration to a run folder: prepare, build, fit, save, evaluate, and go on after an interruption."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import keras

from kvae.configuration import Config, dotted_keys, dotted_value
from kvae.disk import naming
from kvae.misfits import check_training
from kvae.model import TextVAE, computing_in
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
    divergence,
    read_config,
    said_of,
    write_json,
)
from kvae.saved_models import is_whole
from kvae.serving.errors import ConfigError, ModelError
from kvae.writing import LOCK, claimed, remove, whole

from .checkpoints import Checkpoint, check_run, latest, read_checkpoint, values_of
from .corpora import Prepared, entropy_of, prepare
from .devices import split_between, synchronize, worker
from .evaluation import evaluate
from .fit import BEST, fit
from .identity import fingerprint, identity_of
from .ngram import character_count
from .plots import plot_curves
from .transfer import note_gap, note_other_split, start_from

Say = Callable[[str], None]

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
def running(
    config: Config, out: str | Path, say: Say, overwrite: bool = False
) -> Iterator[tuple[Run, Prepared]]:
    """`run`, whose folder stays this process's until the block ends."""
    with own_folder(Path(out)) as own, naming(out), split_between(config), claimed(own) as kept:
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
    with own_folder(out) as own, naming(out), split_between(config), claimed(own) as kept:
        note_lock(own, kept, say)
        prepared = read_corpus(config, say)
        compare(stored_config(out), prepared.config, say)
        checkpoint = last_state(out, say)
        identity = (
            identity_of(out) or (checkpoint and checkpoint.about.get("run")) or secrets.token_hex(8)
        )
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
        say(
            f"going on at step {checkpoint.step:,}"
            if checkpoint
            else "the run has no checkpoint yet, starting"
        )
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
    *(
        f"data.{name}"
        for name in ("source", "validation", "labels", "validation_labels", "storage")
    ),
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
        say(
            f"{said_of(diverged)}; with the same settings it may again, a lower training.learning_rate usually helps"
        )
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
    learned = (
        f"a stream of {len(prepared.train):,} tokens"
        if windows
        else f"{len(prepared.train):,} texts"
    )
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


def note_lock(out: Path, kept: bool, say: Say) -> None:
    """Say where nothing keeps two processes from one run folder."""
    if not kept:
        say(
            f"{out} lies on a disk that keeps no locks: nothing keeps a second process from training it at the same time"
        )


def trained(
    out: Path, prepared: Prepared, model: TextVAE, checkpoint: Checkpoint | None, say: Say
) -> Run:
    """Fit, save and evaluate in the run folder `out`, from a checkpoint where there is one."""
    finished = fit(model, prepared, out, checkpoint, say)
    run = Run(out, prepared.config, prepared.alphabet, model)
    if finished and is_whole(out / MODEL) and is_evaluated(run):
        say("the run was finished already")
        (out / DIVERGED).unlink(
            missing_ok=True
        )  # of an attempt to make it longer, which is given up
        return run
    (out / REPORT / EVALUATION).unlink(
        missing_ok=True
    )  # what is there was measured on the model that gives way
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
    report = evaluate(
        model, prepared.validation, attribute=prepared.validation_attribute, characters=characters
    )
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


def save_model(model: TextVAE, path: Path) -> None:
    """Write a `.keras` file that is complete or not there, without running means; raises `Diverged` where a number is not
    finite."""
    model.reset_metrics()
    values_of(model)
    with whole(path, alone=True) as partial:
        model.save(partial)
