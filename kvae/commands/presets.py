"""`kvae presets`: list the configurations that come with kvae."""

from __future__ import annotations

import argparse

from .arguments import Commands, add_command
from .output import show, table


def add(commands: Commands) -> None:
    add_command(commands, "presets", run, "the configurations that come with kvae")


def run(options: argparse.Namespace) -> None:
    from kvae.preset_parameters import PARAMETERS
    from kvae.presets import PRESETS

    report = [
        {
            "name": name,
            "description": item.description,
            "source": item.source,
            "parameters": PARAMETERS[name],
            "counted_at": dict(zip(("length", "vocabulary_size"), item.shape, strict=True)),
            "published_nats": item.published_nats,
            "config": item.config.to_dict(),
        }
        for name, item in PRESETS.items()
    ]
    rows = {
        name: f"{PARAMETERS[name]:>10,} parameters  {item.description} [{item.source}]"
        for name, item in PRESETS.items()
    }
    show(options, {"presets": report}, table(rows))
