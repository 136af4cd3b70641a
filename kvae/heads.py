"""Heads: from features (B, T, C) and the previous symbols (B, T) to logits (B, T, V).

Every head offers the same four callables, used by training, in-framework decoding and export alike:

    projected        = head.project(features)                      what can be computed for all positions at once
    state            = head.initial_state(features)                a list of tensors (B, ...), possibly empty
    logits, state    = head.step(projected_t, previous, state)     one position: (B, P), (B,) -> (B, V)
    logits           = head(features, previous)                    all positions, teacher-forced: equals the steps
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from .configuration import ModelConfig, ObjectiveConfig


class PreviousSymbol(layers.Layer):
    """A learned row (units,) for each previous symbol; a share `dropout` of them is zeroed while training.

    Dropped rows are not compensated by a scale: dropout 1 is the historyless decoder of Semeniuta et al. 2017, 4.1, which
    sees no history when it decodes either.
    """

    def __init__(self, vocabulary_size: int, units: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = layers.Embedding(vocabulary_size, units, embeddings_initializer="glorot_uniform", name="rows")
        self.dropout = dropout
        self.noise = keras.random.SeedGenerator()

    def build(self, previous_shape: Any) -> None:
        self.rows.build(previous_shape)
        self.built = True

    def call(self, previous: Any, training: bool = False) -> Any:
        rows = self.rows(previous)
        if self.dropout >= 1.0:
            return ops.zeros_like(rows)
        if not training or self.dropout == 0.0:
            return rows
        kept = keras.random.uniform((*ops.shape(previous), 1), seed=self.noise) >= self.dropout
        return rows * ops.cast(kept, rows.dtype)


class IndependentHead(layers.Layer):
    """No history: p(x|z) factorises over positions, logits are linear in the features."""

    def __init__(self, vocabulary_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classify = layers.Dense(vocabulary_size, name="classify")

    def build(self, features_shape: Any, previous_shape: Any) -> None:
        self.classify.build(features_shape)
        self.built = True

    def project(self, features: Any) -> Any:
        return self.classify(features)

    def initial_state(self, features: Any) -> list[Any]:
        return []

    def step(self, projected: Any, previous: Any, state: list[Any]) -> tuple[Any, list[Any]]:
        return projected, state

    def call(self, features: Any, previous: Any, training: bool = False) -> Any:
        return self.project(features)


class LSTMCell(layers.Layer):
    """The recurrent part of an LSTM: takes what the gates get from outside, (B, 4 units), and adds what memory says.

    Gates stand in the order input, forget, output, candidate. With layer normalisation as in Ba et al. 2016, supplementary
    eq. 20-22: the hidden state's share is normalised before it joins the gates, and the cell before it is shown.
    """

    def __init__(self, units: int, layer_normalization: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.state_size = [units, units]
        self.output_size = units
        normalize = layers.LayerNormalization if layer_normalization else layers.Identity
        self.normalize_hidden = normalize(name="normalize_hidden")
        self.normalize_cell = normalize(name="normalize_cell")

    def build(self, inputs_shape: Any, states_shape: Any = None) -> None:
        self.kernel = self.add_weight(shape=(self.units, 4 * self.units), initializer="orthogonal", name="kernel")
        self.normalize_hidden.build((None, 4 * self.units))
        self.normalize_cell.build((None, self.units))
        self.built = True

    def call(self, inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        hidden, cell = states
        gates = inputs + self.normalize_hidden(ops.matmul(hidden, self.kernel))
        input_gate, forget_gate, output_gate = ops.split(ops.sigmoid(gates[:, : 3 * self.units]), 3, axis=-1)
        cell = forget_gate * cell + input_gate * ops.tanh(gates[:, 3 * self.units :])
        hidden = output_gate * ops.tanh(self.normalize_cell(cell))
        return hidden, [hidden, cell]


class LSTMHead(layers.Layer):
    """An LSTM that reads [features_t, previous symbol] (Semeniuta et al. 2017, fig. 2b).

    Because the features of all positions are known, their share of the gates is one product outside the recurrence; the
    share of a previous symbol is a learned row. With layer normalisation their sum is normalised (Ba et al. 2016,
    supplementary eq. 20). The forget gate's bias starts at 1.
    """

    def __init__(
        self, vocabulary_size: int, units: int, layer_normalization: bool, input_dropout: float, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.read_features = layers.Dense(4 * units, use_bias=False, name="read_features")
        self.read_previous = PreviousSymbol(vocabulary_size, 4 * units, input_dropout, name="read_previous")
        normalize = layers.LayerNormalization if layer_normalization else layers.Identity
        self.normalize_inputs = normalize(name="normalize_inputs")
        self.recurrence = layers.RNN(
            LSTMCell(units, layer_normalization, name="cell"), return_sequences=True, name="recurrence"
        )
        self.classify = layers.Dense(vocabulary_size, name="classify")

    def build(self, features_shape: Any, previous_shape: Any) -> None:
        gates = (*features_shape[:-1], 4 * self.units)
        self.read_features.build(features_shape)
        self.read_previous.build(previous_shape)
        self.normalize_inputs.build(gates)
        self.recurrence.build(gates)
        self.classify.build((None, self.units))
        self.bias = self.add_weight(shape=(4 * self.units,), initializer=forget_at_first, name="bias")
        self.built = True

    def project(self, features: Any) -> Any:
        """(B, T, C) -> (B, T, 4 units)."""
        return self.read_features(features)

    def initial_state(self, features: Any) -> list[Any]:
        """Hidden and cell state, (B, units) each, zero."""
        return [ops.zeros((ops.shape(features)[0], self.units), self.compute_dtype) for _ in range(2)]

    def step(self, projected: Any, previous: Any, state: list[Any]) -> tuple[Any, list[Any]]:
        hidden, state = self.recurrence.cell(self.read(projected, previous), state)
        return self.classify(hidden), state

    def call(self, features: Any, previous: Any, training: bool = False) -> Any:
        inputs = self.read(self.project(features), previous, training)
        return self.classify(self.recurrence(inputs, initial_state=self.initial_state(features)))

    def read(self, projected: Any, previous: Any, training: bool = False) -> Any:
        """Everything the gates get from outside the recurrence: (..., 4 units)."""
        return self.normalize_inputs(projected + self.read_previous(previous, training=training)) + self.bias


def forget_at_first(shape: Any, dtype: Any = None) -> Any:
    """The initial bias of an LSTM's gates: 1 for the forget gate, 0 for the others (Jozefowicz et al. 2015)."""
    units = shape[0] // 4
    return ops.concatenate([ops.zeros(units), ops.ones(units), ops.zeros(2 * units)])


def independent(config: ModelConfig, objective: ObjectiveConfig) -> layers.Layer:
    """Head `none`."""
    return IndependentHead(config.vocabulary_size, name="head")


def lstm(config: ModelConfig, objective: ObjectiveConfig) -> layers.Layer:
    """Head `lstm`."""
    return LSTMHead(
        config.vocabulary_size, config.head_units, config.head_layer_normalization, objective.input_dropout, name="head"
    )


HEADS = {"none": independent, "lstm": lstm}
