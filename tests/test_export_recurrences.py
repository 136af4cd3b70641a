"""A GRU is one node where it is a plain one, and computes what the layer computes."""

from collections import Counter
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

from kvae.export import recurrences
from kvae.export.all_graphs import bundle_graphs
from kvae.export.convert import nodes_of, to_onnx

from .conftest import everyday, random_tokens, small_model
from .test_export_systems import SYSTEMS


def spread(layer: Any) -> Any:
    layer.build((None, 6, 5))
    for weight in layer.trainable_weights:
        weight.assign(weight + keras.random.normal(weight.shape, seed=1))
    return layer


def exported(layer: Any, gru_nodes: bool = True) -> tuple[Counter[str], np.ndarray]:
    """The operations of a layer's graph, and its largest difference from the layer."""
    spec = tf.TensorSpec((None, 6, 5), name="rows")
    model = to_onnx(lambda rows: tf.identity(layer(rows)), [spec], ["states"], gru_nodes)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    largest = 0.0
    for batch in (1, 4):
        rows = np.random.default_rng(batch).normal(size=(batch, 6, 5)).astype(np.float32)
        (found,) = session.run(None, {"rows": rows})
        largest = max(largest, float(np.abs(found - np.array(layer(rows))).max()))
    return Counter(node.op_type for node in nodes_of(model.graph)), largest


PLAIN: dict[str, dict[str, Any]] = {
    "all states": {"return_sequences": True},
    "the last state": {},
    "backward": {"return_sequences": True, "go_backwards": True},
}


@pytest.mark.parametrize("plain", everyday(PLAIN, "backward"))
def test_a_plain_gru_is_a_node(plain: str) -> None:
    count, difference = exported(spread(keras.layers.GRU(4, **PLAIN[plain])))
    assert (count["GRU"], count["Loop"]) == (1, 0)
    assert difference < 1e-5


OTHER: dict[str, dict[str, Any]] = {
    "another activation": {"activation": "relu"},
    "another gate": {"recurrent_activation": "hard_sigmoid"},
    "the reset before the product": {"reset_after": False},
    "no bias": {"use_bias": False},
}


@pytest.mark.parametrize("other", everyday(OTHER, "the reset before the product"))
def test_another_gru_stays_a_loop(other: str) -> None:
    layer = spread(keras.layers.GRU(4, return_sequences=True, **OTHER[other]))
    count, difference = exported(layer)
    assert (count["GRU"], count["Loop"]) == (0, 1)
    assert difference < 1e-4


def test_a_node_that_computes_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made = recurrences.gru_nodes

    def spoilt(graph: Any, name: str, found: Any) -> list[onnx.NodeProto]:
        nodes = made(graph, name, found)
        del nodes[1].attribute[:]
        nodes[1].attribute.append(onnx.helper.make_attribute("hidden_size", 4))
        return nodes

    monkeypatch.setattr(recurrences, "gru_nodes", spoilt)
    count, difference = exported(spread(keras.layers.GRU(4, return_sequences=True)))
    assert (count["GRU"], count["Loop"]) == (0, 1)
    assert difference < 1e-5


@pytest.mark.slow
def test_graphs_that_read_texts_have_gru_nodes_and_those_that_write_them_keep_their_loops() -> None:
    ladder = SYSTEMS["ladder of recurrent maps"] | {"encoder": "gru"}
    model = small_model(**ladder)
    graphs = bundle_graphs(model)
    count = {
        name: Counter(node.op_type for node in nodes_of(graph.graph))
        for name, graph in graphs.items()
    }
    assert {name for name, each in count.items() if each["GRU"]} == {"encoder", "scorer"}
    assert not count["encoder"]["Loop"]
    assert count["prior"]["Loop"]
    session = onnxruntime.InferenceSession(graphs["encoder"].SerializeToString())
    tokens = random_tokens(20)
    mean, _ = session.run(None, {"tokens": tokens})
    np.testing.assert_allclose(mean, model.encode(tokens)["mean"], atol=1e-5)
