"""What `fit`, `evaluate` and `predict` take: weights of texts, and inputs that are checked once."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kvae.objectives import squared_mmd
from kvae.serving.alphabet import END, PAD
from kvae.serving.errors import ConfigError, DataError, KvaeError

from .conftest import COMPILED, JAX, everyday, numbers, random_tokens, small_model

pytestmark = pytest.mark.jax

ROWS = random_tokens(6)
WEIGHTS = np.array([2, 1, 0, 1, 3, 1])
TWICE = np.repeat(ROWS, WEIGHTS, axis=0)
ALONE = {"encoder": "lstm", "encoder_units": (8,), "expander": "repeat"}
"""A model without batch normalisation, whose statistics count every row once."""


def without_noise(objective: dict[str, Any] | None = None, **model: Any) -> Any:
    made = small_model(objective, **{**ALONE, "auxiliary": False, **model})
    size = made.parts.noise_size
    made.get_layer("noise").call = lambda tokens: keras.ops.zeros(
        (keras.ops.shape(tokens)[0], size)
    )
    made.compile(
        keras.optimizers.SGD(0.1), **COMPILED, run_eagerly=not JAX
    )  # no step is worth tracing here
    return made


OBJECTIVES: dict[str, dict[str, Any]] = {
    "annealed": {},
    "constrained": {"penalty": "constrained", "kl_target": 3.0},
    "free bits": {"penalty": "free_bits", "free_bits": 0.1},
}


@pytest.mark.parametrize("name", everyday(OBJECTIVES, "constrained"))
def test_a_text_of_weight_two_trains_as_the_text_twice(name: str) -> None:
    weighted, repeated = (without_noise(OBJECTIVES[name]) for _ in range(2))
    found = weighted.fit(
        ROWS, sample_weight=WEIGHTS, batch_size=6, shuffle=False, verbose=0
    ).history
    expected = repeated.fit(TWICE, batch_size=len(TWICE), shuffle=False, verbose=0).history
    for metric, values in expected.items():
        assert found[metric] == pytest.approx(values, rel=1e-4, abs=1e-5), metric
    for one, other in zip(weighted.get_weights(), repeated.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def batches() -> Iterator[tuple[Any, None, Any]]:
    for start in (0, 4):
        yield ROWS[start : start + 4], None, WEIGHTS[start : start + 4].astype("float32")


def dataset(rows: np.ndarray = ROWS, weights: np.ndarray = WEIGHTS) -> tf.data.Dataset:
    return (
        tf.data.Dataset.from_tensor_slices((rows, weights)).batch(4).map(lambda x, w: (x, None, w))
    )


@pytest.mark.parametrize("make", everyday([batches, dataset], dataset))
def test_weights_that_a_dataset_yields_are_those_of_arrays(make: Callable[[], Any]) -> None:
    model = without_noise()
    expected = model.evaluate(
        ROWS, sample_weight=WEIGHTS, batch_size=4, verbose=0, return_dict=True
    )
    assert model.evaluate(make(), verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-5)
    assert model.evaluate(TWICE, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-4)


def test_validation_data_has_weights_too() -> None:
    model = without_noise()
    found = model.fit(ROWS, validation_data=(ROWS, None, WEIGHTS), verbose=0, batch_size=4).history
    expected = model.evaluate(TWICE, verbose=0, return_dict=True)
    for name in ("elbo", "kl", "bits_per_character"):
        assert found[f"val_{name}"] == pytest.approx([expected[name]], rel=1e-4)


def test_a_batch_alone_takes_weights() -> None:
    model = without_noise()
    found = model.test_on_batch(ROWS, sample_weight=WEIGHTS, return_dict=True)
    assert found["elbo"] == pytest.approx(
        model.test_on_batch(TWICE, return_dict=True)["elbo"], rel=1e-4
    )
    model.train_on_batch(ROWS, sample_weight=WEIGHTS)
    assert int(model.training_steps) == 1


@pytest.mark.parametrize("semi_supervised", everyday([False, True], True))
def test_weights_of_texts_with_labels_count_where_a_label_is_known(semi_supervised: bool) -> None:
    model = without_noise({"semi_supervised": semi_supervised}, attributes=("a", "b"))
    attribute = np.array([0, 1, 1, -1, 0, -1], np.int32)
    given = {"tokens": ROWS, "attribute": attribute}
    repeated = {"tokens": TWICE, "attribute": np.repeat(attribute, WEIGHTS)}
    found = model.evaluate(given, sample_weight=WEIGHTS, batch_size=6, verbose=0, return_dict=True)
    assert found == pytest.approx(model.evaluate(repeated, verbose=0, return_dict=True), rel=1e-4)


def test_mmd_does_not_depend_on_the_scale_of_weights_and_leaves_out_those_of_zero() -> None:
    z = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    same = [float(squared_mmd(z)), float(squared_mmd(z, np.full(6, 0.3, np.float32)))]
    assert same[1] == pytest.approx(same[0], abs=1e-6)
    kept = np.array([1, 1, 0, 1, 0, 1], np.float32)
    assert float(squared_mmd(z, kept)) == pytest.approx(float(squared_mmd(z[kept > 0])), abs=1e-6)


def changed(row: int, column: int, value: int) -> np.ndarray:
    rows = ROWS.copy()
    rows[row, column:] = value
    return rows


PADDED_LEFT = np.roll(ROWS, 1, axis=1)
PADDED_LEFT[:, 0] = PAD
WITHOUT_END = np.where(ROWS == END, 4, ROWS)
WITHOUT_END[:, -1] = PAD

REFUSED: dict[str, tuple[Any, str]] = {
    "an id above V - 1": (changed(2, 3, 9), r"tokens must be from 0 to 8 .* got 9"),
    "a negative id": (changed(2, 3, -1), r"tokens must be from 0 to 8 .* got -1"),
    "numbers in [0, 1]": (ROWS / 9, "tokens must be integers .* got float64"),
    "truth values": (ROWS > 4, "tokens must be integers .* got bool"),
    "a text that is PAD alone": (changed(3, 0, PAD), "row 3 of tokens holds PAD"),
    "rows that are padded on the left": (PADDED_LEFT, "row 0 of tokens has PAD .* before its text"),
    "PAD without END": (WITHOUT_END, "row 0 of tokens has PAD .* where END"),
    "another length": (np.pad(ROWS, ((0, 0), (0, 4))), r"tokens must be \(n, 16\), got \(6, 20\)"),
    "one axis": (ROWS[0], r"tokens must be \(n, 16\), got \(16,\)"),
}
NO_BATCHES: dict[str, tuple[Any, str]] = {
    "texts themselves": (
        ["KAMI", "TORU"],
        "tokens must be an array of integers, got list; `Alphabet.encode`",
    ),
    "an array of strings": (np.array(["KAMI", "TORU"]), "tokens must be integers .* got <U4"),
    "no texts": (ROWS[:0], "tokens must hold at least one text"),
}


@pytest.fixture(scope="module")
def model() -> Any:
    return without_noise()


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
@pytest.mark.parametrize("name", [*REFUSED, *NO_BATCHES])
def test_arrays_that_mean_something_else_are_refused_before_a_step(
    model: Any, name: str, method: str
) -> None:
    rows, message = (REFUSED | NO_BATCHES)[name]
    with pytest.raises(DataError, match=message):
        getattr(model, method)(rows, verbose=0)


class Rows(keras.utils.PyDataset):
    """Two batches."""

    def __init__(self, rows: Any) -> None:
        super().__init__()
        self.rows = rows

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return self.rows


def generated(rows: Any) -> Iterator[Any]:
    yield (rows,)
    yield (rows,)


SOURCES: dict[str, Callable[[Any], Any]] = {
    "generator": generated,
    "tf.data": lambda rows: tf.data.Dataset.from_tensors(rows).repeat(2),
    "PyDataset": Rows,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
@pytest.mark.parametrize("name", ["an id above V - 1", "a negative id", "numbers in [0, 1]"])
def test_a_first_batch_that_means_something_else_is_refused_in_one_line(
    model: Any, name: str, method: str, source: str
) -> None:
    rows, message = REFUSED[name]
    before = model.get_weights()
    with pytest.raises(KvaeError, match=message) as caught:
        getattr(model, method)(SOURCES[source](rows), verbose=0)
    assert "\n" not in str(caught.value)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_generator_loses_no_batch_and_a_pipeline_is_read_once_an_epoch() -> None:
    model, read = without_noise(), []

    def rows() -> Iterator[Any]:
        read.append(0)
        yield from (ROWS, ROWS)

    shape = tf.TensorSpec(ROWS.shape, tf.int32)
    model.fit(tf.data.Dataset.from_generator(rows, output_signature=shape), epochs=2, verbose=0)
    assert len(read) == 2
    assert int(model.training_steps) == 4
    model.fit(generated(ROWS), verbose=0)
    assert int(model.training_steps) == 6


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (-1.0 * WEIGHTS, "sample_weight must be finite and at least 0, got -"),
        (WEIGHTS * np.nan, "sample_weight must be finite and at least 0, got nan"),
        (0 * WEIGHTS, "sample_weight is 0 for all texts"),
        (WEIGHTS[:4], "one weight per text, got 4 for 6 texts"),
        (np.ones(ROWS.shape), r"one weight per text, \(n,\), got \(6, 16\)"),
        (np.array(["a"] * 6), "sample_weight must be numbers"),
    ],
)
def test_weights_that_are_none_are_refused(model: Any, weights: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model.fit(ROWS, sample_weight=weights, verbose=0)


def test_class_weights_and_targets_are_refused(model: Any) -> None:
    for method in (model.fit, model.train_on_batch):
        with pytest.raises(ConfigError, match="class_weight: a TextVAE has no classes"):
            method(ROWS, class_weight={0: 1.0})
    for method in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ConfigError, match="give no targets, and weights as sample_weight"):
            method(ROWS, ROWS)
    with pytest.raises(ConfigError, match="give no targets"):
        model.fit(tf.data.Dataset.from_tensors((ROWS, ROWS)), verbose=0)
    with pytest.raises(ConfigError, match="give no targets"):
        model.fit(ROWS, validation_data=(ROWS, ROWS), verbose=0)


def test_labels_are_looked_at_too() -> None:
    model = without_noise(attributes=("a", "b"))
    for attribute, message in (
        (np.array([0, 1, 2, 0, 0, 0]), "attribute must be from -1 to 1 .* got 2"),
        (np.zeros(6), "attribute must be integers .* got float64"),
        (np.zeros(5, np.int32), "every text has one attribute, got 5 for 6 texts"),
    ):
        with pytest.raises(DataError, match=message):
            model.fit({"tokens": ROWS, "attribute": attribute}, verbose=0)
    with pytest.raises(ConfigError, match="made with attributes"):
        model.predict(ROWS, verbose=0)


@pytest.mark.parametrize("kind", everyday(["uint8", "int16", "int64"], "uint8"))
def test_whole_numbers_of_any_size_are_tokens(model: Any, kind: str) -> None:
    expected = model.evaluate(ROWS, verbose=0)
    assert model.evaluate(ROWS.astype(kind), verbose=0) == pytest.approx(expected)


def test_other_frameworks_arrays_are_tokens(model: Any) -> None:
    expected = model.predict(ROWS, verbose=0)["mean"]
    for rows in (keras.ops.convert_to_tensor(ROWS), tf.constant(ROWS)):
        np.testing.assert_allclose(
            numbers(model.predict(rows, verbose=0)["mean"]), expected, rtol=1e-5
        )
