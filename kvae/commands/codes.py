"""`kvae encode` and `kvae reconstruct`: texts to their codes, and back."""

from __future__ import annotations

import argparse

from kvae.serving.alphabet import one_line

from .arguments import Commands, file_argument, unknown_argument
from .bundles import add_bundle_command, input_texts, load_sampler
from .output import show


def add(commands: Commands) -> None:
    parser = add_bundle_command(commands, "encode", encode, "the latent codes of texts")
    file_argument(parser)
    unknown_argument(parser)

    parser = add_bundle_command(
        commands, "reconstruct", reconstruct, "texts through their codes and back, tab-separated"
    )
    file_argument(parser)
    unknown_argument(parser)


def encode(options: argparse.Namespace) -> None:
    sampler, texts = load_sampler(options), input_texts(options)
    codes = sampler.encode(texts, options.unknown).tolist()
    report = {
        "codes": [{"text": text, "code": code} for text, code in zip(texts, codes, strict=True)]
    }
    show(options, report, "\n".join(" ".join(f"{number:.6g}" for number in code) for code in codes))


def reconstruct(options: argparse.Namespace) -> None:
    sampler, texts = load_sampler(options), input_texts(options)
    again = sampler.reconstruct(texts, options.unknown)
    pairs = list(zip(texts, again, strict=True))
    report = {
        "reconstructions": [
            {"text": text, "reconstruction": other, "equal": text == other} for text, other in pairs
        ]
    }
    show(
        options, report, "\n".join(f"{one_line(text)}\t{one_line(other)}" for text, other in pairs)
    )
