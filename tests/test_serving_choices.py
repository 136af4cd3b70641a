"""The options of sampling are defined in one place, and all code that uses them agrees."""

import argparse

import numpy as np
import pytest

from kvae.commands.sample import choice_arguments
from kvae.serving.choices import CHOICES, choices
from kvae.serving.errors import ConfigError
from kvae.serving.manifest import DESCRIPTION, first_fault

MANIFEST = {"length": 16}


def test_without_options_a_text_is_drawn_from_the_whole_distribution() -> None:
    found = choices(MANIFEST)
    assert {name: value.item() for name, value in found.items()} == {
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_length": 1,
        "max_length": 16,
    }
    assert [found[name].dtype for name in ("temperature", "top_k")] == [np.float32, np.int64]


def test_without_a_temperature_that_of_the_manifest_is_used() -> None:
    manifest = {**MANIFEST, "defaults": {"temperature": 0.5, "top_k": 0, "top_p": 1.0}}
    assert choices(manifest)["temperature"] == 0.5
    assert choices(manifest, top_k=3)["temperature"] == 0.5
    assert choices(manifest, temperature=1.0)["temperature"] == 1.0
    assert choices(manifest, greedy=True)["temperature"] == 0.0


def test_a_name_that_is_no_option_is_told_with_those_that_are() -> None:
    with pytest.raises(
        ConfigError, match="choices: has no argument 'temprature'; did you mean 'temperature'"
    ):
        choices(MANIFEST, temprature=1.0)


def test_a_command_takes_every_option_with_its_default() -> None:
    parser = argparse.ArgumentParser()
    choice_arguments(parser)
    options = vars(parser.parse_args([]))
    assert {name: options[name] for name in CHOICES} == {
        name: choice.default for name, choice in CHOICES.items()
    }
    assert options.keys() - CHOICES.keys() == {"seed"}


def test_a_request_takes_every_option_with_its_default_and_range() -> None:
    pytest.importorskip("pydantic")
    from kvae.serving.schemas import Choices

    assert Choices.model_fields.keys() - {"deadline"} == CHOICES.keys()
    assert Choices().options() == {name: choice.default for name, choice in CHOICES.items()}
    for name, choice in CHOICES.items():
        bounds = {type(rule).__name__: rule for rule in Choices.model_fields[name].metadata}
        found = [
            getattr(bounds.get(kind), attribute, None)
            for kind, attribute in (("Ge", "ge"), ("Le", "le"))
        ]
        assert found == [choice.low, choice.high]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"temperature": 1e3}, None),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": 1001}, "temperature"),
        ({"top_k": 2**32}, "top_k"),
    ],
)
def test_the_defaults_of_a_manifest_have_the_ranges_of_the_options(
    options: dict[str, float], fault: str | None
) -> None:
    plain = {name: choices(MANIFEST)[name].item() for name in DESCRIPTION["defaults"]}
    assert DESCRIPTION["defaults"].keys() <= CHOICES.keys()
    found = first_fault(DESCRIPTION["defaults"], {**plain, **options})
    assert (found or "").partition(" ")[0] == (fault or "")
