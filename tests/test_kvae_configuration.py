"""Configurations check themselves and survive JSON."""

import json
import random
from typing import Any

import pytest

from kvae.configuration import (
    Config,
    ModelConfig,
    TrainingConfig,
    parse_setting,
)
from kvae.presets import PRESETS, preset
from kvae.serving.errors import ConfigError
from kvae.slots import PENALTIES as PENALTY_ROWS
from kvae.slots import SCHEDULES as SCHEDULE_ROWS
from kvae.slots import SLOTS

from .test_serving_manifest import OPERATIONS, STRANGE, changed, places, random_change


def nested(depth: int) -> Any:
    """Brackets in brackets."""
    data: Any = []
    for _ in range(depth):
        data = [data]
    return data


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_json(name: str) -> None:
    config = preset(name)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.latent_sise": 64}, "did you mean 'model.latent_size'"),
        ({"modle.latent_size": 64}, "did you mean 'model.latent_size'"),
        ({"latent_size": 64}, "did you mean 'model.latent_size'"),
        (
            {"model.latent_size": "many"},
            "model.latent_size must be a list such as [64, 128], got 'many'",
        ),
        ({"model.latent_size": ["many"]}, "model.latent_size must be a whole number, got 'many'"),
        ({"model.latent_size": 0}, "model.latent_size must be between 1 and 65536, got 0"),
        ({"model.latent_size": [True]}, "must be a whole number, got True"),
        ({"model.head_units": True}, "must be a whole number, got True"),
        (
            {"model.encoder_units": [64, -1]},
            "model.encoder_units must be between 1 and 65536, got -1",
        ),
        ({"model.encoder_units": "64"}, "must be a list such as"),
        ({"model.encoder_units": []}, "must be a list such as"),
        ({"model.head": "lstn"}, "did you mean 'lstm'"),
        ({"model.auxiliary": "no"}, "model.auxiliary must be true or false, got 'no'"),
        (
            {"objective.input_dropout": 1.5},
            "objective.input_dropout must be between 0.0 and 1.0, got 1.5",
        ),
        (
            {"training.learning_rate": float("nan")},
            "training.learning_rate must be a number, got nan",
        ),
        ({"data.too_long": "truncate"}, "data.too_long is 'truncate'"),
        ({"model.length": 10**9}, "model.length must be between 0 and 65536, got 1000000000"),
        ({"model.vocabulary_size": 2**63}, "model.vocabulary_size must be between 0 and 1048580"),
        (
            {"model.encoder_units": [8] * 65},
            "model.encoder_units must be a list of at most 64, got 65",
        ),
        (
            {"model.attributes": ["a", "a"]},
            "model.attributes must differ from each other and be no empty texts",
        ),
        (
            {"model.attributes": ["a", ""]},
            "model.attributes must differ from each other and be no empty texts",
        ),
        ({"training.batch_size": 2**63}, "training.batch_size must be between 1 and 2147483647"),
        ({"training.batch_size": 0}, "training.batch_size must be at least 1, got 0"),
        ({"training.learning_rate": 10**400}, "training.learning_rate must be a number, got 1000"),
        (
            {"training.learning_rate": 1e300},
            "training.learning_rate must be between 0.0 and 1e+30, got 1e+300",
        ),
        ({"training.seed": 2**32}, "training.seed must be between 0 and 4294967295"),
        (
            {"data.source": "x" * 10_001},
            "data.source must be a text of at most 10,000 characters, got 10,001",
        ),
    ],
)
def test_a_setting_that_breaks_a_rule_is_refused_with_the_way_out(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Config().with_settings(settings)
    assert message in str(caught.value)


def test_an_unknown_key_in_a_dictionary_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'latent_size'"):
        ModelConfig.from_dict({"latent_sze": 3})


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "x" * 10**6,
        {"x" * 10**6: 1},
        {"model": []},
        {"model": {"head": ["x"] * 10**6}},
        {"model": {"length": 10**4000}},
        {"model": {"latent_size": nested(900)}},
        {"model": {"attributes": nested(900)}},
        {"training": {"learning_rate": nested(900)}},
        {"data": {"source": "x" * 10**6}},
        nested(900),
    ],
    ids=lambda data: repr(type(data)),
)
def test_whatever_stands_in_a_configuration_is_refused_in_one_short_line(data: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def configured(data: Any) -> str:
    """What comes of a configuration: "read", or the message of a `ConfigError`, one short line."""
    try:
        Config.from_dict(data)
    except ConfigError as error:
        message = str(error)
    else:
        return "read"
    assert "\n" not in message
    assert len(message) < 1000
    return message


def test_every_value_of_a_configuration_is_changed_and_read_or_refused() -> None:
    data = Config().with_settings({"model.attributes": ["a", "b"]}).to_dict()
    for path in places(data):
        for change in (*STRANGE, *OPERATIONS.values()):
            assert configured(changed(data, path, change))


@pytest.mark.nightly
def test_ten_thousand_changes_of_a_configuration_are_read_or_refused() -> None:
    generator = random.Random(0)
    for name in PRESETS:
        data = preset(name).to_dict()
        for _ in range(10_000 // len(PRESETS)):
            assert configured(random_change(random_change(data, generator), generator))


def test_an_unknown_preset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'hybrid-lstm'"):
        preset("hybrid-lstn")


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("model.latent_size=64", ("model.latent_size", 64)),
        ("model.encoder_units=[8,16]", ("model.encoder_units", [8, 16])),
        ("data.source=" + "[" * 5000, ("data.source", "[" * 5000)),
        ("data.source=" + "9" * 5000, ("data.source", "9" * 5000)),
        ("data.too_long=cut", ("data.too_long", "cut")),
        ("model.auxiliary=false", ("model.auxiliary", False)),
        ("data.source=a=b.txt", ("data.source", "a=b.txt")),
    ],
)
def test_a_setting_is_json_where_it_parses_and_text_where_not(
    text: str, setting: tuple[str, Any]
) -> None:
    assert parse_setting(text) == setting


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_setting("model.latent_size")


def test_every_choice_has_a_function_and_every_function_is_a_choice() -> None:
    from kvae import encoders, expanders, flows, heads, latents, priors
    from kvae.objectives import PENALTIES, SCHEDULES

    modules = {
        "encoder": encoders,
        "latent": latents,
        "posterior": flows,
        "prior": priors,
        "expander": expanders,
        "head": heads,
    }
    assert {name: set(table) for name, table in SLOTS.items()} == {
        name: set(module.LAYERS) for name, module in modules.items()
    }
    assert set(PENALTY_ROWS) == set(PENALTIES)
    assert set(SCHEDULE_ROWS) == set(SCHEDULES)


def test_whole_numbers_are_taken_where_numbers_are_wanted() -> None:
    assert TrainingConfig(learning_rate=1).learning_rate == 1.0


def test_what_a_run_keeps_is_read_as_it_was_meant_when_it_was_written() -> None:
    old = Config().to_dict()
    del old["data"]["split"]
    assert Config.from_stored(old) == Config().with_settings({"data.split": "texts"})
    assert Config.from_stored(Config().to_dict()) == Config()
    for damaged in ([], {"data": 3}, {"data": {"splt": 1}}):
        with pytest.raises(ConfigError):
            Config.from_stored(damaged)  # type: ignore[arg-type]
