"""SavedModel: the model as TensorFlow programs load it, with named signatures."""

from __future__ import annotations

import contextlib
import io
import itertools
import shutil
from pathlib import Path

import keras
import tensorflow as tf

from kvae.decoding import decode
from kvae.model import TextVAE
from kvae.serving.errors import ConfigError


def write_saved_model(model: TextVAE, path: str | Path) -> None:
    """Write `model` to the folder `path` with three signatures; `encode` is also `serving_default`.

        encode  tokens (n, T) int32                        -> mean, log_variance (n, d)
        decode  z (n, d) float32                           -> ids (n, T) int32, greedy
        sample  seed, count int32, temperature float32     -> ids (count, T) int32, z (count, d)

    Raises `ConfigError` when `path` exists. The texts of `sample` are not those of a bundle's seed.
    """
    path = Path(path)
    if path.exists():
        raise ConfigError(f"{path} exists already; give another folder or remove it")
    size = model.model_config.latent_size

    def encode(tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(model.encoder(tokens, training=False))

    def decode_greedily(z: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"ids": decode(model, z)}

    def sample(seed: tf.Tensor, count: tf.Tensor, temperature: tf.Tensor) -> dict[str, tf.Tensor]:
        streams = itertools.count()

        def next_seed() -> tf.Tensor:
            return tf.stack([seed, next(streams)])

        def choose(logits: tf.Tensor) -> tf.Tensor:
            return tf.random.stateless_categorical(logits / temperature, 1, next_seed())[:, 0]

        z = model.prior.sample(tf.random.stateless_normal([count, size], next_seed()))
        z = tf.ensure_shape(z, (None, size))
        return {"ids": decode(model, z, choose), "z": z}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("encode", encode, [tf.TensorSpec((None, model.model_config.length), tf.int32, "tokens")])
    archive.add_endpoint("decode", decode_greedily, [tf.TensorSpec((None, size), tf.float32, "z")])
    scalars = {"seed": tf.int32, "count": tf.int32, "temperature": tf.float32}
    archive.add_endpoint("sample", sample, [tf.TensorSpec((), dtype, name) for name, dtype in scalars.items()])
    partial = path.with_name(path.name + ".partial")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            archive.write_out(str(partial), verbose=False)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
