"""`kvae diagnose`: is the code of a run used, by which dimensions, where, and what to change."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from .arguments import Commands, add_command
from .heavy_imports import heavy_imports
from .output import aligned, say, show, table
from .reports import cell, section
from .run_folders import open_run


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "diagnose", run, "tell whether the code of a run is used, where, what to change"
    )
    parser.add_argument("run_folder", metavar="RUN")
    parser.add_argument(
        "--texts",
        type=int,
        default=1000,
        metavar="N",
        help="held-out texts to measure at most (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of codes and exchanges (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    with heavy_imports("train"):
        from kvae.training.advice import advised
        from kvae.training.data.prepare import held_out
        from kvae.training.diagnosis import diagnose
        from kvae.training.diagnosis_page import write_diagnosis
    trained = open_run(options.run_folder)
    say(f"reading the held-out texts of {trained.config.data.source}")
    data = held_out(trained.config, trained.alphabet)
    found = diagnose(trained, data, options.texts, options.seed, say)
    found |= advised(trained, found)
    page = write_diagnosis(trained, found)
    show(options, found, "\n\n".join(sections(found)))
    if not options.json:
        print(f"\npage: {page}")


def sections(found: Mapping[str, Any]) -> Iterator[str]:
    """The diagnosis for readers, section by section."""
    marks = ((("+ " if each["good"] else "- ") + each["sentence"]) for each in found["findings"])
    yield section("What this means", marks)
    if not found["has_code"]:
        return
    yield section("The code", [code_table(found)])
    yield section("Dimensions that say most about the text", [dimension_table(found)])
    yield section("Where the code helps", [quarter_table(found)])
    yield section("All codes together, and the prior", [prior_table(found)])
    if found["advice"]:
        yield section("What to change, one at a time, in this order", advice_lines(found))


def code_table(found: Mapping[str, Any]) -> str:
    """Bound, KL, information, and what other codes cost."""
    exchanged = found["exchanged"]
    rows = {
        "elbo": (found["elbo"], f"nats per sequence, on {found['texts']:,} held-out texts"),
        "kl": (found["kl"], "nats per sequence"),
        **{
            f"kl_level_{each['level']}": (
                each["kl"],
                f"nats; {each['active_units']} of {each['size']} units active",
            )
            for each in found["levels"]
            if len(found["levels"]) > 1
        },
        "information": (
            found["mutual_information"],
            f"nats, of the top level, at most {found['mutual_information_ceiling']:.2f}",
        ),
        "active_units": (found["active_units"], f"of {found['latent_size']}"),
        "own code": (exchanged["own"], "nats of reconstruction"),
        "other text's code": (exchanged["other"], f"the same: {exchanged['cost']:.2f} nats more"),
        "prior's code": (exchanged["prior"], "the same, with a code of the prior"),
    }
    return table({name: f"{cell(value):>12}  {unit}" for name, (value, unit) in rows.items()})


def dimension_table(found: Mapping[str, Any], most: int = 8) -> str:
    """The first dimensions."""
    names = ("level", "dimension", "kl", "information", "activity", "mean", "variance")
    shown = found["dimensions"][:most]
    columns = [name for name in names if name in shown[0]]
    rows = [[text_of(each[name]) for name in columns] for each in shown]
    return aligned([columns, *rows])


def text_of(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def quarter_table(found: Mapping[str, Any], width: int = 30) -> str:
    """What the code saves in each quarter of a text, with bars."""
    most = max(*found["quarters"], 1e-9)
    rows = {
        f"quarter {place}": f"{nats:8.3f} nats  {'#' * max(0, round(width * nats / most))}"
        for place, nats in enumerate(found["quarters"], start=1)
    }
    return table(rows)


def prior_table(found: Mapping[str, Any]) -> str:
    """The aggregated posterior beside the prior."""
    from kvae.training.diagnosis import AGGREGATED

    together = found["aggregated"]
    return table(
        {
            name: f"{cell(together[name]):>12}  {unit}"
            for name, unit in AGGREGATED.items()
            if name in together
        }
    )


def advice_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Each advice: the reason, the source and the command."""
    for place, each in enumerate(found["advice"], start=1):
        yield f"{place}. {each['symptom']}: {each['why']} ({each['source']})"
        yield f"   {each['command']}"
