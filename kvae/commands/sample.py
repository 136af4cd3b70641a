"""`kvae sample` and `kvae stream`: new texts, complete or token by token."""

from __future__ import annotations

import argparse
import secrets

from kvae.runs import to_json
from kvae.serving.alphabet import one_line
from kvae.serving.choices import CHOICES

from .arguments import Commands
from .bundles import add_bundle_command, load_sampler
from .output import say


def add(commands: Commands) -> None:
    parser = add_bundle_command(commands, "sample", sample, "sample new texts")
    parser.add_argument("-n", type=int, default=10, help="number of texts (default: %(default)s)")
    sampling_arguments(parser)

    parser = add_bundle_command(
        commands, "stream", stream, "sample one text and print it token by token"
    )
    parser.add_argument("--row", type=int, default=0, help="row of the seed (default: %(default)s)")
    choice_arguments(parser)


def sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `Sampler.iterate` besides the number of texts."""
    parser.add_argument(
        "--first-row",
        type=int,
        default=0,
        help="first row of the seed to use (default: %(default)s)",
    )
    choice_arguments(parser)
    parser.add_argument(
        "--pattern",
        metavar="REGEX",
        help="a regular expression that each finished text matches as a whole (extra patterns)",
    )


def choice_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--seed` and the options of `CHOICES`."""
    parser.add_argument("--seed", type=int, help="same seed, same texts (default: drawn and shown)")
    for name, choice in CHOICES.items():
        option, told = "--" + name.replace("_", "-"), choice.help + choice.command_note
        if choice.kind is bool:
            parser.add_argument(option, action="store_true", help=told)
        else:
            parser.add_argument(
                option, type=choice.kind, default=choice.default, metavar=choice.metavar, help=told
            )


def sample(options: argparse.Namespace) -> None:
    sampler = load_sampler(options)
    chosen = {name: getattr(options, name) for name in (*CHOICES, "first_row", "pattern")}
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
