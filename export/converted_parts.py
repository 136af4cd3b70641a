"""Parts of a model converted to ONNX, from which `kvae.export.graphs` builds a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import tensorflow as tf
from onnx import numpy_helper

from kvae.model import TextVAE
from kvae.objectives import guessed_attribute_nats
from kvae.parts import kl_names

from .convert import to_onnx
from .nodes import tensor
from .simplify import rename_tensor


@dataclass(frozen=True)
class SharedParts:
    """Converted parts that several graphs share."""

    model: TextVAE
    codes: onnx.ModelProto
    """The prior: noise -> z."""
    expand: onnx.ModelProto
    """z -> features (T, batch, C) and the head's first states."""
    project: onnx.ModelProto
    """features (rows, C) -> projected (rows, P), one row for a position of a text."""
    step: onnx.ModelProto
    """projected, previous, states -> logits without `bias`, and the next states."""
    bias: np.ndarray
    """The bias (V,) of the logits, which the sampler adds together with its masks."""
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
        step, bias = without_bias(step_part(model, width, specs))
        return cls(
            model,
            codes_part(model),
            expand_part(model, names),
            project_part(model, features.shape[-1]),
            step,
            bias,
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
    """z (batch, d) -> features (T, batch, C) and the initial states of the head."""

    def expand(z: tf.Tensor) -> list[tf.Tensor]:
        features = model.expander(z, training=False)
        return [tf.transpose(features, (1, 0, 2)), *model.head.initial_state(features)]

    z = tf.TensorSpec((None, model.parts.code_size), name="z")
    return to_onnx(expand, [z], ["features", *(f"first_{name}" for name in states)])


def project_part(model: TextVAE, channels: int) -> onnx.ModelProto:
    """features (batch, C) -> projected (batch, P)."""
    features = tf.TensorSpec((None, channels), name="features")
    return to_onnx(
        lambda features: model.head.project(tf.identity(features)), [features], ["projected"]
    )


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


def without_bias(step: onnx.ModelProto) -> tuple[onnx.ModelProto, np.ndarray]:
    """A converted step without the constant vector that it adds to its logits (batch, V) at last,
    and the vector: zeros (1,) if there is none."""
    graph = step.graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    last = producers.get(graph.output[0].name)
    if last is not None and last.op_type == "Add":
        for source, other in (last.input, last.input[::-1]):
            bias = constants.get(other)
            if bias is not None and bias.ndim == 1 and list(producers[source].output) == [source]:
                graph.node.remove(last)
                rename_tensor(graph, source, last.output[0])
                return step, bias
    return step, np.zeros(1, np.float32)


def tokens_spec(model: TextVAE) -> tf.TensorSpec:
    """The input tokens (batch, T) int32."""
    return tf.TensorSpec((None, model.model_config.length), tf.int32, "tokens")
