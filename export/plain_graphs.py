"""Graphs of a bundle without random numbers: their host draws these.

    sampler_plain  z, uniform, choices                          -> ids, log_probability of tokens
    step_plain     projected, previous, states, uniform, mask   -> symbol, log_probability, logits,
                                                                   new states

They have no unsigned numbers, no integers above 31 bits and no branches, so runtimes without these
run them. `kvae.serving.random_numbers.uniforms` draws the numbers of the sampler's texts. The
logits of the step are for a host that searches or constrains texts.
"""

from __future__ import annotations

import numpy as np
import onnx

from kvae.serving.choices import DRAWING

from .convert import checked_model
from .converted_parts import SharedParts
from .graphs import CHOICES, sampled_texts, step_outputs
from .nodes import Nodes, tensor
from .simplify import hoisted


def plain_graphs(shared: SharedParts) -> dict[str, onnx.ModelProto]:
    """Both graphs by name."""
    return {"sampler_plain": sampler_graph(shared), "step_plain": step_graph(shared)}


def sampler_graph(shared: SharedParts) -> onnx.ModelProto:
    """z (batch, d), uniform (batch, max_length) in [0, 1) and choices -> ids (batch, time),
    log_probability (batch, time).

    `log_probability` is that of each token at temperature 1, in nats, and 0 on padding.
    """
    g = Nodes(prefix="sampler_plain/", branches=False)
    drawn = g.Unsqueeze(g.Transpose("uniform", perm=[1, 0]), g.constant([2], np.int64))
    g.named(g.Gather(g.Shape("uniform"), g.constant(1, np.int64)), "max_length")
    _, log_probabilities = sampled_texts(g, shared, "z", drawn)
    g.named(log_probabilities, "log_probability")
    inputs = [
        tensor("z", "float", "batch", shared.model.parts.code_size),
        tensor("uniform", "float", "batch", "max_length"),
        *CHOICES,
    ]
    outputs = [
        tensor("ids", "int64", "batch", "time"),
        tensor("log_probability", "float", "batch", "time"),
    ]
    return checked_model(hoisted(g.model("sampler_plain", inputs, outputs)))


def step_graph(shared: SharedParts) -> onnx.ModelProto:
    """projected (batch, P) of a position, previous tokens (batch,), states, uniform (batch,), mask
    (rows, V) and choices -> symbol, log_probability (batch,), logits (batch, V) and new states.

    `mask` is added to the logits: 0 for the tokens that may come next, -1e9 for the others. It has
    one row or `batch` of them. The outputs `logits` and `log_probability` include it.
    """
    g = Nodes(prefix="step_plain/", branches=False)
    drawn = g.Unsqueeze("uniform", g.constant([1], np.int64))
    with_bias = g.Add("mask", g.constant(shared.bias)) if shared.bias.any() else "mask"
    logits, outputs = step_outputs(g, shared, with_bias, drawn)
    g.named(logits, "logits")
    size = shared.model.model_config.vocabulary_size
    inputs = [
        tensor("projected", "float", "batch", shared.width),
        tensor("previous", "int64", "batch"),
        *shared.states,
        tensor("uniform", "float", "batch"),
        tensor("mask", "float", "rows", size),
        *(choice for choice in CHOICES if choice.name in DRAWING),
    ]
    outputs.insert(2, tensor("logits", "float", "batch", size))
    return checked_model(g.model("step_plain", inputs, outputs))
