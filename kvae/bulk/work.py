"""The work on a shard, in a worker of Dask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from kvae.disk import describe_os_error
from kvae.serving.errors import BundleError, DataError, KvaeError
from kvae.serving.sampler import Sampler

from .folders import Shard, write_table


def write_shard(shard: Shard) -> KvaeError | None:
    """Write the file of a shard and remove its waiting texts. Returns an error instead of raising
    it, since Dask's bar ends at the first one raised."""
    try:
        sampler = sampler_of(shard.bundle, shard.request["bundle_sha256"])
        columns = COLUMNS[shard.request["command"]](sampler, shard)
        about = {
            "bundle_sha256": shard.request["bundle_sha256"],
            "texts_sha256": shard.texts_sha256,
        }
        write_table(shard.file, columns, about)
        shard.texts.unlink(missing_ok=True)
    except KvaeError as error:
        last = shard.first + shard.count - 1
        return type(error)(f"{shard.file.name}, {shard.first:,} to {last:,}: {error}")
    except OSError as error:
        return DataError(describe_os_error(error))
    return None


@lru_cache(maxsize=1)
def sampler_of(bundle: str, sha256: str) -> Sampler:
    """The sampler of this worker, on one core: Dask runs as many tasks as there are cores. Raises
    `BundleError` for another bundle than that of the command."""
    sampler = Sampler.load(bundle, threads=1, endpoints=())
    if sampler.manifest["sha256"] != sha256:
        raise BundleError(
            f"{bundle}: a worker finds another bundle there than this command; copy it to all "
            f"machines of the cluster"
        )
    return sampler


def sampled_columns(sampler: Sampler, shard: Shard) -> dict[str, Any]:
    """The columns of sampled texts."""
    request = shard.request
    samples = list(
        sampler.iterate(shard.count, request["seed"], first_row=shard.first, **request["choices"])
    )
    columns: dict[str, Any] = {
        "seed": pa.array([item.seed for item in samples], pa.int64()),
        "row": pa.array([item.row for item in samples], pa.int64()),
        "text": pa.array([item.text for item in samples], pa.string()),
        "log_probability": pa.array([item.log_probability for item in samples], pa.float64()),
        "finished": pa.array([item.finished for item in samples], pa.bool_()),
    }
    if sampler.attributes:
        columns["attribute"] = pa.array([item.attribute for item in samples], pa.string())
    return columns


def scored_columns(sampler: Sampler, shard: Shard) -> dict[str, Any]:
    """The columns of scored texts. Equal texts are scored once."""
    columns, texts = read_texts(shard)
    distinct = list(dict.fromkeys(texts))
    found = dict(zip(distinct, sampler.score(distinct, **shard.request["rules"]), strict=True))
    names = ("bound", "reconstruction", "kl", "bits_per_character")
    return columns | {
        name: pa.array([getattr(found[text], name) for text in texts], pa.float64())
        for name in names
    }


def encoded_columns(sampler: Sampler, shard: Shard) -> dict[str, Any]:
    """The columns of encoded texts, the codes as lists of float32. Equal texts are encoded once."""
    columns, texts = read_texts(shard)
    distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    codes = sampler.encode(list(distinct), **shard.request["rules"])
    codes = codes[[distinct[text] for text in texts]]
    return columns | {
        "code": pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel()), sampler.latent_size)
    }


def read_texts(shard: Shard) -> tuple[dict[str, Any], list[str]]:
    """The waiting texts of a shard: the columns `place`, `id` and `text`, and the texts."""
    table = pa.parquet.read_table(shard.texts)
    places = pa.array(range(shard.first, shard.first + shard.count), pa.int64())
    columns = {"place": places, "id": table["id"], "text": table["text"]}
    return columns, table["text"].to_pylist()


COLUMNS: Mapping[str, Callable[[Sampler, Shard], dict[str, Any]]] = {
    "sample": sampled_columns,
    "score": scored_columns,
    "encode": encoded_columns,
}
"""The columns of a shard, by command."""
