"""Sample millions of texts on all cores, or on a cluster, with Dask.

    pip install 'kvae-text[bulk]'
    python bulk.py BUNDLE texts -n 1000000
    python bulk.py BUNDLE texts -n 1000000 --scheduler HOST:8786

Without --scheduler, the workers are processes on this machine. With it, they are those of a Dask
cluster, which must see both folders.

Each shard holds SIZE consecutive rows of one seed. The shards together are the texts of
`Sampler.sample(n, seed)`, and no two shards share random numbers. A shard is written whole or not
at all: to resume, run the same command again.
"""

import argparse
import json
from functools import lru_cache
from pathlib import Path

from distributed import Client, as_completed

from kvae.serving import Sampler
from kvae.writing import LOCK, atomic_write, sole_writer

SIZE = 10_000
"""Texts in a shard."""


@lru_cache(maxsize=1)
def sampler_of(bundle: str) -> Sampler:
    """The sampler of this worker process, on one core: there is a worker for each core."""
    return Sampler.load(bundle, threads=1)


def write_shard(bundle: str, folder: str, seed: int, first_row: int, count: int) -> int:
    """Write the texts of `count` rows as JSON lines, unless the file exists; return `count`."""
    file = Path(folder) / f"rows-{first_row:010d}.jsonl"
    if not file.exists():
        samples = sampler_of(bundle).iterate(count, seed, first_row=first_row)
        lines = [
            json.dumps({"row": item.row, "text": item.text}, ensure_ascii=False) for item in samples
        ]
        with atomic_write(file) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return count


def generate(
    client: Client, bundle: str, folder: str, n: int, seed: int = 0, size: int = SIZE
) -> None:
    """Write `n` texts of `seed` to `folder` in shards of `size`; keep the shards that exist.

    Raises `SystemExit` if the folder holds shards of another bundle, n, seed or size.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    settings = {
        "model_id": Sampler.load(bundle, endpoints=()).info()["model_id"],
        "n": n,
        "seed": seed,
        "size": size,
    }
    record = Path(folder) / "order.json"
    # one run at a time writes the record, so two that start together cannot mix
    with sole_writer(Path(folder) / LOCK, Path(folder), wait=True):
        if record.exists() and json.loads(record.read_text()) != settings:
            raise SystemExit(
                f"{folder} holds another order, {record.read_text()}; give another folder"
            )
        with atomic_write(record) as partial:
            partial.write_text(json.dumps(settings))
    shards = [(bundle, folder, seed, first, min(size, n - first)) for first in range(0, n, size)]
    done = 0
    for future in as_completed(client.map(write_shard, *zip(*shards, strict=True), pure=False)):
        done += future.result()
        print(f"{done:,} of {n:,} texts", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Sample many texts from a bundle, in shards.")
    parser.add_argument("bundle", help="folder of the bundle")
    parser.add_argument("folder", help="folder for the shards")
    parser.add_argument("-n", type=int, default=100_000, help="texts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--size", type=int, default=SIZE, help="texts in a shard (default: %(default)s)"
    )
    parser.add_argument(
        "--scheduler", help="address of a Dask cluster (default: workers on this machine)"
    )
    parser.add_argument(
        "--workers", type=int, help="workers on this machine (default: one per core)"
    )
    options = parser.parse_args()
    local_workers = {
        "n_workers": options.workers,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": None,
    }
    with Client(options.scheduler) if options.scheduler else Client(**local_workers) as dask:
        folders = (str(Path(path).resolve()) for path in (options.bundle, options.folder))
        generate(dask, *folders, options.n, options.seed, options.size)
