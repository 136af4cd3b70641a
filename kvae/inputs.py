"""Checks of the data that `fit`, `evaluate` and `predict` receive.

Arrays are checked completely before the first step. The first batch of a generator, a `PyDataset`
or a tf.data pipeline is checked before a step uses it. A training step checks shapes and dtypes
alone, when it is traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import GeneratorType
from typing import Any

import keras
import numpy as np
from keras import ops

from kvae.serving.alphabet import END, PAD
from kvae.serving.errors import ConfigError, DataError, KvaeError

from .configuration import ModelConfig
from .tensors import Tensor

ENCODE_HINT = "`Alphabet.encode` turns texts into such rows"


def inputs_of(config: ModelConfig, data: Any) -> tuple[Any, Tensor | None]:
    """Split the data of a step into the inputs and the text weights, (B,) float32 or None.

    Raises `ConfigError` for targets and for a missing attribute, `DataError` for a wrong shape or
    dtype.
    """
    inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
    refuse_targets(targets)
    for name, part in named_inputs(config, inputs).items():
        check_dtype_and_shape(config, name, keras.backend.standardize_dtype(part.dtype), part.shape)
    if weights is not None:
        check_weight_shape(weights.shape)
        weights = ops.cast(weights, "float32")
    return inputs, weights


def named_inputs(config: ModelConfig, inputs: Any) -> dict[str, Any]:
    """Name -> input tensor; raises `ConfigError` if the model needs an attribute and gets none."""
    if not config.attributes:
        return {"tokens": inputs}
    if not (isinstance(inputs, dict) and {"tokens", "attribute"} <= inputs.keys()):
        raise ConfigError(
            'this model was made with attributes: give {"tokens": (n, T), "attribute": (n,)}, '
            "with attribute -1 where it is not known"
        )
    return {name: inputs[name] for name in ("tokens", "attribute")}


def refuse_targets(targets: Any) -> None:
    """Raise `ConfigError` for targets, except a placeholder (B, 0) between inputs and weights."""
    if targets is not None and tuple(getattr(targets, "shape", ()))[1:] != (0,):
        raise ConfigError(
            "a TextVAE learns from its inputs alone: give no targets, and weights as sample_weight"
        )


def check_dtype_and_shape(
    config: ModelConfig, name: str, dtype: str, shape: Sequence[int | None]
) -> None:
    """Raise `DataError` unless an input holds integers and has the shape that the model expects."""
    expected = f"(n, {config.length})" if name == "tokens" else "(n,)"
    if not dtype.startswith(("int", "uint")):
        raise DataError(f"{name} must be integers {expected}, got {dtype}; {ENCODE_HINT}")
    if len(shape) == 2 and name == "tokens":
        fits = shape[1] is None or 0 < shape[1] <= config.length
    else:
        fits = len(shape) == 1 and name == "attribute"
    if not fits:
        raise DataError(f"{name} must be {expected}, got {tuple(shape)}; {ENCODE_HINT}")


def check_weight_shape(shape: Sequence[int | None]) -> None:
    """Raise `DataError` unless there is one weight for each text."""
    if len(shape) != 1:
        raise DataError(
            f"sample_weight must be one weight per text, (n,), got {tuple(shape)}; "
            f"give one weight per text, or leave it out"
        )


def check_batch(config: ModelConfig, data: Any) -> None:
    """Apply `check_inputs` and `check_weights` to a batch of a dataset."""
    inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
    refuse_targets(targets)
    texts = check_inputs(config, inputs)
    if weights is not None:
        check_weights(weights, texts)


def check_inputs(config: ModelConfig, inputs: Any) -> int:
    """Check arrays of inputs and return their number of texts.

    Raises `DataError` for values that the model would accept, but that are not tokens and labels.
    """
    arrays = {name: as_array(name, part) for name, part in named_inputs(config, inputs).items()}
    for name, array in arrays.items():
        check_dtype_and_shape(config, name, str(array.dtype), array.shape)
    tokens, counts = arrays["tokens"], {name: len(array) for name, array in arrays.items()}
    if not len(tokens):
        raise DataError(f"tokens must hold at least one text, got {tokens.shape}")
    if len(set(counts.values())) > 1:
        raise DataError(
            f"every text has one attribute, got {counts['attribute']} for {counts['tokens']} texts"
        )
    check_range("tokens", tokens, 0, config.vocabulary_size, "the ids of the vocabulary")
    if "attribute" in arrays:
        check_range(
            "attribute", arrays["attribute"], -1, len(config.attributes), "-1 where it is not known"
        )
    check_padding(tokens)
    return len(tokens)


def as_array(name: str, tensor: Any) -> np.ndarray:
    """Convert a tensor of any framework to an array; raises `DataError` for anything else."""
    if not hasattr(tensor, "shape"):
        raise DataError(
            f"{name} must be an array of integers, got {type(tensor).__name__}; {ENCODE_HINT}"
        )
    return np.asarray(tensor)


def check_range(name: str, values: np.ndarray, lowest: int, end: int, meaning: str) -> None:
    """Raise `DataError` unless all values are at least `lowest` and below `end`."""
    for value in (values.min(), values.max()):
        if not lowest <= value < end:
            raise DataError(f"{name} must be from {lowest} to {end - 1} ({meaning}), got {value}")


def check_padding(tokens: np.ndarray) -> None:
    """Raise `DataError` unless PAD occurs only after END in tokens (n, T)."""
    padding = tokens == PAD
    this, following = padding[:, :-1], padding[:, 1:]
    text_after_padding = padding[:, 0] | (this & ~following).any(axis=1)
    end_missing = (~this & following & (tokens[:, :-1] != END)).any(axis=1)
    faults = {
        f"holds PAD ({PAD}) alone: a text has at least END ({END})": padding.all(axis=1),
        f"has PAD ({PAD}) before its text: pad after END ({END})": text_after_padding,
        f"has PAD ({PAD}) where END ({END}) belongs, after its text": end_missing,
    }
    for fault, rows in faults.items():
        if rows.any():
            raise DataError(f"row {rows.argmax()} of tokens {fault}; {ENCODE_HINT}")


def check_weights(weights: Any, texts: int) -> np.ndarray:
    """The weights as (n,) float32; raises `DataError` unless each text has one, finite and >= 0."""
    array = np.asarray(weights)
    if array.dtype.kind not in "iufb":
        raise DataError(f"sample_weight must be numbers, got {array.dtype}")
    check_weight_shape(array.shape)
    if len(array) != texts:
        raise DataError(
            f"sample_weight must be one weight per text, got {len(array)} for {texts} texts"
        )
    valid = np.isfinite(array) & (array >= 0)
    if not valid.all():
        raise DataError(f"sample_weight must be finite and at least 0, got {array[~valid][0]}")
    return array.astype("float32")


class FirstBatchCheck:
    """Checks the first batch of a dataset when it is called with it.

    `call_on_first_batch(dataset, check)` is the function of the backend that adds the check to a
    tf.data pipeline. Keras and TensorFlow wrap the `KvaeError` that it raises; `error` keeps it.
    """

    def __init__(
        self, config: ModelConfig, call_on_first_batch: Callable[[Any, Callable[[Any], None]], Any]
    ) -> None:
        self.config, self.call_on_first_batch = config, call_on_first_batch
        self.error: KvaeError | None = None

    def __call__(self, data: Any) -> None:
        try:
            check_batch(self.config, data)
        except KvaeError as error:
            self.error = error
            raise

    def applied_to(self, batches: Any) -> Any:
        """The same source of batches, with the check added; no batch is lost or repeated."""
        if isinstance(batches, GeneratorType):
            return self.checked_generator(batches)
        if isinstance(batches, keras.utils.PyDataset):
            self(batches[0])
            return batches
        is_pipeline = hasattr(batches, "element_spec")
        return self.call_on_first_batch(batches, self) if is_pipeline else batches

    def checked_generator(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the same batches and check the first one."""
        for number, batch in enumerate(batches):
            if number == 0:
                self(batch)
            yield batch


def prepare_arguments(
    config: ModelConfig, given: Mapping[str, Any], check: FirstBatchCheck
) -> dict[str, Any]:
    """Check the arguments of `fit`, `evaluate` or `predict` and return them with packed weights.

    Keras drops the weights of arrays if there are no targets; see `pack_weights`. Raises
    `ConfigError` and `DataError`.
    """
    if given.get("class_weight") is not None:
        raise ConfigError(
            "class_weight: a TextVAE has no classes of targets; "
            "give sample_weight, one weight per text"
        )
    names = ("x", "y", "sample_weight")
    arguments = dict(given) | {
        name: part
        for name, part in zip(
            names, pack_weights(config, check, *map(given.get, names)), strict=True
        )
        if name in given or part is not None
    }
    if given.get("validation_data") is not None:
        data = keras.utils.unpack_x_y_sample_weight(given["validation_data"])
        arguments["validation_data"] = pack_weights(config, check, *data)
    return arguments


def pack_weights(
    config: ModelConfig, check: FirstBatchCheck, x: Any, y: Any, weights: Any
) -> tuple[Any, Any, Any]:
    """Checked inputs, targets and weights; with weights the targets are a placeholder (n, 0)."""
    refuse_targets(y)
    if x is None or not (isinstance(x, str | list | tuple | dict) or hasattr(x, "shape")):
        return check.applied_to(x), y, weights
    texts = check_inputs(config, x)
    if weights is None:
        return x, y, None
    weights = check_weights(weights, texts)
    if not weights.any():
        raise DataError("sample_weight is 0 for all texts: give at least one of them a weight")
    return x, np.zeros((texts, 0), "float32"), weights
