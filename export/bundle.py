"""Export to a bundle: convert, check and compare with Keras; the bundle appears only if all of it
succeeds."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from kvae import __version__
from kvae.choices import is_own
from kvae.configuration import Config
from kvae.model import TextVAE
from kvae.runs import nonfinite_to_none
from kvae.serving.alphabet import PAD, Alphabet
from kvae.serving.bundle import (
    CARD,
    MANIFEST,
    METADATA_KEY,
    Bundle,
    manifest_text,
    metadata_text,
)
from kvae.serving.checks import check_one_of
from kvae.serving.choices import DRAWING, choices
from kvae.serving.errors import ConfigError
from kvae.serving.manifest import FORMAT, FORMAT_VERSION
from kvae.serving.sampler import Sampler
from kvae.serving.seed_test import seed_test_texts
from kvae.serving.verification import verify
from kvae.slots import HEADS
from kvae.writing import atomic_create

from .all_graphs import bundle_graphs
from .card import card_of
from .convert import check_backend
from .latent_map import latent_map, write_map
from .loops import HIDDEN_STATE
from .parity import as_encoder_input, compare
from .quantization import FLOAT32, KINDS, measure_agreement, quantize
from .simplify import with_packed_matrices

MAX_AGREEMENT_TEXTS = 500
"""Maximum number of texts on which the effect of int8 weights is measured."""

SEED_TEST = {"seed": 7, "rows": 3}
"""Seed and number of the sampled texts in the manifest, for a check without Keras."""


def write_bundle(
    model: TextVAE,
    alphabet: Alphabet,
    config: Config,
    path: str | Path,
    training: Mapping[str, Any] | None = None,
    held_out: np.ndarray | None = None,
    *,
    labels: np.ndarray | None = None,
    weights: str = FLOAT32,
    with_map: bool = True,
    with_plain: bool = True,
    signed_words: bool = False,
    temperature: float = 1.0,
    say: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Export `model` to the folder `path` and return its manifest.

    The manifest includes `training`, a summary of the training. Bundle and model are compared on
    samples and on `held_out` tokens (n, T). `weights` is "float32", "int8" or "int8-latency", see
    `kvae.export.quantization`; with the last two they are then rounded to eight bits, and the
    manifest records the effect. `with_map` adds the map of the held-out texts, which holds up to
    500 of them (`kvae.export.latent_map`), with their `labels` (n,): indices into the attributes of
    the model, -1 where a label is unknown. `temperature` is that of samples for which none is
    given. `say` gets a line before each stage, with the seconds so far. With `signed_words` all
    graphs have random numbers that are right in runtimes with signed 32-bit integers only, such as
    OpenVINO on a CPU; without it the sampler and the scorer have.

    The bundle is written and verified in a temporary folder beside `path` that is renamed at the
    end, so a failure leaves nothing. Raises `ConfigError` if `path` exists or another process is
    exporting there, and `CheckFailed` if the graphs give other results than the model.
    """
    check_parts(model, alphabet, config)
    check_one_of("weights", weights, KINDS)
    tell = with_seconds(say)
    with atomic_create(Path(path)) as partial:
        model = model.in_float32()
        partial.mkdir()
        manifest = describe(model, alphabet, config, training or {}, temperature)
        tell("building the graphs and converting them to ONNX")
        graphs = bundle_graphs(model, signed_words, with_plain)
        bundle = write_files(partial, manifest, graphs)
        tell("comparing them with Keras")
        manifest["parity"] = compare(model, bundle, held_out)
        if weights != FLOAT32:
            tell("rounding the weights to eight bits, measuring the effect")
            rounded = in_eight_bits(model, bundle, graphs, held_out, weights)
            graphs, manifest["quantization"] = rounded
            bundle = write_files(partial, manifest, graphs)
        tell("writing and verifying the bundle")
        sampler = Sampler(bundle)
        manifest["seed_test"] = {**SEED_TEST, "texts": seed_test_texts(sampler, SEED_TEST)}
        content = latent_map(sampler, held_out, labels) if with_map else None
        if content is not None:
            manifest["map"] = write_map(partial, content, manifest)
        write_files(partial, manifest, graphs)
        (partial / CARD).write_text(card_of(manifest), "utf-8", errors="backslashreplace")
        verify(partial)
    tell("done")
    return manifest


def with_seconds(say: Callable[[str], None]) -> Callable[[str], None]:
    """A function that says each stage after the seconds that have passed since this call."""
    started = time.monotonic()
    return lambda stage: say(f"{time.monotonic() - started:4.0f} s  {stage}")


def check_parts(model: TextVAE, alphabet: Alphabet, config: Config) -> None:
    """Raise `ConfigError` for a model that cannot be exported, or not with these."""
    if len(alphabet) != model.model_config.vocabulary_size or config.model != model.model_config:
        raise ConfigError(
            "export: alphabet, configuration and model belong to different runs; take all three "
            "from one"
        )
    if is_own("tokenizer", config.model.tokenizer):
        raise ConfigError(
            f"export: model.tokenizer {config.model.tokenizer!r} is a function of your program, "
            "which samplers do not have; train with tokenizer 'pattern' or a vocabulary file, or "
            "use the model in Keras"
        )
    check_backend()


def in_eight_bits(
    model: TextVAE,
    bundle: Bundle,
    graphs: Mapping[str, onnx.ModelProto],
    held_out: np.ndarray | None,
    kind: str,
) -> tuple[dict[str, onnx.ModelProto], dict[str, Any]]:
    """The graphs of a bundle with weights in eight bits of a kind, and the effect on texts."""
    shape = model.model_config
    hidden = {HIDDEN_STATE} if HEADS[shape.head].bounded_state else set()
    size = shape.vocabulary_size
    small = {name: quantize(graph, size, hidden, kind) for name, graph in graphs.items()}
    tokens = agreement_tokens(model, bundle, held_out)
    return small, measure_agreement(graphs, small, tokens, kind)


def agreement_tokens(model: TextVAE, bundle: Bundle, held_out: np.ndarray | None) -> np.ndarray:
    """Held-out tokens (n, T), or samples of the model if there are none."""
    if held_out is not None and len(held_out):
        return np.asarray(held_out[:MAX_AGREEMENT_TEXTS], np.int32)
    sampler, rows = Sampler(bundle), np.arange(MAX_AGREEMENT_TEXTS)
    ids, _ = sampler.write_ids(
        sampler.draw_codes(len(rows), seed=0), np.zeros_like(rows), rows, choices(sampler.manifest)
    )
    padding = model.model_config.length - ids.shape[1]
    return as_encoder_input(np.pad(ids, ((0, 0), (0, padding)), constant_values=PAD), sampler)


def describe(
    model: TextVAE,
    alphabet: Alphabet,
    config: Config,
    training: Mapping[str, Any],
    temperature: float,
) -> dict[str, Any]:
    """The manifest without files and checks: the facts that a program needs to use the graphs."""
    shape = model.model_config
    chosen = choices({"length": shape.length}, temperature=temperature)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "parity": {},
        "seed_test": {},
        "model_id": model_id(model),
        "mode": config.data.mode,
        "length": shape.length,
        "vocabulary": alphabet.to_dict(),
        "latent": {
            "kind": shape.latent,
            "size": model.parts.code_size,
            "levels": len(model.hierarchy.shapes),
            "prior": shape.prior,
            "attributes": list(shape.attributes),
        },
        "defaults": {name: chosen[name].item() for name in DRAWING} | {"temperature": temperature},
        "model": shape.to_dict(),
        "training": nonfinite_to_none({"source": Path(config.data.source).name, **training}),
        "versions": {
            "kvae": __version__,
            **{
                name: importlib.metadata.version(name)
                for name in ("keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime")
            },
        },
    }


def model_id(model: TextVAE) -> str:
    """Hash of the weights: sixteen hexadecimal digits."""
    digest = hashlib.sha256()
    for weight in model.weights:
        if not weight.path.endswith("seed_generator_state"):
            digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()[:16]


def write_files(
    folder: Path, manifest: dict[str, Any], graphs: Mapping[str, onnx.ModelProto]
) -> Bundle:
    """Write all graphs with the manifest in their metadata, then the manifest with the checksums of
    the graphs and its own.

    Returns the bundle. `read_bundle` would refuse the folder while fields of the manifest are still
    missing.
    """
    manifest["endpoints"] = {}
    for name, graph in graphs.items():
        graph = with_packed_matrices(graph)
        onnx.helper.set_model_props(graph, {METADATA_KEY: metadata_text(manifest, name)})
        content = graph.SerializeToString(deterministic=True)
        (folder / f"{name}.onnx").write_bytes(content)
        manifest["endpoints"][name] = {
            "file": f"{name}.onnx",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    text = manifest_text(manifest)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return Bundle(folder.absolute(), json.loads(text))
