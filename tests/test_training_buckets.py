"""Length buckets: the same texts in batches of fewer positions, with the same numbers."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.configuration import Config
from kvae.misfits import check_training
from kvae.presets import preset
from kvae.serving.alphabet import PAD
from kvae.serving.errors import ConfigError
from kvae.training.data.batches import ROUNDING
from kvae.training.data.orders import POOL, bucketed_rows, lengths_of, shuffled_rows
from kvae.training.data.pipeline import training_stream, validation_batches
from kvae.training.data.prepare import Prepared
from kvae.training.data.rows import Rows
from kvae.training.experiment import run

from .conftest import COMPILED, everyday, numbers, random_tokens, small_model

REPEAT: dict[str, Any] = {"expander": "repeat", "expander_base": 0, "auxiliary": False}
NO_LATENT: dict[str, Any] = {**REPEAT, "encoder": "none", "latent": "none"}
ANY_LENGTH: dict[str, dict[str, Any]] = {
    "language model": NO_LATENT,
    "LSTM VAE": {**REPEAT, "encoder": "lstm", "encoder_embedding": 3, "head_reads": "both"},
    "GRU VAE": {**REPEAT, "encoder": "gru", "head": "gru", "head_reads": "state", "prior": "vamp"},
    "auxiliary": {"encoder": "lstm", "expander": "repeat", "expander_base": 4},
    "no history": {**REPEAT, "encoder": "lstm", "head": "none"},
    "convolutions": {**REPEAT, "encoder": "lstm", "head": "gated_conv", "head_layers": 2},
    "hybrid": {},
    "hybrid on embeddings": {"encoder_embedding": 3, "head": "gru"},
    "both directions": {**REPEAT, "encoder": "lstm", "encoder_bidirectional": True},
    "map": {"latent": "map", "latent_size": (2,)},
}
ROWS = random_tokens(3210, 30, seed=1)


def corpus(rows: np.ndarray = ROWS) -> Prepared:
    settings = {
        "training.batch_size": 10,
        "training.length_buckets": True,
        "model.length": rows.shape[1],
    }
    alphabet: Any = None
    return Prepared(
        Config().with_settings(settings), alphabet, Rows.of(rows), rows[:57], [], [], ()
    )


def places(order: Any, first: int, count: int) -> list[np.ndarray]:
    """The rows of `count` steps from the `first` on."""
    return list(order.places(np.arange(first, first + count)))


def spread_within(order: Any, lengths: np.ndarray) -> float:
    batches = [lengths[rows] for rows in places(order, 0, 60)]
    return float(np.mean([batch.max() - batch.min() for batch in batches]))


def test_a_pass_through_buckets_reads_every_row_once_in_batches_of_similar_length() -> None:
    lengths = lengths_of(ROWS)
    order = bucketed_rows(lengths, 10, seed=1)
    assert order.steps == 321 > 6 * POOL
    first, second = (np.concatenate(places(order, number * 321, 321)) for number in range(2))
    assert sorted(first) == sorted(second) == list(range(3210))
    assert (first != second).any()
    assert spread_within(order, lengths) < 0.1 * spread_within(
        shuffled_rows(3210, 10, seed=1), lengths
    )


def test_batches_of_a_pool_come_in_an_order_that_their_lengths_do_not_tell() -> None:
    order, lengths = bucketed_rows(lengths_of(ROWS), 10, seed=1), lengths_of(ROWS)
    means = [lengths[rows].mean() for rows in places(order, 0, POOL)]
    assert abs(np.corrcoef(means, np.arange(POOL))[0, 1]) < 0.4


def test_a_batch_is_cut_behind_its_longest_text_and_a_later_start_goes_on_with_the_same_ones() -> (
    None
):
    batches = [np.array(batch) for batch in islice(training_stream(corpus()), 60)]
    for batch in batches:
        longest = lengths_of(batch).max()
        assert batch.shape[1] == min(-(-longest // ROUNDING) * ROUNDING, 30)
    for later, batch in zip(training_stream(corpus(), first_step=45), batches[45:], strict=False):
        np.testing.assert_array_equal(later, batch)


def test_validation_sees_every_text_once_shortest_first() -> None:
    batches = [np.array(batch) for batch in validation_batches(corpus(), batch_size=16)]
    found = [tuple(row[row != PAD]) for batch in batches for row in batch]
    assert sorted(found) == sorted(tuple(row[row != PAD]) for row in ROWS[:57])
    assert list(map(len, found)) == sorted(map(len, found))
    assert batches[0].shape[1] < batches[-1].shape[1]


@pytest.mark.jax
@pytest.mark.parametrize(
    "system", everyday(ANY_LENGTH, "hybrid", "both directions", "language model")
)
def test_the_padding_that_is_cut_changes_no_number(system: str) -> None:
    model = small_model({"count_padding": False}, **ANY_LENGTH[system])
    tokens = random_tokens(4)
    tokens[:, 10:] = PAD
    noise = np.random.default_rng(0).normal(size=(4, model.parts.noise_size)).astype(np.float32)
    whole, cut = (
        model.loss_terms(rows, model.parts.outputs(rows, noise, training=False))
        for rows in (tokens, tokens[:, :12])
    )
    for name in whole.keys() - {"reconstruction_with_padding"}:
        np.testing.assert_allclose(
            numbers(cut[name]), numbers(whole[name]), rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.jax
@pytest.mark.slow
def test_a_model_learns_from_batches_of_several_lengths() -> None:
    model = small_model({"count_padding": False, "input_dropout": 0.3}, **ANY_LENGTH["LSTM VAE"])
    model.compile(keras.optimizers.SGD(0.0), **COMPILED)
    losses = [model.train_on_batch(random_tokens(4, length, seed=length)) for length in (8, 16, 12)]
    assert np.isfinite(losses).all()


@pytest.mark.slow
def test_a_run_in_buckets_has_the_held_out_numbers_of_the_whole_texts(
    corpus_file: Path, tmp_path: Path
) -> None:
    """A language model draws nothing, so cut validation and evaluation at full length agree."""
    texts = [
        line * (1 + number % 3) for number, line in enumerate(corpus_file.read_text().splitlines())
    ]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    settings = {
        "data.source": str(tmp_path / "texts.txt"),
        "data.validation_fraction": 0.3,
        "model.head_units": 8,
        "objective.count_padding": False,
        "training.epochs": 2,
        "training.steps_per_epoch": 3,
        "training.batch_size": 8,
        "training.length_buckets": True,
        "training.jit_compile": False,
        **{f"model.{name}": value for name, value in NO_LATENT.items()},
        "objective.alpha": 0.0,
    }
    trained, _ = run(Config().with_settings(settings), tmp_path / "run", lambda sentence: None)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["val_elbo"] == pytest.approx(trained.evaluation["elbo"], rel=1e-5)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "padding that is learned": ({"objective.count_padding": True}, "trims the padding"),
    "windows": ({"data.mode": "windows"}, "all have T positions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_padding_to_spare_is_refused_with_the_reason(case: str) -> None:
    settings, reason = REFUSED[case]
    config = preset("lstm-vae-ptb-word")
    check_training(config)
    with pytest.raises(ConfigError, match=reason):
        check_training(config.with_settings(settings))
