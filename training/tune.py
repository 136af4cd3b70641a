"""Hyper-parameter search with KerasTuner: `kvae tune`.

Every trial is a run folder, so that TensorBoard can compare them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from kvae.configuration import Config, dotted_keys
from kvae.disk import add_path_to_errors
from kvae.runs import check_bound, parse_json, write_json
from kvae.sections import nearest
from kvae.serving.errors import CheckFailed, ConfigError
from kvae.writing import PathInUse, claimed_folder, has_content

from .experiment import finished_run
from .fit import standard_output_to_error

RESULTS = "results.json"
TRIALS = "trials"
METRICS = (
    "elbo",
    "reconstruction",
    "kl",
    "active_units",
    "mutual_information",
    "bits_per_character",
)
"""Metrics of a trial that its results file contains."""

Range = tuple[float, float]
Search = Mapping[str, Range | list[Any]]
"""The search space: a range of numbers or a list of choices for each dotted key."""


def parse_search(text: str) -> tuple[str, Range | list[Any]]:
    """The key and values in `"objective.alpha=0.05..0.5"` or `"model.latent_size=[16,64,[32,16]]"`.

    The first is a range, the second a list of choices. Raises `ConfigError` for an unknown key and
    other forms.
    """
    key, equals, values = text.partition("=")
    if key not in dotted_keys():
        raise ConfigError(f"--search: no setting is called {key!r}{nearest(key, dotted_keys())}")
    low, dots, high = values.partition("..")
    try:
        if dots:
            parsed: Range | list[Any] = (float(low), float(high))
            valid = parsed[0] < parsed[1]
        else:
            parsed = json.loads(values) if equals else []
            valid = isinstance(parsed, list) and len(parsed) > 1
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            f"--search {text!r}: write KEY=LOW..HIGH for a range of numbers "
            f"or KEY=[A, B, ...] for choices, as in "
            f"objective.alpha=0.05..0.5 or model.latent_size=[16,64,[32,16]]"
        )
    return key, parsed


def default_search(config: Config) -> Search:
    """The default search space of a configuration.

    It contains the weight of the KL, the size of the latent code, a second level if the model can
    have one, and the weight of the auxiliary loss if there is one. Raises `ConfigError` for a
    language model.
    """
    if not config.model.has_code:
        raise ConfigError(
            "kvae tune: a language model has no code to tune; name settings with --search"
        )
    size = config.model.latent_size
    half, double = [max(1, n // 2) for n in size], [2 * n for n in size]
    sizes: list[Any] = [half, list(size), double]
    if len(size) == 1 and len(config.model.encoder_units) > 1:
        sizes.append([*size, *half])
    search: dict[str, Range | list[Any]] = {
        "objective.beta_max": (0.2, 1.0),
        "model.latent_size": sizes,
    }
    return {**search, "objective.alpha": (0.05, 0.5)} if config.model.auxiliary else search


class RunTuner(keras_tuner.Tuner):
    """KerasTuner's search over runs of kvae.

    A trial trains one configuration. Its score is the held-out bound.
    """

    def __init__(
        self, config: Config, search: Search, out: Path, trials: int, say: Callable[[str], None]
    ) -> None:
        self.base, self.search_space, self.out, self.say = config, search, out, say
        oracle = keras_tuner.oracles.RandomSearchOracle(
            keras_tuner.Objective("elbo", "min"),
            max_trials=trials,
            seed=config.training.seed,
            hyperparameters=hyperparameter_space(search),
            max_consecutive_failed_trials=trials + 1,
        )
        super().__init__(oracle, directory=str(out), project_name="search")

    def search(self, *arguments: Any, **options: Any) -> None:
        """Run trials until there are enough.

        A trial whose settings do not work together fails with one line; KerasTuner's own loop would
        print a traceback. Other errors, such as a missing file, end the search.
        """
        self.oracle.verbose = 0
        while (trial := self.oracle.create_trial(self.tuner_id)).status != "STOPPED":
            try:
                self.oracle.update_trial(trial.trial_id, self.run_trial(trial))
                trial.status = "COMPLETED"
            except PathInUse:  # another process uses the folder of the trial
                raise
            except (ConfigError, CheckFailed) as error:
                self.say(f"trial {trial.trial_id} failed: {error}")
                trial.status, trial.message = "FAILED", str(error)
            self.on_trial_end(trial)

    def run_trial(
        self, trial: keras_tuner.engine.trial.Trial, *arguments: Any, **options: Any
    ) -> dict[str, float]:
        """Train the configuration of a trial and return its metrics."""
        folder = self.out / TRIALS / trial.trial_id
        # KerasTuner draws new values for an interrupted trial; this file keeps the first ones
        values_file = folder.with_suffix(".json")
        if values_file.is_file():
            values = json.loads(values_file.read_text(encoding="utf-8"))
            trial.hyperparameters.values.update(values)
        values_file.parent.mkdir(exist_ok=True)
        write_json(values_file, trial.hyperparameters.values)
        settings = {
            key: setting_value(values, trial.hyperparameters.get(key))
            for key, values in self.search_space.items()
        }
        description = ", ".join(f"{key}={setting_text(value)}" for key, value in settings.items())
        self.say(f"trial {trial.trial_id}: {description}")
        trained, _ = finished_run(self.base.with_settings(settings), folder, self.say)
        check_bound(trained)
        metrics = {
            name: float(trained.evaluation[name]) for name in METRICS if name in trained.evaluation
        }
        write_json(folder / RESULTS, {"settings": settings, **metrics})
        keras.backend.clear_session()
        return metrics


def hyperparameter_space(search: Search) -> keras_tuner.HyperParameters:
    """The search space as KerasTuner's hyper-parameters.

    Choices are represented by their JSON. Ranges that span a factor of ten or more are sampled
    logarithmically.
    """
    space = keras_tuner.HyperParameters()
    for key, values in search.items():
        if isinstance(values, tuple):
            low, high = values
            space.Float(
                key, low, high, sampling="log" if low > 0 and high / low >= 10 else "linear"
            )
        else:
            space.Choice(key, [json.dumps(value) for value in values])
    return space


def setting_value(values: Range | list[Any], hyperparameter: Any) -> Any:
    """The setting that a hyper-parameter from `values` represents."""
    return float(hyperparameter) if isinstance(values, tuple) else json.loads(hyperparameter)


def tune(
    config: Config,
    out: str | Path,
    say: Callable[[str], None],
    trials: int = 20,
    search: Search | None = None,
) -> list[dict[str, Any]]:
    """Train `trials` variants of `config` and return the result of each, best first.

    The variants are drawn at random from `search` (Bergstra and Bengio 2012). The best one has the
    lowest held-out bound, which is computed with beta 1 for every variant. An interrupted search in
    `out` continues. Raises `ConfigError` if another process searches in `out`, and `CheckFailed` if
    every trial failed.
    """
    out = Path(out)
    search = search or default_search(config)
    if trials < 1:
        raise ConfigError(f"--trials must be at least 1, got {trials}")
    with claimed_folder(out):
        return run_search(config, search, out, trials, say)


def run_search(
    config: Config, search: Search, out: Path, trials: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """`tune` in a folder `out` that this process has claimed."""
    ranges = {key: list(values) for key, values in search.items()}
    config = stored_search(out / "tune.json", config, ranges)
    write_json(out / "tune.json", {"config": config.to_dict(), "search": ranges})
    with standard_output_to_error():  # KerasTuner prints there that it continues a search
        tuner = RunTuner(config, search, out, trials, say)
    with add_path_to_errors(out):
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


def stored_search(file: Path, config: Config, ranges: Mapping[str, list[Any]]) -> Config:
    """The configuration of the search that `file` describes, or `config` if there is no such file.

    It keeps the split of the data with which the search started. Raises `ConfigError` if anything
    else differs, because a folder contains one search only.
    """
    if not file.is_file():
        if has_content(file.parent):
            raise ConfigError(
                f"--out {file.parent}: exists already and holds no search; give a new folder"
            )
        return config
    content = json.loads(file.read_text(encoding="utf-8"))
    stored = Config.from_stored(content["config"])
    same_search = content["search"] == json.loads(json.dumps(ranges))
    if stored != config.with_split_of(stored) or not same_search:
        raise ConfigError(
            f"--out {file.parent}: holds a search over other settings; give a new folder"
        )
    return stored


def setting_text(value: Any) -> str:
    """A setting as text for a table."""
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A table with one row for each result, in the given order."""
    keys = list(results[0]["settings"])
    columns = ["elbo", "kl", "active_units"]
    names = [*columns, *keys]
    rows = [
        [
            f"{result['elbo']:.3f}",
            f"{result['kl']:.3f}",
            f"{result['active_units']:.0f}" if "active_units" in result else "-",
        ]
        + [setting_text(value) for value in result["settings"].values()]
        for result in results
    ]
    widths = [max(len(row[place]) for row in [names, *rows]) for place in range(len(names))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in [names, *rows]
    )
