"""Studies: train and measure rows, judge statements, draw a figure (`kvae reproduce`).

A study is data (`training/studies`). This file trains the runs that are not finished yet, reuses
those that are, judges the statements and writes the results.
"""

from __future__ import annotations

import csv
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kvae import __version__
from kvae.configuration import Config, dotted_keys, dotted_value
from kvae.disk import add_path_to_errors
from kvae.runs import CONFIG, METRICS, Run, check_bound, parse_json, read_epochs, write_json
from kvae.sections import nearest
from kvae.serving.errors import CheckFailed, ConfigError
from kvae.writing import LOCK, atomic_write, has_content, sole_writer

from .data.prepare import Prepared
from .experiment import finished_run
from .hardware import hardware
from .messages import Say

RESULT = "result.json"
RESULTS, TABLE, FIGURE = "results.json", "results.csv", "figure.png"
SAMPLES = "samples"
"""The key of a result under which sampled texts are stored."""

Numbers = Mapping[str, Mapping[str, float]]
"""What a statement is judged by: by row name, each metric's mean over the seeds.

`study` holds the metrics of `Study.measure_study`. When a single seed is judged, the metrics are
those of that seed and `OVERALL` holds the means over all seeds, so that a statement that picks a
row picks the same one for every seed.
"""
OVERALL = "overall"


@dataclass(frozen=True)
class Row:
    """One configuration of a study, trained once for each seed."""

    name: str
    config: Config
    series: str = ""
    """The curve of the figure that this row is a point of."""
    x: float = 0.0
    """Its x coordinate in the figure."""
    published: Mapping[str, float] = field(default_factory=dict)
    """The numbers that the source reports, by the names of `Study.columns`."""
    start_from: str = ""
    """An earlier row: this row is initialised with its weights, seed by seed."""


@dataclass(frozen=True)
class Verdict:
    """Whether a statement holds, and the numbers that decide it; None if some are missing."""

    passed: bool | None
    evidence: str
    seeds: Sequence[bool] = ()
    """Whether it holds for each seed by itself; empty if there is only one seed."""


@dataclass(frozen=True)
class Statement:
    """A claim about a study, by its source or by us, that the numbers can contradict."""

    text: str
    source: str
    check: Callable[[Numbers], tuple[bool, str]]
    """Returns whether the claim holds, and the numbers that decide it as a phrase."""
    failure_note: str = ""
    """Why it failed at the small scale, as far as we know; the book prints it."""

    def judge(self, numbers: Numbers) -> Verdict:
        """The verdict; it stays open if a row is missing."""
        try:
            passed, evidence = self.check(numbers)
        except KeyError as missing:
            return Verdict(None, f"not measured: {missing.args[0]}")
        return Verdict(bool(passed), evidence)

    def judge_report(self, report: Mapping[str, Any]) -> Verdict:
        """The verdict on the means over a report's seeds, and on each seed by itself."""
        rows, study = report["rows"], {"study": report["study"]}
        by_seed = [
            [row for row in rows if row["seed"] == seed]
            for seed in sorted({row["seed"] for row in rows})
        ]
        overall: Any = row_means(rows)
        verdicts = [
            self.judge({**row_means(of_seed), **study, OVERALL: overall}) for of_seed in by_seed
        ]
        seeds = [bool(verdict.passed) for verdict in verdicts if verdict.passed is not None]
        return replace(
            self.judge({**row_means(rows), **study}), seeds=seeds if len(seeds) > 1 else ()
        )


@dataclass(frozen=True)
class Study:
    """A table or figure of a source, as `kvae reproduce ID` trains, measures and judges it."""

    title: str
    source: str
    about: str
    """The text of its chapter: which models and data, and what the scale `small` changes."""
    scales: Mapping[str, Callable[[], Sequence[Row]]]
    """The functions that make its rows, by scale: `small` and `paper`."""
    columns: Mapping[str, str]
    """The columns of its table: metric to heading."""
    statements: Sequence[Statement] = ()
    draw: Callable[[Sequence[Mapping[str, Any]], Path], None] | None = None
    """Writes the figure from the results."""
    measure: Callable[[Run, Prepared], dict[str, Any]] | None = None
    """Further metrics of a trained row, and sampled texts under `SAMPLES`."""
    measure_study: Callable[[Sequence[Row], Say], dict[str, float]] | None = None
    """Metrics of the study as a whole."""
    published_rows: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """Rows of the source without one of ours: mean and standard deviation, by metric."""
    sampled_rows: Callable[[Numbers], Sequence[str]] | None = None
    """The rows whose samples the book shows: those that `measure` stored for the first seed."""
    seeds: int = 1
    """Runs of each row unless the user asks for another number."""


def reproduce(
    study: Study,
    folder: Path,
    say: Say,
    scale: str = "small",
    seeds: int | None = None,
    rows: Sequence[str] = (),
) -> dict[str, Any]:
    """Train and measure a study in `folder`; finished runs of the same configuration are reused.

    Returns the content of `folder`/results.json: `scale`, `rows` (one entry for each row and seed)
    and `study` (metrics of the study as a whole). `rows` restricts training to the rows of these
    names. A run that diverges is reported and skipped; statements that need a missing row stay
    open. Other processes may train other rows in the same folder at the same time.

    Raises `ConfigError` for an unknown row, for fewer than 1 seed, and for a run that another
    process is training. A stopped command raises `KeyboardInterrupt` and continues when it is run
    again.
    """
    every_row = list(study.scales[scale]())
    todo = planned_runs(study, scale, seeds, rows)
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(todo, folder, say)
    for row, seed in todo:
        if row_result(folder, row, seed) is None:
            progress.announce(row, seed)
            try:
                result = train_and_measure(
                    run_folder(folder, row.name, seed),
                    run_config(folder, row, seed),
                    study.measure,
                    say,
                )
            except CheckFailed as error:  # this run diverged; the others are still trained
                say(f"{row.name}, seed {seed}: {error}")
            else:
                progress.record(row, result)
    whole_study = study_metrics(study, folder, every_row, say)
    # Another process may train other rows of the study and write the same files.
    with sole_writer(folder / LOCK, folder, wait=True):
        results = list(finished_rows(folder, every_row, 1 + max(seed for _, seed in todo)))
        report = {"scale": scale, "rows": results, "study": whole_study}
        write_json(folder / RESULTS, report)
        with atomic_write(folder / TABLE) as partial:
            write_csv(partial, results)
        if study.draw and results:
            with atomic_write(folder / FIGURE) as partial:
                study.draw(results, partial)
    return report


def verdicts_of(study: Study, report: Mapping[str, Any]) -> list[tuple[Statement, Verdict]]:
    """Each statement of the study with its verdict, by the numbers of a report."""
    return [(statement, statement.judge_report(report)) for statement in study.statements]


def planned_runs(
    study: Study, scale: str, seeds: int | None, rows: Sequence[str]
) -> list[tuple[Row, int]]:
    """The runs of a study, each a row and a seed, in the order in which they are trained.

    Raises `ConfigError` for an unknown row and for fewer than 1 seed.
    """
    chosen = selected_rows(list(study.scales[scale]()), rows)
    count = study.seeds if seeds is None else seeds
    if count < 1:
        raise ConfigError(f"--seeds must be at least 1, got {count}")
    return [(row, seed) for seed in range(count) for row in chosen]


def unfinished_configs(
    study: Study,
    folder: Path,
    scale: str = "small",
    seeds: int | None = None,
    rows: Sequence[str] = (),
) -> list[Config]:
    """The configurations of the runs that `reproduce` would train."""
    return [
        row.config
        for row, seed in planned_runs(study, scale, seeds, rows)
        if row_result(folder, row, seed) is None
    ]


def selected_rows(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows with these names, or all rows if there are no names; `ConfigError` if unknown."""
    known = {row.name: row for row in rows}
    for name in names:
        if name not in known:
            raise ConfigError(f"--rows: no row is called {name!r}{nearest(name, known)}")
    return [known[name] for name in names] if names else list(rows)


def run_folder(folder: Path, row: str, seed: int) -> Path:
    """The run folder of a row, by its name, and a seed."""
    return folder / row / f"seed-{seed}"


def run_config(folder: Path, row: Row, seed: int) -> Config:
    """The configuration of a row's run: with its seed, and the run that initialises its weights."""
    start = {}
    if row.start_from:
        start = {"training.start_from": str(run_folder(folder, row.start_from, seed))}
    return row.config.with_settings({"training.seed": seed, **start})


def row_result(folder: Path, row: Row, seed: int) -> dict[str, Any] | None:
    """The result of a row and seed if its run is finished with this configuration, else None."""
    return finished_result(run_folder(folder, row.name, seed), run_config(folder, row, seed))


class Progress:
    """Prints the next run and the minutes left, estimated from the seconds a trained position."""

    def __init__(self, todo: Sequence[tuple[Row, int]], folder: Path, say: Say) -> None:
        self.say, self.total = say, len(todo)
        self.seconds, self.positions_done = 0.0, 0.0
        self.positions_left = sum(trained_positions(row.config) for row, _ in todo)
        done = [(row, result) for row, seed in todo if (result := row_result(folder, row, seed))]
        for row, result in done:
            self.record(row, result)
        self.started = len(done)
        if done:
            say(f"{self.started} of {self.total} runs are already finished")

    def announce(self, row: Row, seed: int) -> None:
        """Print the number and name of the next run and the minutes left."""
        self.started += 1
        minutes = 0.0
        if self.positions_done:
            minutes = self.seconds / self.positions_done * self.positions_left / 60
        left = f", about {max(minutes, 1):.0f} minutes left" if minutes else ""
        self.say(f"[{self.started} of {self.total}] {row.name}, seed {seed}{left}")

    def record(self, row: Row, result: Mapping[str, Any]) -> None:
        """Count a finished run."""
        self.seconds += result["seconds"]
        self.positions_done += trained_positions(row.config)
        self.positions_left -= trained_positions(row.config)


def trained_positions(config: Config) -> float:
    """Positions that a run trains on, an estimate of its time; texts count at least 16 each."""
    training = config.training
    steps = training.steps or training.epochs * (training.steps_per_epoch or 1000)
    return float(steps * training.batch_size * max(config.model.length, 16))


def finished_result(folder: Path, config: Config) -> dict[str, Any] | None:
    """The result in a run folder if the run is finished with this configuration, else None."""
    file = folder / RESULT
    if not file.is_file():
        return None
    result = parse_json(file.read_text(encoding="utf-8"))
    return result if Config.from_dict(result["asked"]) == config else None


def train_and_measure(
    folder: Path,
    config: Config,
    measure: Callable[[Run, Prepared], dict[str, Any]] | None,
    say: Say,
) -> dict[str, Any]:
    """Train or resume a run, evaluate it, and write and return its result.

    Raises `ConfigError` if something other than a run folder occupies `folder`, `CheckFailed` if
    the run diverged, and `KeyboardInterrupt` if it is stopped.
    """
    started = time.monotonic()
    foreign = folder.exists() and not (folder / CONFIG).is_file()
    if foreign and (not folder.is_dir() or has_content(folder)):
        raise ConfigError(f"{folder} exists and is not a run folder; move it or give another --out")
    trained, prepared = finished_run(config, folder, say)
    check_bound(trained)
    seconds = round(time.monotonic() - started)
    result = {
        "asked": config.to_dict(),
        "settings": changed_settings(trained.config.with_settings({"training.start_from": None})),
        "seconds": seconds,
        "parameters": trained.model.count_params(),
        "made_with": versions_and_hardware(),
        **trained.evaluation,
        **(measure(trained, prepared) if measure else {}),
        "curve": learning_curve(folder / METRICS),
    }
    write_json(folder / RESULT, result)
    keras.backend.clear_session()
    return result


def changed_settings(config: Config) -> dict[str, Any]:
    """The settings that differ from the defaults: `kvae train --set` makes this run from them."""
    defaults = Config()
    return {
        key: dotted_value(config, key)
        for key in dotted_keys()
        if dotted_value(config, key) != dotted_value(defaults, key)
    }


def versions_and_hardware() -> dict[str, str]:
    """The versions of Python, kvae, Keras and the backend, and the hardware of this process."""
    backend = keras.backend.backend()
    versions = {name: importlib.metadata.version(name) for name in ("keras", backend)}
    return {
        "python": platform.python_version(),
        "kvae": __version__,
        **versions,
        "backend": backend,
        "hardware": hardware(),
    }


CURVE_METRICS = (
    "step",
    "reconstruction",
    "val_reconstruction",
    "val_kl",
    "val_elbo",
    "val_bits_per_character",
)


def learning_curve(metrics: Path) -> dict[str, list[float]]:
    """The learning curves of a run, by metric: a value for each epoch."""
    if not metrics.is_file():
        return {}
    records = read_epochs(metrics)
    return {
        name: [record[name] for record in records]
        for name in CURVE_METRICS
        if all(name in record for record in records)
    }


def finished_rows(folder: Path, rows: Sequence[Row], seeds: int) -> Iterator[dict[str, Any]]:
    """The results of the finished runs, by row and seed; each entry also describes its row."""
    for row in rows:
        for seed in range(seeds):
            result = row_result(folder, row, seed)
            if result is not None:
                about = {
                    "row": row.name,
                    "seed": seed,
                    "series": row.series,
                    "x": row.x,
                    "published": dict(row.published),
                    **({"start_from": row.start_from} if row.start_from else {}),
                }
                yield about | {name: value for name, value in result.items() if name != "asked"}


def study_metrics(study: Study, folder: Path, rows: Sequence[Row], say: Say) -> dict[str, float]:
    """The metrics of the study as a whole: measured once, then read from `folder`/study.json."""
    if study.measure_study is None:
        return {}
    file = folder / "study.json"
    if not file.is_file():
        write_json(file, study.measure_study(rows, say))
    metrics: dict[str, float] = parse_json(file.read_text(encoding="utf-8"))
    return metrics


def row_means(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By row and metric, the mean over the seeds."""
    return {
        row: {metric: float(np.mean(values)) for metric, values in metrics.items()}
        for row, metrics in row_values(results).items()
    }


def row_values(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """By row and metric, the values of all seeds."""
    rows: dict[str, dict[str, list[float]]] = {}
    for result in results:
        metrics = rows.setdefault(result["row"], {})
        for key, value in result.items():
            if isinstance(value, int | float) and key != "seed":
                metrics.setdefault(key, []).append(value)
    return rows


def write_csv(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file with a line for each run and a column for each scalar of its result."""
    scalars = (
        key for item in results for key, value in item.items() if not isinstance(value, dict | list)
    )
    names = list(dict.fromkeys(scalars))
    with add_path_to_errors(path), path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(results)
