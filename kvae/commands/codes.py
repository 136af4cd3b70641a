"""`kvae encode` and `kvae reconstruct`: the latent codes of texts, and texts decoded from them."""

from __future__ import annotations

import argparse

from kvae.serving.alphabet import one_line

from .arguments import Commands, beam_argument, file_argument, unknown_argument
from .bundles import add_bundle_command, input_records, load_sampler, with_ids
from .output import say, show_entries


def add(commands: Commands) -> None:
    parser = add_bundle_command(
        commands, "encode", encode, "the latent codes of texts", reads_file=True
    )
    file_argument(parser, with_texts=True)
    unknown_argument(parser)

    parser = add_bundle_command(
        commands,
        "reconstruct",
        reconstruct,
        "encode and decode texts: each text and its reconstruction, tab-separated",
        reads_file=True,
    )
    file_argument(parser, with_texts=True)
    unknown_argument(parser)
    beam_argument(parser)


def encode(options: argparse.Namespace) -> None:
    sampler, records = load_sampler(options), input_records(options)
    codes = sampler.encode(records.texts, options.unknown).tolist()
    if sampler.attributes:
        values = sampler.attributes
        say(
            f"the last {len(values)} of {sampler.latent_size} columns are the label that the model "
            f"infers, 1 or 0 for each of {', '.join(values)}"
        )
    entries = with_ids(
        records,
        ({"text": text, "code": code} for text, code in zip(records.texts, codes, strict=True)),
    )
    lines = (" ".join(f"{value:.6g}" for value in code) for code in codes)
    show_entries(options, "codes", entries, "\n".join(lines))


def reconstruct(options: argparse.Namespace) -> None:
    sampler, records = load_sampler(options), input_records(options)
    found = sampler.reconstruct(records.texts, options.unknown, beam=options.beam)
    pairs = list(zip(records.texts, found, strict=True))
    entries = with_ids(
        records,
        (
            {
                "text": text,
                "reconstruction": reconstruction,
                "equal": sampler.alphabet.folded(text) == reconstruction,
            }
            for text, reconstruction in pairs
        ),
    )
    lines = (f"{one_line(text)}\t{one_line(reconstruction)}" for text, reconstruction in pairs)
    show_entries(options, "reconstructions", entries, "\n".join(lines))
