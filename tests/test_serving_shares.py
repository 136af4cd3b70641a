"""Fair shares of the processor.

Small requests wait for one piece of a large one. What is taken can be done in its time. Speeds
follow what is measured.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("fastapi")

from kvae.serving import Cancelled, DataError
from kvae.serving.batching import Batcher, Busy, Job, Unavailable
from kvae.serving.shares import FIXED_SHARE, PIECE_SECONDS, FairClock, Speed

SECOND = Speed(0.0, 1.0, 100.0)
"""A model that takes a second for a position."""


def batcher(max_jobs: int = 256) -> Batcher:
    return Batcher(max_jobs, 128, 0.001, lambda batch: None)


def job(
    seconds: float = 1.0,
    time_left: float = 30.0,
    kind: str = "a",
    run: Any = None,
    speed: Speed = SECOND,
) -> Job:
    items = range(round(seconds))
    return Job(
        (kind,),
        run or (lambda items, cancel: list(items)),
        items,
        1,
        speed,
        time.monotonic() + time_left,
    )


def refusal(job: Job) -> Any:
    """Why a job was refused, or None."""
    return job.answer.exception() if job.answer.done() else None


def with_loop(test: Callable[[], Any]) -> Callable[[], None]:
    """A test that is a coroutine, as a function."""

    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


# --- turns ----------------------------------------------------------------------------------------


def test_a_small_request_goes_before_a_large_one_that_came_first() -> None:
    clock = FairClock()
    large = clock.enter(10.0)
    clock.advance(4.0)
    assert clock.enter(1.0) < large


def test_small_requests_do_not_keep_a_large_one_waiting_for_ever() -> None:
    clock = FairClock()
    large = clock.enter(10.0)
    ends = []
    for _ in range(100):
        ends.append(clock.enter(1.0))
        clock.advance(1.0)
    assert ends[0] < large < ends[-1]


def test_of_equal_requests_the_first_is_finished_first() -> None:
    clock = FairClock()
    ends = []
    for _ in range(5):
        ends.append(clock.enter(3.0))
        clock.advance(1.0)
    assert ends == sorted(ends)


def test_a_request_that_left_takes_no_share() -> None:
    left, stayed = FairClock(), FairClock()
    for clock in (left, stayed):
        clock.enter(4.0)
        gone = clock.enter(4.0)
    left.leave(gone)
    for clock in (left, stayed):
        clock.advance(2.0)
    assert (left.now, stayed.now) == (2.0, 1.0)


def test_work_that_does_not_divide_evenly_is_done_once() -> None:
    """A second shared by 49 leaves a rest of 2^-53 seconds.

    The share of the rest leaves a rest again, and so on without end.
    """
    clock = FairClock()
    for _ in range(49):
        clock.enter(10.0)
    clock.advance(1.0)
    assert clock.now == pytest.approx(1 / 49)
    clock.advance(489.0)
    assert (clock.now, clock.ends) == (pytest.approx(10.0), [])


# --- speed ----------------------------------------------------------------------------------------


def test_two_pieces_tell_what_every_piece_and_what_each_position_takes() -> None:
    speed = Speed.from_two_pieces(10, 0.03, 110, 0.13)
    assert (speed.fixed, speed.per_position) == (pytest.approx(0.02), pytest.approx(0.001))


def test_a_speed_follows_what_is_measured() -> None:
    speed = Speed.from_two_pieces(10, 0.03, 110, 0.13)
    for _ in range(200):
        for positions in (10, 60, 110):
            speed.update(positions, 0.04 + 0.003 * positions)
    assert (speed.fixed, speed.per_position) == (
        pytest.approx(0.04, rel=0.05),
        pytest.approx(0.003, rel=0.05),
    )


def test_small_pieces_do_not_make_large_ones_seem_slower() -> None:
    speed = Speed.from_two_pieces(10, 0.03, 1000, 1.0)
    before = speed.per_position
    for _ in range(200):
        speed.update(10, 0.06)
    assert speed.seconds(10) == pytest.approx(0.06, rel=0.05)
    assert speed.per_position < 1.1 * before


def test_one_piece_that_was_held_up_counts_as_twice_as_long_at_most() -> None:
    held_up, twice = Speed(0.02, 0.001, 100.0), Speed(0.02, 0.001, 100.0)
    held_up.update(100, 60.0)
    twice.update(100, 0.24)
    assert (held_up.fixed, held_up.per_position) == (
        pytest.approx(twice.fixed),
        pytest.approx(twice.per_position),
    )


def test_a_piece_takes_a_moment_or_is_long_enough_to_be_worth_it() -> None:
    cheap, costly = Speed(0.01, 0.001, 100.0), Speed(0.5, 0.001, 100.0)
    assert cheap.seconds(cheap.positions_per_piece) == pytest.approx(PIECE_SECONDS)
    assert costly.fixed / costly.seconds(costly.positions_per_piece) == pytest.approx(FIXED_SHARE)


# --- what is taken --------------------------------------------------------------------------------


@with_loop
async def test_of_64_that_ask_for_three_seconds_those_are_taken_that_can_be_done_in_thirty() -> (
    None
):
    queue, jobs = batcher(), [job(3.0, time_left=31.0) for _ in range(64)]
    for item in jobs:
        queue.submit(item)
    assert [refusal(item) is None for item in jobs] == [True] * 8 + [
        False
    ] * 56  # within 0.8 of the time
    assert all(isinstance(refusal(item), Unavailable) for item in jobs[8:])


@with_loop
async def test_a_refusal_says_when_to_come_again() -> None:
    queue = batcher()
    queue.submit(job(20.0))
    queue.submit(refused := job(20.0))
    assert refusal(refused).retry in (16, 17)  # 40 seconds are 16 more than may be planned
    assert "40 seconds" in str(refusal(refused))


@with_loop
async def test_what_is_small_is_taken_beside_all_the_large_that_are() -> None:
    queue = batcher()
    for _ in range(64):
        queue.submit(job(3.0, time_left=31.0))
    queue.submit(small := job(1.0, time_left=2.0))
    assert refusal(small) is None
    assert queue.jobs[0] is small


@with_loop
async def test_what_is_not_begun_is_refused_once_it_cannot_be_done_any_more_and_what_is_begun_is_not() -> (  # noqa: E501
    None
):
    queue, begun, waiting = batcher(), job(10.0), job(12.0)
    queue.submit(begun)
    queue.submit(waiting)
    begun.next_items(1)
    for _ in range(30):
        queue.submit(job(1.0))
    assert isinstance(refusal(waiting), Unavailable)
    assert refusal(begun) is None


@with_loop
async def test_a_full_queue_takes_no_more() -> None:
    queue = batcher(max_jobs=2)
    for _ in range(2):
        queue.submit(job())
    with pytest.raises(Busy, match="holds 2 requests"):
        queue.submit(job())


# --- pieces ---------------------------------------------------------------------------------------


async def worked(queue: Batcher, *jobs: Job) -> list[Any]:
    """The results of jobs, or their errors."""
    working = asyncio.create_task(queue.work())
    found = await asyncio.gather(*(queue.submit(item) for item in jobs), return_exceptions=True)
    working.cancel()
    queue.close()
    return found


@with_loop
async def test_a_large_job_runs_in_pieces_and_a_small_one_goes_between_them() -> None:
    pieces: list[tuple[str, int]] = []

    def run(name: str) -> Callable[..., Sequence[int]]:
        def call(items: Sequence[int], cancel: Any) -> Sequence[int]:
            pieces.append((name, len(items)))
            return list(items)

        return call

    speed = Speed(0.0, PIECE_SECONDS / 10, 10.0)
    large, small = (
        job(n, kind=kind, run=run(kind), speed=speed) for n, kind in ((25, "large"), (1, "small"))
    )
    assert await worked(batcher(), large, small) == [list(range(25)), [0]]
    assert pieces[0] == ("small", 1)
    assert [name for name, _ in pieces[1:]] == ["large"] * (len(pieces) - 1)
    assert len(pieces) > 3


@with_loop
async def test_jobs_of_one_kind_share_a_piece_and_get_their_own_results() -> None:
    sizes: list[int] = []

    def run(items: Sequence[int], cancel: Any) -> list[int]:
        sizes.append(len(items))
        return [10 * item for item in items]

    speed = Speed(0.0, PIECE_SECONDS / 100, 100.0)
    found = await worked(batcher(), *(job(n, run=run, speed=speed) for n in (3, 1, 2)))
    assert (found, sizes) == ([[0, 10, 20], [0], [0, 10]], [6])


@with_loop
async def test_what_fails_fails_for_those_of_the_piece_and_no_other() -> None:
    def fail(items: Sequence[int], cancel: Any) -> Sequence[int]:
        raise DataError("no")

    queue = batcher()
    bad, good = await worked(
        queue, job(1.0, kind="bad", run=fail, speed=Speed()), job(1.0, speed=Speed())
    )
    assert (str(bad), good) == ("no", [0])
    assert (queue.jobs, queue.positions_waiting) == ([], 0)


@with_loop
async def test_a_job_that_nobody_wants_any_more_is_ended() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def run(items: Sequence[int], cancel: Any) -> Sequence[int]:
        loop.call_soon_threadsafe(begun.set)
        while not cancel.cancelled:
            time.sleep(0.005)
        loop.call_soon_threadsafe(ended.set)
        raise Cancelled("ended")

    queue = batcher()
    working = asyncio.create_task(queue.work())
    answer = queue.submit(job(1.0, run=run, speed=Speed()))
    await begun.wait()
    answer.cancel()
    await asyncio.wait_for(ended.wait(), 20)
    working.cancel()
    assert queue.jobs == []
