"""Graphs with flows compute what Keras computes: codes of texts, samples and their KL."""

from typing import Any

import numpy as np
import pytest

from kvae.serving.runtime import session

from .conftest import everyday, numbers, random_tokens, small_model
from .test_kvae_flows import FLOWS


def outputs_of(graph: Any, **inputs: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(part) for part in session(graph.SerializeToString()).run(None, inputs)]


@pytest.mark.parametrize("name", everyday(["iaf", "planar, map"], "iaf"))
def test_the_encoder_and_the_scorer_contain_the_flow(name: str) -> None:
    from kvae.export.converted_parts import inference_part
    from kvae.export.graphs import encoder_graph

    model, tokens = small_model(**FLOWS[name]), random_tokens(7)
    expected = model.encode(tokens)
    mean, log_variance = outputs_of(encoder_graph(model), tokens=tokens)
    np.testing.assert_allclose(mean, expected["mean"], atol=1e-4)
    np.testing.assert_allclose(log_variance, expected["log_variance"], atol=1e-4)
    noise = np.random.default_rng(0).normal(size=(7, model.parts.noise_size)).astype(np.float32)
    found, code = model.parts.infer(tokens, noise, training=False)
    z, kl = outputs_of(inference_part(model), tokens=tokens, noise=noise)
    np.testing.assert_allclose(z, code, atol=1e-4)
    np.testing.assert_allclose(kl, found["kl_level_0"], rtol=1e-4, atol=1e-3)
    assert np.abs(numbers(code) - mean).max() > 0.1


def test_the_prior_contains_its_coupling_layers() -> None:
    from kvae.export.converted_parts import codes_part

    model = small_model(**FLOWS["prior"])
    noise = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    (z,) = outputs_of(codes_part(model), noise=noise)
    np.testing.assert_allclose(z, model.codes(noise), rtol=1e-4, atol=1e-4)
    assert np.abs(z - noise).max() > 0.5
