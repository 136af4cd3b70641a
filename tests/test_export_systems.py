"""Every kind of system is exported as a verified bundle, with codes, attributes and priors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.cli import main
from kvae.configuration import Config
from kvae.export.bundle import write_bundle
from kvae.serving import Sampler
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError

from .conftest import everyday, small_model

REPEAT: dict[str, Any] = {"expander": "repeat", "expander_base": 0, "auxiliary": False}
SYSTEMS: dict[str, dict[str, Any]] = {
    "LSTM VAE": {**REPEAT, "encoder": "lstm", "encoder_units": (8,), "head_reads": "state"},
    "GRU VAE": {
        **REPEAT,
        "encoder": "gru",
        "encoder_bidirectional": True,
        "encoder_embedding": 5,
        "head": "gru",
        "head_reads": "both",
        "head_skip": True,
    },
    "language model": {**REPEAT, "encoder": "none", "latent": "none"},
    "tied LSTM VAE": {
        **REPEAT,
        "encoder": "lstm",
        "encoder_units": (8,),
        "encoder_embedding": 5,
        "head_reads": "both",
        "head_embedding": 6,
        "tied_embeddings": True,
        "head_dropout": 0.5,
    },
    "ByteNet": {"head": "bytenet", "head_layers": 3},
    "gated convolutions": {
        "head": "gated_conv",
        "head_layers": 2,
        "head_kernel": 3,
        "head_dilation": 2,
    },
    "Transformer VAE": {
        **REPEAT,
        "encoder": "transformer",
        "encoder_embedding": 5,
        "encoder_dropout": 0.3,
        "head": "transformer",
        "head_layers": 2,
        "head_reads": "both",
        "head_dropout": 0.5,
        "tied_embeddings": True,
    },
    "hybrid Transformer": {"head": "transformer"},
    "Transformer language model": {
        **REPEAT,
        "encoder": "none",
        "latent": "none",
        "head": "transformer",
        "head_embedding": 5,
    },
    "ladder of attention maps": {
        "encoder": "transformer",
        "encoder_units": (8, 8),
        "encoder_summary": "first",
        "latent": "map",
        "latent_size": (4, 3),
        "expander": "repeat",
        "head": "transformer",
    },
    "feature map": {"latent": "map", "head": "none", "auxiliary": False},
    "ladder of vectors": {
        "encoder": "dense",
        "encoder_units": (16, 12, 8),
        "latent_size": (4, 3, 2),
        "expander": "repeat",
    },
    "ladder of maps": {"latent": "map", "latent_size": (4, 3), "expander": "repeat"},
    "ladder of recurrent maps": {
        "encoder": "lstm",
        "encoder_units": (8, 8),
        "latent": "map",
        "latent_size": (4, 3),
        "expander": "repeat",
    },
    "mixture": {"prior": "mixture"},
    "correlated mixture": {"prior": "mixture", "prior_covariance": "full"},
    "vamp": {"prior": "vamp"},
    "autoregressive": {
        "prior": "autoregressive",
        "latent": "map",
        "head": "none",
        "auxiliary": False,
    },
    "batch-normalised": {"posterior": "batch_normalized"},
    "flows": {"posterior": "iaf", "prior": "flow", "prior_units": 8},
    "planar flow of a map": {
        "posterior": "planar",
        "latent": "map",
        "head": "none",
        "auxiliary": False,
    },
    "planar flow of a ladder": {
        "posterior": "planar",
        "latent_size": (4, 3),
        "expander": "repeat",
    },
    "attribute": {"attributes": ("low", "high")},
    "conditional language model": {**REPEAT, "latent": "none", "attributes": ("low", "high")},
}


def exported(tmp_path: Path, **settings: Any) -> tuple[Any, Sampler]:
    model = small_model(**settings)
    config = Config(model=model.model_config, objective=model.objective_config)
    manifest = write_bundle(model, Alphabet(tuple("abcde")), config, tmp_path / "bundle")
    assert manifest["parity"]["largest_logit_difference"] < 1e-4
    return model, Sampler.load(tmp_path / "bundle")


REPRESENTATIVES = ("Transformer VAE",)
"""Systems that are exported every day.

Other tests export the hybrid, and a ladder with an encoder of its own.
"""


@pytest.mark.parametrize("system", everyday(SYSTEMS, *REPRESENTATIVES))
def test_a_system_is_exported_with_parity_and_samples(system: str, tmp_path: Path) -> None:
    model, sampler = exported(tmp_path, **SYSTEMS[system])
    texts = sampler.sample(20, seed=0)
    assert texts[5:10] == sampler.sample(5, seed=0, first_row=5)
    assert len(set(texts)) > 5
    if SYSTEMS[system].get("latent") == "none":
        with pytest.raises(ConfigError, match="a language model and has no code"):
            sampler.encode(["abc", "d"])
        return
    assert sampler.encode(["abc", "d"]).shape == (2, model.parts.code_size)
    assert len(sampler.reconstruct(["abc", "d"])) == 2


def test_a_bundle_writes_for_the_attribute_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, sampler = exported(tmp_path, attributes=("low", "high"))
    codes = sampler.draw_codes(200, seed=0)
    assert codes.shape == (200, 6)
    np.testing.assert_array_equal(codes[:, 4:].sum(axis=1), 1.0)
    assert 60 < codes[:, 4].sum() < 140
    codes[:, 4:] = [0.0, 1.0]
    assert sampler.sample(200, seed=0, attribute="high", greedy=True) == sampler.decode(codes)
    assert {item.attribute for item in sampler.generate(50, seed=0)} == {"low", "high"}
    assert {item.attribute for item in sampler.generate(5, seed=0, attribute="low")} == {"low"}
    assert sampler.info()["latent"]["attributes"] == sampler.attributes == ["low", "high"]
    assert repr(sampler).endswith("standard prior; labels low, high; temperature 1>")
    inferred = sampler.encode(["abc", "d"])[:, 4:]
    assert {tuple(row) for row in inferred.tolist()} <= {(1.0, 0.0), (0.0, 1.0)}
    assert main(["encode", str(tmp_path / "bundle"), "--text", "abc", "d"]) == 0
    assert (
        "the last 2 of 6 columns are the label that the model infers, 1 or 0 for each of low, high"
        in capsys.readouterr().err
    )
    with pytest.raises(ConfigError, match="choose one of 'low', 'high'"):
        sampler.sample(1, attribute="middle")


def test_a_bundle_without_labels_says_so(sampler: Sampler) -> None:
    with pytest.raises(ConfigError, match="trained without labels"):
        sampler.sample(1, attribute="high")
