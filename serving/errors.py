"""The errors that a user of kvae can meet: one small tree; each class has its exit code.

Every message is one line that names the argument, the rule, the value received and the way out.
"""

import reprlib
from typing import Any

SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxlist, SHORT.maxdict = 3, 6, 6
SHORT.maxstring, SHORT.maxother, SHORT.maxlong = 80, 80, 40


def short_repr(value: Any) -> str:
    """A value for an error message: on one line and short, however large or deeply nested it is."""
    return SHORT.repr(value)


def first_line(error: BaseException) -> str:
    """First line of an error message, at most 160 characters; the error's type if it is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


class KvaeError(Exception):
    """Base class of all errors that kvae raises on purpose. `exit_code` is the exit code of the
    command line."""

    exit_code = 1


class CheckFailed(KvaeError):
    """A check that failed, such as an exported graph that differs from the model."""

    exit_code = 1


class ConfigError(KvaeError):
    """An invalid configuration, preset or argument."""

    exit_code = 2


class ModelError(KvaeError):
    """A run folder or a saved model that cannot be used."""

    exit_code = 3


class BundleError(KvaeError):
    """A bundle that is damaged, unknown or unsafe to load."""

    exit_code = 3


class DataError(KvaeError):
    """Input text that cannot be used as it is."""

    exit_code = 4


class DeadlineError(KvaeError):
    """A call that did not finish before its deadline."""

    exit_code = 5


class Cancelled(KvaeError):
    """A call that its caller cancelled."""

    exit_code = 130
