"""`kvae score`: rank texts by how unlikely the model finds them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kvae.serving.alphabet import one_line

from .arguments import Commands, file_argument, unknown_argument
from .bundles import add_bundle_command, input_records, load_sampler
from .output import say, show_entries

SCORED_AT_ONCE = 8192
"""The number of texts between two lines of progress, which the sampler sorts by length."""


def add(commands: Commands) -> None:
    parser = add_bundle_command(
        commands, "score", run, "how surprising texts are, the oddest first", reads_file=True
    )
    file_argument(parser, with_texts=True)
    parser.add_argument("-n", type=int, help="number of texts to show (default: all)")
    parser.add_argument(
        "--by",
        choices=("bound", "bits_per_character"),
        default="bits_per_character",
        help="what to rank by: nats a text, or bits a character, which do not grow with length "
        "(default: %(default)s)",
    )
    scoring_arguments(parser)


def scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `Sampler.score`, which `rules_of` reads."""
    unknown_argument(parser, default="replace")
    parser.add_argument(
        "--samples", type=int, default=1, help="codes a text to average over (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the codes (default: %(default)s)"
    )
    parser.add_argument(
        "--attribute",
        metavar="VALUE",
        help="the label of all texts (default: inferred, which adds its cost in nats)",
    )
    parser.add_argument(
        "--too-long",
        choices=("refuse", "cut"),
        default="cut",
        help="what to do with texts longer than the model (default: %(default)s)",
    )


def rules_of(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Sampler.score` besides the texts."""
    names = ("samples", "seed", "attribute", "unknown", "too_long")
    return {name: getattr(options, name) for name in names}


def run(options: argparse.Namespace) -> None:
    sampler, records = load_sampler(options), input_records(options)
    places: dict[str, list[int]] = {}
    for place, text in enumerate(records.texts, start=1):
        places.setdefault(text, []).append(place)
    distinct, scores = list(places), []
    for start in range(0, len(distinct), SCORED_AT_ONCE):
        scores += sampler.score(distinct[start : start + SCORED_AT_ONCE], **rules_of(options))
        if len(distinct) > SCORED_AT_ONCE:
            say(f"{len(scores):,} of {len(distinct):,} distinct texts")
    ranked = sorted(scores, key=lambda score: -getattr(score, options.by))[: options.n]
    entries: list[dict[str, Any]] = [
        {"places": places[score.text], **vars(score)} for score in ranked
    ]
    ids = records.ids
    if ids is not None:
        entries = [{"id": [ids[i - 1] for i in entry["places"]], **entry} for entry in entries]
    if options.csv:
        entries = list(each_place(entries))
    heading = f"{'bound':>9} {'bits/char':>9} {'times':>6} {'first':>7}  text"
    rows = [
        f"{score.bound:>9.2f} {score.bits_per_character:>9.3f} {len(places[score.text]):>6,} "
        f"{places[score.text][0]:>7,}  {one_line(score.text)}"
        for score in ranked
    ]
    show_entries(options, "scores", entries, "\n".join([heading, *rows]))


def each_place(entries: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the entries with one for each place of a text, without the nats of its tokens."""
    for entry in entries:
        values = {key: value for key, value in entry.items() if key not in ("id", "places", "nats")}
        for number, place in enumerate(entry["places"]):
            name = {"id": entry["id"][number]} if "id" in entry else {}
            yield {**name, "place": place, **values}
