"""A run is opened wherever it lies, and what keeps it from opening is told by its cause."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.commands.run_folders import open_run
from kvae.configuration import TrainingConfig
from kvae.model import TextVAE, computing_in
from kvae.presets import PRESETS
from kvae.runs import (
    Run,
    check_bound,
    divergence,
    divergence_advice,
    load_run,
    parse_json,
    read_epochs,
    read_json,
    to_json,
    write_json,
)
from kvae.saved_models import (
    OUT_OF_MEMORY_PHRASES,
    describe_load_error,
    describe_read_error,
    load_model,
)
from kvae.serving.errors import CheckFailed, ModelError
from kvae.training.optimizers import optimizer


def optimizers() -> dict[str, TrainingConfig]:
    """Training settings with different optimizers.

    They are those of the presets, and float16, whose optimizer scales the loss.
    """
    found = {}
    for item in PRESETS.values():
        training = item.config.training
        key = (
            training.learning_rate_schedule,
            training.clip_norm > 0,
            training.weight_decay > 0,
            training.precision,
        )
        found.setdefault("-".join(map(str, key)), training)
    return {**found, "float16": TrainingConfig(precision="mixed_float16")}


@pytest.mark.slow
def test_runs_with_every_optimizer_open_in_a_process_that_knows_of_no_training(
    tmp_path: Path, run_folder: Path
) -> None:
    """The schedule of the first run is registered by kvae.training alone.

    `keras.saving.load_model` opens all of the runs too.
    """
    run = load_run(run_folder)
    found = optimizers()
    assert {settings.learning_rate_schedule for settings in found.values()} == {
        "constant",
        "cosine",
        "exponential",
    }
    for name, settings in found.items():
        shutil.copytree(
            run_folder, tmp_path / name, ignore=shutil.ignore_patterns("checkpoints", "logs")
        )
        with computing_in(settings.precision):
            model = TextVAE(run.config.model, run.config.objective)
        model.compile(optimizer(settings, 100))
        model.optimizer.build(model.trainable_variables)
        model.save(tmp_path / name / "model.keras")
    code = (
        "import sys, kvae.runs\n"
        "for folder in sys.argv[1:]: assert not kvae.runs.load_run(folder).model.compiled\n"
        "assert 'kvae.training.optimizers' not in sys.modules\n"
        "import keras\n"
        "from kvae import TextVAE\n"
        "for folder in sys.argv[1:]: "
        "assert keras.saving.load_model(folder + '/model.keras').optimizer.variables\n"
        "print('all')"
    )
    folders = sorted(str(tmp_path / name) for name in found)
    done = subprocess.run(
        [sys.executable, "-c", code, *folders], capture_output=True, text=True, check=False
    )
    assert done.stdout == "all\n", done.stderr


@pytest.fixture
def copy(tmp_path: Path, run_folder: Path) -> Path:
    return shutil.copytree(run_folder, tmp_path / "run")


def rewritten(path: Path, part: str, change: Callable[[bytes], bytes]) -> None:
    """A `.keras` file with another part, whole as an archive."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[part] = change(parts[part])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as found:
        load_run(folder)
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.slow
def test_a_truncated_model_comes_back_from_its_checkpoint(copy: Path) -> None:
    from kvae.training.experiment import resume, stored_config

    whole = (copy / "model.keras").read_bytes()
    before = load_run(copy)
    (copy / "model.keras").write_bytes(whole[: len(whole) // 2])
    told = refusal(copy)
    assert "damaged" in told
    assert f"`kvae train --resume --out {copy}` restores it" in told
    assert "train it again" not in told
    resume(stored_config(copy), copy, lambda sentence: None)
    again = load_run(copy)
    for one, other in zip(before.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.evaluation == pytest.approx(before.evaluation, abs=1e-5)
    assert len((copy / "metrics.jsonl").read_text().splitlines()) == 3


def test_only_a_damaged_model_without_checkpoint_is_to_be_trained_again(copy: Path) -> None:
    content = bytearray((copy / "model.keras").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.keras").write_bytes(content)
    assert "restores it from the newest checkpoint" in refusal(copy)
    shutil.rmtree(copy / "checkpoints")
    assert "without a backup train it again" in refusal(copy)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "config.json",
            lambda text: text.replace(b"kvae>TextVAE", b"mine>Better").replace(
                b'"TextVAE"', b'"Better"'
            ),
            "the class 'mine>Better', which is not registered here; "
            "import the module that defines it",
        ),
        (
            "config.json",
            lambda text: text.replace(b'"latent_size"', b'"latent_breadth"'),
            "latent_breadth.*open it with the version of kvae that trained it",
        ),
        (
            "config.json",
            lambda text: text.replace(b'"head_units": 12', b'"head_units": 13'),
            "its weights have other shapes.*open it with the version of kvae",
        ),
        (
            "config.json",
            lambda text: json.dumps(
                keras.saving.serialize_keras_object(
                    keras.Sequential([keras.Input((3,)), keras.layers.Activation("relu")])
                )
            ).encode(),
            "class|not a TextVAE",
        ),
        ("model.weights.h5", lambda content: content[: len(content) // 3], "does not load here"),
    ],
)
def test_a_model_that_is_whole_and_does_not_fit_is_never_to_be_trained_again(
    copy: Path, part: str, change: Any, message: str
) -> None:
    import re

    rewritten(copy / "model.keras", part, change)
    told = refusal(copy)
    assert re.search(message, told), told
    assert "train it again" not in told


def test_another_version_of_keras_is_named(copy: Path) -> None:
    rewritten(copy / "model.keras", "metadata.json", lambda text: b'{"keras_version": "99.1"}')
    load_run(copy)  # which opens it all the same
    rewritten(
        copy / "model.keras",
        "config.json",
        lambda text: text.replace(b'"head_units"', b'"head_size"'),
    )
    assert f"written with Keras 99.1, this is kvae 0.1.0 with Keras {keras.__version__}" in refusal(
        copy
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        *(
            (RuntimeError(f"1 objects could not be loaded: {sign}"), "not enough memory")
            for sign in OUT_OF_MEMORY_PHRASES
        ),
        (MemoryError(), "not enough memory"),
        (PermissionError(13, "Permission denied"), "the right to read it"),
        (OSError(28, "No space left on device"), "make room on that disk"),
        (OSError(24, "Too many open files"), "raise the limit"),
        (OSError(5, "Input/output error"), "the disk or the network"),
    ],
)
def test_memory_rights_and_disks_are_told_from_damage(
    copy: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(keras.saving, "load_model", load)
    told = refusal(copy)
    assert message in told
    assert "damaged" not in told
    assert "again" not in told.replace("try again", "")


def test_a_file_that_may_not_be_read_is_told_so(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path, *arguments: Any, **options: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", forbidden)
    assert "config.json: cannot be read (Permission denied); give this user the right" in refusal(
        copy
    )


def test_a_model_of_another_run_is_refused(copy: Path) -> None:
    settings = json.loads((copy / "config.json").read_text())
    settings["objective"]["alpha"] = 0.123
    write_json(copy / "config.json", settings)
    assert "model.keras belongs to another run than config.json" in refusal(copy)


def test_weights_that_are_not_finite_are_refused(copy: Path, run_folder: Path) -> None:
    model = load_run(run_folder).model
    model.head.classify.bias.assign(np.full(model.head.classify.bias.shape, np.nan, np.float32))
    model.save(copy / "model.keras")
    assert "head/classify/bias holds numbers that are not finite" in refusal(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "not valid JSON"),
        (b'{"model": ', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1, 2]", "holds a list, not an object"),
        (b"1" * 5000, "not valid JSON"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "vocabulary.json"])
def test_damaged_json_names_another_source(
    copy: Path, name: str, content: bytes, message: str
) -> None:
    (copy / name).write_bytes(content)
    told = refusal(copy)
    assert message in told
    assert "take it from a backup" in told
    assert "train" not in told.replace(str(copy), "")


def test_json_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvae.runs.MAX_JSON_BYTES", 10)
    (tmp_path / "big.json").write_text("{" + " " * 20 + "}")
    with pytest.raises(ModelError, match="22 bytes, at most 10 are read"):
        read_json(tmp_path / "big.json", "")


def test_numbers_that_are_not_finite_become_null_and_come_back_as_nothing(
    tmp_path: Path, run_folder: Path
) -> None:
    data = {"a": float("nan"), "b": [float("inf"), 1.5, {"c": -float("inf")}], "d": (1, "NaN")}
    assert to_json(data) == '{"a": null, "b": [null, 1.5, {"c": null}], "d": [1, "NaN"]}'
    assert parse_json('{"a": NaN, "b": [-Infinity]}') == {"a": None, "b": [None]}
    (tmp_path / "report").mkdir()
    write_json(tmp_path / "report" / "evaluation.json", {"elbo": float("nan"), "kl": 1.0})
    run = Run(tmp_path, *(None,) * 3)  # type: ignore[arg-type]
    assert run.evaluation == {"kl": 1.0}
    assert run.temperature == 1.0
    write_json(tmp_path / "report" / "report.json", {"temperature": 0.7})
    assert run.temperature == 0.7
    write_json(tmp_path / "report" / "report.json", {"temperature": "warm"})
    with pytest.raises(ModelError, match="temperature must be a number, got 'warm'"):
        _ = run.temperature
    with pytest.raises(CheckFailed, match="bound on its held-out texts is not finite"):
        check_bound(run)


def test_a_path_that_is_not_utf8_is_written_and_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    write_json(tmp_path / "config.json", {"source": name})
    assert read_json(tmp_path / "config.json", "") == {"source": name}


def test_writing_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "a.json", "") == {"a": 1}


def test_curves_have_gaps_where_metrics_were_no_numbers(tmp_path: Path) -> None:
    from kvae.training.plots import plot_curves, points

    lines = [
        {"step": 1, "elbo": None, "reconstruction": 1.0, "kl": 1.0, "beta": 0.0, "val_elbo": None},
        {"step": 2, "elbo": 2.0, "reconstruction": 1.0, "kl": 1.0, "beta": 1.0, "val_elbo": 2.0},
        {"step": 3, "diverged": "the loss is nan"},
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert [record["step"] for record in read_epochs(file)] == [1, 2]
    assert np.isnan(points(read_epochs(file), "elbo")).tolist() == [True, False]
    assert read_epochs(file.with_name("missing.jsonl")) == []
    plot_curves(file, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_evaluation_and_export_say_that_a_run_diverged(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(copy / "diverged.json", {"step": 99, "what": "the loss is nan"})
    run = open_run(str(copy))
    said = capsys.readouterr().err
    assert "training diverged at step 99 (the loss is nan), this is its model of step 21" in said
    assert "--set training.learning_rate=0.001` goes on from its last good checkpoint" in said
    (copy / "model.keras").unlink()
    assert divergence_advice(copy, run.config) in refusal(copy)
    (copy / "diverged.json").write_text("damaged")
    with pytest.raises(ModelError, match="only records that training diverged"):
        divergence(copy)


def test_a_model_alone_is_opened_by_the_same_rules(copy: Path) -> None:
    rewritten(
        copy / "model.keras",
        "config.json",
        lambda text: text.replace(b'"head_units"', b'"head_size"'),
    )
    with pytest.raises(ModelError, match="head_size"):
        load_model(copy / "model.keras", "")
    assert "ulimit" in describe_read_error(OSError(23, "Too many open files in system"))
    assert "does not load here (odd)" in describe_load_error(
        copy / "model.keras", ValueError("odd")
    )


def test_a_run_says_its_folder_and_its_model(run_folder: Path) -> None:
    run = load_run(run_folder)
    assert repr(run).startswith(f"<Run {str(run_folder)!r} on {run.config.data.source!r}: <TextVAE")
    assert len(repr(run)) < 400 + 2 * len(str(run_folder))
