"""The map of a bundle: held-out texts as points in the plane of the two main components of their
codes, in the optional file `map.json`. `kvae.export.latent_map` makes it.

Codes are those of `Sampler.encode`, (d,), without the label at their end. A map holds texts of the
corpus that the model was not trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from .bundle import Bundle
from .errors import BundleError
from .manifest import COUNT, LARGEST_MAP, MAP, NUMBER, SHARE, SIZE, first_fault, list_of, text

MAX_POINTS = 500
"""Texts of a map."""

MAX_TEXT = 200
"""Characters of a text of a map; longer texts are cut."""

MAX_DIMENSIONS = 8
"""Dimensions of the code that a map lists."""

MAX_CODE_SIZE = 2**16
"""Numbers of a code of which a map is made."""

DESCRIPTION: dict[str, Any] = {
    "mean": list_of(NUMBER, MAX_CODE_SIZE),
    "components": list_of(list_of(NUMBER, MAX_CODE_SIZE), 2),
    "explained_variance": list_of(SHARE, 2),
    "dimensions": {
        "index": list_of(COUNT, MAX_DIMENSIONS),
        "kl": list_of(SIZE, MAX_DIMENSIONS),
        "low": list_of(NUMBER, MAX_DIMENSIONS),
        "high": list_of(NUMBER, MAX_DIMENSIONS),
    },
    "points": {
        "x": list_of(NUMBER, MAX_POINTS),
        "y": list_of(NUMBER, MAX_POINTS),
        "text": list_of(text(MAX_TEXT), MAX_POINTS),
        "tokens": list_of(COUNT, MAX_POINTS),
        "label?": list_of(text(10_000), MAX_POINTS),
    },
}
"""The fields of a map, with the rules of `kvae.serving.manifest`. `kl` is in nats; `low` and `high`
are the range of the codes of a dimension; `tokens` is the length of a text. `label` is that of the
corpus, empty where it is unknown; bundles of earlier versions have the classifier's."""


def read_map(bundle: Bundle) -> dict[str, Any] | None:
    """The map of a bundle, or None if it has none or its file was deleted.

    Raises `BundleError` for a file that is not the one that was exported, or whose fields are
    invalid.
    """
    entry = bundle.manifest.get("map")
    file = bundle.path / MAP
    if entry is None or not file.exists():
        return None
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST_MAP + 1)
    except OSError as error:
        raise BundleError(
            f"{file}: cannot be read ({error.strerror}); copy it again, or delete it"
        ) from error
    if len(content) != entry["size"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise BundleError(
            f"{file}: damaged, its sha256 is not the one in the manifest; copy it again, or "
            "delete it: the model works without"
        )
    try:
        latent_map: dict[str, Any] = json.loads(content.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file}: not JSON; export the bundle again") from error
    try:
        check_map(latent_map, bundle.manifest)
    except BundleError as error:
        raise BundleError(f"{file}: {error}; export the bundle again") from error
    return latent_map


def check_map(latent_map: Any, manifest: Mapping[str, Any]) -> None:
    """Raise `BundleError` with the first field of a map that is invalid, or that does not belong to
    the model of a manifest."""
    fault = first_fault(DESCRIPTION, latent_map) or next(disagreements(latent_map, manifest), None)
    if fault:
        raise BundleError(fault)


def disagreements(latent_map: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about fields that do not fit each other or the manifest."""
    labels = manifest["latent"]["attributes"]
    size = manifest["latent"]["size"] - len(labels)
    points, dimensions = latent_map["points"], latent_map["dimensions"]
    wanted = {
        "components": (latent_map["components"], 2),
        "explained_variance": (latent_map["explained_variance"], 2),
        "mean": (latent_map["mean"], size),
        **{f"components[{i}]": (row, size) for i, row in enumerate(latent_map["components"])},
        **{f"points.{name}": (column, len(points["x"])) for name, column in points.items()},
        **{
            f"dimensions.{k}": (column, len(dimensions["index"]))
            for k, column in dimensions.items()
        },
    }
    for name, (column, length) in wanted.items():
        if len(column) != length:
            yield f"{name} must have {length} values, got {len(column)}"
    if any(index >= size for index in dimensions["index"]):
        yield f"dimensions.index must be below {size}, got {max(dimensions['index'])}"
    if not set(points.get("label", [])) <= ({*labels, ""} if labels else set()):
        yield "points.label must be labels of the model or empty, for a model that has labels"
