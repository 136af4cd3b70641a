"""Parts of a model converted to ONNX, from which `kvae.export.graphs` builds a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import tensorflow as tf

from kvae.model import TextVAE
from kvae.objectives import guessed_attribute_nats
from kvae.parts import kl_names

from .convert import to_onnx
from .nodes import tensor


@dataclass(frozen=True)
class SharedParts:
    """Converted parts that several graphs share."""

    model: TextVAE
    codes: onnx.ModelProto
    """The prior: noise -> z."""
    expand: onnx.ModelProto
    """z -> projected (T, batch, P) and the head's first states."""
    step: onnx.ModelProto
    """projected, previous, states -> logits and the next states."""
    states: Sequence[onnx.ValueInfoProto]
    """The declarations of the head's states."""
    width: int
    """P: width of the projected features of a position."""

    @classmethod
    def of(cls, model: TextVAE) -> SharedParts:
        features = model.expander(tf.zeros((1, model.parts.code_size)), training=False)
        width = model.head.project(features).shape[-1]
        specs = [
            tf.TensorSpec((None, *state.shape[1:]), state.dtype, f"state_{number}")
            for number, state in enumerate(model.head.initial_state(features))
        ]
        states = [tensor(spec.name, spec.dtype.name, "batch", *spec.shape[1:]) for spec in specs]
        names = [spec.name for spec in specs]
        return cls(
            model,
            codes_part(model),
            expand_part(model, names),
            step_part(model, width, specs),
            states,
            width,
        )

    @property
    def names(self) -> list[str]:
        """The names of the states."""
        return [state.name for state in self.states]


def inference_part(model: TextVAE) -> onnx.ModelProto:
    """tokens, noise (and attribute) -> code (batch, code_size) sampled from q(z|x), and its KL
    (batch,) in nats."""
    values = len(model.model_config.attributes)

    def infer(
        tokens: tf.Tensor, noise: tf.Tensor, attribute: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        outputs, code = model.parts.infer(tokens, tf.identity(noise), attribute, training=False)
        kl = sum(
            (outputs[name] for name in kl_names(outputs)), tf.zeros_like(tokens[:, 0], tf.float32)
        )
        return code, kl + guessed_attribute_nats(attribute, values) if values else kl

    noise = tf.TensorSpec((None, model.parts.noise_size), name="noise")
    attribute = [tf.TensorSpec((None,), tf.int32, "attribute")] if values else []
    inputs = [tokens_spec(model), noise, *attribute]
    return to_onnx(infer, inputs, ["code", "kl"], gru_nodes=True)


def codes_part(model: TextVAE) -> onnx.ModelProto:
    """noise (batch, noise_size) -> z (batch, d)."""
    noise = tf.TensorSpec((None, model.parts.noise_size), name="noise")
    return to_onnx(lambda noise: model.codes(tf.identity(noise)), [noise], ["z"])


def expand_part(model: TextVAE, states: Sequence[str]) -> onnx.ModelProto:
    """z (batch, d) -> projected (T, batch, P) and the initial states of the head.

    The transpose to position-major order comes before the projection, because the features are
    narrower.
    """

    def expand(z: tf.Tensor) -> list[tf.Tensor]:
        features = model.expander(z, training=False)
        by_position = tf.transpose(features, (1, 0, 2))
        return [model.head.project(by_position), *model.head.initial_state(features)]

    z = tf.TensorSpec((None, model.parts.code_size), name="z")
    return to_onnx(expand, [z], ["projected", *(f"first_{name}" for name in states)])


def step_part(model: TextVAE, width: int, states: Sequence[tf.TensorSpec]) -> onnx.ModelProto:
    """projected (batch, P), previous (batch,), states -> logits (batch, V), states."""

    def step(projected: tf.Tensor, previous: tf.Tensor, *state: tf.Tensor) -> list[tf.Tensor]:
        logits, new_state = model.head.step(projected, previous, list(state))
        return [tf.identity(logits), *new_state]

    inputs = [
        tf.TensorSpec((None, width), name="projected"),
        tf.TensorSpec((None,), tf.int64, "previous"),
    ]
    return to_onnx(step, [*inputs, *states], ["logits", *(f"new_{state.name}" for state in states)])


def tokens_spec(model: TextVAE) -> tf.TensorSpec:
    """The input tokens (batch, T) int32."""
    return tf.TensorSpec((None, model.model_config.length), tf.int32, "tokens")
