"""A checkpoint is whole and finite, or refused with one line."""

import io
import json
import random
import re
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.serving.errors import ModelError
from kvae.training.callbacks import (
    Checkpoints,
    EarlyStop,
    MetricsFile,
    is_good,
    unneeded_checkpoints,
)
from kvae.training.checkpoints import (
    ABOUT,
    REQUIRED_TO_RESUME,
    Diverged,
    latest_checkpoint,
    read_checkpoint,
    restore_checkpoint,
    restore_states,
    variable_groups,
    write_checkpoint,
)

from .conftest import small_model

ABOUT_IT: dict[str, Any] = {
    "step": 0,
    "epoch": 0,
    "corpus": "c0ffee",
    "callbacks": {
        "MetricsFile": {"lines": 0, "seconds": 1.5},
        "EarlyStop": {"best": None, "waited": 0, "best_step": 0},
    },
    "within_epoch": True,
    "good": True,
}


@pytest.fixture(scope="module")
def model() -> Any:
    """A compiled model whose posterior has moving statistics and whose optimizer has moments."""
    made = small_model(posterior="batch_normalized")
    made.compile(keras.optimizers.Adam(1e-3, global_clipnorm=5.0))
    made.optimizer.build(made.trainable_variables)
    return made


@pytest.fixture
def checkpoint(tmp_path: Path, model: Any) -> Path:
    path = tmp_path / "checkpoints" / "step-000000000.npz"
    write_checkpoint(path, model, ABOUT_IT)
    return path


def callbacks(folder: Path) -> dict[str, Any]:
    return {
        "MetricsFile": MetricsFile(folder / "metrics.jsonl"),
        "EarlyStop": EarlyStop(1, folder / "best.npz", print),
    }


def opened(path: Path, model: Any) -> None:
    """All that a resumed run does with a checkpoint."""
    found = read_checkpoint(path, REQUIRED_TO_RESUME)
    restore_checkpoint(model, found)
    restore_states(callbacks(path.parent), found)


def with_about(path: Path, about: Any) -> None:
    """Write a valid archive with this description of its run and without variables."""
    with path.open("wb") as file:
        np.savez(file, **{ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)})


@pytest.mark.parametrize("group", ["trainable", "other", "optimizer", "metric"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_number_that_is_not_finite_anywhere_keeps_a_checkpoint_from_being_written(
    checkpoint: Path, model: Any, group: str, value: float
) -> None:
    before = checkpoint.read_bytes()
    variable = [
        each
        for each in variable_groups(model, within_epoch=True)[group]
        if "float" in str(each.dtype)
    ][-1]
    kept = keras.ops.convert_to_numpy(variable)
    changed = kept.copy()
    changed.reshape(-1)[-1] = value
    variable.assign(changed)
    try:
        with pytest.raises(Diverged, match="is not finite"):
            write_checkpoint(checkpoint, model, ABOUT_IT)
    finally:
        variable.assign(kept)
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_of_an_earlier_version_that_is_not_finite_is_passed_over(
    checkpoint: Path,
) -> None:
    arrays = dict(np.load(checkpoint))
    place = next(
        name
        for name, value in arrays.items()
        if name.startswith("other/") and value.dtype.kind == "f"
    )
    arrays[place] = np.full_like(arrays[place], np.inf)
    with (checkpoint.parent / "step-000000009.npz").open("wb") as file:
        np.savez(file, **arrays)
    said: list[str] = []
    found = latest_checkpoint(checkpoint.parent, said.append)
    assert found is not None
    assert found.path == checkpoint
    assert "training had diverged when it was written" in said[0]


def damaged(content: bytes, number: int) -> bytes:
    """The bytes of a file, cut short or with some of them changed."""
    chosen = random.Random(number)
    if number % 2:
        return content[: chosen.randrange(len(content))]
    changed = bytearray(content)
    # the last bytes are the archive's directory, where a change does most
    places = range(len(content)) if number % 4 else range(len(content) - 2000, len(content))
    for _ in range(chosen.choice((1, 3, 30))):
        changed[chosen.choice(places)] = chosen.randrange(256)
    return bytes(changed)


def refusal(path: Path, model: Any = None) -> str:
    """The message with which a checkpoint is refused, or "" if it is taken.

    Without a model, what the checkpoint says of its run is read.
    """
    try:
        if model is None:
            restore_states(callbacks(path.parent), read_checkpoint(path, REQUIRED_TO_RESUME))
        else:
            opened(path, model)
    except ModelError as error:
        return str(error)
    return ""


def check_changes_of_bytes(path: Path, model: Any, count: int) -> None:
    content = path.read_bytes()
    for number in range(count):
        path.write_bytes(damaged(content, number))
        told = refusal(path, model)
        assert "\n" not in told, number
        # zipfile quotes the damaged name of an array
        advice = re.sub(
            r"trainable|training had diverged|directory '.*?' and header .*? differ", "", told
        )
        assert "train" not in advice, number


def test_any_change_of_its_bytes_is_a_model_error(checkpoint: Path, model: Any) -> None:
    check_changes_of_bytes(checkpoint, model, 150)


@pytest.mark.slow
def test_thousands_of_changes_of_its_bytes_are_model_errors(checkpoint: Path, model: Any) -> None:
    check_changes_of_bytes(checkpoint, model, 5000)


def test_a_step_that_is_not_that_of_its_model_is_refused(checkpoint: Path, model: Any) -> None:
    write_checkpoint(checkpoint, model, {**ABOUT_IT, "step": 3})
    assert "says step 3 and holds the model of step 0" in refusal(checkpoint, model)


VALUES = (None, True, -1, 0, 1, 2**63, 10**400, 0.5, -1e308, "", "x", [], [[]], {}, {"a": 1})


def variants(data: Any) -> list[Any]:
    """The data with each value replaced by each of `VALUES`, deleted, or under another name."""
    if not isinstance(data, dict):
        return []
    found = []
    for key, value in data.items():
        rest = {name: each for name, each in data.items() if name != key}
        found += [rest, {**rest, key + "x": value}]
        found += [{**rest, key: other} for other in (*VALUES, *variants(value))]
    return found


def test_any_change_of_what_it_says_of_its_run_is_a_model_error_or_changes_nothing_it_can_tell(
    checkpoint: Path,
) -> None:
    changed = variants(ABOUT_IT)
    refusals = []
    for about in [*changed, None, [], 3, "x"]:
        with_about(checkpoint, about)
        refusals.append(refusal(checkpoint))
        assert "\n" not in refusals[-1], about
    assert len(changed) > 200
    assert sum(map(bool, refusals)) > 0.8 * len(
        changed
    )  # another corpus, seconds or best value are possible ones


def archive(**parts: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in parts.items():
            made.writestr(name, content)
    return file.getvalue()


def test_what_it_takes_to_read_is_bounded_by_its_size(tmp_path: Path) -> None:
    """One archive unpacks to a thousand times its size.

    An array in another says that it is larger than its bytes.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**20)},  # four terabytes
    )
    for content in (
        archive(**{"a.npy": bytes(10**8)}),
        archive(**{"a.npy": header.getvalue()}) + b" " * 200,
    ):
        path = tmp_path / "step-000000001.npz"
        path.write_bytes(content)
        tracemalloc.start()
        with pytest.raises(ModelError, match="damaged"):
            read_checkpoint(path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 2**22


@pytest.mark.parametrize("change", ["shape", "kind", "missing", "more"])
def test_a_checkpoint_of_another_model_changes_nothing(
    checkpoint: Path, model: Any, change: str
) -> None:
    arrays = dict(np.load(checkpoint))
    count = len(model.trainable_variables)
    last = arrays[f"trainable/{count - 1}"]
    changed = {
        "shape": {f"trainable/{count - 1}": last[:-1]},
        "kind": {"other/0": np.float32(1.5) * np.ones_like(arrays["other/0"], np.float32)},
        "missing": {},
        "more": {f"trainable/{count}": last},
    }[change]
    if change == "missing":
        del arrays[f"trainable/{count - 1}"]
    arrays["trainable/0"] = arrays["trainable/0"] + 1.0
    with checkpoint.open("wb") as file:
        np.savez(file, **{**arrays, **changed})
    before = model.get_weights()
    with pytest.raises(ModelError, match=r"another model.*--resume takes the one before"):
        opened(checkpoint, model)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_none_that_can_be_read_is_not_taken_for_none(checkpoint: Path) -> None:
    assert latest_checkpoint(checkpoint.parent / "other", print) is None
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(
        ModelError, match="none of its 1 checkpoints can be read; take one from a copy"
    ):
        latest_checkpoint(checkpoint.parent, lambda sentence: None)


def test_files_with_other_names_are_no_checkpoints(checkpoint: Path) -> None:
    (checkpoint.parent / "step-final.npz").write_text("mine")
    (checkpoint.parent / "step-000000007 (copy).npz").write_text("mine")
    found = latest_checkpoint(checkpoint.parent, pytest.fail)
    assert found is not None
    assert found.path == checkpoint


def test_the_newest_two_and_the_last_good_one_stay() -> None:
    paths = [Path(f"step-{step:09d}.npz") for step in (1, 2, 3, 4, 9)]
    assert unneeded_checkpoints(paths, paths[3], paths[0]) == [paths[1], paths[4]]
    assert unneeded_checkpoints(paths, paths[3], paths[3]) == [paths[0], paths[1], paths[4]]
    assert unneeded_checkpoints(paths[:1], paths[0], None) == []


def test_two_bad_epochs_leave_the_last_good_checkpoint(tmp_path: Path, model: Any) -> None:
    guessing = 16 * np.log(9)
    good, bad = (
        {"loss": 20.0, "reconstruction": 15.0},
        {"loss": 500.0, "reconstruction": 2.1 * guessing},
    )
    assert is_good(model, good)
    assert not is_good(model, bad)
    assert not is_good(model, {**good, "val_elbo": float("nan")})
    writer = Checkpoints(tmp_path / "checkpoints", {"corpus": "c0ffee"})
    writer.set_model(model)
    steps = model.training_steps
    try:
        for step, logs in ((1, good), (2, bad), (3, bad), (4, bad)):
            steps.assign(step)
            writer.on_epoch_end(step - 1, logs)
        names = [path.name for path in sorted((tmp_path / "checkpoints").iterdir())]
        assert names == ["step-000000001.npz", "step-000000003.npz", "step-000000004.npz"]
        newest, last_good = (
            latest_checkpoint(tmp_path / "checkpoints", print, good=good) for good in (False, True)
        )
        assert newest is not None
        assert last_good is not None
        assert (newest.step, last_good.step) == (4, 1)
    finally:
        steps.assign(0)


def test_states_hold_no_infinity_and_earlier_ones_that_do_are_read(
    tmp_path: Path, checkpoint: Path
) -> None:
    about = json.loads(np.load(checkpoint)[ABOUT].tobytes(), parse_constant=pytest.fail)
    assert about["callbacks"]["EarlyStop"]["best"] is None
    with_about(
        checkpoint,
        {
            **ABOUT_IT,
            "callbacks": {"EarlyStop": {"best": float("inf"), "waited": 0, "best_step": 0}},
        },
    )
    stop = EarlyStop(1, tmp_path / "best.npz", print)
    restore_states({"EarlyStop": stop}, read_checkpoint(checkpoint))
    assert stop.best == float("inf")
