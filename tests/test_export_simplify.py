"""Simplification replaces many nodes of tf2onnx by one where these are equal, and only there."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
import tf2onnx

from kvae.export.converted_parts import SharedParts
from kvae.export.nodes import Nodes, tensor
from kvae.export.simplify import drop_identities, hoisted, simplified

from .conftest import everyday, small_model
from .test_kvae_heads import CONVOLUTIONS, RECURRENT, TRANSFORMERS, VARIANTS

SPELLED_OUT = ("Less", "Not", "Reciprocal", "ReduceMean", "Sqrt")


@pytest.mark.parametrize(
    "variant",
    everyday([*RECURRENT, *CONVOLUTIONS, *TRANSFORMERS], "lstm", "transformer"),
)
def test_a_step_has_a_node_for_each_normalisation_and_one_for_the_previous_symbol(
    variant: str,
) -> None:
    model = small_model(**VARIANTS[variant])
    for weight in model.trainable_weights:
        weight.assign(weight + 0.1 * keras.random.normal(weight.shape))
    count = Counter(node.op_type for node in SharedParts.of(model).step.graph.node)
    assert count["LayerNormalization"] == sum(
        weight.path.endswith("/gamma") for weight in model.head.weights
    )
    assert count["Gather"] == (3 if variant in TRANSFORMERS else 1)  # position, number of texts
    assert not [name for name in SPELLED_OUT if count[name]]


def before_and_after(
    function: Callable[..., Any], *inputs: np.ndarray
) -> tuple[list[Any], Counter[str]]:
    """The outputs of a converted function, as tf2onnx writes it and simplified.

    Also the operations of the simplified graph, counted.
    """
    specs = [
        tf.TensorSpec((None, *value.shape[1:]), value.dtype, f"input_{place}")
        for place, value in enumerate(inputs)
    ]
    model, _ = tf2onnx.convert.from_function(
        tf.function(function, input_signature=specs), specs, opset=18
    )
    ways = [model, simplified(onnx.ModelProto.FromString(model.SerializeToString()))]
    onnx.checker.check_model(ways[1], full_check=True)
    return [ran(way, inputs) for way in ways], Counter(node.op_type for node in ways[1].graph.node)


def ran(model: onnx.ModelProto, inputs: Sequence[np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {f"input_{place}": value for place, value in enumerate(inputs)})[0]


def spread(layer: Any, *shape: int) -> Any:
    layer.build((None, *shape))
    for weight in layer.trainable_weights:
        weight.assign(weight + keras.random.normal(weight.shape, seed=1))
    return layer


def test_layer_normalisation_is_the_same_in_one_node() -> None:
    layer = spread(keras.layers.LayerNormalization(), 7)
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(5, 7)).astype(np.float32)
    (before, after), count = before_and_after(lambda x: layer(x), values)
    assert count["LayerNormalization"] == 1
    np.testing.assert_allclose(after, before, atol=1e-5)
    np.testing.assert_allclose(after, layer(values), atol=1e-5)


@pytest.mark.parametrize("axis", [1, (1, 2)])
def test_normalisation_over_other_axes_stays_as_it_is(axis: Any) -> None:
    layer = spread(keras.layers.LayerNormalization(axis=axis), 4, 3)
    values = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    (before, after), count = before_and_after(lambda x: layer(x), values)
    assert not count["LayerNormalization"]
    np.testing.assert_array_equal(after, before)


def test_a_scale_that_is_no_constant_stays_as_it_is() -> None:
    def scaled(values: Any, scale: Any) -> Any:
        mean = tf.reduce_mean(values, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(values, mean), axis=-1, keepdims=True)
        factor = tf.math.rsqrt(variance + 1e-3) * scale
        return values * factor + (-mean) * factor

    draw = np.random.default_rng(0).normal
    (before, after), count = before_and_after(
        scaled, *(draw(size=(5, 7)).astype(np.float32) for _ in range(2))
    )
    assert not count["LayerNormalization"]
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_a_look_up_is_the_same_in_one_node_also_below_zero(dtype: Any) -> None:
    layer = spread(keras.layers.Embedding(6, 4))
    places = np.array([0, 5, 2, -1, -6], dtype)
    (before, after), count = before_and_after(lambda x: layer(x), places)
    assert count["Gather"] == 1
    assert not count["Less"]
    np.testing.assert_array_equal(after, before)


def test_what_no_turn_changes_is_computed_before_the_loop() -> None:
    g, body = Nodes(), Nodes()
    twice = body.Mul("factor", "factor")
    kept = body.named("factor", "shown")
    after = body.Add("before", body.Mul(twice, "factor"))
    numbers = tensor("before", "float", 2)
    turn = body.body(
        "turn",
        [tensor("position", "int64"), tensor("go_on", "bool"), numbers],
        [
            tensor(body.Identity("go_on"), "bool"),
            tensor(after, "float", 2),
            tensor(kept, "float", 2),
        ],
    )
    outputs = g.Loop("turns", g.constant(True, bool), "first", outputs=2, body=turn)
    for name, source in zip(("last", "all"), outputs, strict=True):
        g.named(source, name)
    inputs = [tensor("turns", "int64"), tensor("first", "float", 2), tensor("factor", "float", 2)]
    model = g.model(
        "test", inputs, [tensor("last", "float", 2), tensor("all", "float", "turns", 2)]
    )
    given = {
        "turns": np.array(3),
        "first": np.array([1.0, 2.0], np.float32),
        "factor": np.array([2.0, 0.5], np.float32),
    }
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, given)
    fewer = hoisted(model)
    onnx.checker.check_model(fewer, full_check=True)
    (loop,) = [node for node in fewer.graph.node if node.op_type == "Loop"]
    (inside,) = [attribute.g for attribute in loop.attribute if attribute.name == "body"]
    assert sorted(node.op_type for node in inside.node) == ["Add", "Identity", "Identity"]
    for expected, found in zip(
        before,
        onnxruntime.InferenceSession(fewer.SerializeToString()).run(None, given),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_identities_go_and_outputs_keep_their_names() -> None:
    g = Nodes()
    first = g.named(g.Neg(g.Identity("x")), "first")
    g.named(first, "second")
    g.named("x", "third")
    model = g.model(
        "names", [tensor("x", "float", 2)], [tensor(f"{n}", "float", 2) for n in OUTPUTS]
    )
    drop_identities(model.graph)
    onnx.checker.check_model(model, full_check=True)
    assert sorted(node.op_type for node in model.graph.node) == ["Identity", "Identity", "Neg"]
    x = np.array([1.0, -2.0], np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for found, expected in zip(session.run(OUTPUTS, {"x": x}), (-x, -x, x), strict=True):
        np.testing.assert_array_equal(found, expected)


OUTPUTS = ("first", "second", "third")
