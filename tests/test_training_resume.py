"""A run that was interrupted, by whatever, ends with the losses of one that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.configuration import Config
from kvae.presets import preset
from kvae.runs import load_run
from kvae.serving.errors import ConfigError, ModelError
from kvae.training import checkpoints, experiment, fit
from kvae.training.callbacks import Checkpoints
from kvae.training.checkpoints import latest_checkpoint, list_checkpoints
from kvae.training.experiment import resume, run, stored_config
from kvae.training.fit import segments

from .conftest import train_command


def quiet(sentence: str) -> None:
    pass


def config_of(settings: dict[str, Any], **more: Any) -> Config:
    changes = {
        "objective.input_dropout": 0.3,
        **{key.replace("__", "."): value for key, value in more.items()},
    }
    return preset("hybrid-lstm").with_settings({**settings, **changes})


def records(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def largest_difference(one: Path, other: Path) -> float:
    first, second = records(one), records(other)
    assert [line["step"] for line in first] == [line["step"] for line in second]
    return max(
        abs(line[name] - again[name])
        for line, again in zip(first, second, strict=True)
        for name in line
    )


class StopAt(Checkpoints):
    """As a signal that arrives while a step is under way."""

    at = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.steps_before_epoch + batch + 1 == self.at:
            self.stop.set()
        super().on_train_batch_end(batch, logs)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Interrupt every run at a step; at 0 none."""

    def at(step: int) -> None:
        monkeypatch.setattr(
            fit, "Checkpoints", type("Stop", (StopAt,), {"at": step}) if step else Checkpoints
        )

    return at


@pytest.mark.parametrize(
    "steps",
    [pytest.param((3,), marks=pytest.mark.jax), pytest.param((7, 9), marks=pytest.mark.slow)],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    tmp_path: Path,
    run_folder: Path,
    run_settings: dict[str, Any],
    interrupted: Any,
    steps: tuple[int, ...],
) -> None:
    config = preset("hybrid-lstm").with_settings(run_settings)
    out = tmp_path / "run"
    said: list[str] = []
    for step in steps:
        interrupted(step)
        stopped, _ = (resume if out.exists() else run)(config, out, said.append)
        assert int(stopped.model.training_steps) == step
    assert any(f"stopped after {steps[-1]} steps" in sentence for sentence in said)
    interrupted(0)
    resume(stored_config(out), out, quiet)
    assert largest_difference(run_folder, out) <= 1e-6
    assert json.loads((out / "report/evaluation.json").read_text()) == pytest.approx(
        json.loads((run_folder / "report/evaluation.json").read_text()), abs=1e-5
    )


@pytest.mark.slow
def test_rules_that_wait_remember_what_they_waited_for(
    tmp_path: Path, shared_settings: dict[str, Any], interrupted: Any
) -> None:
    """Three rules act at the same steps as in a run without interruption.

    They are the ramp that starts after convergence, aggressive training and early stopping.
    """
    config = config_of(
        {**shared_settings, "training.epochs": 12, "training.learning_rate_schedule": "constant"},
        objective__ramp_after_convergence=True,
        objective__encoder_updates=2,
        training__early_stopping=2,
    )
    run(config, tmp_path / "whole", quiet)
    interrupted(60)
    run(config, tmp_path / "broken", quiet)
    interrupted(0)
    resume(config, tmp_path / "broken", quiet)
    assert largest_difference(tmp_path / "whole", tmp_path / "broken") <= 1e-6
    one, other = (load_run(tmp_path / name).model for name in ("whole", "broken"))
    for weight, again in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(weight, again, atol=1e-6, err_msg=weight.path)


def start(out: Path, data: Path, epochs: int) -> subprocess.Popen[bytes]:
    settings = {"training.checkpoint_steps": 2, "objective.ramp_steps": 100}
    arguments = ["--preset", "hybrid-lstm", "--resume", "--epochs", str(epochs)]
    command = train_command(out, data, *arguments, settings=settings)
    errors = (out.parent / f"{out.name}.log").open("ab")
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=errors, env={**os.environ, "TQDM_DISABLE": "1"}
    )


def kill_and_resume(folder: Path, data: Path, epochs: int, kills: int, seed: int) -> None:
    """Kill a run `kills` times at random moments after progress, let it end, and compare."""
    generator = random.Random(seed)
    whole = start(folder / "whole", data, epochs)
    for _ in range(kills):
        process = start(folder / "killed", data, epochs)
        before = list_checkpoints(folder / "killed" / "checkpoints")
        while list_checkpoints(folder / "killed" / "checkpoints") == before:
            assert process.poll() is None, (folder / "killed.log").read_text()
            time.sleep(0.01)
        time.sleep(generator.uniform(0.0, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(folder / "killed", data, epochs).wait() == 0, (folder / "killed.log").read_text()
    assert whole.wait() == 0
    assert (folder / "killed.log").read_text().count("going on at step") == kills
    assert len(records(folder / "whole")) == epochs
    assert largest_difference(folder / "whole", folder / "killed") <= 1e-6


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_exactly(tmp_path: Path, corpus_file: Path) -> None:
    kill_and_resume(tmp_path, corpus_file, epochs=30, kills=1, seed=0)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path, corpus_file: Path) -> None:
    kill_and_resume(tmp_path, corpus_file, epochs=60, kills=10, seed=1)


def test_segments_lead_through_every_step_once() -> None:
    for first, total, each in [
        (0, 21, 7),
        (3, 21, 7),
        (9, 20, 7),
        (0, 5, 5),
        (16, 17, 4),
        (21, 21, 7),
    ]:
        steps = [
            (epoch, segment.first_step + number * segment.steps_per_epoch + step)
            for segment in segments(first, total, each)
            for number, epoch in enumerate(range(*segment.epochs))
            for step in range(segment.steps_per_epoch)
        ]
        assert steps == [(step // each, step) for step in range(first, total)]


def test_the_newest_whole_checkpoint_counts(tmp_path: Path, run_folder: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    older, newer = list_checkpoints(run_folder / "checkpoints")
    (folder / older.name).write_bytes(older.read_bytes())
    (folder / newer.name).write_bytes(newer.read_bytes()[:-200])
    (folder / ".partial-0123abcd-step-000000099.npz").write_bytes(b"PK")
    said: list[str] = []
    found = latest_checkpoint(folder, said.append)
    assert found is not None
    assert found.path.name == older.name
    assert "damaged" in said[0]


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    tmp_path: Path, shared_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = checkpoints.np.savez, []

    def full(file: Any, **arrays: Any) -> None:
        written.append(file)
        if len(written) > 2:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        write(file, **arrays)

    monkeypatch.setattr(checkpoints.np, "savez", full)
    config = preset("hybrid-lstm").with_settings(shared_settings)
    with pytest.raises(OSError, match="No space left"):
        run(config, tmp_path / "run", quiet)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000000007.npz", "step-000000014.npz"]
    monkeypatch.undo()
    finished, _ = resume(config, tmp_path / "run", quiet)
    assert int(finished.model.training_steps) == 21


def test_a_finished_run_is_left_as_it_is_and_may_be_made_longer(
    tmp_path: Path, shared_settings: dict[str, Any]
) -> None:
    out, said = tmp_path / "run", list[str]()
    config = preset("hybrid-lstm").with_settings({**shared_settings, "training.epochs": 1})
    run(config, out, quiet)
    before = (out / "model.keras").read_bytes()
    resume(stored_config(out), out, said.append)
    assert "the run was finished already" in said
    assert (out / "model.keras").read_bytes() == before
    longer, _ = resume(stored_config(out).with_settings({"training.epochs": 2}), out, said.append)
    assert int(longer.model.training_steps) == 14
    assert "training.epochs is 2 from now on, it was 1" in said
    assert [line["epoch"] for line in records(out)] == [1, 2]


@pytest.mark.slow
def test_a_shorter_length_after_a_kill_ends_with_the_last_checkpoint(
    tmp_path: Path,
    shared_settings: dict[str, Any],
    interrupted: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, config = tmp_path / "run", config_of(shared_settings, training__epochs=3)
    interrupted(5)
    run(config, out, quiet)  # leaves a model and an evaluation of step 5
    before = (out / "model.keras").read_bytes()
    interrupted(0)
    monkeypatch.setattr(
        experiment, "save_model", lambda model, path: (_ for _ in ()).throw(InterruptedError)
    )
    with pytest.raises(InterruptedError):  # killed before it was saved
        resume(config, out, quiet)
    monkeypatch.undo()
    resume(config.with_settings({"training.epochs": 2}), out, quiet)
    assert (out / "model.keras").read_bytes() != before
    assert (out / "report" / "evaluation.json").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.latent_size": 5}, r"model.latent_size is \(4,\) in the run and \(5,\) now"),
        ({"training.seed": 3}, "training.seed is 0 in the run and 3 now"),
        ({"objective.alpha": 0.5}, "objective.alpha"),
    ],
)
def test_a_run_is_not_resumed_as_another_one(
    run_folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resume(stored_config(run_folder).with_settings(changes), run_folder, quiet)


def test_a_corpus_that_changed_is_refused(
    tmp_path: Path, shared_settings: dict[str, Any], corpus_file: Path
) -> None:
    data = tmp_path / "names.txt"
    data.write_text(corpus_file.read_text())
    config = preset("hybrid-lstm").with_settings(
        {**shared_settings, "data.source": str(data), "training.steps": 2}
    )
    run(config, tmp_path / "run", quiet)
    data.write_text(corpus_file.read_text().replace("KAKAKA", "KAKARU"))
    with pytest.raises(ModelError, match="is not the corpus of this run, or has changed"):
        resume(config, tmp_path / "run", quiet)


@pytest.mark.slow
def test_early_stopping_keeps_the_best_weights(
    tmp_path: Path, shared_settings: dict[str, Any]
) -> None:
    said: list[str] = []
    settings = {
        **shared_settings,
        "training.epochs": 60,
        "training.early_stopping": 2,
        "training.learning_rate": 0.1,
        "training.learning_rate_schedule": "constant",
    }
    stopped, _ = run(preset("hybrid-lstm").with_settings(settings), tmp_path / "run", said.append)
    lines = records(stopped.path)
    after = [line for line in lines if line["val_beta"] == 1.0]
    best = min(after, key=lambda line: line["val_elbo"])
    assert len(lines) < 60
    assert lines[-1]["epoch"] == best["epoch"] + 2
    assert any(f"lowest at step {best['step']:,.0f} " in sentence for sentence in said)
    kept = checkpoints.read_checkpoint(stopped.path / "checkpoints" / fit.BEST)
    assert kept.about == json.loads((stopped.path / "run.json").read_text())
    stopped_elbo = stopped.evaluation["elbo"]
    assert stopped_elbo == pytest.approx(best["val_elbo"], rel=0.1)
    settings |= {
        "training.epochs": 62,
        "training.learning_rate": 1.0,
    }  # three times worse, but no divergence
    longer, _ = resume(preset("hybrid-lstm").with_settings(settings), tmp_path / "run", said.append)
    assert len(records(stopped.path)) == len(lines) + 2
    assert longer.evaluation["elbo"] <= stopped_elbo


@pytest.mark.slow
def test_a_resumed_run_has_the_learning_rate_it_is_given(
    tmp_path: Path, shared_settings: dict[str, Any]
) -> None:
    config = config_of(
        shared_settings, training__steps=2, training__learning_rate_schedule="constant"
    )
    run(config, tmp_path / "run", quiet)
    config = config.with_settings({"training.steps": 3, "training.learning_rate": 0.0007})
    slower, _ = resume(config, tmp_path / "run", quiet)
    assert float(slower.model.optimizer.learning_rate) == pytest.approx(0.0007)
    resume(
        config.with_settings({"training.steps": 4, "training.learning_rate_schedule": "cosine"}),
        tmp_path / "run",
        quiet,
    )


@pytest.mark.slow
def test_a_kill_behind_the_last_epoch_leaves_only_the_end_to_do(
    tmp_path: Path, shared_settings: dict[str, Any]
) -> None:
    """Best weights, model and evaluation may be left from an earlier step; they are renewed."""
    config = config_of(
        {**shared_settings, "training.epochs": 2, "objective.ramp_steps": 1},
        training__early_stopping=5,
    )
    out = tmp_path / "run"
    whole, _ = run(config, out, quiet)
    last = list_checkpoints(out / "checkpoints")[-1]
    found = latest_checkpoint(out / "checkpoints", quiet)
    assert found is not None
    about = {name: value for name, value in found.about.items() if name != "ended"}
    checkpoints.write_checkpoint(last, whole.model, about)
    (out / "report/evaluation.json").write_text("{}")
    again, _ = experiment.finished_run(config, out, quiet)
    assert again.evaluation["elbo"] == pytest.approx(whole.evaluation["elbo"])
    assert len(records(out)) == 2


def test_a_model_that_is_behind_its_checkpoints_is_said(
    tmp_path: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kvae.commands.run_folders import open_run

    copy = shutil.copytree(run_folder, tmp_path / "run")
    open_run(str(copy))
    assert capsys.readouterr().err == ""
    newest = list_checkpoints(copy / "checkpoints")[-1]
    newest.rename(newest.with_name("step-000000099.npz"))
    open_run(str(copy))
    assert "is 78 steps ahead of its model" in capsys.readouterr().err
