"""The errors a user of kvae can meet: one small tree, each branch with its exit code.

Every message is one line that names the argument, the rule, the value received and the way out.
"""

import reprlib
from typing import Any

SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxlist, SHORT.maxdict, SHORT.maxstring, SHORT.maxother, SHORT.maxlong = (
    3,
    6,
    6,
    80,
    80,
    40,
)


def shown(value: Any) -> str:
    """A value as a message shows it: on one line and short, however large or deep it is."""
    return SHORT.repr(value)


class KvaeError(Exception):
    """Base of all errors that kvae raises on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class CheckFailed(KvaeError):
    """Something that was checked is not true: an exported graph that differs from the model, say."""

    exit_code = 1


class ConfigError(KvaeError):
    """A configuration, a preset or an argument that names something impossible."""

    exit_code = 2


class ModelError(KvaeError):
    """A run folder or a saved model that cannot be used."""

    exit_code = 3


class BundleError(KvaeError):
    """A bundle that cannot be trusted or understood."""

    exit_code = 3


class DataError(KvaeError):
    """Input text that cannot be used as it is."""

    exit_code = 4


class DeadlineError(KvaeError):
    """A call that was not done in the time it was given."""

    exit_code = 5


class Cancelled(KvaeError):
    """A call that its caller ended."""

    exit_code = 130
