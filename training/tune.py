"""Search for settings with KerasTuner: `kvae tune`. Every trial is a run folder, so that TensorBoard compares them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from kvae.configuration import Config, dotted_keys, nearest
from kvae.disk import naming
from kvae.runs import check_bound, parse_json, write_json
from kvae.serving.errors import CheckFailed, ConfigError
from kvae.writing import PathInUse, claimed_folder, has_content

from .experiment import finished_run
from .fit import standard_output_to_error

RESULTS = "results.json"
TRIALS = "trials"

Range = tuple[float, float]
Search = Mapping[str, Range | list[Any]]
"""What to try, by dotted key: a range of numbers or a list of choices."""


def parse_search(text: str) -> tuple[str, Range | list[Any]]:
    """`"objective.alpha=0.05..0.5"` as a key and a range, `"model.latent_size=[16,64,[32,16]]"` as a key and choices."""
    key, equals, values = text.partition("=")
    if key not in dotted_keys():
        raise ConfigError(f"--search: no setting is called {key!r}{nearest(key, dotted_keys())}")
    low, dots, high = values.partition("..")
    try:
        if dots:
            found: Range | list[Any] = (float(low), float(high))
            fits = found[0] < found[1]
        else:
            found = json.loads(values) if equals else []
            fits = isinstance(found, list) and len(found) > 1
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(
            f"--search {text!r}: write KEY=LOW..HIGH for a range of numbers or KEY=[A, B, ...] for choices, as in "
            f"objective.alpha=0.05..0.5 or model.latent_size=[16,64,[32,16]]"
        )
    return key, found


def usual_search(config: Config) -> Search:
    """What is worth trying first: the KL's weight, the size of the code, levels, and the auxiliary loss where there is one."""
    if not config.model.has_code:
        raise ConfigError("kvae tune: a language model has no code to tune; name settings with --search")
    size = config.model.latent_size
    smaller, larger = [max(1, n // 2) for n in size], [2 * n for n in size]
    sizes: list[Any] = [smaller, list(size), larger]
    if len(size) == 1 and len(config.model.encoder_units) > 1:
        sizes.append([*size, *smaller])
    search: dict[str, Range | list[Any]] = {"objective.beta_max": (0.2, 1.0), "model.latent_size": sizes}
    return {**search, "objective.alpha": (0.05, 0.5)} if config.model.auxiliary else search


class RunTuner(keras_tuner.Tuner):
    """KerasTuner's search over runs of kvae: a trial trains a configuration and is worth its held-out bound."""

    def __init__(self, config: Config, search: Search, out: Path, trials: int, say: Callable[[str], None]) -> None:
        self.base, self.wanted, self.out, self.say = config, search, out, say
        oracle = keras_tuner.oracles.RandomSearchOracle(
            keras_tuner.Objective("elbo", "min"),
            max_trials=trials,
            seed=config.training.seed,
            hyperparameters=space(search),
            max_consecutive_failed_trials=trials + 1,
        )
        super().__init__(oracle, directory=str(out), project_name="search")

    def search(self, *arguments: Any, **options: Any) -> None:
        """Run trials until there are enough. What does not fit together is a trial that failed, in one line, where KerasTuner's
        own loop prints a traceback; what is no fault of the trial, as a file that is not there, ends the search."""
        self.oracle.verbose = 0
        while (trial := self.oracle.create_trial(self.tuner_id)).status != "STOPPED":
            try:
                self.oracle.update_trial(trial.trial_id, self.run_trial(trial))
                trial.status = "COMPLETED"
            except PathInUse:  # another process has the trial's folder
                raise
            except (ConfigError, CheckFailed) as error:
                self.say(f"trial {trial.trial_id} failed: {error}")
                trial.status, trial.message = "FAILED", str(error)
            self.on_trial_end(trial)

    def run_trial(self, trial: Any, *arguments: Any, **options: Any) -> dict[str, float]:
        """Train what the trial says and return its numbers."""
        folder = self.out / TRIALS / trial.trial_id
        drawn = folder.with_suffix(".json")  # KerasTuner draws a trial anew that was interrupted
        if drawn.is_file():
            trial.hyperparameters.values.update(json.loads(drawn.read_text(encoding="utf-8")))
        drawn.parent.mkdir(exist_ok=True)
        write_json(drawn, trial.hyperparameters.values)
        settings = {key: value_of(self.wanted[key], trial.hyperparameters.get(key)) for key in self.wanted}
        described = ", ".join(f"{key}={shown(value)}" for key, value in settings.items())
        self.say(f"trial {trial.trial_id}: {described}")
        trained, _ = finished_run(self.base.with_settings(settings), folder, self.say)
        check_bound(trained)
        wanted = ("elbo", "reconstruction", "kl", "active_units", "mutual_information", "bits_per_character")
        found = {name: float(trained.evaluation[name]) for name in wanted if name in trained.evaluation}
        write_json(folder / RESULTS, {"settings": settings, **found})
        keras.backend.clear_session()
        return found


def space(search: Search) -> keras_tuner.HyperParameters:
    """The search as KerasTuner's hyper-parameters; choices are their JSON, ranges over a factor of ten are logarithmic."""
    found = keras_tuner.HyperParameters()
    for key, values in search.items():
        if isinstance(values, tuple):
            low, high = values
            found.Float(key, low, high, sampling="log" if low > 0 and high / low >= 10 else "linear")
        else:
            found.Choice(key, [json.dumps(value) for value in values])
    return found


def value_of(values: Range | list[Any], found: Any) -> Any:
    """What a hyper-parameter stands for."""
    return float(found) if isinstance(values, tuple) else json.loads(found)


def tune(
    config: Config, out: str | Path, say: Callable[[str], None], trials: int = 20, search: Search | None = None
) -> list[dict[str, Any]]:
    """Train `trials` variants of `config`, drawn at random from the search (Bergstra and Bengio 2012), and return what each
    reached, the best first: the lowest held-out bound, with beta 1 whatever is trained. A search in `out` that was
    interrupted goes on. Raises `ConfigError` where another process searches in `out`.
    """
    out = Path(out)
    search = search or usual_search(config)
    if trials < 1:
        raise ConfigError(f"--trials must be at least 1, got {trials}")
    with claimed_folder(out):
        return searched(config, search, out, trials, say)


def searched(
    config: Config, search: Search, out: Path, trials: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """`tune` in the claimed folder `out`."""
    ranges = {key: list(values) for key, values in search.items()}
    config = as_begun(out / "tune.json", config, ranges)
    write_json(out / "tune.json", {"config": config.to_dict(), "search": ranges})
    with standard_output_to_error():  # KerasTuner says there that it goes on
        tuner = RunTuner(config, search, out, trials, say)
    with naming(out):
        tuner.search()
    results = [
        {"run": str(file.parent), **parse_json(file.read_text(encoding="utf-8"))}
        for file in sorted((out / TRIALS).glob(f"*/{RESULTS}"))
    ]
    if not results:
        raise CheckFailed(f"no trial of {trials} succeeded; the reasons stand above")
    results.sort(key=lambda result: result["elbo"])
    write_json(out / RESULTS, results)
    return results


def as_begun(file: Path, config: Config, ranges: Mapping[str, list[Any]]) -> Config:
    """The configuration of the search that `file` keeps, with the split that it began with, or `config` where none has begun.
    Two searches are not mixed in a folder: raises `ConfigError` where anything else differs."""
    if not file.is_file():
        if has_content(file.parent):
            raise ConfigError(f"--out {file.parent}: exists already and holds no search; give a new folder")
        return config
    kept = json.loads(file.read_text(encoding="utf-8"))
    stored = Config.from_stored(kept["config"])
    if stored != config.with_split_of(stored) or kept["search"] != json.loads(json.dumps(ranges)):
        raise ConfigError(f"--out {file.parent}: holds a search over other settings; give a new folder")
    return stored


def shown(value: Any) -> str:
    """A setting as a table has it."""
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """The trials as rows, the best first."""
    keys = list(results[0]["settings"])
    columns = ["elbo", "kl", "active_units"]
    names = [*columns, *keys]
    rows = [
        [
            f"{result['elbo']:.3f}",
            f"{result['kl']:.3f}",
            f"{result['active_units']:.0f}" if "active_units" in result else "-",
        ]
        + [shown(value) for value in result["settings"].values()]
        for result in results
    ]
    widths = [max(len(row[place]) for row in [names, *rows]) for place in range(len(names))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [names, *rows]
    )
