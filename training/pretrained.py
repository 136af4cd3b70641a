"""Initial weights from a preset of keras-nlp, a folder that `save_to_preset` wrote.

A stack of `TransformerEncoder` layers (BERT and others) becomes the encoder `transformer`, a stack
of `TransformerDecoder` layers (GPT-2 and others) the head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kvae.configuration import ModelConfig
from kvae.serving.alphabet import SPECIALS, Alphabet
from kvae.serving.errors import ConfigError, ModelError, first_line
from kvae.slots import SLOTS

from .data.preset_tokenizers import ids_in_preset

NEEDED = ("config.json", "model.weights.h5")
"""Files of a preset that has weights."""

LAYER = re.compile(r"transformer_layer_(\d+)/(.*)")

PLACES = {
    "encoder": {
        "layer": "encoder_transformer_{}/{}",
        "tokens": "reader/embedding/embeddings",
        "positions": "encoder_positions/vectors/embeddings",
        "normalization": "encoder_embedding_normalization/{}",
    },
    "head": {
        "layer": "head/decoder_{}/decoder/{}",
        "tokens": "head/read_previous/rows/embeddings",
        "positions": "head/positions/vectors/embeddings",
        "normalization": "head/normalize/{}",
    },
}
"""Paths of our weights for those of a preset, by the slot that it fills."""

NORMALIZATIONS = {"encoder": "embeddings_layer_norm/", "head": "layer_norm/"}
"""Beginnings of the paths of the normalisation outside the layers."""

KINDS = {"TransformerEncoder": "encoder", "TransformerDecoder": "head"}

Weights = Mapping[str, np.ndarray]


def pretrained_weights(folder: Path, model: ModelConfig, alphabet: Alphabet) -> dict[str, Any]:
    """The weights of a preset under the paths of ours, for the symbols of the alphabet and at most
    T positions. Only files of the folder are read.

    Raises `ModelError` if the folder has no such preset, and `ConfigError` if it has less than half
    of the tokens or its layers compute something else than ours.
    """
    backbone = loaded(folder)
    ids = np.array(ids_in_preset(folder, alphabet))
    known = int((ids[len(SPECIALS) :] >= 0).sum())
    if 2 * known < len(alphabet.symbols):
        raise ConfigError(
            f"training.start_from {folder}: has {known:,} of the {len(alphabet.symbols):,} tokens; "
            "take presets of one vocabulary, and leave data.vocabulary out"
        )
    slot = checked_slot(folder, backbone, model)
    weights = {weight.path: keras.ops.convert_to_numpy(weight) for weight in backbone.weights}
    return renamed(slot, weights, ids, model.length)


def loaded(folder: Path) -> Any:
    """The backbone of a preset folder. Raises `ModelError`."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"training.start_from {folder}: has no {' and no '.join(missing)}; give a folder that "
            "backbone.save_to_preset of keras-nlp wrote. Nothing is downloaded"
        )
    try:
        import keras_nlp

        return keras_nlp.models.Backbone.from_preset(str(folder.absolute()))
    except Exception as error:  # keras raises whatever the files make it raise
        raise ModelError(
            f"training.start_from {folder}: keras-nlp cannot load it ({first_line(error)})"
        ) from error


def checked_slot(folder: Path, backbone: Any, model: ModelConfig) -> str:
    """The slot that a backbone fills, `encoder` or `head`. Raises `ConfigError` if the model has
    another there, or if the layers compute something else."""
    layers = getattr(backbone, "transformer_layers", [])
    kinds = {type(layer).__name__ for layer in layers}
    name = type(backbone).__name__
    if len(kinds) != 1 or not kinds <= KINDS.keys():
        raise ConfigError(
            f"training.start_from {folder}: is a {name}, which has no stack of "
            f"{' or '.join(KINDS)}; take a preset like BERT or GPT-2"
        )
    slot, layer = KINDS[kinds.pop()], layers[0]
    first = slot == "head" or model.encoder_normalization == "before"
    is_first = bool(layer.normalize_first)
    if f"{slot}_attention_heads" not in SLOTS[slot][getattr(model, slot)].reads:
        raise ConfigError(
            f"training.start_from {folder}: is a {name}, whose weights are those of a Transformer; "
            f"set model.{slot}=transformer"
        )
    if slot == "encoder" and is_first != first:
        wanted = "before" if is_first else "after"
        raise ConfigError(
            f"training.start_from {folder}: a {name} normalises {wanted} each sublayer; set "
            f"model.encoder_normalization={wanted}"
        )
    values = np.linspace(-3, 3, 7, dtype=np.float32)
    activation = keras.ops.convert_to_numpy(layer.activation(values))
    ours = keras.ops.convert_to_numpy(keras.activations.gelu(values, approximate=True))
    if is_first != first or not np.allclose(activation, ours, atol=2e-3):
        raise ConfigError(
            f"training.start_from {folder}: the layers of a {name} have another activation or "
            "order of normalisation than ours, which are those of GPT-2; take another preset"
        )
    return slot


def renamed(slot: str, weights: Weights, ids: np.ndarray, length: int) -> dict[str, Any]:
    """The weights of a backbone by our paths. Embeddings are those of our ids; rows of ids that the
    preset does not have are drawn with the spread of the others."""
    places, beginning = PLACES[slot], NORMALIZATIONS[slot]
    found: dict[str, Any] = {}
    for path, value in weights.items():
        if match := LAYER.fullmatch(path):
            found[places["layer"].format(*match.groups())] = value
        elif path.endswith("token_embedding/embeddings"):
            found[places["tokens"]] = rows_of(value, ids)
        elif path.endswith("position_embedding/embeddings"):
            found[places["positions"]] = value[:length]
        elif path.startswith(beginning):
            found[places["normalization"].format(path.removeprefix(beginning))] = value
    if (segments := weights.get("segment_embedding/embeddings")) is not None:
        # Every text is a first segment, so its vector is the same at all positions.
        found[places["positions"]] = found[places["positions"]] + segments[0]
    if slot == "head":
        # GPT-2 has tied embeddings; a classifier of its own begins with them.
        found["head/classify/kernel"] = found[places["tokens"]].T
    return found


def rows_of(embeddings: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The rows of embeddings (V', C) for ids (V,), -1 for a row that is drawn: (V, C)."""
    drawn = np.random.default_rng(0).normal(0.0, embeddings.std(), (len(ids), embeddings.shape[1]))
    rows = np.where((ids >= 0)[:, None], embeddings[np.maximum(ids, 0)], drawn)
    return rows.astype(embeddings.dtype)
