"""`kvae info`: describe a bundle and its quality."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from .arguments import Commands
from .bundles import add_bundle_command
from .output import show, table
from .reports import parity_line, quantization_line


def add(commands: Commands) -> None:
    add_bundle_command(commands, "info", run, "describe a bundle and how good its model is")


def run(options: argparse.Namespace) -> None:
    from kvae.serving.bundle import CARD
    from kvae.serving.choices import default_temperature
    from kvae.serving.sampler import Sampler

    sampler = Sampler.load(options.bundle)
    manifest, rules = sampler.info(), sampler.alphabet.rules
    latent, training = manifest["latent"], manifest["training"]
    longest = manifest["length"] - (manifest["mode"] == "lines")
    size = sum(entry["size"] for entry in manifest["endpoints"].values())
    kinds = len(manifest["vocabulary"]["symbols"])
    limit = "exactly" if manifest["mode"] == "fixed" else "up to"
    condition = " given its label" if latent.get("attributes") else ""
    bound = "not evaluated"
    if "elbo" in training:
        bound = (
            f"{training['elbo']:.2f} nats a text{condition}, "
            f"{training['bits_per_character']:.3f} bits a character"
        )
    rows = {
        "model": manifest["model_id"],
        "trained on": f"{training['source']} ({manifest['mode']})",
        "texts": f"{limit} {longest} {rules.tokens} of {kinds} kinds"
        + (", read in lower case" if sampler.alphabet.fold_case else ""),
        "latent code": latent_line(latent),
        **({"attributes": ", ".join(latent["attributes"])} if latent.get("attributes") else {}),
        "bound": bound,
        "temperature": f"{default_temperature(manifest):g} unless another is given",
        "active units": training.get("active_units", "not evaluated"),
        "size": f"{size / 1e6:.1f} MB in {len(manifest['endpoints'])} graphs",
        "parity": parity_line(manifest["parity"]),
        **(
            {"weights": quantization_line(manifest["quantization"])}
            if "quantization" in manifest
            else {}
        ),
        **({"card": CARD} if (sampler.bundle.path / CARD).is_file() else {}),
        "made with": ", ".join(
            f"{name} {version}" for name, version in manifest["versions"].items()
        ),
    }
    show(options, manifest, table(rows))


def latent_line(latent: Mapping[str, Any]) -> str:
    """A line that describes the latent code: kind, levels, dimensions and prior."""
    if latent["kind"] == "none":
        return "none, a language model"
    labels = len(latent.get("attributes", []))
    levels = f"{latent['levels']} levels, " if latent.get("levels", 1) > 1 else ""
    dimensions = f"{latent['size'] - labels} dimensions"
    if labels:
        dimensions += f", then {labels} columns for the label, one for each of the attributes"
    return f"{latent['kind']}, {levels}{dimensions}, {latent['prior']} prior"
