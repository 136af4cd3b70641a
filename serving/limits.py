"""Deadlines and cancellation: a call that takes too long or was cancelled stops within
milliseconds.

onnxruntime checks the `terminate` flag of a run's options between two nodes of a graph, also in
each iteration of the decoding loop. `raise_if_cancelled` checks it between two steps of Python
code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar, cast

from .checks import as_float, checked_names
from .errors import Cancelled, ConfigError, DeadlineError
from .runtime import RunOptions, run_options

Function = TypeVar("Function", bound=Callable[..., Any])
Item = TypeVar("Item")


class Cancellation:
    """The `cancel` argument of calls; its `cancel()` stops running and later calls, from any
    thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[RunOptions] = []
        self.cancelled = False

    def cancel(self) -> None:
        """Stop all calls that were given this object."""
        with self._lock:
            self.cancelled = True
            for options in self._running:
                options.terminate = True

    @contextmanager
    def _registered(self, options: RunOptions) -> Iterator[None]:
        """Context in which `cancel` terminates the runs with `options`."""
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
    """The run options of the limited call in which this code runs, or None."""
    return _options.get()


def raise_if_cancelled() -> None:
    """Raise `Cancelled` if the limited call in which this code runs must stop; `limited_options`
    adds the reason."""
    options = current_options()
    if options is not None and options.terminate:
        raise Cancelled("the call was ended")


def cancellable(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with `raise_if_cancelled` before each."""
    for item in items:
        raise_if_cancelled()
        yield item


@contextmanager
def limited_options(
    deadline: float | None, cancel: Cancellation | None
) -> Iterator[RunOptions | None]:
    """Context with the run options of one call that has `deadline` seconds and may be cancelled.
    Without both, they are the options of the enclosing call.

    Any error inside becomes `DeadlineError` after the deadline and `Cancelled` after a
    cancellation.
    """
    if deadline is not None and not 0 < as_float("deadline", deadline) <= threading.TIMEOUT_MAX:
        raise ConfigError(f"deadline must be a number of seconds above 0, got {deadline!r}")
    if cancel is not None and not isinstance(cancel, Cancellation):
        raise ConfigError(
            f"cancel must be a Cancellation, whose cancel() ends the call, got {cancel!r:.80}"
        )
    if deadline is None and cancel is None:
        yield current_options()
        return
    options, cancel = run_options(), cancel or Cancellation()
    timed_out = threading.Event()

    def time_out() -> None:
        timed_out.set()
        options.terminate = True

    timer = None if deadline is None else threading.Timer(deadline, time_out)
    with cancel._registered(options):
        if timer:
            timer.daemon = True
            timer.start()
        try:
            yield options
        except Exception as error:
            if cancel.cancelled:
                raise Cancelled("the call was cancelled") from error
            if timed_out.is_set():
                raise DeadlineError(
                    f"deadline: not done in {deadline} seconds; "
                    "give it more time, or ask for less at once"
                ) from error
            raise
        finally:
            if timer:
                timer.cancel()


@contextmanager
def call_limits(
    deadline: float | None = None, cancel: Cancellation | None = None
) -> Iterator[None]:
    """Context in which all calls of a `Sampler` together have `deadline` seconds and may be
    cancelled."""
    with limited_options(deadline, cancel) as options:
        token = _options.set(options)
        try:
            yield
        finally:
            _options.reset(token)


def limited(method: Function) -> Function:
    """A method whose `deadline` (seconds) and `cancel` (a `Cancellation`) limit it.

    They are in its signature for readers and editors; the method itself does not get them. Raises
    `ConfigError` for an argument that it does not have.
    """
    checked = checked_names(method)

    @wraps(method)
    def call(
        *arguments: Any,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
        **named: Any,
    ) -> Any:
        with call_limits(deadline, cancel):
            return checked(*arguments, **named)

    return cast(Function, call)
