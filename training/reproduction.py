"""Studies: rows that are trained and measured, statements about them, a figure. `kvae reproduce ID` runs one.

A study is data (`training/studies`). This file trains what is missing, keeps what is there, judges and writes it all down.
"""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kvae import __version__
from kvae.configuration import Config, dotted_keys, dotted_value, nearest
from kvae.disk import naming
from kvae.runs import CONFIG, METRICS, Run, check_bound, epochs_of, parse_json, write_json
from kvae.serving.errors import CheckFailed, ConfigError
from kvae.steps import backend_steps
from kvae.writing import LOCK, atomic_write, has_content, sole_writer

from .corpora import Prepared
from .experiment import finished_run

RESULT = "result.json"
RESULTS, TABLE, FIGURE = "results.json", "results.csv", "figure.png"
SAMPLES = "samples"
"""The texts in a run's result."""

Say = Callable[[str], None]
Numbers = Mapping[str, Mapping[str, float]]
"""Means over the seeds: the rows by name, each metric by name; `study` holds what `Study.beside` measured. Of one seed alone
they also hold the means, so that what is judged is the row that they choose (`OVERALL`)."""
OVERALL = "overall"


@dataclass(frozen=True)
class Row:
    """One configuration of a study, trained once for each seed."""

    name: str
    config: Config
    series: str = ""
    """The curve of the figure that it belongs to."""
    x: float = 0.0
    """Its place along the figure's axis."""
    published: Mapping[str, float] = field(default_factory=dict)
    """What the source reports of it, by the names of `Study.columns`."""
    start_from: str = ""
    """A row before it, with whose weights of the same seed it begins."""


@dataclass(frozen=True)
class Verdict:
    """Whether a statement holds of the numbers, and by which of them; None where they are not all there."""

    passed: bool | None
    evidence: str
    seeds: Sequence[bool] = ()
    """Whether it holds of each seed alone, where there are several."""


@dataclass(frozen=True)
class Statement:
    """Something a source or an issue of ours says of a study, that numbers can contradict."""

    text: str
    source: str
    check: Callable[[Numbers], tuple[bool, str]]
    otherwise: str = ""
    """What is known about why it failed at the small scale, for the book."""

    def judge(self, numbers: Numbers) -> Verdict:
        """The verdict; rows that are missing leave it open."""
        try:
            passed, evidence = self.check(numbers)
        except KeyError as missing:
            return Verdict(None, f"not measured: {missing.args[0]}")
        return Verdict(bool(passed), evidence)

    def judge_report(self, report: Mapping[str, Any]) -> Verdict:
        """The verdict on the means of a report's runs, and on each seed."""
        rows, study = report["rows"], {"study": report["study"]}
        by_seed = [[row for row in rows if row["seed"] == seed] for seed in sorted({row["seed"] for row in rows})]
        overall: Any = means(rows)
        alone = [self.judge({**means(each), **study, OVERALL: overall}).passed for each in by_seed]
        seeds = [bool(passed) for passed in alone if passed is not None]
        return replace(self.judge({**means(rows), **study}), seeds=seeds if len(seeds) > 1 else ())


@dataclass(frozen=True)
class Study:
    """What `kvae reproduce ID` does."""

    title: str
    source: str
    about: str
    """What is trained on what, and what `small` changes."""
    scales: Mapping[str, Callable[[], Sequence[Row]]]
    """Its rows, `small` and `paper`."""
    columns: Mapping[str, str]
    """Metrics of the table with their headings."""
    statements: Sequence[Statement] = ()
    draw: Callable[[Sequence[Mapping[str, Any]], Path], None] | None = None
    """Writes the figure from the results."""
    measure: Callable[[Run, Prepared], dict[str, Any]] | None = None
    """More metrics of a trained row; texts may stand under `SAMPLES`."""
    beside: Callable[[Sequence[Row], Say], dict[str, float]] | None = None
    """Metrics of the study as a whole."""
    samples: Callable[[Numbers], Sequence[str]] | None = None
    """The rows whose samples the book shows: the first seed's, of those that `measure` puts under `SAMPLES`."""
    seeds: int = 1


def reproduce(
    study: Study, folder: Path, say: Say, scale: str = "small", seeds: int | None = None, rows: Sequence[str] = ()
) -> dict[str, Any]:
    """Train, measure and judge a study in `folder`; what is there with the same configuration is not trained again.

    Returns what `folder`/results.json holds: `scale`, `rows` (one for each row and seed) and `study`. `rows` names some of
    the rows; statements that need others stay open, as they do where a run diverged. Another process may train other rows of
    the folder at the same time. Raises `ConfigError` for unknown rows, fewer seeds than 1 and a run that another process is
    training, and `KeyboardInterrupt` when it is stopped; run again, it goes on.
    """
    everything = list(study.scales[scale]())
    todo = planned(study, scale, seeds, rows)
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(todo, folder, say)
    for row, seed in todo:
        if existing(folder, row, seed) is None:
            progress.announce(row, seed)
            try:
                result = measured(run_folder(folder, row, seed), asked(folder, row, seed), study.measure, say)
            except CheckFailed as error:  # it diverged; the others go on
                say(f"{row.name}, seed {seed}: {error}")
            else:
                progress.finished(row, result)
    beside = study_numbers(study, folder, everything, say)
    with sole_writer(folder / LOCK, folder, wait=True):  # another process may train other rows of the study
        results = list(collected(folder, everything, 1 + max(seed for _, seed in todo)))
        report = {"scale": scale, "rows": results, "study": beside}
        write_json(folder / RESULTS, report)
        with atomic_write(folder / TABLE) as partial:
            write_csv(partial, results)
        if study.draw and results:
            with atomic_write(folder / FIGURE) as partial:
                study.draw(results, partial)
    return report


def judged(study: Study, report: Mapping[str, Any]) -> list[tuple[Statement, Verdict]]:
    """The study's statements with what the numbers of a report say of them."""
    return [(statement, statement.judge_report(report)) for statement in study.statements]


def planned(study: Study, scale: str, seeds: int | None, rows: Sequence[str]) -> list[tuple[Row, int]]:
    """The runs of a study, each a row and a seed, in their order."""
    chosen = selected(list(study.scales[scale]()), rows)
    count = study.seeds if seeds is None else seeds
    if count < 1:
        raise ConfigError(f"--seeds must be at least 1, got {count}")
    return [(row, seed) for seed in range(count) for row in chosen]


def unfinished(
    study: Study, folder: Path, scale: str = "small", seeds: int | None = None, rows: Sequence[str] = ()
) -> list[Config]:
    """What `reproduce` would train."""
    return [row.config for row, seed in planned(study, scale, seeds, rows) if existing(folder, row, seed) is None]


def selected(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows of those names, or all."""
    known = {row.name: row for row in rows}
    for name in names:
        if name not in known:
            raise ConfigError(f"--rows: no row is called {name!r}{nearest(name, known)}")
    return [known[name] for name in names] if names else list(rows)


def run_folder(folder: Path, row: Row, seed: int) -> Path:
    """Where a row's run of a seed lies."""
    return folder / row.name / f"seed-{seed}"


def asked(folder: Path, row: Row, seed: int) -> Config:
    """A row's configuration with that seed of weights, batches and noise, and the run it begins with."""
    first = {"training.start_from": str(folder / row.start_from / f"seed-{seed}")} if row.start_from else {}
    return row.config.with_settings({"training.seed": seed, **first})


def existing(folder: Path, row: Row, seed: int) -> dict[str, Any] | None:
    """The result of a row and seed, if its run was finished with this configuration."""
    return kept(run_folder(folder, row, seed), asked(folder, row, seed))


class Progress:
    """Says which run comes next and how long all of them will take, by what the finished ones took for their size."""

    def __init__(self, todo: Sequence[tuple[Row, int]], folder: Path, say: Say) -> None:
        self.say, self.total = say, len(todo)
        self.seconds, self.trained, self.left = 0.0, 0.0, sum(size(row.config) for row, _ in todo)
        there = [(row, result) for row, seed in todo if (result := existing(folder, row, seed))]
        for row, result in there:
            self.finished(row, result)
        self.done = len(there)
        if there:
            say(f"{self.done} of {self.total} runs are there already")

    def announce(self, row: Row, seed: int) -> None:
        self.done += 1
        minutes = self.seconds / self.trained * self.left / 60 if self.trained else 0.0
        left = f", about {max(minutes, 1):.0f} minutes left" if minutes else ""
        self.say(f"[{self.done} of {self.total}] {row.name}, seed {seed}{left}")

    def finished(self, row: Row, result: Mapping[str, Any]) -> None:
        self.seconds += result["seconds"]
        self.trained += size(row.config)
        self.left -= size(row.config)


def size(config: Config) -> float:
    """Positions that a run is trained on, a measure of its time."""
    training = config.training
    steps = training.steps or training.epochs * (training.steps_per_epoch or 1000)
    return float(steps * training.batch_size * max(config.model.length, 16))


def kept(folder: Path, config: Config) -> dict[str, Any] | None:
    """The result of a run that was finished with this configuration."""
    file = folder / RESULT
    if not file.is_file():
        return None
    result = parse_json(file.read_text(encoding="utf-8"))
    return result if Config.from_dict(result["asked"]) == config else None


def measured(
    folder: Path, config: Config, measure: Callable[[Run, Prepared], dict[str, Any]] | None, say: Say
) -> dict[str, Any]:
    """Train and evaluate one run, or go on with it, and write its result; Ctrl-C ends the command."""
    started = time.monotonic()
    if folder.exists() and not (folder / CONFIG).is_file() and (not folder.is_dir() or has_content(folder)):
        raise ConfigError(f"{folder} is in the way and not a run folder; move it or give another --out")
    trained, prepared = finished_run(config, folder, say)
    check_bound(trained)
    seconds = round(time.monotonic() - started)
    result = {
        "asked": config.to_dict(),
        "settings": changes(trained.config.with_settings({"training.start_from": None})),
        "seconds": seconds,
        "parameters": trained.model.count_params(),
        "made_with": surroundings(),
        **trained.evaluation,
        **(measure(trained, prepared) if measure else {}),
        "curve": curve(folder / METRICS),
    }
    write_json(folder / RESULT, result)
    keras.backend.clear_session()
    return result


def changes(config: Config) -> dict[str, Any]:
    """The settings that are not the defaults: with them, `kvae train --set ...` makes this run."""
    plain = Config()
    return {
        key: dotted_value(config, key) for key in dotted_keys() if dotted_value(config, key) != dotted_value(plain, key)
    }


def surroundings() -> dict[str, str]:
    """Versions and hardware."""
    backend = keras.backend.backend()
    versions = {"kvae": __version__, **{name: importlib.metadata.version(name) for name in ("keras", backend)}}
    return {"python": platform.python_version(), **versions, "backend": backend, "hardware": hardware()}


def hardware() -> str:
    """The devices a run is trained on."""
    accelerators = backend_steps().accelerators()
    if accelerators:
        return ", ".join(f"{accelerators.count(name)} {name}" for name in dict.fromkeys(accelerators))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU core(s), {processor()}"


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


CURVES = ("step", "reconstruction", "val_reconstruction", "val_kl", "val_elbo", "val_bits_per_character")


def curve(metrics: Path) -> dict[str, list[float]]:
    """The learning curve of a run: an entry for each epoch."""
    if not metrics.is_file():
        return {}
    records = epochs_of(metrics)
    return {name: [record[name] for record in records] for name in CURVES if all(name in item for item in records)}


def collected(folder: Path, rows: Sequence[Row], seeds: int) -> Iterator[dict[str, Any]]:
    """The results that are there, in the order of the rows, without what only the run folder needs."""
    for row in rows:
        for seed in range(seeds):
            result = existing(folder, row, seed)
            if result is not None:
                about = {
                    "row": row.name,
                    "seed": seed,
                    "series": row.series,
                    "x": row.x,
                    "published": dict(row.published),
                    **({"start_from": row.start_from} if row.start_from else {}),
                }
                yield {**about, **{name: value for name, value in result.items() if name != "asked"}}


def study_numbers(study: Study, folder: Path, rows: Sequence[Row], say: Say) -> dict[str, float]:
    """What is measured of the study as a whole, once: `folder`/study.json keeps it."""
    if study.beside is None:
        return {}
    file = folder / "study.json"
    if not file.is_file():
        write_json(file, study.beside(rows, say))
    return parse_json(file.read_text(encoding="utf-8"))


def means(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Each row's metrics, the mean over its seeds."""
    return {
        name: {key: float(np.mean(values)) for key, values in each.items()} for name, each in by_row(results).items()
    }


def by_row(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """The numbers of each row, one a seed."""
    rows: dict[str, dict[str, list[float]]] = {}
    for result in results:
        numbers = rows.setdefault(result["row"], {})
        for key, value in result.items():
            if isinstance(value, int | float) and key != "seed":
                numbers.setdefault(key, []).append(value)
    return rows


def write_csv(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """A line for each run, its numbers in columns."""
    plain = (key for item in results for key, value in item.items() if not isinstance(value, dict | list))
    names = list(dict.fromkeys(plain))
    with naming(path), path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(results)
