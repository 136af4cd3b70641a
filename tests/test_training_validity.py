"""A validator of the user's own decides which texts are valid and which mean the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from kvae.cli import main
from kvae.serving.errors import ConfigError
from kvae.training.validity import (
    Validator,
    load_validator,
    reconstruction_validity,
    sample_validity,
)


def parsed(text: str) -> str | None:
    """The canonical form of a JSON text."""
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except ValueError:
        return None


def test_texts_with_the_same_canonical_form_mean_the_same() -> None:
    texts = ['{"a": 1, "b": 2}', '{"b":2,"a":1}', "{", "3"]
    assert sample_validity(parsed, texts) == {"valid": 3 / 4, "distinct_valid": 2 / 3}
    assert reconstruction_validity(parsed, texts, [texts[1], texts[0], "{", "4"]) == {
        "valid": 3 / 4,
        "same_meaning": 1 / 2,  # what is invalid means nothing
    }
    assert sample_validity(parsed, ["{"]) == {"valid": 0.0}
    assert sample_validity(parsed, []) == {"valid": 0.0}


def test_a_validator_that_says_yes_or_no_compares_texts_as_they_are() -> None:
    assert sample_validity(str.isdigit, ["1", "1", "x"]) == {"valid": 2 / 3, "distinct_valid": 0.5}
    shares = reconstruction_validity(str.isdigit, ["1", "2"], ["1", "3"])
    assert shares == {"valid": 1.0, "same_meaning": 0.5}
    assert sample_validity(lambda text: np.bool_(text == "1"), ["1", "x"])["valid"] == 0.5


@pytest.mark.parametrize(
    ("validator", "message"),
    [
        (lambda text: 3, "the validator returned 3; return None or False for an invalid text"),
        (int, r"the validator raised ValueError .* for the text 'x'; return None for an invalid"),
    ],
)
def test_a_validator_that_breaks_the_rule_is_told(validator: Validator, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sample_validity(validator, ["x"])


def test_a_validator_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "grammar_of_a_test.py").write_text(
        "def even(text):\n    return len(text) % 2 == 0\n"
    )
    monkeypatch.chdir(tmp_path)
    assert sample_validity(load_validator("grammar_of_a_test:even"), ["ab", "a"])["valid"] == 0.5


def test_a_module_that_cannot_be_imported_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_of_a_test.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="importing broken_of_a_test raised SyntaxError"):
        load_validator("broken_of_a_test:f")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json.loads", "write MODULE:FUNCTION"),
        ("no_such_module:f", "no module 'no_such_module' in"),
        ("json:lods", "has no attribute 'lods'"),
        ("json:__doc__", "is no function"),
    ],
)
def test_a_validator_that_is_not_there_is_told_before_any_work(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_validator(name)
    assert main(["evaluate", "no-run", "--validator", name]) == 2
    assert "--validator" in capsys.readouterr().err
