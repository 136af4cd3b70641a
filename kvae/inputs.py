"""What `fit`, `evaluate` and `predict` are given: arrays are looked at when they are handed over, of whatever makes batches the
first one as it comes by. A step itself sees shapes and kinds alone, when it is traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import GeneratorType
from typing import Any

import keras
import numpy as np
from keras import ops

from kvae.serving.alphabet import END, PAD
from kvae.serving.errors import ConfigError, DataError, KvaeError

from .configuration import ModelConfig

ENCODE_HINT = "`Alphabet.encode` makes such rows of texts"


def inputs_of(config: ModelConfig, data: Any) -> tuple[Any, Any]:
    """The inputs among what Keras feeds a step, and the texts' weights (B,) float32 or None. Raises `ConfigError` for targets
    and a missing attribute, `DataError` for other shapes and kinds."""
    inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
    refuse_targets(targets)
    for name, part in named_inputs(config, inputs).items():
        check_kind(config, name, keras.backend.standardize_dtype(part.dtype), part.shape)
    if weights is not None:
        check_weight_shape(weights.shape)
        weights = ops.cast(weights, "float32")
    return inputs, weights


def named_inputs(config: ModelConfig, inputs: Any) -> dict[str, Any]:
    """The tensors of inputs by their names; raises `ConfigError` where a model with attributes is not given them."""
    if not config.attributes:
        return {"tokens": inputs}
    if not (isinstance(inputs, dict) and {"tokens", "attribute"} <= inputs.keys()):
        raise ConfigError(
            'this model was made with attributes: give {"tokens": (n, T), "attribute": (n,)}, the attribute -1 where it is not '
            "known"
        )
    return {name: inputs[name] for name in ("tokens", "attribute")}


def refuse_targets(targets: Any) -> None:
    """Raise `ConfigError` for targets; those of no width (B, 0) hold the place between inputs and weights."""
    if targets is not None and tuple(getattr(targets, "shape", ()))[1:] != (0,):
        raise ConfigError(
            "a TextVAE learns from its inputs alone: give no targets, and weights as sample_weight"
        )


def check_kind(config: ModelConfig, name: str, kind: str, shape: Any) -> None:
    """Raise `DataError` unless a tensor of inputs has whole numbers and the shape that the model reads."""
    wanted = f"(n, {config.length})" if name == "tokens" else "(n,)"
    if not kind.startswith(("int", "uint")):
        raise DataError(f"{name} must be whole numbers {wanted}, got {kind}; {ENCODE_HINT}")
    if len(shape) == 2 and name == "tokens":
        fits = (
            shape[1] is None
            or shape[1] == config.length
            or (config.any_length and 0 < shape[1] < config.length)
        )
    else:
        fits = len(shape) == 1 and name == "attribute"
    if not fits:
        raise DataError(f"{name} must be {wanted}, got {tuple(shape)}; {ENCODE_HINT}")


def check_weight_shape(shape: Any) -> None:
    """Raise `DataError` unless there is one weight for each text."""
    if len(shape) != 1:
        raise DataError(
            f"sample_weight must be one number a text, (n,), got {tuple(shape)}; leave it out, or give (n,)"
        )


def check_batch(config: ModelConfig, data: Any) -> None:
    """`check_inputs` and `check_weights` of what a dataset yields."""
    inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
    refuse_targets(targets)
    texts = check_inputs(config, inputs)
    if weights is not None:
        check_weights(weights, texts)


def check_inputs(config: ModelConfig, inputs: Any) -> int:
    """How many texts arrays of inputs hold. Raises `DataError` for what the model would read without complaint and learn, or
    answer, nonsense from."""
    arrays = {name: as_array(name, part) for name, part in named_inputs(config, inputs).items()}
    for name, array in arrays.items():
        check_kind(config, name, str(array.dtype), array.shape)
    tokens, counts = arrays["tokens"], {name: len(array) for name, array in arrays.items()}
    if not len(tokens):
        raise DataError(f"tokens must hold at least one text, got {tokens.shape}")
    if len(set(counts.values())) > 1:
        raise DataError(
            f"every text has one attribute, got {counts['attribute']} for {counts['tokens']} texts"
        )
    check_range("tokens", tokens, 0, config.vocabulary_size, "the ids of the symbols")
    if "attribute" in arrays:
        check_range(
            "attribute", arrays["attribute"], -1, len(config.attributes), "-1 where it is not known"
        )
    check_padding(tokens)
    return len(tokens)


def as_array(name: str, part: Any) -> np.ndarray:
    """A tensor of any framework as an array; raises `DataError` for what is none."""
    if not hasattr(part, "shape"):
        raise DataError(
            f"{name} must be an array of whole numbers, got {type(part).__name__}; {ENCODE_HINT}"
        )
    return np.asarray(part)


def check_range(name: str, values: np.ndarray, lowest: int, end: int, what: str) -> None:
    """Raise `DataError` unless all values are at least `lowest` and below `end`."""
    for value in (values.min(), values.max()):
        if not lowest <= value < end:
            raise DataError(f"{name} must be from {lowest} to {end - 1} ({what}), got {value}")


def check_padding(tokens: np.ndarray) -> None:
    """Raise `DataError` unless PAD stands behind END alone, tokens (n, T)."""
    padding = tokens == PAD
    before, after = padding[:, :-1], padding[:, 1:]
    faults = {
        f"holds PAD ({PAD}) alone: a text has at least its END ({END})": padding.all(axis=1),
        f"has PAD ({PAD}) before its text: pad behind END ({END})": padding[:, 0]
        | (before & ~after).any(axis=1),
        f"has PAD ({PAD}) where END ({END}) belongs, behind its text": (
            ~before & after & (tokens[:, :-1] != END)
        ).any(axis=1),
    }
    for fault, rows in faults.items():
        if rows.any():
            raise DataError(f"row {rows.argmax()} of tokens {fault}; {ENCODE_HINT}")


def check_weights(weights: Any, texts: int) -> np.ndarray:
    """The weights as (n,) float32. Raises `DataError` unless there is one for each text, finite and not below 0."""
    found = np.asarray(weights)
    if found.dtype.kind not in "iufb":
        raise DataError(f"sample_weight must be numbers, got {found.dtype}")
    check_weight_shape(found.shape)
    if len(found) != texts:
        raise DataError(
            f"sample_weight must be one number a text, got {len(found)} for {texts} texts"
        )
    if not (np.isfinite(found) & (found >= 0)).all():
        raise DataError(
            f"sample_weight must be finite and at least 0, got {found[~(np.isfinite(found) & (found >= 0))][0]}"
        )
    return found.astype("float32")


class FirstBatchCheck:
    """Looks at the first batch of a dataset; `watched` has a tf.data pipeline looked at while it is read. Keras and
    TensorFlow wrap what it raises, so `error` keeps it."""

    def __init__(
        self, config: ModelConfig, watched: Callable[[Any, Callable[[Any], None]], Any]
    ) -> None:
        self.config, self.watched = config, watched
        self.error: KvaeError | None = None

    def __call__(self, data: Any) -> None:
        try:
            check_batch(self.config, data)
        except KvaeError as error:
            self.error = error
            raise

    def of(self, batches: Any) -> Any:
        """What makes batches, looked at when the first one comes by: none is taken out, none is made twice."""
        if isinstance(batches, GeneratorType):
            return self.passing(batches)
        if isinstance(batches, keras.utils.PyDataset):
            self(batches[0])
            return batches
        return self.watched(batches, self) if hasattr(batches, "element_spec") else batches

    def passing(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches."""
        for number, batch in enumerate(batches):
            if number == 0:
                self(batch)
            yield batch


def prepare_arguments(
    config: ModelConfig, given: Mapping[str, Any], look: FirstBatchCheck
) -> dict[str, Any]:
    """The arguments of `fit` and its like, checked, in a form in which Keras does not lose the weights: of inputs and weights
    without targets it keeps the inputs alone."""
    if given.get("class_weight") is not None:
        raise ConfigError(
            "class_weight: a TextVAE has no classes of targets; give sample_weight, one number a text"
        )
    names = ("x", "y", "sample_weight")
    found = dict(given) | {
        name: part
        for name, part in zip(
            names, pack_weights(config, look, *map(given.get, names)), strict=True
        )
        if name in given or part is not None
    }
    if given.get("validation_data") is not None:
        data = keras.utils.unpack_x_y_sample_weight(given["validation_data"])
        found["validation_data"] = pack_weights(config, look, *data)
    return found


def pack_weights(
    config: ModelConfig, look: FirstBatchCheck, x: Any, y: Any, weights: Any
) -> tuple[Any, Any, Any]:
    """Inputs, targets of no width where there are weights, and the weights."""
    refuse_targets(y)
    if x is None or not (isinstance(x, str | list | tuple | dict) or hasattr(x, "shape")):
        return look.of(x), y, weights
    texts = check_inputs(config, x)
    if weights is None:
        return x, y, None
    weights = check_weights(weights, texts)
    if not weights.any():
        raise DataError("sample_weight is 0 for all texts: give one of them a weight")
    return x, np.zeros((texts, 0), "float32"), weights
