"""How fast does a bundle write?

    python benchmarks/sampling.py BUNDLE [BUNDLE ...] [--batches 1 16 64] [--rounds 7] [--threads N] [--json FILE]

Texts of the full length, bundle by bundle in turn in one process; medians of tokens a second. Give a bundle and its
eight-bit twin to see what eight bits bring.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from kvae.serving import Sampler


def seconds(sampler: Sampler, batch: int) -> float:
    """For a batch of texts that do not end early."""
    started = time.perf_counter()
    sampler.generate(batch, seed=0, min_length=sampler.length)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    samplers = {str(path): Sampler.load(path, options.threads) for path in options.bundles}
    rows = []
    for batch in options.batches:
        taken: dict[str, list[float]] = {name: [] for name in samplers}
        for _ in range(options.rounds + 1):  # the first warms up
            for name, sampler in samplers.items():
                taken[name].append(seconds(sampler, batch))
        for name, sampler in samplers.items():
            median = statistics.median(taken[name][1:])
            speed = batch * sampler.length / median
            rows.append({"bundle": name, "batch": batch, "seconds": median, "tokens_a_second": speed})
            ratio = statistics.median(taken[str(options.bundles[0])][1:]) / median
            print(f"batch {batch:4}  {speed:9,.0f} tokens/s  {ratio:5.2f} times the first  {name}")
    if options.json:
        options.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
