"""Whether texts are valid in a grammar: the share of valid samples, and reconstructions that mean
the same.

A *validator* is a function of a text. It returns None or False for an invalid text. For a valid one
it returns True, or its canonical form as a string: texts with the same canonical form mean the
same.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from kvae.serving.errors import ConfigError, short_repr

Validator: TypeAlias = Callable[[str], str | bool | None]

UNITS = {
    "valid": "share of texts that the validator accepts",
    "distinct_valid": "distinct canonical forms / valid texts",
    "same_meaning": "share of texts with the canonical form of the original",
}
"""The metrics of this module."""


def load_validator(name: str) -> Validator:
    """The validator MODULE:FUNCTION, imported; the current folder is searched too.

    Raises `ConfigError` if there is no such module or function.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ConfigError(
            f"--validator {short_repr(name)}: write MODULE:FUNCTION, as in "
            "kvae.training.molecules:smiles"
        )
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--validator {name}: no module {error.name!r} in {here} or in the environment"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"--validator {name}: {error}") from error
    except Exception as error:
        raise ConfigError(
            f"--validator {name}: importing {module} raised {type(error).__name__} ({error})"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise ConfigError(f"--validator {name}: is no function")
    validator: Validator = found
    return validator


def canonical_form(validator: Validator, text: str) -> str | None:
    """The canonical form of a text, or the text itself if the validator has none; None if invalid.

    Raises `ConfigError` if the validator raises an error or returns something else.
    """
    try:
        result = validator(text)
    except Exception as error:
        raise ConfigError(
            f"the validator raised {type(error).__name__} ({error}) for the text "
            f"{short_repr(text)}; return None for an invalid text"
        ) from error
    if result is None or isinstance(result, bool | np.bool_):
        return text if result else None
    if isinstance(result, str):
        return result
    raise ConfigError(
        f"the validator returned {short_repr(result)}; return None or False for an invalid text, "
        "True or its canonical form for a valid one"
    )


def sample_validity(validator: Validator, texts: Sequence[str]) -> dict[str, float]:
    """The share of valid texts, and the distinct share of these."""
    forms = [canonical_form(validator, text) for text in texts]
    valid = [form for form in forms if form is not None]
    return {
        "valid": len(valid) / max(len(texts), 1),
        **({"distinct_valid": len(set(valid)) / len(valid)} if valid else {}),
    }


def reconstruction_validity(
    validator: Validator, originals: Sequence[str], reconstructions: Sequence[str]
) -> dict[str, float]:
    """The share of valid reconstructions, and of those that mean the same as a valid original."""
    pairs = [
        (canonical_form(validator, original), canonical_form(validator, text))
        for original, text in zip(originals, reconstructions, strict=True)
    ]
    same = sum(form is not None and form == original for original, form in pairs)
    return {
        "valid": sum(form is not None for _, form in pairs) / max(len(pairs), 1),
        "same_meaning": same / max(len(pairs), 1),
    }
