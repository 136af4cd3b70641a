"""`kvae bulk sample`, `score` and `encode`: millions of texts to Parquet files, on Dask."""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvae.bulk.folders import SHARD_SIZE, numbers_in, request_folder, sample_shards, text_shards
from kvae.serving.choices import CHOICES
from kvae.serving.errors import ConfigError
from kvae.texts.records import Records
from kvae.writing import claimed_folder

from .arguments import Commands, files_argument, json_argument, unknown_argument
from .bundles import columns_of, filled_records, no_text
from .output import say, show
from .sample import sampling_arguments
from .score import rules_of, scoring_arguments

if TYPE_CHECKING:
    from kvae.serving.sampler import Sampler


def add(commands: Commands) -> None:
    bulk = commands.add_parser("bulk", help="millions of texts to Parquet files, on Dask")
    kinds = bulk.add_subparsers(dest="kind", required=True, metavar="COMMAND")

    parser = bulk_command(kinds, "sample", "write new texts to Parquet files")
    parser.add_argument("-n", type=int, required=True, help="number of texts")
    sampling_arguments(parser)

    parser = bulk_command(kinds, "score", "write how surprising texts are to Parquet files")
    files_argument(parser)
    scoring_arguments(parser)

    parser = bulk_command(kinds, "encode", "write the latent codes of texts to Parquet files")
    files_argument(parser)
    unknown_argument(parser)


def bulk_command(kinds: Commands, name: str, description: str) -> argparse.ArgumentParser:
    """Add a command of `kvae bulk` and return its parser, which has what all of them share."""
    parser = kinds.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run)
    json_argument(parser)
    parser.add_argument("bundle", metavar="BUNDLE", help="the folder that `kvae export` wrote")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="folder of the Parquet files; the same command again writes those that are missing",
    )
    parser.add_argument(
        "--shard-size",
        type=int,
        metavar="N",
        help=f"texts in a file (default: {SHARD_SIZE:,}, or that of the files in FOLDER)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", type=int, metavar="N", help="processes on this machine (default: one per core)"
    )
    where.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="the scheduler of a Dask cluster, as in tcp://HOST:8786 (default: this machine); its "
        "workers must find BUNDLE and FOLDER under the same paths",
    )
    return parser


def run(options: argparse.Namespace) -> None:
    from .heavy_imports import heavy_imports

    with heavy_imports("bulk"):
        from kvae.bulk.cluster import write_shards
    started = time.monotonic()
    bundle, out = (Path(path).expanduser().resolve() for path in (options.bundle, options.out))
    wanted = REQUESTS[options.kind](options, sampler_of(bundle))
    with claimed_folder(out), request_folder(out, wanted) as request:
        shards = (
            sample_shards(bundle, out, request)
            if options.kind == "sample"
            else text_shards(bundle, out, request, text_blocks(options))
        )
        there = numbers_in(out)
        missing = [shard for shard in shards if shard.number not in there]
        say(f"{len(missing):,} of {len(shards):,} files to write")
        if missing:
            write_shards(missing, options.scheduler, options.workers, say)
    texts, written = (sum(shard.count for shard in part) for part in (shards, missing))
    seconds = time.monotonic() - started
    report = {
        "out": str(out),
        "texts": texts,
        "files": len(shards),
        "texts_written": written,
        "files_written": len(missing),
        "seconds": round(seconds, 1),
        "texts_per_second": round(written / seconds, 1),
        **({"seed": request["seed"]} if options.kind == "sample" else {}),
    }
    show(options, report, summary(report))


def summary(report: Mapping[str, Any]) -> str:
    """The report of a command as a sentence."""
    seed = f" of seed {report['seed']}" if "seed" in report else ""
    return (
        f"{report['texts']:,} texts{seed} in {report['files']:,} files in {report['out']}, "
        f"{report['texts_written']:,} of them written now, {report['texts_per_second']:,} a second"
    )


def sampler_of(path: Path) -> Sampler:
    """The sampler of a bundle whose graphs are not loaded."""
    from kvae.serving.sampler import Sampler

    return Sampler.load(path, endpoints=())


def text_blocks(options: argparse.Namespace) -> Iterator[Records]:
    """Yield the texts of FILES in blocks; the notes about a source follow its last block. Raises
    `DataError` if there is none."""
    any_texts = False
    for source in options.files:
        notes: list[str] = []
        for records in filled_records(source, columns_of(options), notes):
            any_texts = True
            yield records
        for note in notes:
            say(note)
    if not any_texts:
        raise no_text(", ".join(options.files))


# --- what is asked for ----------------------------------------------------------------------------


def sample_request(options: argparse.Namespace, sampler: Sampler) -> dict[str, Any]:
    """The request of `kvae bulk sample`. `seed` is None if none was given."""
    chosen = {name: getattr(options, name) for name in (*CHOICES, "pattern")}
    seed = secrets.randbits(32) if options.seed is None else options.seed
    sampler.iterate(options.n, seed, first_row=options.first_row, **chosen)  # checks all of them
    if options.n == 0:
        raise ConfigError("-n must be at least 1")
    places = {"n": options.n, "first_row": options.first_row, "seed": options.seed}
    return shared_request(options, sampler) | places | {"choices": chosen}


def score_request(options: argparse.Namespace, sampler: Sampler) -> dict[str, Any]:
    """The request of `kvae bulk score`."""
    sampler.score([], **rules_of(options))  # checks the rules
    return shared_request(options, sampler) | {"rules": rules_of(options)}


def encode_request(options: argparse.Namespace, sampler: Sampler) -> dict[str, Any]:
    """The request of `kvae bulk encode`."""
    sampler.encode([], options.unknown)
    return shared_request(options, sampler) | {"rules": {"unknown": options.unknown}}


def shared_request(options: argparse.Namespace, sampler: Sampler) -> dict[str, Any]:
    """What every request says. `shard_size` is None if none was given."""
    for name in ("shard_size", "workers"):
        if (given := getattr(options, name)) is not None and given < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {given}")
    return {
        "command": options.kind,
        "bundle_sha256": sampler.manifest["sha256"],
        "shard_size": options.shard_size,
    }


REQUESTS: Mapping[str, Callable[[argparse.Namespace, Any], dict[str, Any]]] = {
    "sample": sample_request,
    "score": score_request,
    "encode": encode_request,
}
"""The request of each command: everything that its files depend on, except the texts."""
