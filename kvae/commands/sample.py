"""`kvae sample` and `kvae stream`: new texts, at once or as they are written."""

from __future__ import annotations

import argparse
import secrets

from kvae.runs import to_json
from kvae.serving.alphabet import one_line

from .arguments import Commands
from .bundles import add_bundle_command, load_sampler
from .output import say

CHOICES = ("greedy", "temperature", "top_k", "top_p", "min_length", "max_length", "attribute")
"""Arguments that say how a text is written."""


def add(commands: Commands) -> None:
    parser = add_bundle_command(commands, "sample", sample, "write new texts")
    parser.add_argument("-n", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument(
        "--first-row",
        type=int,
        default=0,
        help="go on from this row of the seed (default: %(default)s)",
    )
    choice_arguments(parser)

    parser = add_bundle_command(
        commands, "stream", stream, "write one text as it comes, symbol by symbol"
    )
    parser.add_argument("--row", type=int, default=0, help="of the seed (default: %(default)s)")
    choice_arguments(parser)


def choice_arguments(parser: argparse.ArgumentParser) -> None:
    """The seed and `CHOICES`."""
    parser.add_argument("--seed", type=int, help="same seed, same texts (default: drawn and shown)")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest symbol")
    parser.add_argument(
        "--temperature", type=float, help="below 1 safer, above 1 wilder (default: 1)"
    )
    parser.add_argument("--top-k", type=int, default=0, help="draw from the K likeliest symbols")
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="draw from the likeliest symbols that hold this share",
    )
    parser.add_argument(
        "--min-length", type=int, default=1, help="tokens at least (default: %(default)s)"
    )
    parser.add_argument("--max-length", type=int, help="tokens at most")
    parser.add_argument(
        "--attribute",
        metavar="VALUE",
        help="the label to write for (default: each text draws its own)",
    )


def sample(options: argparse.Namespace) -> None:
    sampler = load_sampler(options)
    chosen = {name: getattr(options, name) for name in (*CHOICES, "first_row")}
    if options.json:
        samples = sampler.generate(options.n, options.seed, **chosen)
        print(to_json({"samples": [vars(item) for item in samples]}))
        return
    for number, item in enumerate(sampler.iterate(options.n, options.seed, **chosen)):
        if options.seed is None and number == 0:
            say(f"seed {item.seed}")
        print(one_line(item.text))


def stream(options: argparse.Namespace) -> None:
    seed = secrets.randbits(32) if options.seed is None else options.seed
    chosen = {name: getattr(options, name) for name in CHOICES}
    pieces = load_sampler(options).stream(seed, options.row, **chosen)
    if options.json:
        found = list(pieces)
        print(to_json({"seed": seed, "row": options.row, "text": "".join(found), "pieces": found}))
        return
    if options.seed is None:
        say(f"seed {seed}")
    for piece in pieces:
        print(one_line(piece), end="", flush=True)
    print()
