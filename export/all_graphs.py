"""All graphs of a bundle, from one conversion of the model's parts."""

from __future__ import annotations

import onnx

from kvae.model import TextVAE

from . import graphs, plain_graphs
from .converted_parts import SharedParts


def bundle_graphs(
    model: TextVAE, signed_words: bool = False, with_plain: bool = True
) -> dict[str, onnx.ModelProto]:
    """The graphs of all endpoints of a bundle, by name.

    The random numbers of the sampler and the scorer are right also in runtimes that have signed
    32-bit integers only. With `signed_words` those of the prior and the step are, too. That costs
    them more than a fifth of their time. `with_plain` adds the graphs without random numbers.
    """
    shared = SharedParts.of(model)
    return {
        "sampler": graphs.sampler_graph(shared),
        "encoder": graphs.encoder_graph(model),
        "prior": graphs.prior_graph(shared, signed_words),
        "scorer": graphs.scorer_graph(shared),
        "expand": graphs.expand_graph(shared),
        "step": graphs.step_graph(shared, signed_words),
        **(plain_graphs.plain_graphs(shared) if with_plain else {}),
    }
