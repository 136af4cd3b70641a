"""The Sampler for asyncio: each call runs in a thread and is cancelled when its task is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from .checks import checked_names
from .limits import Cancellation
from .runtime import OWN
from .sampler import Sampler

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def awaitable(
    method: Callable[Concatenate[Sampler, Arguments], Result],
) -> Callable[Concatenate[AsyncSampler, Arguments], Coroutine[Any, Any, Result]]:
    """A method of `Sampler` as a coroutine with its arguments; cancelling its task also stops the
    computation."""

    @wraps(method)
    async def call(self: AsyncSampler, *arguments: Any, **named: Any) -> Any:
        cancellation = named.pop("cancel", None) or Cancellation()
        try:
            return await asyncio.to_thread(
                getattr(self.sampler, method.__name__), *arguments, cancel=cancellation, **named
            )
        except asyncio.CancelledError:
            cancellation.cancel()
            raise

    return cast("Callable[Concatenate[AsyncSampler, Arguments], Coroutine[Any, Any, Result]]", call)


class AsyncSampler:
    """A `Sampler` for asyncio, loaded by `await AsyncSampler.load("bundle")`.

    Its computing methods are coroutines with the arguments of `Sampler`'s; `stream` is an
    asynchronous iterator.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    @classmethod
    async def load(
        cls,
        path: str | Path,
        threads: int | None = None,
        endpoints: Sequence[str] = ("sampler",),
        runtime: str = OWN,
    ) -> AsyncSampler:
        """As `Sampler.load`."""
        return cls(await asyncio.to_thread(Sampler.load, path, threads, endpoints, runtime))

    sample = awaitable(Sampler.sample)
    generate = awaitable(Sampler.generate)
    generate_rows = awaitable(Sampler.generate_rows)
    draw_codes = awaitable(Sampler.draw_codes)
    encode = awaitable(Sampler.encode)
    posterior = awaitable(Sampler.posterior)
    decode = awaitable(Sampler.decode)
    reconstruct = awaitable(Sampler.reconstruct)
    interpolate = awaitable(Sampler.interpolate)
    variations = awaitable(Sampler.variations)
    neighbours = awaitable(Sampler.neighbours)
    arithmetic = awaitable(Sampler.arithmetic)
    score = awaitable(Sampler.score)

    @checked_names
    async def stream(
        self,
        seed: int | None = None,
        row: int = 0,
        *,
        greedy: bool = False,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        min_length: int = 1,
        max_length: int | None = None,
        attribute: str | None = None,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> AsyncIterator[str]:
        """As `Sampler.stream`."""
        cancellation, end = cancel or Cancellation(), object()
        pieces = self.sampler.stream(
            seed,
            row,
            greedy=greedy,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_length=min_length,
            max_length=max_length,
            attribute=attribute,
            deadline=deadline,
            cancel=cancellation,
        )
        try:
            while (piece := await asyncio.to_thread(next, pieces, end)) is not end:
                yield str(piece)
        except (asyncio.CancelledError, GeneratorExit):
            cancellation.cancel()
            raise

    def __repr__(self) -> str:
        return f"<Async{repr(self.sampler)[1:]}"

    def info(self) -> dict[str, Any]:
        """As `Sampler.info`."""
        return self.sampler.info()
