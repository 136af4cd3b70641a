"""Commands on the latent space: `interpolate`, `variations`, `neighbours` and `arithmetic`."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterator
from typing import Any

from kvae.serving.alphabet import one_line

from .arguments import Commands, beam_argument, file_argument, unknown_argument
from .bundles import add_bundle_command, input_records, load_sampler, names_a_file
from .output import say, show, show_entries


def add(commands: Commands) -> None:
    parser = add_bundle_command(
        commands, "interpolate", interpolate, "texts on the way from one to another"
    )
    parser.add_argument("first")
    parser.add_argument("last")
    parser.add_argument(
        "--steps",
        type=int,
        default=7,
        help="number of texts, including both ends (default: %(default)s)",
    )
    parser.add_argument(
        "--path",
        choices=("linear", "spherical"),
        default="linear",
        help="path between the codes (default: %(default)s)",
    )
    unknown_argument(parser)
    beam_argument(parser)

    parser = add_bundle_command(
        commands, "variations", variations, "texts from codes around that of a text"
    )
    parser.add_argument("text")
    parser.add_argument("-n", type=int, default=10, help="number of texts (default: %(default)s)")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="distance, in standard deviations of its code (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the codes (default: %(default)s)"
    )
    unknown_argument(parser)

    parser = add_bundle_command(
        commands,
        "neighbours",
        neighbours,
        "the texts of a file whose codes are closest to that of a text, in either order",
        reads_file=True,
    )
    parser.add_argument("text")
    file_argument(parser)
    unknown_argument(parser)
    parser.add_argument("-n", type=int, default=10, help="number of texts (default: %(default)s)")

    parser = add_bundle_command(commands, "arithmetic", arithmetic, "the text of a sum of codes")
    parser.add_argument("--plus", nargs="+", required=True, metavar="TEXT", help="codes to add")
    parser.add_argument("--minus", nargs="+", default=[], metavar="TEXT", help="codes to subtract")
    unknown_argument(parser)


def interpolate(options: argparse.Namespace) -> None:
    texts = load_sampler(options).interpolate(
        options.first,
        options.last,
        options.steps,
        options.path,
        options.unknown,
        beam=options.beam,
    )
    show(options, {"interpolation": texts}, "\n".join(map(one_line, texts)))


def variations(options: argparse.Namespace) -> None:
    texts = load_sampler(options).variations(
        options.text, options.n, options.scale, options.seed, options.unknown
    )
    show(options, {"variations": texts}, "\n".join(map(one_line, texts)))


def neighbours(options: argparse.Namespace) -> None:
    in_order(options)
    sampler, records = load_sampler(options), input_records(options)
    found = sampler.neighbours(options.text, records.texts, options.n, options.unknown)
    entries: list[dict[str, Any]] = [
        {"text": text, "distance": distance} for text, distance in found
    ]
    if records.ids is not None:
        names: dict[str, Iterator[str]] = {  # equal texts are found in their order
            text: itertools.compress(records.ids, map(text.__eq__, records.texts))
            for text, _ in found
        }
        entries = [{"id": next(names[entry["text"]]), **entry} for entry in entries]
    show_entries(
        options,
        "neighbours",
        entries,
        "\n".join(f"{distance:>8.3f}  {one_line(text)}" for text, distance in found),
    )


def in_order(options: argparse.Namespace) -> None:
    """Exchange TEXT and FILE if only the first is a file or a folder."""
    if os.path.exists(options.text) and not names_a_file(options.file):
        options.text, options.file = options.file, options.text
        say(f"reading {options.file}, looking for the neighbours of {options.text!r}")


def arithmetic(options: argparse.Namespace) -> None:
    text = load_sampler(options).arithmetic(options.plus, options.minus, options.unknown)
    show(options, {"text": text}, one_line(text))
