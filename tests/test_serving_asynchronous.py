"""The Sampler in an event loop."""

import asyncio
import time
from pathlib import Path

import pytest

from kvae.serving import AsyncSampler, ConfigError, Sampler


def test_awaited_calls_give_what_the_sampler_gives(sampler: Sampler) -> None:
    async def calls() -> None:
        aio = AsyncSampler(sampler)
        texts, scores, again = await asyncio.gather(
            aio.sample(5, seed=1), aio.score(["KAMITO"]), aio.reconstruct(["KAMITO"])
        )
        assert texts == sampler.sample(5, seed=1)
        assert scores == sampler.score(["KAMITO"])
        assert again == sampler.reconstruct(["KAMITO"])
        assert [piece async for piece in aio.stream(seed=1, row=2)] == list(
            sampler.stream(seed=1, row=2)
        )
        with pytest.raises(ConfigError, match="n must be"):
            await aio.sample(-1)

    asyncio.run(calls())


def test_it_loads_without_blocking_the_loop(bundle_folder: Path) -> None:
    async def calls() -> str:
        return (await AsyncSampler.load(bundle_folder)).info()["model_id"]

    assert asyncio.run(calls()) == Sampler.load(bundle_folder).info()["model_id"]


def test_cancelling_a_task_ends_its_computation(sampler: Sampler) -> None:
    async def calls() -> None:
        task = asyncio.create_task(AsyncSampler(sampler).sample(10**6, seed=0))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started = time.perf_counter()
    asyncio.run(calls())  # which waits for the thread
    assert time.perf_counter() - started < 60
