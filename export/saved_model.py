"""Export to TensorFlow SavedModel with named signatures."""

from __future__ import annotations

import contextlib
import io
import itertools
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kvae.decoding import decode
from kvae.model import TextVAE
from kvae.serving.errors import CheckFailed
from kvae.writing import atomic_create

from .convert import check_backend


def write_saved_model(model: TextVAE, path: str | Path) -> None:
    """Write `model` to the folder `path` with four signatures; `encode` is also `serving_default`.

        encode  tokens (n, T) int32                     -> mean, log_variance (n, d)
        decode  z (n, d) float32                        -> ids (n, T) int32, greedy
        sample  seed, count int32, temperature float32  -> ids (count, T) int32, z (count, d)
        score   tokens (n, T), seed int32               -> reconstruction, kl (n,) in nats

    The sum of `reconstruction` and `kl` is an upper bound on -log p(tokens).

    TensorFlow Serving takes a path that ends in a number for a version: `models/names/1` is version
    1 of the model `names`.

    Raises `ConfigError` when `path` exists or another process is exporting there, and `CheckFailed`
    when the SavedModel, loaded again, gives other results than the model. `sample` gives other
    texts than a bundle with the same seed.
    """
    check_backend()
    with atomic_create(Path(path)) as partial:
        model = model.in_float32()
        with contextlib.redirect_stdout(io.StringIO()):
            build_archive(model).write_out(str(partial), verbose=False)
        check(model, partial)


def build_archive(model: TextVAE) -> keras.export.ExportArchive:
    """An archive with the four traced signatures of a float32 model."""
    size = model.parts.code_size

    def encode(tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        return model.encode(tokens)

    def decode_greedily(z: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"ids": decode(model, z)}

    def sample(seed: tf.Tensor, count: tf.Tensor, temperature: tf.Tensor) -> dict[str, tf.Tensor]:
        streams = itertools.count()

        def next_seed() -> tf.Tensor:
            return tf.stack([seed, next(streams)])

        def choose(logits: tf.Tensor) -> tf.Tensor:
            return tf.random.stateless_categorical(logits / temperature, 1, next_seed())[:, 0]

        z = model.codes(tf.random.stateless_normal([count, model.parts.noise_size], next_seed()))
        z = tf.ensure_shape(z, (None, size))
        return {"ids": decode(model, z, choose), "z": z}

    def score(tokens: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        noise = tf.random.stateless_normal(
            [tf.shape(tokens)[0], model.parts.noise_size], tf.stack([seed, 0])
        )
        return model.bound(tokens, noise)

    archive = keras.export.ExportArchive()
    archive.track(model)
    tokens_spec = tf.TensorSpec((None, model.model_config.length), tf.int32, "tokens")
    archive.add_endpoint("encode", encode, [tokens_spec])
    archive.add_endpoint("decode", decode_greedily, [tf.TensorSpec((None, size), tf.float32, "z")])
    scalars = {"seed": tf.int32, "count": tf.int32, "temperature": tf.float32}
    archive.add_endpoint(
        "sample", sample, [tf.TensorSpec((), dtype, name) for name, dtype in scalars.items()]
    )
    archive.add_endpoint("score", score, [tokens_spec, tf.TensorSpec((), tf.int32, "seed")])
    return archive


def check(model: TextVAE, folder: Path) -> None:
    """Load the SavedModel and compare its signatures with the model on 20 codes and their decoded
    texts. Raises `CheckFailed`."""
    signatures = tf.saved_model.load(str(folder)).signatures
    z = model.codes(tf.random.stateless_normal((20, model.parts.noise_size), seed=(0, 0)))
    ids = decode(model, z)
    expected = model.encode(ids)
    found = signatures["encode"](tokens=ids)
    same_codes = all(
        np.allclose(found[name], expected[name], atol=1e-4) for name in ("mean", "log_variance")
    )
    bounds = signatures["score"](tokens=ids, seed=tf.constant(0))
    noise = tf.random.stateless_normal((20, model.parts.noise_size), (0, 0))
    same_codes &= all(
        np.allclose(bounds[name], value, rtol=1e-4)
        for name, value in model.bound(ids, noise).items()
    )
    if not same_codes or not np.array_equal(signatures["decode"](z=z)["ids"], ids):
        raise CheckFailed("the SavedModel is not the model: its signatures give other results")
