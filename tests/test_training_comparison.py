"""Results of runs side by side: what is read, what is not comparable, the table and the picture."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvae.configuration import Config
from kvae.presets import preset
from kvae.runs import load_run, write_json
from kvae.serving.errors import ConfigError, ModelError
from kvae.training import results
from kvae.training.comparison import (
    comparison_notes,
    draw_rate_and_distortion,
    nearest_preset,
)

NUMBERS = {
    "texts": 100,
    "elbo": 50.0,
    "bits_per_character": 2.5,
    "reconstruction": 42.0,
    "kl": 8.0,
    "mutual_information": 3.5,
    "mutual_information_texts": 10_000,
    "active_units": 12,
    "latent_size": 32,
}


def stored(
    folder: Path, config: Config | None = None, evaluation: dict[str, Any] | None = None
) -> Path:
    """A run folder with a configuration, two epochs and an evaluation, without a model."""
    (folder / "report").mkdir(parents=True)
    write_json(folder / "config.json", (config or preset("cnn-small")).to_dict())
    epochs = [{"epoch": n, "step": 250 * n, "seconds": 90.0 * n} for n in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in epochs))
    if evaluation is not None:
        write_json(folder / "report" / "evaluation.json", evaluation)
    return folder


def test_a_result_is_what_the_run_measured(run_folder: Path) -> None:
    result, trained = results(run_folder), load_run(run_folder)
    assert result == results(trained)
    assert trained.evaluation.items() <= result.items()
    assert result["parameters"] == trained.model.count_params()
    assert result["state"] == "evaluated"
    assert result["steps"] == 21
    assert result["source"] == trained.config.data.source
    assert result["preset"] == "hybrid-lstm"
    assert "model.head_units=12" in result["changes"].split()
    assert "model.encoder_units=[8,16]" in result["changes"].split()


def test_results_of_several_runs_have_the_same_keys(tmp_path: Path) -> None:
    one = stored(tmp_path / "one", evaluation={**NUMBERS, "kl_level_0": 3.0})
    other = stored(tmp_path / "other", evaluation=NUMBERS)
    first, second = results([one, other])
    assert list(first) == list(second)
    assert (first["kl_level_0"], second["kl_level_0"]) == (3.0, None)
    assert (second["minutes"], second["steps"], second["elbo"]) == (3.0, 500, 50.0)


def test_a_stored_ceiling_of_information_is_kept_and_a_missing_one_is_ln_n(tmp_path: Path) -> None:
    new = {**NUMBERS, "mutual_information_ceiling": 8.0}
    found = [
        results(stored(tmp_path / str(number), evaluation=each))["mutual_information_ceiling"]
        for number, each in enumerate((NUMBERS, new, {**NUMBERS, "kl": 0.0}))
    ]
    assert found == [pytest.approx(math.log(10_000)), 8.0, None]


def test_results_are_read_without_keras(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run", evaluation=NUMBERS)
    code = (
        "import sys; from kvae.cli import main; from kvae.training import results; "
        "results([sys.argv[1]]); main(['compare', sys.argv[1]]); "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded & {"keras", "tensorflow", "jax", "matplotlib"} == set()


def test_a_folder_that_is_no_run_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not a run folder .* give folders that `kvae train"):
        results(tmp_path)
    with pytest.raises(ModelError, match="does not exist"):
        results([stored(tmp_path / "run"), tmp_path / "missing"])


def test_a_run_without_an_evaluation_says_why(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run")
    assert results(folder)["state"].startswith("not evaluated: training has not ended; `kvae train")
    assert results(folder)["elbo"] is None
    write_json(folder / "diverged.json", {"step": 7, "what": "the loss"})
    assert results(folder)["state"] == "not evaluated: training diverged at step 7 (the loss)"


def test_a_bound_that_is_not_finite_is_said_and_not_compared(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run", evaluation={**NUMBERS, "elbo": float("nan")})
    assert results(folder)["state"].startswith("the bound is not finite")
    assert results(folder)["kl"] == 8.0
    other = stored(tmp_path / "other", evaluation={**NUMBERS, "texts": 5})
    assert comparison_notes(results([folder, other])) == []


def test_a_preset_for_molecules_is_that_of_molecules_alone() -> None:
    config = preset("hybrid-moses-small")
    assert nearest_preset(config)[0] == "hybrid-moses-small"
    of_words = config.with_settings({"model.tokenizer": "bpe", "model.token_pattern": ""})
    assert "moses" not in nearest_preset(of_words)[0]


def test_the_nearest_preset_is_found_with_what_differs() -> None:
    changes = {"model.latent_size": [16], "training.learning_rate": 0.5, "training.steps": 9}
    from_data = {"model.length": 60, "model.vocabulary_size": 30, "data.source": "x.txt"}
    config = preset("hybrid-bytenet-ptb-small").with_settings({**changes, **from_data})
    name, found = nearest_preset(config)
    assert name == "hybrid-bytenet-ptb-small"
    assert found == {"model.latent_size": (16,), "training.learning_rate": 0.5}


def notes_on(tmp_path: Path, **changes: Any) -> list[str]:
    """The notes on two runs, of which the second has other settings or numbers."""
    settings = {key: value for key, value in changes.items() if "." in key}
    numbers = {key: value for key, value in changes.items() if "." not in key}
    one = stored(tmp_path / "one", evaluation=NUMBERS)
    other = preset("cnn-small").with_settings(settings)
    return comparison_notes(results([one, stored(tmp_path / "two", other, NUMBERS | numbers)]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.source": "other.txt"}, "different held-out texts (data.source), so their nats"),
        ({"data.validation": "v.txt"}, "(data.validation)"),
        ({"data.split_seed": 1}, "(data.split_seed)"),
        ({"texts": 99}, "(number of held-out texts)"),
        (
            {"model.tokenizer": "word"},
            "different tokenizers, so their nats are not comparable; bits",
        ),
        ({"model.attributes": ["a", "b"]}, "-log p(text given label)"),
    ],
)
def test_what_is_not_comparable_is_said(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    (note,) = notes_on(tmp_path, **changes)
    assert words in note


def test_comparable_runs_need_no_note(tmp_path: Path) -> None:
    assert notes_on(tmp_path, **{"model.latent_size": [8], "elbo": 60.0}) == []


def test_a_run_without_numbers_is_not_compared(tmp_path: Path) -> None:
    other = preset("cnn-small").with_settings({"data.source": "other.txt"})
    runs = [stored(tmp_path / "one", evaluation=NUMBERS), stored(tmp_path / "two", other)]
    assert comparison_notes(results(runs)) == []


def test_the_picture_has_a_point_for_each_evaluated_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    seen: list[tuple[str, Any]] = []
    annotate = Axes.annotate

    def noted(axis: Any, text: str, point: tuple[float, float], **rest: Any) -> Any:
        seen.append((text, axis))
        assert point in [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines]
        return annotate(axis, text, point, **rest)

    monkeypatch.setattr(Axes, "annotate", noted)
    shifted = {**NUMBERS, "kl": 3.0, "reconstruction": 44.0}
    runs = [
        stored(tmp_path / "one", evaluation=NUMBERS),
        stored(tmp_path / "other", evaluation=shifted),
        stored(tmp_path / "two"),
    ]
    draw_rate_and_distortion(results(runs), tmp_path / "runs.png")
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")
    assert [name for name, _ in seen] == ["one", "other"]
    (left, right), (low, high) = seen[0][1].get_xlim(), seen[0][1].get_ylim()
    assert left < 3.0 < 8.0 < right
    assert low < 42.0 < 44.0 < high
    with pytest.raises(ConfigError, match="nothing to draw"):
        draw_rate_and_distortion(results(runs[2:]), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_command_prints_a_row_for_each_run(kvae: Any, tmp_path: Path) -> None:
    other = preset("cnn-small").with_settings({"data.source": "other.txt"})
    runs = [
        stored(tmp_path / "one", evaluation={**NUMBERS, "parameters": 12345}),
        stored(tmp_path / "two", other, NUMBERS),
        stored(tmp_path / "three"),
    ]
    code, out, _ = kvae("compare", *runs)
    lines = out.splitlines()
    assert code == 0
    headings = re.split(" {2,}", lines[2].strip())
    assert headings[:6] == ["run", "preset", "tokens", "texts", "bound", "bits/char"]
    assert headings[6:13] == ["reconstr.", "KL", "inform.", "at most", "active", "of", "minutes"]
    cells = re.split(" +", lines[3])
    assert cells[1:7] == ["cnn-small", "char", "100", "50.00", "2.500", "42.00"]
    assert cells[7:] == ["8.00", "3.50", "9.21", "12", "32", "3.0", "12,345"]
    assert "not evaluated: training has not ended" in lines[5]
    assert lines[-1].startswith("The runs have different held-out texts (data.source)")

    code, out, _ = kvae("compare", *runs, "--json")
    report = json.loads(out)
    assert [each["elbo"] for each in report["runs"]] == [50.0, 50.0, None]
    assert len(report["notes"]) == 1

    code, out, err = kvae("compare", *runs, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["elbo"] for row in rows] == ["50.0", "50.0", ""]
    assert "different held-out texts" in err


def test_the_command_draws_and_refuses(kvae: Any, tmp_path: Path) -> None:
    run = stored(tmp_path / "one", evaluation=NUMBERS)
    assert kvae("compare", run, "--picture", tmp_path / "a.png")[0] == 0
    assert (tmp_path / "a.png").is_file()
    code, out, err = kvae("compare", run, "--picture", tmp_path / "a.svg")
    assert (code, out) == (2, "")
    assert "a name that ends in .png" in err
    shutil.rmtree(run / "report")
    (tmp_path / "empty").mkdir()
    code, out, err = kvae("compare", run, tmp_path / "empty")
    assert (code, out) == (3, "")
    assert "not a run folder" in err
