"""The graph of the sampler writes the texts of Keras, and its options do what their names say."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from scipy import special, stats

from kvae.decoding import decode
from kvae.export.all_graphs import bundle_graphs
from kvae.export.choices import choose
from kvae.export.convert import nodes_of
from kvae.export.converted_parts import SharedParts
from kvae.export.graphs import CHOICES, sampler_graph
from kvae.export.loops import BLOCK
from kvae.export.nodes import Nodes, tensor
from kvae.export.parity import decoding_loops
from kvae.export.simplify import with_packed_matrices
from kvae.serving.alphabet import END, NEVER_SAMPLED, PAD, START
from kvae.serving.logit_masks import MASKED_LOGIT, logit_mask

from .conftest import everyday, random_tokens, small_model
from .test_export_systems import SYSTEMS

HEADS: dict[str, dict[str, Any]] = {
    "none": {"head": "none", "auxiliary": False},
    "lstm": {"head_layer_normalization": False},
    "lstm, normalised": {"head_layer_normalization": True},
}

CODES = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)


def runner(graph: onnx.ModelProto) -> Any:
    """A function of the graph's inputs, those of the sampler with defaults."""
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def run(
        z: np.ndarray = CODES,
        seed: int = 0,
        first_row: int = 0,
        rows: int | None = None,
        **given: float,
    ) -> list[np.ndarray]:
        rows = len(z) if rows is None else rows
        choices = {
            "temperature": 0.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_length": 0,
            "max_length": 16,
            **given,
        }
        kinds = {"temperature": np.float32, "top_p": np.float32}
        place = {"seed": np.full(rows, seed), "row": first_row + np.arange(rows)}
        scalars = {
            name: np.array(value, kinds.get(name, np.int64)) for name, value in choices.items()
        }
        return session.run(None, {"z": z, **place, **scalars})

    return run


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


@pytest.fixture(scope="module")
def graphs(model: Any) -> dict[str, onnx.ModelProto]:
    return bundle_graphs(model)


@pytest.fixture(scope="module")
def sample(model: Any) -> Any:
    return runner(with_packed_matrices(sampler_graph(SharedParts.of(model))))


@pytest.mark.parametrize("head", everyday(HEADS, "none", "lstm, normalised"))
def test_greedy_text_is_keras_greedy_text_for_the_same_codes(head: str) -> None:
    model = small_model(**HEADS[head])
    ids, lengths, _ = runner(sampler_graph(SharedParts.of(model)))()
    expected = np.array(decode(model, CODES, min_length=0))
    np.testing.assert_array_equal(np.pad(ids, ((0, 0), (0, 16 - ids.shape[1]))), expected)
    np.testing.assert_array_equal(lengths, ((expected != PAD) & (expected != END)).sum(axis=1))


def test_the_encoder_gives_keras_posterior(model: Any, graphs: dict[str, onnx.ModelProto]) -> None:
    session = onnxruntime.InferenceSession(
        graphs["encoder"].SerializeToString(), providers=["CPUExecutionProvider"]
    )
    tokens = random_tokens(20)
    expected = model.encode(tokens)
    for found, name in zip(
        session.run(["mean", "log_variance"], {"tokens": tokens}),
        ("mean", "log_variance"),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected[name], atol=1e-5)


def first_step_probabilities(model: Any) -> np.ndarray:
    """p(first symbol | z) of the first code, from Keras."""
    features = model.expander(CODES[:1], training=False)
    state = model.head.initial_state(features)
    logits, _ = model.head.step(model.head.project(features)[:, 0], np.array([START]), state)
    return special.softmax(np.array(logits, np.float64)[0] + logit_mask(9))


def drawn(sample: Any, **choices: float) -> np.ndarray:
    """How often each symbol is the first one, in 4,000 rows of one code."""
    ids, _, _ = sample(np.repeat(CODES[:1], 4000, axis=0), max_length=1, **choices)
    return np.bincount(ids[:, 0], minlength=9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_symbols_are_drawn_in_proportion_to_their_probability_at_a_temperature(
    model: Any, sample: Any, temperature: float
) -> None:
    expected = first_step_probabilities(model) ** (1 / temperature)
    expected /= expected.sum()
    counts = drawn(sample, temperature=temperature)
    possible = expected * 4000 > 1e-3
    assert counts[~possible].sum() == 0
    assert (
        stats.chisquare(
            counts[possible], expected[possible] / expected[possible].sum() * 4000
        ).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("restricted", [{}, {"top_k": 4}])
def test_the_ends_of_the_unit_interval_draw_symbols_that_have_a_probability(
    restricted: dict[str, int],
) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, size=(20_000, 12)).astype(np.float32)
    logits[:, [0, 1, -2, -1]] = MASKED_LOGIT
    for uniform in (0.0, LARGEST):
        symbols = chosen(logits, uniform, **restricted)
        assert symbols.min() >= 2
        assert symbols.max() <= 9


def test_greedy_takes_the_first_of_equals_whatever_is_drawn() -> None:
    logits = np.random.default_rng(0).integers(0, 3, size=(500, 12)).astype(np.float32)
    for uniform in (0.0, 0.5, LARGEST):
        np.testing.assert_array_equal(
            chosen(logits, uniform, temperature=0.0), logits.argmax(axis=1)
        )


LARGEST = 1 - 2.0**-24
"""Of the numbers that decide a symbol."""


def chosen(logits: np.ndarray, uniform: float, **choices: float) -> np.ndarray:
    """The symbols (n,) that one number draws from logits (n, V)."""
    g, size = Nodes(), logits.shape[1]
    g.named(choose(g, "logits", "uniforms"), "symbol")
    inputs = [tensor("logits", "float", "n", size), tensor("uniforms", "float", "n", 1), *CHOICES]
    graph = g.model("choice", inputs, [tensor("symbol", "int64", "n")])
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    given = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_length": 0, **choices}
    types = {
        "temperature": np.float32,
        "top_k": np.int64,
        "top_p": np.float32,
        "min_length": np.int64,
    }
    feed = {name: np.asarray(value, types[name]) for name, value in given.items()}
    uniforms = np.full((len(logits), 1), uniform, np.float32)
    return session.run(None, {"logits": logits, "uniforms": uniforms, **feed})[0]


def test_top_k_draws_from_the_k_likeliest_in_their_proportion(model: Any, sample: Any) -> None:
    probabilities = first_step_probabilities(model)
    likeliest = np.argsort(-probabilities)[:3]
    counts = drawn(sample, temperature=1.0, top_k=3)
    assert set(np.flatnonzero(counts)) == set(likeliest)
    expected = probabilities[likeliest] / probabilities[likeliest].sum() * 4000
    assert stats.chisquare(counts[likeliest], expected).pvalue > 1e-3


@pytest.mark.parametrize("top_p", [0.2, 0.6, 0.9])
def test_top_p_draws_from_the_smallest_set_that_holds_its_share(
    model: Any, sample: Any, top_p: float
) -> None:
    probabilities = first_step_probabilities(model)
    order = np.argsort(-probabilities)
    size = int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1
    assert set(np.flatnonzero(drawn(sample, temperature=1.0, top_p=top_p))) == set(order[:size])


def test_top_1_is_greedy(sample: Any) -> None:
    np.testing.assert_array_equal(sample(temperature=1.0, top_k=1)[0], sample()[0])


def test_the_log_probability_is_that_of_the_written_symbols_at_temperature_1(
    model: Any, sample: Any
) -> None:
    from kvae.parts import shifted

    ids, _, log_probability = sample(temperature=1.3)
    ids = np.pad(ids, ((0, 0), (0, 16 - ids.shape[1])))
    logits = np.array(
        model.head(model.expander(CODES, training=False), shifted(ids), training=False)
    ) + logit_mask(9)
    gains = np.take_along_axis(special.log_softmax(logits, axis=-1), ids[..., None], axis=-1)[
        ..., 0
    ]
    np.testing.assert_allclose(log_probability, (gains * (ids != PAD)).sum(axis=1), atol=1e-4)


def test_a_row_is_the_same_alone_and_in_any_batch(sample: Any) -> None:
    together, _, chances = sample(temperature=1.0, seed=9)
    for row in range(0, 60, 7):
        alone, _, chance = sample(CODES[row : row + 1], temperature=1.0, seed=9, first_row=row)
        np.testing.assert_array_equal(
            np.pad(alone[0], (0, 16 - alone.shape[1])),
            np.pad(together[row], (0, 16 - together.shape[1])),
        )
        assert chance[0] == chances[row]


def test_other_seeds_and_other_rows_draw_other_texts(sample: Any) -> None:
    same_code = np.repeat(CODES[:1], 60, axis=0)
    first, second = (sample(same_code, temperature=1.0, seed=seed)[0] for seed in (1, 2))
    assert len({row.tobytes() for row in first}) > 30
    width = min(first.shape[1], second.shape[1])
    assert (first[:, :width] != second[:, :width]).any(axis=1).mean() > 0.5


def test_decoding_stops_when_every_row_has_ended(model: Any) -> None:
    biased = small_model()
    biased.head.classify.bias.assign(np.array([0, 0, 50.0, 0, 0, 0, 0, 0, 0], np.float32))
    ids, lengths, _ = runner(sampler_graph(SharedParts.of(biased)))()
    assert ids.shape == (60, 1)
    assert (lengths == 0).all()


def ending_model() -> Any:
    """A model whose texts end at every position."""
    biased = small_model()
    biased.head.classify.bias.assign(np.array([0, 0, 1.0, 0, 0, 0, 0, 0, 0], np.float32))
    return biased


def test_texts_are_those_of_one_block_although_rows_leave_the_batch() -> None:
    graph = sampler_graph(SharedParts.of(ending_model()))
    found = runner(graph)(temperature=1.0)
    (block,) = (item for item in graph.graph.initializer if item.name == BLOCK)
    block.CopyFrom(onnx.numpy_helper.from_array(np.array(16), BLOCK))
    assert len(set(found[1].tolist())) > 8
    for one, other in zip(found, runner(graph)(temperature=1.0), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_step_of_the_sampling_loop_has_few_nodes() -> None:
    normalised = small_model(head_layer_normalization=True)
    graph = sampler_graph(SharedParts.of(normalised)).graph
    assert "Identity" not in {node.op_type for node in nodes_of(graph)}
    _, (_, body) = decoding_loops(graph)
    assert len(body.node) <= 34


def test_matrices_of_a_step_are_made_in_the_loop_around_it(model: Any) -> None:
    plain = sampler_graph(SharedParts.of(model))
    packed = with_packed_matrices(plain)
    onnx.checker.check_model(packed, full_check=True)
    (_, around), _ = decoding_loops(packed.graph)
    assert [node.op_type for node in around.node[:2]] == ["Reshape", "Reshape"]
    assert {node.name for node in around.node[:2]} == {
        f"{item.name.removesuffix('/flat')}/matrix"
        for item in packed.graph.initializer
        if item.name.endswith("/flat")
    }
    for one, other in zip(runner(packed)(), runner(plain)(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_max_length_bounds_the_text(sample: Any) -> None:
    np.testing.assert_array_equal(sample(max_length=3)[0], sample()[0][:, :3])


def test_special_symbols_are_never_written() -> None:
    model = small_model()
    model.head.classify.bias.assign(np.array([9.0, 9.0, 0.0, 9.0, 0, 0, 0, 0, 0], np.float32))
    run = runner(sampler_graph(SharedParts.of(model)))
    for choices in ({}, {"temperature": 1.0}, {"temperature": 50.0, "top_k": 9}):
        ids, lengths, _ = run(**choices)
        written = np.arange(ids.shape[1])[None, :] < lengths[:, None]
        assert not np.isin(ids[written], NEVER_SAMPLED).any()


def test_no_graph_holds_a_random_operation_or_data_outside_the_file(
    graphs: dict[str, onnx.ModelProto],
) -> None:
    for graph in graphs.values():
        operations = {node.op_type for node in graph.graph.node}
        assert not [
            name for name in operations if name.startswith(("Random", "Multinomial", "Bernoulli"))
        ]
        assert not any(item.data_location for item in graph.graph.initializer)
        assert [entry.domain for entry in graph.opset_import] == [""]


def test_plain_graphs_hold_no_branch_and_no_number_that_some_runtimes_lack(
    graphs: dict[str, onnx.ModelProto],
) -> None:
    for endpoint in ("sampler_plain", "step_plain"):
        graph = graphs[endpoint].graph
        operations = {node.op_type for node in nodes_of(graph)}
        assert not operations & {"If", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Sin"}
        kinds = {item.data_type for item in graph.initializer}
        kinds |= {a.i for node in nodes_of(graph) for a in node.attribute if a.name == "to"}
        assert kinds <= {TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}
        whole = [numpy_helper.to_array(item) for item in graph.initializer]
        whole = [value for value in whole if value.dtype == np.int64 and value.size]
        assert all(np.abs(value).max() < 2**31 for value in whole)


def test_every_node_has_a_name_of_its_own_that_tells_its_part_of_the_model(
    graphs: dict[str, onnx.ModelProto],
) -> None:
    for endpoint, graph in graphs.items():
        names = [node.name for node in nodes_of(graph.graph)]
        assert all(names)
        assert len(set(names)) == len(names)
        parts = {name.split("/")[0] for name in names if "/" in name}
        assert parts >= NAMED_PARTS[endpoint], endpoint


NAMED_PARTS = {
    "sampler": {"sampler", "expand_expander_1", "step_cell_1"},
    "encoder": {"encoder_1", "posterior_1"},
    "prior": {"prior"},
    "scorer": {"scorer", "infer_encoder_1", "step_cell_1"},
    "expand": {"expand_expander_1"},
    "step": {"step", "step_cell_1"},
    "sampler_plain": {"sampler_plain", "expand_expander_1", "step_cell_1"},
    "step_plain": {"step_plain", "step_cell_1"},
}


@pytest.mark.parametrize("system", everyday(["mixture", "ladder of recurrent maps"], "mixture"))
def test_codes_are_drawn_where_none_are_given_and_no_branch_is_around_them(system: str) -> None:
    graphs = bundle_graphs(small_model(**SYSTEMS[system]))
    assert "If" not in {node.op_type for node in graphs["sampler"].graph.node}
    place = {"seed": np.full(9, 3), "row": np.arange(9)}
    prior = onnxruntime.InferenceSession(graphs["prior"].SerializeToString())
    (z,) = prior.run(None, place)
    run = runner(graphs["sampler"])
    given = run(z, seed=3, temperature=1.0)
    for drawn, expected in zip(run(z[:0], seed=3, rows=9, temperature=1.0), given, strict=True):
        np.testing.assert_array_equal(drawn, expected)


def test_signed_words_change_no_number_and_all_graphs_have_them_on_request(
    model: Any, graphs: dict[str, onnx.ModelProto]
) -> None:
    plain, signed = graphs, bundle_graphs(model, signed_words=True)
    place = {"seed": np.full(20, 2**40 + 5), "row": np.arange(20)}
    codes = [
        onnxruntime.InferenceSession(each["prior"].SerializeToString()).run(None, place)[0]
        for each in (plain, signed)
    ]
    np.testing.assert_array_equal(*codes)
    more = {
        name
        for name in plain
        if len(list(nodes_of(signed[name].graph))) > len(list(nodes_of(plain[name].graph)))
    }
    assert more == {"prior", "step"}
