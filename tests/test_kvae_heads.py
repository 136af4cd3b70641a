"""What a head sees, that its stepped form is its teacher-forced form, and its formulas by hand."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.blocks import Dropout
from kvae.cells import GRUCell, LSTMCell
from kvae.configuration import ObjectiveConfig
from kvae.heads import LAYERS, RecurrentHead
from kvae.parts import shifted
from kvae.replicas import Replica, replica
from kvae.serving.alphabet import START

from .conftest import JAX, everyday, numbers, random_tokens, small_config, small_model

LANGUAGE_MODEL = {
    "encoder": "none",
    "latent": "none",
    "expander": "repeat",
    "expander_base": 0,
    "auxiliary": False,
}
REPEAT = {"expander": "repeat", "expander_base": 0}
NORMALISED = {"head_layer_normalization": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {"head": "none", "auxiliary": False},
    "lstm": {"head_layer_normalization": False},
    "lstm, normalised": NORMALISED,
    "lstm, state": {**NORMALISED, "head_reads": "state", **REPEAT},
    "lstm, both": {**NORMALISED, "head_reads": "both", **REPEAT},
    "lstm, embedding": {**NORMALISED, "head_embedding": 3},
    "lstm, tied": {**NORMALISED, "head_embedding": 12, "tied_embeddings": True},
    "lstm, skip": {**NORMALISED, "head_skip": True},
    "lstm, language model": {**NORMALISED, **LANGUAGE_MODEL},
    "gru": {"head": "gru", "head_layer_normalization": False},
    "gru, normalised": {"head": "gru"},
    "gru, state": {"head": "gru", "head_reads": "state", **REPEAT},
    "gru, both": {"head": "gru", "head_reads": "both", **REPEAT},
    "gru, tied": {"head": "gru", "head_embedding": 5, "tied_embeddings": True},
    "gru, both, skip": {"head": "gru", "head_reads": "both", "head_skip": True, **REPEAT},
    "gru, language model": {"head": "gru", **LANGUAGE_MODEL},
    "bytenet 1": {"head": "bytenet"},
    "bytenet 3": {"head": "bytenet", "head_layers": 3, "head_layer_normalization": False},
    "bytenet 3, dilated": {"head": "bytenet", "head_layers": 3, "head_dilation": 2},
    "bytenet, gaps": {"head": "bytenet", "head_layers": 2, "head_dilation": 3},
    "bytenet, embedding": {"head": "bytenet", "head_layers": 2, "head_embedding": 3},
    "bytenet, language model": {"head": "bytenet", "head_layers": 2, **LANGUAGE_MODEL},
    "gated_conv": {"head": "gated_conv", "head_layers": 2, "head_kernel": 3, "head_dilation": 2},
    "gated_conv, plain": {"head": "gated_conv", "head_layer_normalization": False},
    "gated_conv, language model": {"head": "gated_conv", "head_layers": 2, **LANGUAGE_MODEL},
    "transformer": {"head": "transformer", "head_layers": 2},
    "transformer, state": {"head": "transformer", "head_reads": "state", **REPEAT},
    "transformer, both": {
        "head": "transformer",
        "head_layers": 2,
        "head_attention_heads": 3,
        "head_reads": "both",
        **REPEAT,
    },
    "transformer, tied": {"head": "transformer", "tied_embeddings": True},
    "transformer, embedding, tied": {
        "head": "transformer",
        "head_embedding": 5,
        "tied_embeddings": True,
    },
    "transformer, language model": {"head": "transformer", "head_layers": 2, **LANGUAGE_MODEL},
}
RECURRENT = [name for name in VARIANTS if name.startswith(("lstm", "gru"))]
CONVOLUTIONS = [name for name in VARIANTS if name.startswith(("bytenet", "gated_conv"))]
TRANSFORMERS = [name for name in VARIANTS if name.startswith("transformer")]

EVERYDAY = (
    *("none", "lstm, both", "lstm, tied", "gru, both, skip", "bytenet 3, dilated"),
    *("bytenet, embedding", "gated_conv", "transformer, embedding, tied"),
)
"""Variants that have each way to read and to write a symbol; `make test-all` takes the others."""

each_variant = pytest.mark.parametrize("variant", everyday(VARIANTS, *EVERYDAY))


def of_every_day(variants: list[str]) -> list[Any]:
    return everyday(variants, *(name for name in variants if name in EVERYDAY))


GROUND_FLOOR = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("kvae.training", "kvae.export")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
import keras
from kvae.decoding import sample
from kvae.heads import LAYERS
from tests.conftest import random_tokens, small_model
for head in LAYERS:
    model = small_model(head=head, auxiliary=head != "none", length=8)
    logits = model(random_tokens(2, 8), training=True)["logits"]
    bound = model.bound(random_tokens(2, 8), keras.random.normal((2, model.parts.noise_size)))
    twin = type(model).from_config(model.get_config())
    print(head, *logits.shape, *bound["kl"].shape, *sample(twin, 3).shape)
"""


@pytest.mark.jax
def test_every_head_is_built_computes_and_writes_where_neither_training_nor_export_is_installed() -> (  # noqa: E501
    None
):
    done = subprocess.run(
        [sys.executable, "-c", GROUND_FLOOR],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{head} 2 8 9 2 3 8" for head in LAYERS]


def head_of(variant: str, dropout: float = 0.0) -> Any:
    """The head alone, its weights spread."""
    keras.utils.set_random_seed(0)
    config = small_config(**VARIANTS[variant])
    head = LAYERS[config.head](config, ObjectiveConfig(input_dropout=dropout))
    head.build((None, 16, 8), (None, 16))
    for weight in head.trainable_weights:
        weight.assign(weight + 0.3 * keras.random.normal(weight.shape))
    return head


def features_of(rows: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 16, 8)).astype(np.float32)


def stepped(head: Any, features: Any, tokens: np.ndarray) -> np.ndarray:
    previous = np.array(shifted(tokens))
    projected, state = head.project(features), head.initial_state(features)
    logits = []
    for position in range(tokens.shape[1]):
        step, state = head.step(projected[:, position], previous[:, position], state)
        logits.append(np.array(step))
    return np.stack(logits, axis=1)


ON_JAX = (
    *("none", "lstm, both", "gru, language model"),
    *("bytenet 3, dilated", "gated_conv", "transformer, both"),
)
"""Variants that run every day on JAX, one of each kind; JAX compiles each operation anew.

On TensorFlow every variant runs every day without input dropout, and these with it too.
"""


def with_dropout(*dropouts: float) -> list[Any]:
    """Every variant with each input dropout as parameters (variant, dropout)."""
    return [
        pytest.param(variant, dropout, marks=() if variant in ON_JAX else pytest.mark.slow)
        for variant in VARIANTS
        for dropout in dropouts
    ]


@pytest.mark.jax
@pytest.mark.parametrize("variant", everyday(VARIANTS, *(ON_JAX if JAX else EVERYDAY)))
def test_steps_equal_the_teacher_forced_pass(variant: str) -> None:
    compare_steps(head_of(variant))


@pytest.mark.parametrize(("variant", "dropout"), with_dropout(0.5, 1.0))
def test_steps_equal_the_teacher_forced_pass_of_a_head_with_input_dropout(
    variant: str, dropout: float
) -> None:
    compare_steps(head_of(variant, dropout))


def compare_steps(head: Any) -> None:
    tokens = random_tokens(4)
    together = np.array(head(features_of(), shifted(tokens), training=False))
    np.testing.assert_allclose(stepped(head, features_of(), tokens), together, atol=1e-5)


@pytest.mark.parametrize(
    "variant",
    [
        "lstm, state",
        pytest.param("gru, both", marks=pytest.mark.slow),
        "bytenet 3, dilated",
        "gru, language model",
        pytest.param("gated_conv, language model", marks=pytest.mark.slow),
        "transformer, state",
    ],
)
def test_steps_from_a_code_equal_the_logits_of_the_whole_model(variant: str) -> None:
    model, tokens = small_model(**VARIANTS[variant]), random_tokens(4)
    noise = np.random.default_rng(0).normal(size=(4, model.parts.noise_size)).astype(np.float32)
    outputs = model.parts.outputs(tokens, noise, training=False)
    features = model.expander(outputs["z"], training=False)
    np.testing.assert_allclose(stepped(model.head, features, tokens), outputs["logits"], atol=1e-5)


def influence(head: Any, training: bool = False) -> np.ndarray:
    """[i, t]: whether the token at position i changes the logits at position t."""
    tokens = np.tile(np.random.default_rng(1).integers(4, 9, (8, 16)).astype(np.int32), (16, 1, 1))
    others = tokens.copy()
    for position in range(16):
        others[position, :, position] = 4 + (tokens[position, :, position] - 3) % 5
    features = np.tile(features_of(8), (16, 1, 1))
    before, after = (
        np.array(head(features, shifted(text.reshape(-1, 16)), training=training))
        for text in (tokens, others)
    )
    return np.any((after != before).reshape(16, 8, 16, -1), axis=(1, 3))


def feature_influence(head: Any) -> np.ndarray:
    """[s, t]: whether the features at position s change the logits at position t."""
    previous = shifted(np.tile(random_tokens(8), (16, 1)))
    features = np.tile(features_of(8), (16, 1, 1, 1))
    others = features.copy()
    for position in range(16):
        others[position, :, position] += 1.0
    before, after = (
        np.array(head(rows.reshape(-1, 16, 8), previous)) for rows in (features, others)
    )
    return np.any((after != before).reshape(16, 8, 16, -1), axis=(1, 3))


def offsets(variant: str) -> set[int]:
    """How far back a stack of convolutions looks, itself (0) included."""
    config = small_config(**VARIANTS[variant])
    reached = {0}
    for layer in range(config.head_layers):
        reached = {
            far + tap * config.head_dilation**layer
            for far in reached
            for tap in range(config.head_kernel)
        }
    return reached


def band(distances: set[int]) -> np.ndarray:
    """[i, t]: whether t - i is one of the distances."""
    position = np.arange(16)
    return np.isin(position[None, :] - position[:, None], list(distances))


@pytest.mark.parametrize("variant", of_every_day(RECURRENT))
def test_hidden_states_lie_between_minus_one_and_one(variant: str) -> None:
    """Eight-bit samplers rely on it."""
    head = head_of(variant)
    for weight in head.trainable_weights:
        weight.assign(10.0 * weight)
    features = 10.0 * features_of()
    projected, state = head.project(features), head.initial_state(features)
    for position in range(16):
        assert np.abs(numbers(state[0])).max() <= 1.0
        _, state = head.step(projected[:, position], np.array([4, 5, 6, 7]), state)
    assert 0.5 < np.abs(numbers(state[0])).max() <= 1.0


@pytest.mark.parametrize("variant", of_every_day([*RECURRENT, *TRANSFORMERS]))
def test_a_position_depends_on_all_tokens_before_it_and_on_no_other(variant: str) -> None:
    np.testing.assert_array_equal(influence(head_of(variant)), band(set(range(1, 16))))


def test_head_none_depends_on_no_token() -> None:
    assert not influence(head_of("none")).any()


@pytest.mark.parametrize(
    ("variant", "layers"), [("bytenet 1", 1), ("bytenet, embedding", 2), ("bytenet 3", 3)]
)
def test_a_bytenet_position_depends_on_exactly_the_previous_symbol_and_those_at_n_positions_before(
    variant: str, layers: int
) -> None:
    np.testing.assert_array_equal(influence(head_of(variant)), band(set(range(1, layers + 2))))


@pytest.mark.parametrize("variant", CONVOLUTIONS)
def test_a_convolution_depends_on_the_tokens_under_its_taps_and_on_no_other(variant: str) -> None:
    np.testing.assert_array_equal(
        influence(head_of(variant)), band({1 + offset for offset in offsets(variant)})
    )


@pytest.mark.parametrize(
    ("variant", "field"),
    [
        ("bytenet 3", 4),
        ("bytenet 3, dilated", 8),
        ("bytenet, gaps", 5),
        ("gated_conv", 7),
        ("gated_conv, plain", 2),
    ],
)
def test_the_receptive_field_is_1_and_kernel_less_1_times_the_sum_of_dilations(
    variant: str, field: int
) -> None:
    config = small_config(**VARIANTS[variant])
    dilations = sum(config.head_dilation**layer for layer in range(config.head_layers))
    token, position = np.nonzero(influence(head_of(variant)))
    assert (position - token).max() == field == 1 + (config.head_kernel - 1) * dilations


@each_variant
def test_features_reach_the_positions_that_the_head_says(variant: str) -> None:
    found = feature_influence(head_of(variant))
    if "language model" in variant:
        expected = np.zeros((16, 16), bool)
    elif "state" in variant:
        expected = np.arange(16)[:, None] == np.zeros((1, 16))
    elif variant in CONVOLUTIONS:
        expected = band(offsets(variant))
    else:
        expected = band({0} if variant == "none" else set(range(16)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("variant", everyday(VARIANTS, *ON_JAX))
@pytest.mark.parametrize("training", [False, True])
def test_input_dropout_1_is_the_historyless_decoder_also_when_it_decodes(
    variant: str, training: bool
) -> None:
    assert not influence(head_of(variant, dropout=1.0), training).any()


@pytest.mark.jax
@pytest.mark.parametrize("variant", ["lstm", "bytenet, embedding"])
def test_input_dropout_hides_its_share_of_previous_symbols_while_training(variant: str) -> None:
    read = head_of(variant, dropout=0.3).read_previous
    rows = np.array(read(np.full((200, 16), START, np.int32), training=True))
    hidden = (rows == 0).all(axis=-1)
    assert hidden.mean() == pytest.approx(0.3, abs=0.03)
    assert (
        (np.array(read(np.full((2, 16), START, np.int32), training=False)) != 0).any(axis=-1).all()
    )


@pytest.mark.parametrize("variant", ["lstm", "gru", "bytenet 1", "gated_conv"])
def test_a_training_pass_hides_symbols_from_the_whole_head(variant: str) -> None:
    head, previous = head_of(variant, dropout=0.5), shifted(random_tokens(4))
    first, second = (np.array(head(features_of(), previous, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("variant", ["lstm, embedding", "bytenet, embedding"])
def test_an_embedding_is_a_bottleneck_of_its_size(variant: str) -> None:
    rows = np.array(head_of(variant).read_previous(np.arange(9, dtype=np.int32)[None]))[0]
    assert np.linalg.matrix_rank(rows, tol=1e-4) == 3


@pytest.mark.parametrize(
    ("variant", "size"),
    [
        ("lstm, tied", 12),
        ("gru, tied", 5),
        ("transformer, tied", 12),
        ("transformer, embedding, tied", 5),
    ],
)
def test_tied_logits_compare_outputs_with_the_vectors_of_previous_symbols(
    variant: str, size: int
) -> None:
    head = head_of(variant)
    hidden = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    vectors = np.array(head.read_previous.rows.embeddings)
    assert vectors.shape == (9, size)
    linear = np.eye(12) if size == 12 else np.array(head.classify.linear.kernel)
    outputs = hidden if variant in RECURRENT else normalised(hidden, head.normalize)
    expected = outputs @ linear @ vectors.T + np.array(head.classify.bias)
    np.testing.assert_allclose(head.logits(hidden), expected, atol=1e-5)
    assert sum(weight.shape == (9, size) for weight in head.weights) == 1


@pytest.mark.jax
def test_dropout_zeroes_its_share_while_training_and_keeps_the_mean() -> None:
    keras.utils.set_random_seed(0)
    layer, ones = Dropout(0.4), np.ones((50, 16, 12), np.float32)
    dropped = numbers(layer(ones, training=True))
    assert (dropped == 0).mean() == pytest.approx(0.4, abs=0.02)
    assert dropped.mean() == pytest.approx(1.0, abs=0.03)
    np.testing.assert_array_equal(numbers(layer(ones, training=False)), ones)


def test_dropout_of_a_part_of_a_batch_is_that_of_the_whole() -> None:
    layer, ones = Dropout(0.5), np.ones((4, 3, 2), np.float32)
    first = layer.noise.state.numpy()
    whole = np.array(layer(np.concatenate([ones, ones]), training=True))
    layer.noise.state.assign(first)
    with replica(Replica(1, 2)):
        np.testing.assert_array_equal(layer(ones, training=True), whole[4:])


def test_head_dropout_acts_on_what_a_head_reads_of_symbols_and_on_what_it_shows() -> None:
    keras.utils.set_random_seed(0)
    config = small_config(head_embedding=6, head_dropout=0.5)
    head = LAYERS["lstm"](config, ObjectiveConfig())
    head.build((None, 16, 8), (None, 16))
    vectors = np.array(head.read_previous.thin(np.ones((20, 16, 6), np.float32), training=True))
    assert set(vectors.ravel()) == {0.0, 2.0}
    head.classify.kernel.assign(np.eye(12, 9))
    shown = np.array(head(features_of(), shifted(random_tokens(4)), training=True))
    assert (shown == 0).mean() == pytest.approx(0.5, abs=0.1)
    again = np.array(head(features_of(), shifted(random_tokens(4)), training=False))
    assert (again != 0).all()
    np.testing.assert_allclose(stepped(head, features_of(), random_tokens(4)), again, atol=1e-5)


def keras_cell(layer: Any, cell: Any, order: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The outputs of a Keras layer and of our cell, with the same weights on the same inputs.

    `order` gives the gates of Keras in our order.
    """
    keras.utils.set_random_seed(0)
    inputs = keras.random.normal((3, 7, 6))
    layer.build(inputs.shape)
    for weight in layer.weights:
        weight.assign(weight + 0.3 * keras.random.normal(weight.shape))
    if isinstance(layer, keras.layers.GRU):
        outside, recurrent = np.array(layer.cell.bias)
        recurrent[order[2] * layer.units :] = (
            0.0  # ours has no bias within the reset of the candidate
        )
        layer.cell.bias.assign(np.stack([outside, recurrent]))
    kernel, recurrent_kernel, bias = (np.array(weight) for weight in layer.get_weights())

    def reordered(weight: np.ndarray) -> np.ndarray:
        gates = np.split(weight, len(order), axis=-1)
        return np.concatenate([gates[place] for place in order], axis=-1)

    cell.build((3, kernel.shape[-1]))
    cell.kernel.assign(reordered(recurrent_kernel))
    cell.bias.assign(0.0 * cell.bias)
    outside = np.array(inputs) @ reordered(kernel) + reordered(
        bias if bias.ndim == 1 else bias.sum(axis=0)
    )
    ours = keras.layers.RNN(cell, return_sequences=True)(outside.astype(np.float32))
    return np.array(ours), np.array(layer(inputs))


@pytest.mark.jax
def test_without_normalisation_the_cell_is_keras_own_lstm() -> None:
    """Keras keeps the gates as input, forget, candidate, output."""
    config = small_config(head_units=5, head_layer_normalization=False)
    layer = keras.layers.LSTM(5, return_sequences=True)
    ours, expected = keras_cell(layer, LSTMCell(config), [0, 1, 3, 2])
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.jax
def test_without_normalisation_the_cell_is_keras_own_gru() -> None:
    """Keras keeps the gates as update, reset, candidate."""
    config = small_config(head_units=5, head_layer_normalization=False)
    layer = keras.layers.GRU(5, reset_after=True, return_sequences=True)
    ours, expected = keras_cell(layer, GRUCell(config), [1, 0, 2])
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def normalised(x: np.ndarray, layer: Any) -> np.ndarray:
    gain, offset = (np.array(weight) for weight in layer.get_weights())
    centred = x - x.mean(axis=-1, keepdims=True)
    return (
        gain * centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + layer.epsilon) + offset
    )


def dense(x: np.ndarray, layer: Any) -> np.ndarray:
    return x @ np.array(layer.kernel) + np.array(layer.bias)


@pytest.mark.parametrize("variant", ["lstm, normalised", "lstm, both"])
def test_the_normalised_lstm_is_ba_et_al_equations_20_to_22(variant: str) -> None:
    head = head_of(variant)
    features, previous = features_of(), np.array(shifted(random_tokens(4)))
    cell = head.recurrence.cell
    kernel_x, rows = (
        np.array(head.read_features.kernel),
        np.array(head.read_previous.rows.embeddings),
    )
    memory = (
        np.zeros((4, 12)) if head.read_state is None else dense(features[:, 0], head.read_state)
    )
    hidden = np.tanh(memory)
    expected = []
    for t in range(16):
        inputs = normalised(features[:, t] @ kernel_x + rows[previous[:, t]], cell.normalize_inputs)
        gates = (
            inputs
            + normalised(hidden @ np.array(cell.kernel), cell.normalize_hidden)
            + np.array(cell.bias)
        )
        i, f, o, g = np.split(gates, 4, axis=-1)
        memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(normalised(memory, cell.normalize_cell))
        expected.append(dense(hidden, head.classify))
    np.testing.assert_allclose(head(features, previous), np.stack(expected, axis=1), atol=2e-5)


def test_a_gru_starts_from_the_hyperbolic_tangent_of_a_linear_map_of_the_features() -> None:
    head, features = head_of("gru, state"), features_of()
    (state,) = head.initial_state(features)
    np.testing.assert_allclose(state, np.tanh(dense(features[:, 0], head.read_state)), atol=1e-6)


@pytest.mark.jax
@pytest.mark.parametrize(
    "variant", ["bytenet 3", "bytenet 3, dilated", "gated_conv", "gated_conv, plain"]
)
def test_convolution_heads_are_the_published_layers(variant: str) -> None:
    """A gated 1x1 convolution is followed by masked convolutions.

    These have a highway (bytenet) or a gated residual (gated_conv).
    """
    head, config = head_of(variant), small_config(**VARIANTS[variant])
    features, previous = features_of(), np.array(shifted(random_tokens(4)))
    rows = np.array(head.read_previous.rows.embeddings)[previous]
    value, gate = np.split(
        features @ np.array(head.read_features.kernel) + rows + np.array(head.bias), 2, axis=-1
    )
    hidden = value * sigmoid(gate)
    for layer, convolution in enumerate(head.convolutions):
        summed = np.zeros((4, 16, 24))
        for t in range(16):
            for tap in range(config.head_kernel):
                source = t - (config.head_kernel - 1 - tap) * config.head_dilation**layer
                if source >= 0:
                    summed[:, t] += hidden[:, source] @ np.array(convolution.kernel)[tap]
        if config.head_layer_normalization:
            summed = normalised(summed, convolution.normalize)
        value, gate = np.split(summed + np.array(convolution.bias), 2, axis=-1)
        if config.head == "bytenet":
            share = sigmoid(gate - 1)
            hidden = share * np.maximum(value, 0) + (1 - share) * hidden
        else:
            hidden = hidden + value * sigmoid(gate)
    np.testing.assert_allclose(head(features, previous), dense(hidden, head.classify), atol=2e-5)


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def attended(rows: np.ndarray, attention: Any, normalization: Any) -> np.ndarray:
    """Causal self-attention of rows (B, S, units), normalised first, with several heads."""
    inputs = normalised(rows, normalization)
    query, keys, values = (
        np.einsum("bsc,chk->bhsk", inputs, np.array(layer.kernel))
        + np.array(layer.bias)[None, :, None]
        for layer in (attention.query_dense, attention.key_dense, attention.value_dense)
    )
    scores = query @ keys.swapaxes(2, 3) / np.sqrt(query.shape[-1])
    later = np.triu(np.ones(scores.shape[-2:], bool), 1)
    weights = softmax(np.where(later, -np.inf, scores))
    output = attention.output_dense
    return np.einsum("bhsk,hkc->bsc", weights @ values, np.array(output.kernel)) + np.array(
        output.bias
    )


@pytest.mark.jax
@pytest.mark.parametrize("variant", ["transformer", "transformer, both"])
def test_a_transformer_is_vaswani_et_al_with_normalised_inputs_and_a_memory_of_li_et_al(
    variant: str,
) -> None:
    head, features, previous = head_of(variant), features_of(), np.array(shifted(random_tokens(4)))
    rows = features @ np.array(head.read_features.kernel)
    rows = rows + np.array(head.read_previous.rows.embeddings)[previous]
    rows = rows + np.array(head.positions.vectors.embeddings)
    memories: list[Any] = [None, None]
    if head.read_state is not None:
        memories = np.split(dense(features[:, 0], head.read_state), 2, axis=-1)
    for layer, memory in zip(head.decoders, memories, strict=True):
        block = layer.decoder
        rows = rows if memory is None else np.concatenate([memory[:, None], rows], axis=1)
        rows = rows + attended(rows, block._self_attention_layer, block._self_attention_layer_norm)
        hidden = dense(
            normalised(rows, block._feedforward_layer_norm), block._feedforward_intermediate_dense
        )
        hidden = hidden * (1 + np.tanh((2 / np.pi) ** 0.5 * (hidden + 0.044715 * hidden**3))) / 2
        rows = rows + dense(hidden, block._feedforward_output_dense)
        rows = rows if memory is None else rows[:, 1:]
    expected = dense(normalised(rows, head.normalize), head.classify)
    np.testing.assert_allclose(numbers(head(features, previous)), expected, atol=2e-5)


def test_the_forget_gate_is_open_at_first() -> None:
    config = small_config(head_units=3)
    head = RecurrentHead(config, LSTMCell(config, name="cell"), 0.0)
    head.build((None, 16, 8), (None, 16))
    np.testing.assert_array_equal(
        np.array(head.recurrence.cell.bias), [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    )
