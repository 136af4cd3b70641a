"""`kvae encode` and `kvae reconstruct`: the latent codes of texts, and texts decoded from them."""

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
        commands,
        "reconstruct",
        reconstruct,
        "encode and decode texts: each text and its reconstruction, tab-separated",
    )
    file_argument(parser)
    unknown_argument(parser)


def encode(options: argparse.Namespace) -> None:
    sampler, texts = load_sampler(options), input_texts(options)
    codes = sampler.encode(texts, options.unknown).tolist()
    report = {
        "codes": [{"text": text, "code": code} for text, code in zip(texts, codes, strict=True)]
    }
    lines = (" ".join(f"{value:.6g}" for value in code) for code in codes)
    show(options, report, "\n".join(lines))


def reconstruct(options: argparse.Namespace) -> None:
    sampler, texts = load_sampler(options), input_texts(options)
    pairs = list(zip(texts, sampler.reconstruct(texts, options.unknown), strict=True))
    report = {
        "reconstructions": [
            {"text": text, "reconstruction": reconstruction, "equal": text == reconstruction}
            for text, reconstruction in pairs
        ]
    }
    lines = (f"{one_line(text)}\t{one_line(reconstruction)}" for text, reconstruction in pairs)
    show(options, report, "\n".join(lines))
