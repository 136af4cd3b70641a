"""A run that diverges loses nothing: the last good state stays, is named, and training resumes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from kvae.presets import preset
from kvae.runs import list_checkpoints, load_run
from kvae.serving.errors import CheckFailed, ModelError
from kvae.training import fit
from kvae.training.checkpoints import Diverged, read_checkpoint
from kvae.training.experiment import resume, run, stored_config
from kvae.training.step_callbacks import STEPS_UNREAD, Divergence, StepCallbacks


def quiet(sentence: str) -> None:
    pass


def strict_lines(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, read by a reader that knows no NaN."""
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def scalars(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Every number that TensorBoard would show as (tag, step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    for part in sorted({path.parent for path in folder.rglob("events.*")}):
        found = EventAccumulator(str(part), size_guidance={"tensors": 0})
        found.Reload()
        for tag in found.Tags()["tensors"]:
            for event in found.Tensors(tag):
                value = make_ndarray(event.tensor_proto)
                if value.dtype.kind == "f":
                    yield from ((tag, event.step, float(number)) for number in value.reshape(-1))


@pytest.mark.jax
def test_a_run_that_diverges_in_its_first_epoch_keeps_its_logs_and_metrics_and_begins_anew(
    tmp_path: Path, shared_settings: dict[str, Any]
) -> None:
    out, said = tmp_path / "run", list[str]()
    config = preset("hybrid-lstm").with_settings(
        {**shared_settings, "training.learning_rate": 1e30, "training.epochs": 1}
    )
    with pytest.raises(
        CheckFailed,
        match=r"training diverged at step \d \(the loss is .*--resume --out .* from the start",
    ):
        run(config, out, quiet)
    (line,) = strict_lines(out)
    diverged = json.loads((out / "diverged.json").read_text())
    assert (line["step"], line["diverged"]) == (diverged["step"], diverged["what"])
    assert line["loss"] > 0  # the last mean that was a number
    assert not (out / "model.keras").exists()
    assert not (out / "checkpoints").exists()
    assert all(np.isfinite(value) for _, _, value in scalars(out / "logs"))
    with pytest.raises(
        ModelError, match=r"training diverged at step \d .*--set training\.learning_rate=0\.00"
    ):
        load_run(out)
    resume(config.with_settings({"training.learning_rate": 0.01}), out, said.append)
    assert any("training diverged at step" in sentence for sentence in said)
    assert "the run has no checkpoint yet, starting" in said
    assert not (out / "diverged.json").exists()
    assert [line["step"] for line in strict_lines(out)] == [7]


@pytest.mark.slow
def test_a_resumed_run_that_diverges_leaves_model_and_checkpoints_and_goes_on_from_them(
    tmp_path: Path, run_folder: Path
) -> None:
    out, said = shutil.copytree(run_folder, tmp_path / "run"), list[str]()
    kept = ("model.keras", "report/evaluation.json", "vocabulary.json")
    before = {name: (out / name).read_bytes() for name in kept}
    files = [path.name for path in list_checkpoints(out / "checkpoints")]
    longer = {"training.epochs": 5, "training.learning_rate_schedule": "constant"}
    for _ in range(2):  # the second attempt begins where the first did
        with pytest.raises(CheckFailed, match="goes on from its last good checkpoint"):
            resume(
                stored_config(out).with_settings({**longer, "training.learning_rate": 1e30}),
                out,
                said.append,
            )
        assert said.count("going on at step 21") == len(
            [each for each in said if each.startswith("going on")]
        )
        assert {name: (out / name).read_bytes() for name in kept} == before
        assert [path.name for path in list_checkpoints(out / "checkpoints")] == files
    assert [("diverged" in line) for line in strict_lines(out)] == [False, False, False, True]
    assert all(np.isfinite(value) for _, _, value in scalars(out / "logs"))
    finished, _ = resume(
        stored_config(out).with_settings({**longer, "training.learning_rate": 0.001}),
        out,
        said.append,
    )
    assert [line["step"] for line in strict_lines(out)] == [7, 14, 21, 28, 35]
    assert int(finished.model.training_steps) == 35
    assert not (out / "diverged.json").exists()


@pytest.mark.slow
def test_a_moving_variance_that_is_infinite_ends_a_run_before_it_is_written(
    tmp_path: Path, shared_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of training does not show it."""

    class MetricsFile(fit.MetricsFile):  # its state stands in checkpoints under this name
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, logs)
            if epoch == 1:
                spoilt = next(
                    each
                    for each in self.model.non_trainable_variables
                    if "moving_variance" in each.path
                )
                spoilt.assign(np.full(spoilt.shape, np.inf, np.float32))

    out = tmp_path / "run"
    config = preset("hybrid-lstm").with_settings(
        {**shared_settings, "model.posterior": "batch_normalized"}
    )
    monkeypatch.setattr(fit, "MetricsFile", MetricsFile)
    with pytest.raises(
        CheckFailed, match=r"training diverged at step 14 \(.*moving_variance is not finite\)"
    ):
        run(config, out, quiet)
    monkeypatch.undo()
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == ["step-000000007.npz"]
    read_checkpoint(out / "checkpoints" / "step-000000007.npz")
    assert not (out / "model.keras").exists()
    said: list[str] = []
    resume(config, out, said.append)
    assert "going on at step 7" in said
    assert [line["step"] for line in strict_lines(out)] == [7, 14, 21]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("how", ["truncated", "removed"])
def test_a_finished_run_without_a_checkpoint_that_can_be_read_does_not_begin_anew(
    tmp_path: Path, run_folder: Path, how: str
) -> None:
    out = shutil.copytree(run_folder, tmp_path / "run")
    for path in list_checkpoints(out / "checkpoints"):
        path.write_bytes(path.read_bytes()[:-300]) if how == "truncated" else path.unlink()
    before, said = contents(out), list[str]()
    reason = (
        "none of its 2 checkpoints can be read"
        if how == "truncated"
        else "has a model but no checkpoint to continue from"
    )
    with pytest.raises(
        ModelError, match=f"--resume: .*{reason}.*training.start_from=.*nothing was changed"
    ):
        resume(stored_config(out), out, said.append)
    assert contents(out) == before
    assert not any("starting" in sentence for sentence in said)


@pytest.mark.slow
def test_checkpoints_that_an_attempt_left_do_not_outlive_the_one_that_goes_on(
    tmp_path: Path, run_folder: Path
) -> None:
    """A damaged newer checkpoint would displace those that a resumed run writes."""
    out = shutil.copytree(run_folder, tmp_path / "run")
    older, newer = list_checkpoints(out / "checkpoints")
    newer.write_bytes(newer.read_bytes()[:-300])
    newer.rename(newer.with_name("step-000000099.npz"))
    resume(stored_config(out), out, quiet)
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == [
        older.name,
        "step-000000021.npz",
    ]


def test_a_divergence_is_found_later_with_its_step_and_the_metrics_before_it() -> None:
    divergence = Divergence()
    model: Any = SimpleNamespace(training_steps=np.array(100))
    callbacks = StepCallbacks([divergence], model=model, epochs=1, steps=1000, verbose=0)
    callbacks.on_epoch_begin(0)
    for batch in range(STEPS_UNREAD - 1):
        loss = np.float32(np.nan if batch >= 4 else batch)
        callbacks.on_train_batch_end(batch, {"loss": loss})
    with pytest.raises(Diverged, match=r"step 105 \(the loss is nan\)") as caught:
        callbacks.on_train_batch_end(STEPS_UNREAD - 1, {"loss": np.float32(np.nan)})
    assert caught.value.last == {"loss": 3.0}
    divergence.set_params({"steps": 7})
    callbacks.on_epoch_begin(1)
    with pytest.raises(Diverged, match="step 107"):  # the last step of an epoch
        callbacks.on_train_batch_end(6, {"loss": np.inf})


def test_the_metrics_of_a_step_are_handed_over_as_they_are() -> None:
    given = list[Any]()
    seen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: given.append(logs))
    logs = {"loss": keras.ops.ones(())}
    StepCallbacks([seen]).on_train_batch_end(0, logs)
    assert given[0] is logs
