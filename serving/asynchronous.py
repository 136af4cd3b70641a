"""The Sampler for asyncio: each call runs in a thread and is cancelled when its task is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from .limits import Cancellation
from .sampler import Sampler


def awaitable(name: str) -> Callable[..., Awaitable[Any]]:
    """The method of that name as a coroutine; cancelling its task also stops the computation."""

    async def call(self: AsyncSampler, *arguments: Any, **named: Any) -> Any:
        cancellation = Cancellation()
        try:
            return await asyncio.to_thread(
                getattr(self.sampler, name), *arguments, cancel=cancellation, **named
            )
        except asyncio.CancelledError:
            cancellation.cancel()
            raise

    call.__name__ = name
    call.__doc__ = getattr(Sampler, name).__doc__
    return call


class AsyncSampler:
    """A `Sampler` for asyncio, loaded by `await AsyncSampler.load("bundle")`.

    Its computing methods are coroutines with the arguments of `Sampler`'s; `stream` is an
    asynchronous iterator.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    @classmethod
    async def load(
        cls, path: str | Path, threads: int | None = None, endpoints: Sequence[str] = ("sampler",)
    ) -> AsyncSampler:
        """As `Sampler.load`."""
        return cls(await asyncio.to_thread(Sampler.load, path, threads, endpoints))

    sample = awaitable("sample")
    generate = awaitable("generate")
    generate_rows = awaitable("generate_rows")
    draw_codes = awaitable("draw_codes")
    encode = awaitable("encode")
    posterior = awaitable("posterior")
    decode = awaitable("decode")
    reconstruct = awaitable("reconstruct")
    interpolate = awaitable("interpolate")
    variations = awaitable("variations")
    neighbours = awaitable("neighbours")
    arithmetic = awaitable("arithmetic")
    score = awaitable("score")

    async def stream(
        self, seed: int | None = None, row: int = 0, **options: Any
    ) -> AsyncIterator[str]:
        """As `Sampler.stream`."""
        cancellation, end = Cancellation(), object()
        pieces = self.sampler.stream(seed, row, cancel=cancellation, **options)
        try:
            while (piece := await asyncio.to_thread(next, pieces, end)) is not end:
                yield str(piece)
        except (asyncio.CancelledError, GeneratorExit):
            cancellation.cancel()
            raise

    def info(self) -> dict[str, Any]:
        """As `Sampler.info`."""
        return self.sampler.info()
