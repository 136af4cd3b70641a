"""A run leaves a folder that answers every question, or nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.presets import preset
from kvae.runs import load_run
from kvae.serving.errors import ConfigError, DataError, ModelError
from kvae.training import experiment, fit, tensorboard
from kvae.training.experiment import run

METRICS = {
    "loss",
    "reconstruction",
    "kl",
    "kl_level_0",
    "auxiliary",
    "beta",
    "elbo",
    "bits_per_character",
}
"""Metrics of training and of validation."""


def quiet(sentence: str) -> None:
    pass


def test_a_run_folder_holds_configuration_vocabulary_model_metrics_and_report(
    run_folder: Path,
) -> None:
    names = {
        path.relative_to(run_folder).as_posix() for path in run_folder.rglob("*") if path.is_file()
    }
    assert {
        "config.json",
        "vocabulary.json",
        "model.keras",
        "metrics.jsonl",
        "report/evaluation.json",
        "report/curves.png",
    } <= names
    assert not [name for name in names if "partial" in name]


@pytest.mark.both
def test_the_metrics_file_has_a_line_an_epoch_with_every_metric(run_folder: Path) -> None:
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert [record["step"] for record in records] == [7, 14, 21]
    assert METRICS | {f"val_{name}" for name in METRICS} | {"gradient_norm"} <= set(records[0])


@pytest.mark.both
def test_a_run_comes_back_as_it_was_saved(run_folder: Path) -> None:
    trained = load_run(run_folder)
    assert trained.config.model.length == 16
    assert int(trained.model.training_steps) == 21
    from kvae.training.data.prepare import held_out
    from kvae.training.evaluation import evaluate

    again = evaluate(trained.model, held_out(trained.config, trained.alphabet).rows)
    again["parameters"] = trained.model.count_params()
    assert again == pytest.approx(trained.evaluation)
    assert trained.evaluation["elbo"] == pytest.approx(
        trained.evaluation["reconstruction"] + trained.evaluation["kl"]
    )


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return found


def test_tensorboard_has_every_metric_for_training_and_validation_on_the_same_axes(
    run_folder: Path,
) -> None:
    train, validation = (events(run_folder / "logs" / part) for part in ("train", "validation"))
    assert METRICS | {"gradient_norm", "learning_rate"} <= set(train.Tags()["tensors"])
    latent = {
        "active_units",
        "mutual_information",
        "kl_per_dimension",
        "samples",
        "reconstructions",
    }
    assert METRICS | latent <= set(validation.Tags()["tensors"])
    for found, name in (
        (train, "loss"),
        (validation, "loss"),
        (validation, "kl_per_dimension"),
        (validation, "samples"),
    ):
        assert [event.step for event in found.Tensors(name)] == [7, 14, 21]


def test_tensorboard_shows_reconstructions_beside_their_originals(
    run_folder: Path, corpus_file: Path
) -> None:
    (text,) = (
        events(run_folder / "logs" / "validation")
        .Tensors("reconstructions")[-1]
        .tensor_proto.string_val
    )
    originals = [
        line.strip() for line in text.decode().splitlines() if line.strip() and "->" not in line
    ]
    assert set(originals) <= set(corpus_file.read_text().split())
    assert text.decode().count("->") == len(originals) > 0


def test_a_folder_that_exists_is_never_touched(
    tmp_path: Path, small_settings: dict[str, Any]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("data")
    with pytest.raises(ConfigError, match="exists already"):
        run(preset("hybrid-lstm").with_settings(small_settings), tmp_path / "mine", quiet)
    assert (tmp_path / "mine" / "precious").read_text() == "data"


@pytest.mark.both
@pytest.mark.parametrize(
    "settings", [{"data.source": "nowhere.txt"}, {"model.length": 15}, {"model.head": "none"}]
)
def test_what_cannot_start_leaves_no_folder(
    tmp_path: Path, small_settings: dict[str, Any], settings: dict[str, Any]
) -> None:
    with pytest.raises((ConfigError, DataError)):
        run(
            preset("hybrid-lstm").with_settings({**small_settings, **settings}),
            tmp_path / "run",
            quiet,
        )
    assert not (tmp_path / "run").exists()


def test_a_run_that_breaks_before_its_first_checkpoint_leaves_no_folder(
    tmp_path: Path, small_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*arguments: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(experiment, "fit", full_disk)
    with pytest.raises(OSError, match="no space"):
        run(preset("hybrid-lstm").with_settings(small_settings), tmp_path / "run", quiet)
    assert list(tmp_path.iterdir()) == []


def test_steps_end_a_run_within_an_epoch(tmp_path: Path, shared_settings: dict[str, Any]) -> None:
    trained, _ = run(
        preset("hybrid-lstm").with_settings({**shared_settings, "training.steps": 9}),
        tmp_path / "run",
        quiet,
    )
    assert int(trained.model.training_steps) == 9


def test_a_ramp_longer_than_the_run_is_said(
    tmp_path: Path, shared_settings: dict[str, Any]
) -> None:
    said: list[str] = []
    settings = {**shared_settings, "training.steps": 2}
    run(preset("hybrid-lstm").with_settings(settings), tmp_path / "run", said.append)
    assert any("the ramp will only reach 0.20" in sentence for sentence in said)


def test_training_metrics_come_every_so_many_steps_and_never_twice(
    tmp_path: Path, shared_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Often(tensorboard.TensorBoardMonitor):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, every=7)

    monkeypatch.setattr(tensorboard, "TensorBoardMonitor", Often)
    trained, _ = run(
        preset("hybrid-lstm").with_settings({**shared_settings, "training.steps": 15}),
        tmp_path / "run",
        quiet,
    )
    assert [event.step for event in events(trained.path / "logs" / "train").Tensors("loss")] == [
        7,
        14,
        15,
    ]


@pytest.mark.slow
def test_the_same_seed_trains_the_same_model(
    tmp_path: Path, run_folder: Path, run_settings: dict[str, Any]
) -> None:
    first = load_run(run_folder)
    second, _ = run(preset("hybrid-lstm").with_settings(run_settings), tmp_path / "run", quiet)
    for one, other in zip(
        first.model.trainable_weights, second.model.trainable_weights, strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6, err_msg=one.path)


@pytest.mark.slow
def test_a_stream_trains_as_windows(tmp_path: Path, shared_settings: dict[str, Any]) -> None:
    settings = {
        **shared_settings,
        "data.mode": "windows",
        "training.steps": 4,
        "data.validation_fraction": 0.3,
    }
    trained, ready = run(preset("hybrid-lstm").with_settings(settings), tmp_path / "run", quiet)
    assert trained.evaluation["positions"] == ready.validation.size
    assert trained.evaluation["reconstruction"] == pytest.approx(
        trained.evaluation["reconstruction_with_padding"]
    )


def test_a_second_ctrl_c_keeps_the_model_of_that_moment(
    tmp_path: Path, shared_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupt(fit.MetricsFile):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if int(self.model.training_steps) == 3:
                raise KeyboardInterrupt

    said: list[str] = []
    monkeypatch.setattr(fit, "MetricsFile", Interrupt)
    trained, _ = run(
        preset("hybrid-lstm").with_settings(shared_settings), tmp_path / "run", said.append
    )
    assert int(load_run(trained.path).model.training_steps) == 3
    assert any("stopped after 3 steps" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("name", "message"), [("config.json", "not a run folder"), ("model.keras", "has not finished")]
)
def test_a_run_that_lacks_a_file_is_a_model_error(
    tmp_path: Path, run_folder: Path, name: str, message: str
) -> None:
    import shutil

    copy = shutil.copytree(run_folder, tmp_path / "run")
    (copy / name).unlink()
    with pytest.raises(ModelError, match=message):
        load_run(copy)


def test_a_vocabulary_of_another_model_is_a_model_error(tmp_path: Path, run_folder: Path) -> None:
    import shutil

    copy = shutil.copytree(run_folder, tmp_path / "run")
    vocabulary = json.loads((copy / "vocabulary.json").read_text())
    (copy / "vocabulary.json").write_text(
        json.dumps({**vocabulary, "symbols": vocabulary["symbols"][1:]})
    )
    with pytest.raises(ModelError, match="13 symbols, the model 14"):
        load_run(copy)


def test_a_damaged_model_is_a_model_error(tmp_path: Path, run_folder: Path) -> None:
    import shutil

    copy = shutil.copytree(run_folder, tmp_path / "run")
    (copy / "model.keras").write_bytes((copy / "model.keras").read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        load_run(copy)
