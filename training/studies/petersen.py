"""What the studies of the two tables of Petersen 2018 (P18) share: columns, units, the ranking."""

from __future__ import annotations

from collections.abc import Sequence

from kvae.configuration import Config
from kvae.runs import Run

from ..data.prepare import Prepared
from ..reproduction import Numbers, Row

POSITIONS = {"toy": 16, "twitter": 31}
"""Positions of a text in P18. Tweets are shorter than 32 characters; ours also have an end mark."""

COLUMNS = {
    "elbo": "bound, nats a text",
    "kl": "KL",
    "reconstruction_per_position": "reconstruction a position",
    "petersen_elbo": "ELBO as P18 adds it",
    "active_units": "active units",
    "mutual_information": "information",
}


def petersen_row(
    name: str, config: Config, positions: int, printed: tuple[float, float, float]
) -> Row:
    """A row of P18 with the numbers that P18 prints, and the bound in nats a text that they give.

    `printed` are P18's ELBO, reconstruction in nats a position and KL in nats a text; a text has
    `positions` positions.
    """
    elbo, reconstruction, kl = printed
    return Row(
        name,
        config,
        published={
            "elbo": round(positions * reconstruction + kl, 1),
            "kl": kl,
            "reconstruction_per_position": reconstruction,
            "petersen_elbo": elbo,
        },
    )


def in_petersen_units(run: Run, prepared: Prepared) -> dict[str, float]:
    """Our result in P18's units.

    These are the reconstruction in nats a position, padding included, and minus its sum with the KL
    in nats a text, which P18 calls the ELBO.
    """
    evaluation = run.evaluation
    per_position = evaluation["reconstruction_with_padding"] / run.config.model.length
    return {
        "reconstruction_per_position": per_position,
        "petersen_elbo": -(per_position + evaluation["kl"]),
    }


def with_ramp_from_start(config: Config) -> Config:
    """The configuration with the ramp of the KL weight starting at the first step."""
    return config.with_settings({"objective.ramp_start": 0})


def ladders_lead(names: Sequence[str], numbers: Numbers) -> tuple[bool, str]:
    """Whether a ladder has the lowest bound, and all rows sorted by their bound."""
    order = sorted(names, key=lambda name: numbers[name]["elbo"])
    rows = [f"{name} {numbers[name]['elbo']:.2f} (KL {numbers[name]['kl']:.2f})" for name in order]
    leads = order[0].startswith(("lvae", "lcnnvae"))
    return leads, f"from the lowest bound: {', '.join(rows)}"
