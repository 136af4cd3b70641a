"""The rows of kvae/slots.py are true of the layers.

A row and its layers are all that an encoder of one's own needs.
"""

import ast
from dataclasses import fields
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from kvae import choices, encoders, expanders, heads, slots
from kvae.choices import ROWS
from kvae.configuration import Config, ModelConfig, ObjectiveConfig
from kvae.encoders import Features, Layers
from kvae.model import TextVAE
from kvae.presets import preset
from kvae.serving.errors import CheckFailed, ConfigError
from kvae.slots import ENCODERS, EXPANDERS, HEADS, SLOTS, Encoder, quoted_list

from .conftest import COMPILED, numbers, random_tokens, small_config, small_model

ROOT = Path(__file__).parents[1]
READING = [name for name, row in ENCODERS.items() if row.reads_text]


def features_of(
    name: str, symbols: np.ndarray, last: np.ndarray, length: int | None = 16
) -> list[Any]:
    """What an encoder, its weights drawn from one seed, makes of symbols (B, T, 9)."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((length, 9)), keras.Input((), dtype="int32")
    found = encoders.LAYERS[name].up(small_config(encoder=name), *inputs)
    computed = keras.Model(
        inputs, [[part for part in level if part is not None] for level in found]
    )([symbols, last])
    return [Features(*level) for level in computed]


@pytest.mark.jax
@pytest.mark.parametrize("name", READING)
def test_an_encoder_has_the_positions_that_its_row_says(name: str) -> None:
    symbols = np.random.default_rng(0).normal(size=(3, 16, 9)).astype(np.float32)
    found = features_of(name, symbols, np.array([15, 7, 2], np.int32))
    row, config = ENCODERS[name], small_config(encoder=name)
    assert len(found) == len(config.encoder_units)
    lengths = [None if level.map is None else level.map.shape[1] for level in found]
    assert lengths == [
        16 // row.stride ** (level + 1) if row.positions else None for level in range(len(found))
    ]
    assert config.encoder_stride == row.stride ** len(found)


@pytest.mark.jax
@pytest.mark.parametrize("name", [name for name in READING if ENCODERS[name].any_length])
def test_an_encoder_of_any_length_reads_nothing_behind_the_last_symbol(name: str) -> None:
    symbols = np.random.default_rng(0).normal(size=(3, 16, 9)).astype(np.float32)
    last = np.array([9, 7, 2], np.int32)
    whole, trimmed = (features_of(name, symbols[:, :length], last, None) for length in (16, 10))
    for one, other in zip(whole, trimmed, strict=True):
        np.testing.assert_allclose(
            numbers(one.summary), numbers(other.summary), rtol=1e-5, atol=1e-6
        )


@pytest.mark.jax
def test_a_bag_is_the_mean_of_the_counted_symbols_in_any_order() -> None:
    rows, last = (
        np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32),
        np.array([3, 0], np.int32),
    )
    found = numbers(encoders.MeanUpTo()(rows, last))
    np.testing.assert_allclose(found, [rows[0, :4].mean(axis=0), rows[1, 0]], rtol=1e-5, atol=1e-6)
    turned = np.concatenate([rows[:, 3::-1], rows[:, 4:]], axis=1)
    np.testing.assert_allclose(
        numbers(encoders.MeanUpTo()(turned, last))[0], found[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", EXPANDERS)
def test_an_expander_repeats_and_multiplies_as_its_row_says(name: str) -> None:
    config, row = small_config(expander=name), EXPANDERS[name]
    code = keras.Input((1, 4))
    features = numbers(
        keras.Model(code, expanders.LAYERS[name](config, code))(np.ones((1, 1, 4), np.float32))
    )
    assert features.shape[1] == 16
    assert bool((features == features[:, :1]).all()) is row.repeats
    assert config.expander_stride == row.stride ** len(config.expander_filters)
    if row.stride > 1:
        with pytest.raises(ConfigError, match=f"must be a multiple of {config.expander_stride}"):
            expanders.LAYERS[name](small_config(expander=name, length=17), code)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_reads_history_and_bounds_its_state_as_its_row_says(name: str) -> None:
    head = heads.LAYERS[name](small_config(head=name, auxiliary=False), ObjectiveConfig())
    head.build((None, 16, 8), (None, 16))
    features = 100.0 * np.random.default_rng(0).normal(size=(4, 16, 8)).astype(np.float32)
    one, other = (numbers(head(features, random_tokens(4, seed=seed))) for seed in (0, 1))
    assert bool((one != other).any()) is HEADS[name].history
    _, state = head.step(
        head.project(features)[:, 0], np.zeros(4, np.int32), head.initial_state(features)
    )
    if HEADS[name].bounded_state:
        assert np.abs(numbers(state[0])).max() <= 1.0


def test_what_rows_read_are_settings_of_the_model() -> None:
    names = {item.name for item in fields(ModelConfig)}
    for table in SLOTS.values():
        for row in table.values():
            assert {*row.reads, *row.ignores} <= names
            assert not {*row.reads} & {*row.ignores}


def test_names_are_listed_as_a_sentence_has_them() -> None:
    assert quoted_list(["a", "b", "c"]) == "'a', 'b' and 'c'"
    assert quoted_list(["a", "b"], "or") == "'a' or 'b'"
    assert quoted_list(["a"]) == "'a'"


def names_of_choices(tree: ast.AST) -> list[str]:
    """Places that ask for a choice by its name: comparisons of its setting with a text, as
    `model.encoder == "gru"` or `getattr(model, slot) == "gru"`, and beginnings of a name, as
    `objective.penalty.startswith("free")`."""
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Compare)
            and is_setting(node.left)
            and any(map(names_choices, node.comparators))
        )
        or (isinstance(node, ast.Compare) and any(map(is_setting, node.comparators)))
        or (
            isinstance(node, ast.Attribute)
            and node.attr in ("startswith", "endswith")
            and is_setting(node.value)
        )
    ]


def names_choices(node: ast.AST) -> bool:
    """Whether code has a text, or a constant that is no table of choices."""
    named = {**vars(slots), **vars(choices)}
    tables = {name for name, table in named.items() if any(table is row for row in ROWS.values())}
    return "'" in ast.unparse(node) or (
        isinstance(node, ast.Name) and node.id.isupper() and node.id not in tables
    )


def is_setting(node: ast.AST) -> bool:
    """Whether code reads the setting of a slot, a penalty or a schedule, or one by `slot`."""
    settings = {*SLOTS, "penalty", "schedule"}
    by_name = ast.unparse(node).startswith("getattr(") and "slot" in ast.unparse(node)
    return by_name or (isinstance(node, ast.Attribute) and node.attr in settings)


def test_no_file_asks_for_a_choice_by_its_name() -> None:
    paths = [
        path
        for folder in ("kvae", "training", "export")
        for path in (ROOT / folder).glob("**/*.py")
    ]
    found = {
        path.name: names_of_choices(ast.parse(path.read_text(encoding="utf-8"))) for path in paths
    }
    assert {name: asked for name, asked in found.items() if asked} == {}


@pytest.mark.parametrize(
    "code",
    [
        "config.encoder in ('lstm', 'gru')",
        "'annealed' == objective.penalty",
        "objective.penalty in TARGETED",
        "getattr(model, slot) != 'gru'",
        "objective.penalty.startswith",
    ],
)
def test_code_that_asks_for_a_choice_is_found(code: str) -> None:
    assert names_of_choices(ast.parse(f"a = {code}")) == [code]


def test_the_table_of_a_slot_is_no_name_of_a_choice() -> None:
    assert not names_of_choices(ast.parse("a = config.encoder in ENCODERS"))


def patches(config: ModelConfig, symbols: Any, last: Any) -> list[Features]:
    """An encoder of one's own: each layer makes one position of three."""
    found, features = [], symbols
    for level, units in enumerate(config.encoder_units):
        features = layers.Conv1D(
            units, 3, strides=3, padding="same", activation="elu", name=f"patches_{level}"
        )(features)
        found.append(Features(layers.Flatten()(features), features))
    return found


def tangents(config: ModelConfig, symbols: Any, last: Any) -> list[Features]:
    """The same with an operation that no sampler runs."""
    return [Features(ops.tan(level.summary), level.map) for level in patches(config, symbols, last)]


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders that kvae does not have: a row and a function each."""
    row = Encoder(positions=True, stride=3)
    for name, up in {"patches": patches, "tangents": tangents}.items():
        monkeypatch.setitem(ENCODERS, name, row)
        monkeypatch.setitem(encoders.LAYERS, name, Layers(up))
    monkeypatch.setitem(ENCODERS, "frozen", Encoder(reads=("encoder_embedding",)))


LADDER: dict[str, Any] = {
    "latent": "map",
    "latent_size": (3, 2),
    "expander": "repeat",
    "length": 18,
}


@pytest.mark.usefixtures("added")
def test_an_added_encoder_trains_as_a_ladder_is_exported_and_samples(
    tmp_path: Path, small_settings: dict[str, Any]
) -> None:
    from kvae.export.bundle import write_bundle
    from kvae.serving import Sampler
    from kvae.serving.verification import verify
    from kvae.training.data.pipeline import training_batches
    from kvae.training.data.prepare import prepare

    settings: dict[str, Any] = {**small_settings, "model.encoder": "patches"}
    settings |= {f"model.{name}": value for name, value in LADDER.items()} | {"model.length": 0}
    data = prepare(preset("cnn").with_settings(settings))
    assert (
        data.config.model.length == 9
    )  # names of six characters and an end mark, and 3 * 3 divides it
    assert Config.from_dict(data.config.to_dict()) == data.config
    model = TextVAE(data.config.model, data.config.objective)
    assert [level[0] for level in model.hierarchy.shapes] == [3, 1]
    model.compile(keras.optimizers.Adam(0.01), **COMPILED)
    before = [numbers(weight) for weight in model.parts.encoder.trainable_weights]
    model.fit(training_batches(data), steps_per_epoch=3, verbose=0)
    after = [numbers(weight) for weight in model.parts.encoder.trainable_weights]
    assert all((one != other).any() for one, other in zip(before, after, strict=True))
    write_bundle(model, data.alphabet, data.config, tmp_path / "bundle")
    verify(tmp_path / "bundle")
    sampler = Sampler.load(tmp_path / "bundle")
    assert sampler.sample(3, seed=1) == sampler.sample(3, seed=1)
    assert sampler.encode(["KAMITO"]).shape == (1, model.parts.code_size)


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "patch"}, "did you mean 'patches'?"),
        (
            {"encoder": "patches", "encoder_bidirectional": True},
            "nothing reads it: it belongs to the encoders 'lstm' and 'gru'; leave it out",
        ),
        (
            {"encoder": "frozen", "encoder_units": (3,)},
            "model.encoder_units is (3,), but nothing reads it",
        ),
        (
            {"encoder": "patches", **LADDER, "length": 15},
            "the layers of encoder 'patches' do not divide it evenly, "
            "which a ladder of maps needs; use a multiple of 9",
        ),
        (
            {"encoder": "dense", "latent": "map"},
            "use 'conv', 'lstm', 'gru', 'transformer', 'patches' or 'tangents'",
        ),
    ],
)
def test_what_an_added_encoder_cannot_do_is_told_by_its_row(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        small_model(**settings)
    assert message in str(caught.value)


@pytest.mark.usefixtures("added")
def test_features_of_too_few_layers_are_refused_with_what_an_encoder_returns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(encoders.LAYERS, "patches", Layers(lambda *inputs: patches(*inputs)[-1:]))
    with pytest.raises(ConfigError, match="encoder 'patches' has features of 1 layers"):
        small_model(encoder="patches", **LADDER)


@pytest.mark.usefixtures("added")
def test_export_names_an_operation_of_the_author_and_the_layer_that_uses_it() -> None:
    from kvae.export.graphs import encoder_graph

    model = TextVAE(small_config(encoder="tangents", length=18, expander="repeat"))
    with pytest.raises(CheckFailed) as caught:
        encoder_graph(model)
    assert "uses operations that samplers do not run: Tan (encoder" in str(caught.value)
    assert "add these to kvae.serving.bundle.OPERATIONS" in str(caught.value)
    assert "do not use it" not in str(caught.value)


@pytest.mark.usefixtures("added")
def test_export_names_an_operation_that_onnx_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from kvae.export.convert import to_onnx

    with pytest.raises(
        CheckFailed,
        match=r"ONNX has no such operations: BesselI0 \(.*BesselI0\); write those layers with",
    ):
        to_onnx(tf.math.bessel_i0, [tf.TensorSpec((None, 3), tf.float32, "x")], ["y"])
