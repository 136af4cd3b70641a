"""A bundle appears only when it is the model."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto

from kvae.configuration import Config
from kvae.export import bundle as bundle_module
from kvae.export import parity
from kvae.export.all_graphs import bundle_graphs
from kvae.export.bundle import write_bundle
from kvae.export.convert import to_onnx
from kvae.export.parity import compare, compare_loop_steps, greedy_rows_agree
from kvae.export.quantization import nested
from kvae.runs import load_run
from kvae.serving.alphabet import Alphabet
from kvae.serving.bundle import read_bundle
from kvae.serving.errors import BundleError, CheckFailed, ConfigError
from kvae.serving.manifest import ALL_ENDPOINTS
from kvae.serving.sampler import Sampler

from .conftest import small_model


def export(run_folder: Path, path: Path) -> dict[str, Any]:
    trained = load_run(run_folder)
    return write_bundle(trained.model, trained.alphabet, trained.config, path)


def test_the_manifest_records_parity_of_every_row(bundle_folder: Path) -> None:
    record = read_bundle(bundle_folder).manifest["parity"]
    assert record["largest_logit_difference"] <= 1e-4
    assert record["largest_turn_difference"] <= 1e-4
    assert record["largest_code_difference"] <= 1e-4
    assert record["greedy_rows_equal"] == record["rows"] == 200


def test_states_too_large_for_memory_are_compared_for_the_first_rows_and_all_else_for_every_row(
    run_folder: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    model, size = load_run(run_folder).model, 2 * 4 * 12 * 16  # two states at all positions

    def counting(model: Any, z: np.ndarray, *rest: Any) -> float:
        compared.append(len(z))
        return float(compare_loop_steps(model, z, *rest))

    monkeypatch.setattr(parity, "compare_loop_steps", counting)
    monkeypatch.setattr(parity, "STATE_BYTES", 7 * size)
    monkeypatch.setattr(parity, "STATE_BYTES_PER_RUN", 3 * size)
    record = compare(model, read_bundle(bundle_folder))
    assert compared == [3, 3, 1] * len(parity.TEMPERATURES)
    expected = read_bundle(bundle_folder).manifest["parity"]
    assert record["greedy_rows_equal"] == record["rows"] == expected["rows"]
    assert record["symbols"] == expected["symbols"]
    monkeypatch.setattr(parity, "STATE_BYTES", 1)
    assert parity.rows_with_states(model, np.zeros((1, 4), np.float32)) == (1, 3)


def test_every_file_repeats_the_manifest_in_its_metadata(bundle_folder: Path) -> None:
    manifest = json.loads((bundle_folder / "manifest.json").read_text())
    for name in ALL_ENDPOINTS:
        (entry,) = onnx.load(bundle_folder / f"{name}.onnx").metadata_props
        metadata = json.loads(entry.value)
        assert metadata.pop("endpoint") == name
        assert metadata == {
            key: value for key, value in manifest.items() if key not in ("endpoints", "sha256")
        }


@pytest.mark.slow
def test_the_same_weights_export_to_the_same_sampler(
    run_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    export(run_folder, tmp_path / "again")
    first, second = Sampler.load(bundle_folder), Sampler.load(tmp_path / "again")
    assert first.manifest["model_id"] == second.manifest["model_id"]
    assert first.generate(50, seed=1) == second.generate(50, seed=1)


@pytest.mark.parametrize(
    ("endpoint", "shape"),
    [
        ("sampler", (12, 48)),
        pytest.param("sampler", (14, 48), marks=pytest.mark.slow),
        pytest.param("sampler", (12, 14), marks=pytest.mark.slow),
        pytest.param("encoder", (64, 4), marks=pytest.mark.slow),
        pytest.param("prior", (), marks=pytest.mark.slow),
    ],
)
def test_a_graph_that_is_not_the_model_is_deleted(
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str,
    shape: tuple[int, ...],
) -> None:
    """Add noise to one weight.

    The weights are the recurrent kernel, the rows of the previous symbol, the classifier, the mean,
    and the -2 of Box and Muller.
    """

    def damaged(model: Any, *options: bool) -> dict[str, onnx.ModelProto]:
        graphs = bundle_graphs(model)
        found = [graphs[endpoint].graph, *nested(graphs[endpoint].graph)]
        constants = [item for graph in found for item in graph.initializer]
        tensors = [item for item in constants if tuple(item.dims) == shape]
        weights = next(
            item for item in tensors if item.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE)
        )
        values = onnx.numpy_helper.to_array(weights)
        values = values + np.random.default_rng(0).normal(0, 0.1, values.shape).astype(values.dtype)
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        return graphs

    monkeypatch.setattr(bundle_module, "bundle_graphs", damaged)
    with pytest.raises(CheckFailed, match=f"the {endpoint} is not the model"):
        export(run_folder, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_refused(run_folder: Path, bundle_folder: Path) -> None:
    with pytest.raises(ConfigError, match="exists already"):
        export(run_folder, bundle_folder)
    assert read_bundle(bundle_folder)


def test_of_two_exports_to_one_path_the_second_is_refused_at_once(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporting, go = threading.Event(), threading.Event()

    def slow(model: Any, *options: bool) -> Any:
        exporting.set()
        assert go.wait(300)
        raise CheckFailed("not the model")

    monkeypatch.setattr(bundle_module, "bundle_graphs", slow)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(export, run_folder, tmp_path / "bundle")
        assert exporting.wait(300)
        with pytest.raises(
            ConfigError, match=r"bundle is being written by process .* or give another path"
        ):
            export(run_folder, tmp_path / "bundle")
        go.set()
        assert isinstance(first.exception(), CheckFailed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_came_while_a_bundle_was_written_is_left_alone(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def then(folder: Path) -> None:
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "notes.txt").write_text("mine")

    monkeypatch.setattr(bundle_module, "verify", then)
    with pytest.raises(ConfigError, match="bundle exists already; give another path"):
        export(run_folder, tmp_path / "bundle")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "bundle",
        "bundle/notes.txt",
    ]


def test_parity_finds_a_model_that_has_moved_on(run_folder: Path, bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    model = load_run(run_folder).model
    model.head.classify.bias.assign_add(
        np.linspace(0, 0.01, model.model_config.vocabulary_size, dtype=np.float32)
    )
    with pytest.raises(CheckFailed, match="a logit differs by"):
        compare(model, bundle)


@pytest.mark.slow
def test_a_model_whose_weights_are_no_numbers_is_refused(
    run_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    trained = load_run(run_folder)
    trained.model.head.classify.bias.assign(np.full(len(trained.alphabet), np.nan, np.float32))
    with pytest.raises(BundleError, match="weights that are infinite or NaN"):
        write_bundle(trained.model, trained.alphabet, trained.config, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_alphabet_of_another_run_is_refused(run_folder: Path, tmp_path: Path) -> None:
    trained = load_run(run_folder)
    with pytest.raises(ConfigError, match="different runs"):
        write_bundle(trained.model, Alphabet(("A",)), trained.config, tmp_path / "bundle")


def test_rows_that_part_at_a_tie_agree_and_others_do_not() -> None:
    logits, gaps = np.zeros((3, 4)), np.zeros(3)
    logits[1, 2] = 1e-5
    logits[1, 3] = 1.0
    assert greedy_rows_agree(np.array([0, 1, 1]), np.array([0, 1, 1]), logits, gaps)
    assert greedy_rows_agree(np.array([0, 1, 1]), np.array([0, 2, 0]), logits, gaps)
    assert not greedy_rows_agree(np.array([0, 1, 1]), np.array([0, 3, 1]), logits, gaps)


@pytest.mark.slow
def test_a_recurrence_that_multiplies_roundings_is_still_the_model_turn_by_turn(
    tmp_path: Path,
) -> None:
    model = small_model(length=64, head_units=64, head_layer_normalization=True)
    model.head.recurrence.cell.kernel.assign(6 * model.head.recurrence.cell.kernel)
    config = Config(model=model.model_config, objective=model.objective_config)
    record = write_bundle(model, Alphabet(tuple("abcde")), config, tmp_path / "bundle")["parity"]
    assert record["largest_turn_difference"] <= 1e-4


def test_operations_that_onnx_lacks_are_refused_although_tf2onnx_writes_them() -> None:
    spec = [tf.TensorSpec((None, 3), tf.float32, "x")]
    with pytest.raises(CheckFailed):
        to_onnx(
            lambda x: x + tf.random.normal(tf.shape(x), seed=1) + tf.math.erf(tf.math.lgamma(x)),
            spec,
            ["y"],
        )
