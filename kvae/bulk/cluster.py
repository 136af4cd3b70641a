"""The cluster of a bulk command, and its progress."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

from distributed import Client, Future, as_completed, progress

from kvae.serving.cores import usable_cores
from kvae.serving.errors import ConfigError, DataError, KvaeError, first_line

from .folders import Shard
from .work import write_shard

PROGRESS_SECONDS = 30.0
"""Seconds between two lines of progress where standard error is no terminal."""

ANSWER_SECONDS = 20
"""Seconds that a scheduler has to answer."""


def write_shards(
    shards: Sequence[Shard],
    scheduler: str | None,
    workers: int | None,
    say: Callable[[str], None],
) -> None:
    """Write the files of shards on a cluster, or on `workers` processes of this machine.

    `say` gets lines about the cluster and the progress. A shard that fails does not keep the others
    from being written. Raises the error of the first one at the end.
    """
    with client_of(scheduler, workers or min(usable_cores(), len(shards)), say) as client:
        if address := dashboard_of(client, scheduler):
            say(f"dashboard: {address}")
        futures = client.map(write_shard, shards, pure=False)
        follow(futures, [shard.count for shard in shards], say)
        errors = [error for future in futures if (error := error_of(future))]
    if errors:
        raise type(errors[0])(
            f"{errors[0]}; {len(errors):,} of {len(shards):,} files are not written, "
            f"the same command writes them"
        )


@contextlib.contextmanager
def client_of(scheduler: str | None, workers: int, say: Callable[[str], None]) -> Iterator[Client]:
    """Context with the client of a cluster, or of processes that end with it. Raises `ConfigError`
    if no scheduler answers."""
    with remote_client(scheduler) if scheduler else local_client(workers) as client:
        threads = sum(client.nthreads().values())
        if scheduler:
            say(f"{threads:,} threads of workers at {scheduler}")
            if not threads:
                say("the cluster has no workers yet; this command waits for them")
        else:
            say(f"{threads:,} processes on this machine")
        yield client


def local_client(workers: int) -> Client:
    """The client of so many processes on this machine, which nothing outside it reaches."""
    return Client(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # without one, Dask listens on 8787
        silence_logs=logging.CRITICAL,
    )


def remote_client(scheduler: str) -> Client:
    """The client of a cluster. Raises `ConfigError` if its scheduler does not answer."""
    try:
        return Client(scheduler, timeout=ANSWER_SECONDS)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--scheduler {scheduler}: no Dask scheduler answers ({first_line(error)}); "
            f"start one with `dask scheduler`, or leave the option out"
        ) from error


def dashboard_of(client: Client, scheduler: str | None) -> str | None:
    """The address of the dashboard, or None if there is none. That of this machine needs the
    package bokeh."""
    if scheduler is None:
        return client.dashboard_link if find_spec("bokeh") else None
    services = client.scheduler_info().get("services", {})
    return client.dashboard_link if "dashboard" in services else None


def follow(futures: Sequence[Future], counts: Sequence[int], say: Callable[[str], None]) -> None:
    """Wait until all is done, with the bar of Dask on a terminal and a line now and then
    elsewhere."""
    if sys.stderr.isatty():
        with contextlib.redirect_stdout(sys.stderr):
            progress(futures, notebook=False)
    texts, done = dict(zip(futures, counts, strict=True)), 0
    said = time.monotonic()
    for future in as_completed(futures):
        done += texts[future]
        if time.monotonic() - said >= PROGRESS_SECONDS:
            say(f"{done:,} of {sum(counts):,} texts")
            said = time.monotonic()


def error_of(future: Future) -> KvaeError | None:
    """What went wrong with a shard, or None."""
    try:
        found: KvaeError | None = future.result()
    except Exception as error:  # of a worker that died, a lost scheduler, or a missing package
        return DataError(f"a worker of Dask failed ({type(error).__name__}: {first_line(error)})")
    return found
