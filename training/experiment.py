"""Training runs: prepare the data, build the model, fit, save and evaluate it in a run folder;
resume after an interruption."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from typing import Any, TypeAlias

import keras

from kvae.configuration import Config, dotted_keys, dotted_value
from kvae.disk import add_path_to_errors
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
    REPORT_JSON,
    REPORT_PAGE,
    VOCABULARY,
    Run,
    describe_divergence,
    divergence,
    read_config,
    write_json,
)
from kvae.saved_models import is_intact
from kvae.serving.errors import ConfigError, ModelError
from kvae.writing import LOCK, atomic_write, claimed_folder, remove

from .checkpoints import Checkpoint, check_run, latest_checkpoint, read_checkpoint, values_of
from .data.corpora import entropy_of
from .data.prepare import Prepared, prepare
from .data.stores import remember_user
from .devices import split_between, synchronize, worker_index
from .evaluation import evaluate
from .fit import BEST, fit
from .identity import fingerprint, identity_of
from .initial_bias import set_biases_to_frequencies
from .messages import Say, optional
from .ngram import character_count
from .plots import plot_curves
from .transfer import note_gap, note_other_split, start_from

RUN_FILES = (MODEL, METRICS, LOGS, REPORT, CHECKPOINTS, DIVERGED, IDENTITY, VOCABULARY, CONFIG)
"""Files and folders of a run, in the order in which they are removed. A folder counts as a run
until the last two are gone."""

FILES_OF_OTHER_COMMANDS = (
    "bundle",
    "bundle-int8",
    "bundle-int8-latency",
    "result.json",
    "results.json",
)
"""Files and folders that `kvae export`, `kvae reproduce` and `kvae tune` write into a run folder
about that run."""


Read: TypeAlias = Callable[[Config, Say], Prepared]
"""A function that makes the data of a run from its configuration."""


class AnotherConfiguration(ConfigError):
    """The run folder holds a run of another configuration."""


class AnotherCorpus(ModelError):
    """The run in the folder was trained on other texts."""


def run(
    config: Config,
    out: str | Path,
    say: Say,
    overwrite: bool = False,
    prepared: Prepared | None = None,
    read: Read | None = None,
) -> tuple[Run, Prepared]:
    """Train a new run of `config` in the folder `out`; returns the run and its data. `say` is
    called with each status message. `prepared` is the data of `config`, if it was prepared before;
    otherwise `read` makes it, by default `read_corpus`.

    The folder is created and locked before the data is read. It is removed again if no run results.
    With `overwrite`, an earlier run is removed when the data and the model are ready; other files
    in its folder stay. Ctrl-C ends the run after the current step: a checkpoint is written and the
    model is saved. Raises `ConfigError` if `out` is not free or another process writes it, and
    whatever `prepare` and `TextVAE` raise.
    """
    with run_keeping_lock(config, out, say, overwrite, prepared, read) as result:
        return result


@contextlib.contextmanager
def run_keeping_lock(
    config: Config,
    out: str | Path,
    say: Say,
    overwrite: bool = False,
    prepared: Prepared | None = None,
    read: Read | None = None,
) -> Iterator[tuple[Run, Prepared]]:
    """`run` as a context: the folder stays locked until the block ends."""
    with (
        output_folder(Path(out)) as own,
        add_path_to_errors(out),
        split_between(config),
        claimed_folder(own) as has_locks,
    ):
        replaced = files_to_replace(own, overwrite)
        if replaced:
            note_missing_locks(own, has_locks, say)
        prepared = prepared or (read or read_corpus)(config, say)
        model = build_model(prepared, say)
        if config.training.start_from is not None:
            start_from(model, config.training.start_from, prepared.alphabet, say)
            note_other_split(prepared.config, config.training.start_from, say)
        for path in replaced:
            remove(path)
        try:
            write_run_files(own, prepared, secrets.token_hex(8))
            result = train_and_evaluate(own, prepared, model, None, say), prepared
        except Exception:
            if not any((own / CHECKPOINTS).glob("*.npz")) and not (own / DIVERGED).is_file():
                for name in RUN_FILES:
                    remove(own / name)
            raise
        yield result


def resume(
    config: Config, out: str | Path, say: Say, prepared: Prepared | None = None
) -> tuple[Run, Prepared]:
    """Continue the run in `out` from its last checkpoint. On a CPU the losses are those of an
    uninterrupted run.

    `config` must be the run's own (`stored_config`), except for the settings in `MAY_CHANGE`.
    Raises `ConfigError` if another setting differs or another process trains the run, and
    `ModelError` if the texts or a checkpoint are not those of the run.
    """
    out = Path(out)
    with (
        output_folder(out) as own,
        add_path_to_errors(out),
        split_between(config),
        claimed_folder(own) as has_locks,
    ):
        note_missing_locks(own, has_locks, say)
        prepared = prepared or read_corpus(config, say)
        check_unchanged(stored_config(out), prepared.config, say)
        checkpoint = checkpoint_to_resume(out, say)
        identity = (
            identity_of(out) or (checkpoint and checkpoint.about.get("run")) or secrets.token_hex(8)
        )
        if checkpoint:
            check_run(checkpoint, identity)
        if checkpoint and checkpoint.about["corpus"] != fingerprint(prepared):
            raise AnotherCorpus(
                f"{out}: {config.data.source} is not the corpus of this run, or has changed "
                f"since; give the same texts"
            )
        best = out / CHECKPOINTS / BEST
        if config.training.early_stopping and best.is_file():
            check_run(read_checkpoint(best), identity)
        model = build_model(prepared, say)
        if config.training.start_from is not None and checkpoint is None:
            start_from(model, config.training.start_from, prepared.alphabet, say)
        write_run_files(own, prepared, identity)
        if own != out and best.is_file():
            (own / CHECKPOINTS).mkdir()
            shutil.copy(best, own / CHECKPOINTS / BEST)
        say(
            f"going on at step {checkpoint.step:,}"
            if checkpoint
            else "the run has no checkpoint yet, starting"
        )
        return train_and_evaluate(own, prepared, model, checkpoint, say), prepared


def finished_run(config: Config, out: Path, say: Say) -> tuple[Run, Prepared]:
    """The run of `config` in `out`, trained to its end, and its data.

    An interrupted run is resumed with its own split rule. A run of another configuration or corpus
    is replaced. Raises `KeyboardInterrupt` if training is stopped before its end.
    """
    if (out / CONFIG).is_file():
        try:
            finished, prepared = resume(config.with_split_of(stored_config(out)), out, say)
        except (AnotherConfiguration, AnotherCorpus) as error:
            say(f"{error}; {out} is now trained again from the beginning")
            finished, prepared = run(config, out, say, overwrite=True)
    else:
        finished, prepared = run(config, out, say)
    checkpoint = latest_checkpoint(out / CHECKPOINTS, say)
    if checkpoint is None or "ended" not in checkpoint.about:
        raise KeyboardInterrupt
    return finished, prepared


@contextlib.contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """The folder that this process writes: the run folder in the first worker, a temporary one in
    the others."""
    if worker_index() == 0:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="kvae-worker-") as folder:
        yield Path(folder) / "run"


MAY_CHANGE = {
    *(
        f"data.{name}"
        for name in (
            "source",
            "validation",
            "labels",
            "validation_labels",
            "vocabulary",
            "storage",
        )
    ),
    *(
        f"training.{name}"
        for name in (
            "epochs",
            "steps",
            "minutes",
            "learning_rate",
            "learning_rate_schedule",
            "learning_rate_warmup",
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
"""Settings that may differ in a resumed run. Files may have moved. A run may also get longer, or
another learning rate; then its losses are not those of an uninterrupted run."""


def stored_config(out: Path) -> Config:
    """The configuration of the run in a folder."""
    return read_config(out)


def checkpoint_to_resume(out: Path, say: Say) -> Checkpoint | None:
    """The newest complete checkpoint of a run, after a divergence the newest good one; None for a
    run without a step.

    Raises `ModelError` if a run that has a model or checkpoints would have to start again from the
    beginning.
    """
    diverged = divergence(out)
    if diverged:
        say(
            f"{describe_divergence(diverged)}; it may diverge again with the same settings, "
            f"a lower training.learning_rate usually helps"
        )
    alternative = "or train a new run in another --out"
    if (out / MODEL).is_file():
        start = f"`kvae train --set training.start_from={quote(str(out))} --out NEW`"
        alternative = f"or start a new run with its weights: {start}"
    try:
        checkpoint = latest_checkpoint(out / CHECKPOINTS, say, good=diverged is not None)
    except ModelError as error:
        raise ModelError(f"--resume: {error}, {alternative}; nothing was changed") from error
    if checkpoint is None and (out / MODEL).is_file():
        raise ModelError(
            f"--resume: {out} has a model but no checkpoint to continue from; restore one from a "
            f"copy, {alternative}; nothing was changed"
        )
    return checkpoint


def check_unchanged(stored: Config, requested: Config, say: Say) -> None:
    """Raise `AnotherConfiguration` if a setting outside `MAY_CHANGE` differs; report the other
    differences with `say`."""
    values = {
        key: (dotted_value(stored, key), dotted_value(requested, key)) for key in dotted_keys()
    }
    changes = {key: pair for key, pair in values.items() if pair[0] != pair[1]}
    for key, (old, new) in changes.items():
        if key not in MAY_CHANGE:
            raise AnotherConfiguration(
                f"--resume: {key} is {old!r} in the run and {new!r} now; leave it out, or start a "
                f"new run"
            )
    for key, (old, new) in changes.items():
        say(f"{key} is {new!r} from now on, it was {old!r}")


def read_corpus(config: Config, say: Say) -> Prepared:
    """The data of a configuration; reports its notes with `say`."""
    check_training(config)
    say(f"reading {config.data.source}")
    prepared = prepare(config, say)
    for note in prepared.notes:
        say(note)
    return prepared


def build_model(prepared: Prepared, say: Say) -> TextVAE:
    """A new model of the configuration, with weights initialised from `training.seed`."""
    config = prepared.config
    keras.utils.set_random_seed(config.training.seed)
    with computing_in(config.training.precision):
        model = TextVAE(config.model, config.objective)
    if config.training.frequency_bias:
        set_biases_to_frequencies(model, prepared)
    synchronize(model)
    size = f"{len(prepared.train):,}"
    training = (
        f"a training stream of {size} tokens"
        if config.data.reading.is_stream
        else f"{size} training texts"
    )
    say(
        f"{training}, {len(prepared.validation_texts):,} held out, "
        f"{len(prepared.alphabet)} symbols, {config.model.length} positions, "
        f"{model.count_params():,} parameters"
    )
    return model


def write_run_files(out: Path, prepared: Prepared, identity: str) -> None:
    """Write the files that make the claimed folder `out` a run. The configuration is first:
    `resume` can restore the others from it."""
    write_json(out / CONFIG, prepared.config.to_dict())
    write_json(out / VOCABULARY, prepared.alphabet.to_dict())
    write_json(out / IDENTITY, {"run": identity})
    remember_user(prepared.config, out)
    (out / REPORT).mkdir(exist_ok=True)


def note_missing_locks(out: Path, has_locks: bool, say: Say) -> None:
    """Warn that on a disk without locks two processes can write one run folder."""
    if not has_locks:
        say(
            f"{out} lies on a disk that keeps no locks: make sure that no second process trains "
            f"this run at the same time"
        )


def train_and_evaluate(
    out: Path, prepared: Prepared, model: TextVAE, checkpoint: Checkpoint | None, say: Say
) -> Run:
    """Fit, save and evaluate the model in the run folder `out`, from a checkpoint if one is
    given."""
    was_finished = fit(model, prepared, out, checkpoint, say)
    run = Run(out, prepared.config, prepared.alphabet, model)
    if was_finished and is_intact(out / MODEL) and is_evaluated(run):
        say("the run was finished already")
        # A longer run was tried, diverged and was given up.
        (out / DIVERGED).unlink(missing_ok=True)
        return run
    # Earlier reports were measured on the model that is now replaced.
    for name in (EVALUATION, REPORT_JSON, REPORT_PAGE):
        (out / REPORT / name).unlink(missing_ok=True)
    save_model(model, out / MODEL)
    say(f"evaluating on {len(prepared.validation):,} held-out texts")
    report = {**evaluation_of(model, prepared, say), "parameters": model.count_params()}
    write_json(out / REPORT / EVALUATION, report)
    if prepared.config.training.start_from is not None:
        note_gap(report, prepared.config.training.start_from, say)
    with optional("matplotlib", "pictures of the curves", say):
        plot_curves(out / METRICS, out / REPORT / "curves.png")
    return run


def is_evaluated(run: Run) -> bool:
    """Whether a run has an evaluation that can be read."""
    try:
        return bool(run.evaluation)
    except ModelError:
        return False


def evaluation_of(model: TextVAE, prepared: Prepared, say: Say) -> dict[str, Any]:
    """Metrics on the held-out split, and the entropy of the corpus if it is known."""
    report = evaluate(
        model,
        prepared.validation,
        attribute=prepared.validation_attribute,
        characters=character_count(prepared.validation_texts, prepared.config.data.reading.has_end),
        say=say,
    )
    entropy = entropy_of(prepared.config)
    return report if entropy is None else {**report, "entropy": entropy}


def files_to_replace(out: Path, overwrite: bool) -> list[Path]:
    """What a new run in the claimed folder `out` removes: nothing if it is empty; with `overwrite`
    the files of the present run.

    The configuration and the vocabulary are not among them, because the new run writes over them.
    Raises `ConfigError` if the folder is not free.
    """
    present = [path for path in out.iterdir() if path.name != LOCK]
    if not present:
        return []
    if not overwrite:
        raise ConfigError(
            f"--out {out}: exists already; go on with it (--resume), give a new folder, or "
            f"replace it with --overwrite"
        )
    missing = [name for name in (CONFIG, VOCABULARY) if not (out / name).is_file()]
    if missing:
        raise ConfigError(
            f"--overwrite: {out} is not a run folder (no {missing[0]}), it is left alone; give "
            f"another --out"
        )
    return [
        out / name for name in (*FILES_OF_OTHER_COMMANDS, *RUN_FILES[:-2]) if out / name in present
    ]


def save_model(model: TextVAE, path: Path) -> None:
    """Write a `.keras` file atomically, with the running means of the metrics reset. Raises
    `Diverged` if a variable is not finite."""
    model.reset_metrics()
    values_of(model)
    with atomic_write(path, exclusive=True) as partial:
        model.save(partial)
