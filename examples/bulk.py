"""Millions of texts, across cores and machines, on Dask.

    pip install 'kvae-text[bulk]'
    python bulk.py BUNDLE texts -n 1000000                             # all cores of this machine
    python bulk.py BUNDLE texts -n 1000000 --scheduler HOST:8786       # the workers of a Dask cluster that see both folders

Shard i holds rows i * SIZE and on of one seed: the shards together are what `Sampler.sample(n, seed)` would write, and no
two of them share their randomness. A shard is there whole or not at all: run the same command again and it does the rest.
"""

import argparse
import json
from functools import lru_cache
from pathlib import Path

from distributed import Client, as_completed

from kvae.serving import Sampler
from kvae.writing import LOCK, atomic_write, sole_writer

SIZE = 10_000
"""Texts a shard."""


@lru_cache(maxsize=1)
def sampler_of(bundle: str) -> Sampler:
    """One for each worker process, on one core: the workers are the parallelism."""
    return Sampler.load(bundle, threads=1)


def write_shard(bundle: str, folder: str, seed: int, first_row: int, count: int) -> int:
    """Write the texts of `count` rows as lines of JSON; returns how many."""
    file = Path(folder) / f"rows-{first_row:010d}.jsonl"
    if not file.exists():
        samples = sampler_of(bundle).iterate(count, seed, first_row=first_row)
        lines = [json.dumps({"row": item.row, "text": item.text}, ensure_ascii=False) for item in samples]
        with atomic_write(file) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return count


def generate(client: Client, bundle: str, folder: str, n: int, seed: int = 0, size: int = SIZE) -> None:
    """Write `n` texts of `seed` in shards of `size` to `folder`, what is there already left alone."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    order = {"model_id": Sampler.load(bundle, endpoints=()).info()["model_id"], "n": n, "seed": seed, "size": size}
    noted = Path(folder) / "order.json"
    with sole_writer(Path(folder) / LOCK, Path(folder), wait=True):  # two orders that begin together do not mix
        if noted.exists() and json.loads(noted.read_text()) != order:
            raise SystemExit(f"{folder} holds another order, {noted.read_text()}; give another folder")
        with atomic_write(noted) as partial:
            partial.write_text(json.dumps(order))
    shards = [(bundle, folder, seed, first, min(size, n - first)) for first in range(0, n, size)]
    done = 0
    for future in as_completed(client.map(write_shard, *zip(*shards, strict=True), pure=False)):
        done += future.result()
        print(f"{done:,} of {n:,} texts", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write many texts of a bundle, shard by shard.")
    parser.add_argument("bundle")
    parser.add_argument("folder")
    parser.add_argument("-n", type=int, default=100_000, help="texts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=SIZE, help="texts a shard (default: %(default)s)")
    parser.add_argument("--scheduler", help="address of a Dask cluster (default: workers on this machine)")
    parser.add_argument("--workers", type=int, help="on this machine (default: one for each core)")
    given = parser.parse_args()
    here = {"n_workers": given.workers, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with Client(given.scheduler) if given.scheduler else Client(**here) as dask:
        folders = (str(Path(path).resolve()) for path in (given.bundle, given.folder))
        generate(dask, *folders, given.n, given.seed, given.size)
