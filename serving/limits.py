"""Deadlines and cancellation: a call that takes too long, or that nobody waits for any more, ends within milliseconds.

onnxruntime looks at the `terminate` flag of a call's options between two nodes of a graph, each turn of the decoding loop
included; `check` looks at it between two pieces of work in Python.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar, cast

from .checks import real
from .errors import Cancelled, ConfigError, DeadlineError
from .runtime import RunOptions, run_options

Function = TypeVar("Function", bound=Callable[..., Any])
Item = TypeVar("Item")


class Cancellation:
    """Handed to calls as `cancel`; `cancel()` ends those that run and those that begin later, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[RunOptions] = []
        self.cancelled = False

    def cancel(self) -> None:
        """End all calls that hold this."""
        with self._lock:
            self.cancelled = True
            for options in self._running:
                options.terminate = True

    @contextmanager
    def _ending(self, options: RunOptions) -> Iterator[None]:
        """Within this, `cancel` ends what runs with `options`."""
        with self._lock:
            options.terminate = self.cancelled
            self._running.append(options)
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(options)


_options: ContextVar[RunOptions | None] = ContextVar("options", default=None)


def current_options() -> RunOptions | None:
    """The options of the limited call that this code is part of."""
    return _options.get()


def check() -> None:
    """Raise `Cancelled` once the limited call that this code is part of has to end; `stopping` says why."""
    options = current_options()
    if options is not None and options.terminate:
        raise Cancelled("the call was ended")


def checking(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with a `check` before each."""
    for item in items:
        check()
        yield item


@contextmanager
def stopping(deadline: float | None, cancel: Cancellation | None) -> Iterator[RunOptions | None]:
    """Options for the runs of one call that has `deadline` seconds and may be cancelled; with neither, those of the call that
    it is part of.

    Raises `DeadlineError` or `Cancelled` for whatever fails inside once time is up or the call cancelled.
    """
    if deadline is not None and not 0 < real("deadline", deadline) <= threading.TIMEOUT_MAX:
        raise ConfigError(f"deadline must be a number of seconds above 0, got {deadline!r}")
    if cancel is not None and not isinstance(cancel, Cancellation):
        raise ConfigError(
            f"cancel must be a Cancellation, whose cancel() ends the call, got {cancel!r:.80}"
        )
    if deadline is None and cancel is None:
        yield current_options()
        return
    options, cancel = run_options(), cancel or Cancellation()
    passed = threading.Event()

    def end() -> None:
        passed.set()
        options.terminate = True

    timer = None if deadline is None else threading.Timer(deadline, end)
    with cancel._ending(options):
        if timer:
            timer.daemon = True
            timer.start()
        try:
            yield options
        except Exception as error:
            if cancel.cancelled:
                raise Cancelled("the call was cancelled") from error
            if passed.is_set():
                raise DeadlineError(
                    f"deadline: not done in {deadline} seconds; give it more time, or ask for less at once"
                ) from error
            raise
        finally:
            if timer:
                timer.cancel()


@contextmanager
def within(deadline: float | None = None, cancel: Cancellation | None = None) -> Iterator[None]:
    """All calls of a `Sampler` inside this, together, have `deadline` seconds and may be cancelled."""
    with stopping(deadline, cancel) as options:
        token = _options.set(options)
        try:
            yield
        finally:
            _options.reset(token)


def limited(method: Function) -> Function:
    """A method that takes `deadline` (seconds) and `cancel` (a `Cancellation`) besides its own arguments."""

    @wraps(method)
    def call(
        *arguments: Any,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
        **named: Any,
    ) -> Any:
        with within(deadline, cancel):
            return method(*arguments, **named)

    return cast(Function, call)
