"""Folding computes nothing else: sizes are constants, and few nodes are left."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
import tf2onnx

from kvae.export.convert import to_onnx
from kvae.export.converted_parts import SharedParts
from kvae.export.folding import LARGEST_UNIT_MATRIX, folded

from .conftest import small_model


def converted(function: Callable[[Any], Any], *shape: int, dtype: Any = tf.float32) -> Any:
    """A function of `x` (batch, ...) as tf2onnx writes it, and folded."""
    spec = tf.TensorSpec((None, *shape), dtype, "x")
    traced = tf.function(function, input_signature=[spec])
    model, _ = tf2onnx.convert.from_function(traced, [spec], opset=18)
    return model, folded(onnx.ModelProto.FromString(model.SerializeToString()))


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0]


def operations(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def constant(model: onnx.ModelProto, name: str) -> list[int]:
    (found,) = [item for item in model.graph.initializer if item.name == name]
    return onnx.numpy_helper.to_array(found).tolist()


def assert_equal_for_any_batch(
    before: onnx.ModelProto, after: onnx.ModelProto, *shape: int
) -> None:
    onnx.checker.check_model(after, full_check=True)
    for batch in (1, 2, 3, 5, 8):
        x = np.random.default_rng(batch).normal(size=(batch, *shape)).astype(np.float32)
        np.testing.assert_array_equal(run(after, x), run(before, x))


def test_a_shape_that_depends_on_the_batch_alone_needs_no_nodes() -> None:
    before, after = converted(
        lambda x: tf.tensordot(tf.transpose(x, (1, 0, 2)), tf.eye(2, 3), [[2], [0]]), 4, 2
    )
    assert operations(before)["Shape"]
    assert operations(after) == {"Transpose": 1, "Reshape": 2, "MatMul": 1}
    assert_equal_for_any_batch(before, after, 4, 2)


def test_a_reshape_that_leaves_an_axis_open_gets_its_size_beside_the_batch() -> None:
    before, after = converted(lambda x: tf.reshape(x, (4 * tf.shape(x)[0], -1)), 4, 2)
    assert operations(after) == {"Reshape": 1}
    assert_equal_for_any_batch(before, after, 4, 2)


def test_the_batch_size_is_read_once_where_a_tensor_is_made() -> None:
    before, after = converted(lambda x: x + tf.zeros((tf.shape(x)[0], 3)), 3)
    assert {name for name in operations(after) if name not in ("Shape", "Gather", "Concat")} == {
        "Add",
        "Expand",
    }
    assert_equal_for_any_batch(before, after, 3)


def test_a_size_that_is_neither_fixed_nor_the_batch_is_still_computed() -> None:
    before, after = converted(
        lambda x: tf.tile(x, (1, 2)) * tf.ones((tf.shape(x)[0], 1 + tf.shape(x)[0]))[:, :1], 3
    )
    assert_equal_for_any_batch(before, after, 3)


def test_a_size_that_depends_on_the_data_is_still_computed() -> None:
    before, after = converted(
        lambda x: tf.ones((tf.reduce_max(x) + 1, 2)) + tf.zeros((2,)), dtype=tf.int32
    )
    for x in (np.array([0, 4]), np.array([7, 1, 2])):
        assert run(after, x.astype(np.int32)).shape == (max(x) + 1, 2)
        assert run(before, x.astype(np.int32)).shape == (max(x) + 1, 2)


def test_an_axis_that_is_not_cut_is_not_sliced() -> None:
    before, after = converted(lambda x: x[:, 1:3, :], 4, 2)
    (node,) = [node for node in after.graph.node if node.op_type == "Slice"]
    assert constant(after, node.input[3]) == [1]
    assert_equal_for_any_batch(before, after, 4, 2)


def test_a_slice_of_everything_is_left_out_but_not_one_in_reverse() -> None:
    before, after = converted(lambda x: x[:, :4] + 1.0, 4)
    assert not operations(after)["Slice"]
    assert_equal_for_any_batch(before, after, 4)
    before, after = converted(lambda x: x[:, ::-1] + 1.0, 4)
    assert_equal_for_any_batch(before, after, 4)


def test_a_reduction_counts_its_axes_from_the_first() -> None:
    before, after = converted(lambda x: tf.reduce_sum(x, axis=-1), 4, 2)
    (node,) = [node for node in after.graph.node if node.op_type == "ReduceSum"]
    assert constant(after, node.input[1]) == [2]
    assert_equal_for_any_batch(before, after, 4, 2)


@pytest.mark.parametrize(("shape", "removed"), [((4, 2), 1), ((4,), 0)])
def test_a_reduction_of_three_axes_removes_one_of_them_afterwards(
    shape: tuple[int, ...], removed: int
) -> None:
    before, after = converted(lambda x: tf.reduce_max(x, axis=1) * 2.0, *shape)
    assert operations(after)["ReduceMax"] == 1
    assert operations(after)["Squeeze"] == removed
    assert_equal_for_any_batch(before, after, *shape)


@pytest.mark.parametrize("symbols", [9, LARGEST_UNIT_MATRIX + 1])
def test_one_hot_vectors_need_no_one_hot(symbols: int) -> None:
    before, after = converted(lambda x: tf.one_hot(x, symbols), 6, dtype=tf.int32)
    assert operations(before)["OneHot"] == 1
    assert not operations(after)["OneHot"]
    onnx.checker.check_model(after, full_check=True)
    x = np.random.default_rng(0).integers(0, symbols, (3, 6)).astype(np.int32)
    np.testing.assert_array_equal(run(after, x), run(before, x))
    largest = max(onnx.numpy_helper.to_array(item).size for item in after.graph.initializer)
    assert largest <= LARGEST_UNIT_MATRIX**2


def test_one_hot_vectors_of_other_values_stay_as_they_are() -> None:
    before, after = converted(
        lambda x: tf.one_hot(x, 5, on_value=2.0, off_value=-1.0), 6, dtype=tf.int32
    )
    x = np.array([[0, 1, 2, 3, 4, 0]], np.int32)
    np.testing.assert_array_equal(run(after, x), run(before, x))


@pytest.mark.slow
def test_an_expander_has_few_nodes_and_the_shapes_of_all_tensors() -> None:
    graph = SharedParts.of(small_model()).expand.graph
    count = Counter(node.op_type for node in graph.node)
    assert len(graph.node) < 50
    assert not {"Cast", "Pad", "Split", "Div", "Max"} & set(count)
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in graph.value_info
    }
    computed = {name for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    of_sizes = {"input_shape", "batch_size", *(name for name in computed if "_size_" in name)}
    assert set(shapes) == computed - outputs - of_sizes
    flat = {name for name in shapes if "Tensordot" in name}  # positions of all texts in one axis
    assert all("batch" in shapes[name] for name in set(shapes) - flat)


def test_a_model_without_a_code_is_folded_too() -> None:
    spec = tf.TensorSpec((None, 0), name="noise")
    model = to_onnx(lambda noise: tf.identity(noise), [spec], ["z"])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert session.run(None, {"noise": np.zeros((3, 0), np.float32)})[0].shape == (3, 0)
