"""What the two tables of Petersen 2018 (P18) share: his columns, his units, and who leads."""

from __future__ import annotations

from collections.abc import Sequence

from kvae.configuration import Config
from kvae.runs import Run

from ..corpora import Prepared
from ..reproduction import Numbers, Row

POSITIONS = {"toy": 16, "twitter": 31}
"""Of a text of his: tweets are shorter than 32 characters. Ours have one more for the end mark."""

COLUMNS = {
    "elbo": "bound, honest",
    "kl": "KL",
    "reconstruction_per_position": "reconstruction a position",
    "petersen_elbo": "ELBO as P18 adds it",
    "active_units": "active units",
    "mutual_information": "information",
}


def row_of(name: str, config: Config, positions: int, printed: tuple[float, float, float]) -> Row:
    """A row of P18 with what he prints, and the sum his numbers really make at so many positions a text."""
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


def in_his_units(run: Run, prepared: Prepared) -> dict[str, float]:
    """Our bound in P18's units: reconstruction per position, padding included, and his sum of the two."""
    found = run.evaluation
    each = found["reconstruction_with_padding"] / run.config.model.length
    return {"reconstruction_per_position": each, "petersen_elbo": -(each + found["kl"])}


def from_the_start(config: Config) -> Config:
    """The same with the ramp in the first half of training."""
    return config.with_settings({"objective.ramp_start": 0})


def ladders_lead(names: Sequence[str], numbers: Numbers) -> tuple[bool, str]:
    order = sorted(names, key=lambda name: numbers[name]["elbo"])
    return order[0].startswith(("lvae", "lcnnvae")), "from the lowest bound: " + ", ".join(
        f"{name} {numbers[name]['elbo']:.2f} (KL {numbers[name]['kl']:.2f})" for name in order
    )
