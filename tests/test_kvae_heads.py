"""What a head sees, and that its stepped form is its teacher-forced form."""

from typing import Any

import keras
import numpy as np
import pytest

from kvae.heads import LSTMCell
from kvae.model import shifted
from kvae.serving.alphabet import START

from .conftest import random_tokens, small_model

HEADS: dict[str, dict[str, Any]] = {
    "none": {"head": "none", "auxiliary": False},
    "lstm": {"head_layer_normalization": False},
    "lstm, normalised": {"head_layer_normalization": True},
}


def stepped(model: Any, features: Any, tokens: np.ndarray) -> np.ndarray:
    previous = np.array(shifted(tokens))
    projected, state = model.head.project(features), model.head.initial_state(features)
    logits = []
    for position in range(tokens.shape[1]):
        step, state = model.head.step(projected[:, position], previous[:, position], state)
        logits.append(np.array(step))
    return np.stack(logits, axis=1)


def features_of(model: Any, rows: int = 4) -> Any:
    return model.expander(np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32), training=False)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_steps_equal_the_teacher_forced_pass(head: str, dropout: float) -> None:
    model = small_model({"input_dropout": dropout}, **HEADS[head])
    features, tokens = features_of(model), random_tokens(4)
    together = np.array(model.head(features, shifted(tokens), training=False))
    np.testing.assert_allclose(stepped(model, features, tokens), together, atol=1e-5)


def influence(model: Any, training: bool = False) -> np.ndarray:
    """[i, t]: whether the token at position i changes the logits at position t."""
    features, tokens = features_of(model, 1), np.full((1, 16), 4, np.int32)
    before = np.array(model.head(features, shifted(tokens), training=training))
    changed = []
    for position in range(16):
        other = tokens.copy()
        other[0, position] = 5
        after = np.array(model.head(features, shifted(other), training=training))
        changed.append(np.abs(after - before).max(axis=(0, 2)) > 1e-9)
    return np.array(changed)


@pytest.mark.parametrize("head", ["lstm", "lstm, normalised"])
def test_an_lstm_position_depends_on_all_tokens_before_it_and_on_no_other(head: str) -> None:
    assert (influence(small_model(**HEADS[head])) == np.triu(np.ones((16, 16), bool), k=1)).all()


def test_head_none_depends_on_no_token() -> None:
    assert not influence(small_model(**HEADS["none"])).any()


@pytest.mark.parametrize("training", [False, True])
def test_input_dropout_1_is_the_historyless_decoder_also_when_it_decodes(training: bool) -> None:
    assert not influence(small_model({"input_dropout": 1.0}), training).any()


def test_input_dropout_hides_its_share_of_previous_symbols_while_training() -> None:
    read = small_model({"input_dropout": 0.3}).head.read_previous
    rows = np.array(read(np.full((200, 16), START, np.int32), training=True))
    hidden = (rows == 0).all(axis=-1)
    assert hidden.mean() == pytest.approx(0.3, abs=0.03)
    assert (np.array(read(np.full((2, 16), START, np.int32), training=False)) != 0).any(axis=-1).all()


def test_without_normalisation_the_cell_is_keras_own_lstm() -> None:
    keras.utils.set_random_seed(0)
    units, inputs = 5, keras.random.normal((3, 7, 6))
    reference = keras.layers.LSTM(units, return_sequences=True)
    expected = reference(inputs)
    kernel, recurrent, bias = (np.array(weight) for weight in reference.get_weights())

    def reordered(weight: np.ndarray) -> np.ndarray:
        """Keras keeps the gates as input, forget, candidate, output."""
        i, f, c, o = np.split(weight, 4, axis=-1)
        return np.concatenate([i, f, o, c], axis=-1)

    cell = LSTMCell(units, layer_normalization=False)
    cell.build((3, 4 * units))
    cell.kernel.assign(reordered(recurrent))
    outside = np.array(inputs) @ reordered(kernel) + reordered(bias)
    ours = keras.layers.RNN(cell, return_sequences=True)(outside.astype(np.float32))
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_the_normalised_lstm_is_ba_et_al_equations_20_to_22() -> None:
    model = small_model(head_layer_normalization=True)
    head, units = model.head, 12
    features, tokens = np.array(features_of(model)), random_tokens(4)
    previous = np.array(shifted(tokens))

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    def normalised(x: np.ndarray, layer: Any) -> np.ndarray:
        gain, offset = (np.array(weight) for weight in layer.get_weights())
        centred = x - x.mean(axis=-1, keepdims=True)
        return gain * centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + layer.epsilon) + offset

    cell = head.recurrence.cell
    kernel_x, rows = np.array(head.read_features.kernel), np.array(head.read_previous.rows.embeddings)
    hidden = memory = np.zeros((4, units))
    expected = []
    for t in range(16):
        inputs = normalised(features[:, t] @ kernel_x + rows[previous[:, t]], head.normalize_inputs)
        gates = inputs + normalised(hidden @ np.array(cell.kernel), cell.normalize_hidden) + np.array(head.bias)
        i, f, o, g = np.split(gates, 4, axis=-1)
        memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(normalised(memory, cell.normalize_cell))
        expected.append(hidden @ np.array(head.classify.kernel) + np.array(head.classify.bias))
    np.testing.assert_allclose(head(features, previous), np.stack(expected, axis=1), atol=2e-5)


def test_the_forget_gate_is_open_at_first() -> None:
    import keras

    from kvae.heads import LSTMHead

    keras.utils.set_random_seed(0)
    head = LSTMHead(9, 3, True, 0.0)
    head.build((None, 16, 8), (None, 16))
    np.testing.assert_array_equal(np.array(head.bias), [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0])
