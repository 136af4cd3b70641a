"""Weights in eight bits: a quarter of the size, almost the same numbers.

A text is still the same in any batch.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from kvae.configuration import Config
from kvae.export import quantization
from kvae.export.all_graphs import bundle_graphs
from kvae.export.bundle import write_bundle
from kvae.export.convert import nodes_of
from kvae.export.loops import HIDDEN_STATE
from kvae.export.nodes import Nodes, tensor
from kvae.export.quantization import (
    INT8_LATENCY,
    WEIGHT_LEVELS,
    blockwise_matmul,
    integer_matmul,
    measure_agreement,
    nested,
    quantize,
    quantize_weights,
)
from kvae.export.simplify import with_packed_matrices
from kvae.serving import ConfigError, Sampler
from kvae.serving.alphabet import Alphabet
from kvae.serving.bundle import OPERATIONS
from kvae.serving.onnx_files import contents_of
from kvae.serving.verification import verify

from .conftest import random_tokens, small_model

WIDE: dict[str, Any] = {
    "head_units": 64,
    "head_layer_normalization": True,
    "encoder_units": (32, 64),
    "expander_filters": (64, 32),
}


def product_graph(
    multiply: Callable[..., str], matrix: np.ndarray, **options: bool
) -> onnx.ModelProto:
    """A graph of one product: x (n, rows) -> y (n, columns)."""
    g, (rows, columns) = Nodes(), matrix.shape
    g.named(multiply(g, "x", matrix, **options), "y")
    sides = tensor("x", "float", "n", rows), tensor("y", "float", "n", columns)
    made = g.model("test", [sides[0]], [sides[1]])
    made.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return made


@pytest.fixture(scope="module")
def model() -> Any:
    made = small_model(**WIDE)
    for weight in made.trainable_weights:
        weight.assign(0.4 * weight)  # of the size that training leaves: posteriors of a few nats
    return made


@pytest.fixture(scope="module")
def graphs(model: Any) -> dict[str, onnx.ModelProto]:
    return bundle_graphs(model)


@pytest.fixture(scope="module", autouse=True)
def wide() -> Iterator[None]:
    """What counts as wide in models that a test can afford."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WIDE_IN_STEP", "WIDE_IN_SEQUENCE", "SMALLEST_BLOCKWISE"):
            patch.setattr(quantization, name, quantization.SMALLEST)
        yield


@pytest.fixture(scope="module")
def small(graphs: dict[str, onnx.ModelProto]) -> dict[str, onnx.ModelProto]:
    return {
        name: quantize(graph, symbols=9, unit_range={HIDDEN_STATE})
        for name, graph in graphs.items()
    }


@pytest.fixture(scope="module")
def quick(graphs: dict[str, onnx.ModelProto]) -> dict[str, onnx.ModelProto]:
    """The graphs in eight bits by blocks."""
    return {
        name: quantize(graph, symbols=9, unit_range={HIDDEN_STATE}, kind=INT8_LATENCY)
        for name, graph in graphs.items()
    }


def test_narrow_products_stay_in_float32(
    graphs: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WIDE_IN_STEP", "WIDE_IN_SEQUENCE"):
        monkeypatch.setattr(quantization, name, 2**19)
    sampler = quantize(graphs["sampler"], symbols=9)
    assert "QuantizeLinear" not in contents_of(sampler.SerializeToString()).operations
    assert sampler.ByteSize() < 0.75 * graphs["sampler"].ByteSize()


def run(graph: onnx.ModelProto, **inputs: Any) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {name: np.asarray(value) for name, value in inputs.items()})


def sample(graph: onnx.ModelProto, rows: np.ndarray) -> list[np.ndarray]:
    choices = {
        "temperature": np.float32(1),
        "top_k": 0,
        "top_p": np.float32(1),
        "min_length": 16,
        "max_length": 16,
    }
    return run(
        graph, seed=np.full(len(rows), 3), row=rows, z=np.zeros((0, 4), np.float32), **choices
    )


def test_every_graph_shrinks_and_holds_nothing_foreign(
    graphs: dict[str, onnx.ModelProto], small: dict[str, onnx.ModelProto]
) -> None:
    for name in ("sampler", "scorer", "encoder", "step"):
        assert (
            small[name].ByteSize() < 0.75 * graphs[name].ByteSize()
        )  # at these widths half of a file is nodes
    for graph in small.values():
        assert contents_of(graph.SerializeToString()).operations <= OPERATIONS


@pytest.mark.slow
def test_a_bundle_in_eight_bits_remembers_its_own_texts(model: Any, tmp_path: Path) -> None:
    config = Config(model=model.model_config, objective=model.objective_config)
    for name, weights in {"exact": "float32", "small": "int8"}.items():
        write_bundle(model, Alphabet(tuple("abcde")), config, tmp_path / name, weights=weights)
    assert verify(tmp_path / "small")["quantization"]["size_ratio"] < 0.75
    exact, small = (
        Sampler.load(tmp_path / name).generate(50, seed=0) for name in ("exact", "small")
    )
    assert exact != small
    assert small == Sampler.load(tmp_path / "small").generate(50, seed=0)


def test_onnxruntime_computes_the_product_of_the_loop_in_whole_numbers(
    small: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    graph = small["sampler"].graph
    weights = [
        numpy_helper.to_array(item)
        for item in graph.initializer
        if item.data_type == TensorProto.INT8
    ]
    assert len(weights) >= 4
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4  # it says that the file is for this machine
    onnxruntime.InferenceSession(
        small["sampler"].SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    optimized = onnx.load(options.optimized_model_filepath).graph
    in_loop = [node.op_type for body in nested(optimized) for node in body.node]
    assert in_loop.count("MatMulIntegerToFloat") == 2  # the recurrence, the features
    # The hidden state needs no scale of its own.
    assert in_loop.count("QuantizeLinear") == 2
    assert in_loop.count("MatMul") + in_loop.count("Gemm") == 1  # the classifier stays exact


def test_a_row_is_the_same_alone_and_in_any_batch(small: dict[str, onnx.ModelProto]) -> None:
    together = sample(small["sampler"], np.arange(40))
    for row in range(0, 40, 9):
        for alone, all_of_them in zip(
            sample(small["sampler"], np.array([row])), together, strict=True
        ):
            np.testing.assert_array_equal(alone[0], all_of_them[row])


def test_scores_hardly_change(
    graphs: dict[str, onnx.ModelProto], small: dict[str, onnx.ModelProto]
) -> None:
    record = measure_agreement(graphs, small, random_tokens(200))
    assert record["texts"] == 200
    assert record["likeliest_symbols_unchanged"] > 0.95
    assert record["bound"] == pytest.approx(record["bound_in_float32"], rel=0.01)
    assert record["bound"] != record["bound_in_float32"]


def test_a_product_is_that_of_the_rounded_numbers_exactly() -> None:
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(300, 40)).astype(np.float32)
    inputs = generator.normal(size=(7, 300)).astype(np.float32) * 10.0 ** np.arange(-3, 4)[
        :, None
    ].astype(np.float32)
    model = product_graph(integer_matmul, matrix)
    (found,) = run(model, x=inputs)
    whole, scales = quantize_weights(matrix, axis=0)
    assert np.abs(whole).max() == WEIGHT_LEVELS
    largest = np.abs(inputs).max(axis=1, keepdims=True) / 127
    expected = (
        (np.round(inputs / largest).astype(np.int64) @ whole.astype(np.int64)) * largest * scales
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(
        found, inputs @ matrix, atol=0.05 * np.abs(inputs @ matrix).max(axis=1, keepdims=True).max()
    )


def test_a_product_of_numbers_within_one_has_one_scale() -> None:
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(300, 40)).astype(np.float32)
    inputs = generator.uniform(-1, 1, size=(7, 300)).astype(np.float32)
    inputs[0], inputs[1] = 1.0, -1.0
    model = product_graph(integer_matmul, matrix, unit_range=True)
    (found,) = run(model, x=inputs)
    whole, scales = quantize_weights(matrix, axis=0)
    expected = (np.round(inputs * 127).astype(np.int64) @ whole.astype(np.int64)) / 127 * scales
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_rows_of_zeros_stay_zeros() -> None:
    model = product_graph(integer_matmul, np.ones((8, 3), np.float32))
    np.testing.assert_array_equal(run(model, x=np.zeros((2, 8), np.float32))[0], 0.0)


def test_rounding_is_within_half_a_level() -> None:
    weights = np.random.default_rng(0).normal(size=(50, 30)).astype(np.float32)
    whole, scales = quantize_weights(weights, axis=0, levels=127)
    assert np.abs(whole * scales - weights).max() <= scales.max() / 2 + 1e-7


eight_bit_products = pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 22),
    reason="MatMulNBits has eight bits since onnxruntime 1.22",
)


@eight_bit_products
def test_a_product_by_blocks_is_close_and_the_same_in_any_batch() -> None:
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(300, 40)).astype(np.float32)
    matrix[:128] *= 100
    inputs = generator.normal(size=(7, 300)).astype(np.float32)
    model = product_graph(blockwise_matmul, matrix)
    (found,) = run(model, x=inputs)
    assert np.abs(found - inputs @ matrix).max() <= 0.03 * np.abs(inputs @ matrix).max()
    for row in range(7):
        np.testing.assert_array_equal(run(model, x=inputs[row : row + 1])[0][0], found[row])


def test_weights_by_blocks_are_those_of_the_step_alone(quick: dict[str, onnx.ModelProto]) -> None:
    foreign = {"com.microsoft.MatMulNBits"}
    for name, graph in quick.items():
        operations = contents_of(graph.SerializeToString()).operations
        in_step = name not in ("encoder", "prior", "expand")
        assert operations - OPERATIONS == (foreign if in_step else set()), name
    products = [node for node in nodes_of(quick["step"].graph) if node.op_type == "MatMulNBits"]
    assert [{item.name: item.i for item in node.attribute} for node in products] == [
        {"K": 128, "N": columns, "bits": 8, "block_size": 128, "accuracy_level": 4}
        for columns in (256, 9)
    ]


@eight_bit_products
def test_a_text_by_blocks_is_the_same_in_any_batch(quick: dict[str, onnx.ModelProto]) -> None:
    sampler = with_packed_matrices(quick["sampler"])
    together = sample(sampler, np.arange(40))
    for row in range(0, 40, 9):
        for alone, all_of_them in zip(sample(sampler, np.array([row])), together, strict=True):
            np.testing.assert_array_equal(alone[0], all_of_them[row])


@eight_bit_products
def test_scores_by_blocks_hardly_change(
    graphs: dict[str, onnx.ModelProto], quick: dict[str, onnx.ModelProto]
) -> None:
    record = measure_agreement(graphs, quick, random_tokens(200), INT8_LATENCY)
    assert record["kind"] == "int8-latency"
    assert record["runtime"] == "onnxruntime"
    assert record["bound"] <= 1.005 * record["bound_in_float32"]
    assert record["likeliest_symbols_unchanged"] >= 0.97


@pytest.mark.slow
def test_a_bundle_by_blocks_is_for_onnxruntime_alone(model: Any, tmp_path: Path) -> None:
    config = Config(model=model.model_config, objective=model.objective_config)
    path, alphabet = tmp_path / "quick", Alphabet(tuple("abcde"))
    manifest = write_bundle(model, alphabet, config, path, weights=INT8_LATENCY)
    assert manifest["quantization"]["runtime"] == "onnxruntime"
    assert verify(path)["quantization"]["kind"] == INT8_LATENCY
    with pytest.raises(ConfigError, match="int8-latency, which only onnxruntime runs") as refused:
        Sampler.load(path, runtime="openvino")
    assert "--weights int8" in str(refused.value)
    with pytest.raises(ConfigError, match="weights must be"):
        write_bundle(model, alphabet, config, tmp_path / "other", weights="int4")


@eight_bit_products
def test_a_product_by_blocks_is_that_of_whole_numbers_exactly() -> None:
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(300, 40)).astype(np.float32)
    inputs = generator.uniform(-1, 1, size=(7, 300)).astype(np.float32)
    inputs[0], inputs[1] = 1.0, -1.0
    model = product_graph(blockwise_matmul, matrix, unit_range=True)
    scales = 2.0 ** np.ceil(np.log2(np.abs(matrix).max(axis=0) / 127))
    whole = np.round(inputs.clip(-127 / 128, 127 / 128) * 128) @ np.round(matrix / scales)
    np.testing.assert_array_equal(run(model, x=inputs)[0], (whole / 128 * scales).astype("f4"))


def test_a_reader_counts_the_weights_of_a_wide_convolution_once() -> None:
    g = Nodes()
    quantization.dequantize(g, "kernel", np.ones((512, 512, 1, 3), np.float32))
    model = g.model("test", [], [tensor("kernel", "float", 512, 512, 1, 3)])
    weights = 512 * 512 * 3
    assert contents_of(model.SerializeToString()).numbers < 5 * weights
