"""`kvae verify`: check a bundle's files, its seed test and, if Keras is installed, its model."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kvae.runs import MODEL
from kvae.serving.errors import CheckFailed, first_line

from .arguments import Commands
from .bundles import add_bundle_command
from .heavy_imports import heavy_imports
from .output import say, show
from .reports import parity_line, quantization_line
from .run_folders import held_out_rows

if TYPE_CHECKING:
    from kvae.runs import Run


def add(commands: Commands) -> None:
    parser = add_bundle_command(
        commands,
        "verify",
        run,
        "check a bundle: its files, its seed test and, if Keras is installed, its model",
    )
    parser.add_argument(
        "--runtime",
        default="onnxruntime",
        metavar="NAME",
        help="the runtime to check: onnxruntime (default) or openvino (extra openvino)",
    )
    parser.add_argument(
        "--against",
        metavar="RUN",
        help="compare with this run's Keras model (default: the run whose folder has the bundle)",
    )


def run(options: argparse.Namespace) -> None:
    from kvae.serving.verification import verify

    report = verify(options.bundle, options.runtime)
    trained = run_to_compare(options.bundle, options.against)
    if trained is not None:
        from kvae.export.bundle import model_id
        from kvae.export.parity import compare
        from kvae.serving.bundle import read_bundle

        if model_id(trained.model) == report["model_id"]:
            report["against"] = str(trained.path)
            # Weights in eight bits differ from the model's; the difference was measured at export.
            if "quantization" not in report:
                rows, _ = held_out_rows(trained)
                report["parity"] = compare(trained.model, read_bundle(options.bundle), rows)
        elif options.against:
            raise CheckFailed(
                f"{trained.path} holds the model {model_id(trained.model)}, the bundle holds "
                f"{report['model_id']}; give --against the run that the bundle was exported from"
            )
    lines = [
        f"{report['files']} files are unchanged since export",
        f"{report['seed_test_texts']} texts of the seed test are unchanged in {report['runtime']}",
    ]
    lines.append(
        parity_line(report["parity"])
        if "parity" in report
        else parity_line(report["parity_at_export"]) + " (recorded at export)"
    )
    lines += [quantization_line(report["quantization"])] if "quantization" in report else []
    show(options, report, "\n".join(lines))


def run_to_compare(bundle: str, against: str | None) -> Run | None:
    """The run whose Keras model a bundle is compared with, or None.

    It is the run `against` if one was given, else the run whose folder contains the bundle, if it
    loads.
    """
    folder = against or enclosing_run(bundle)
    if folder is None:
        return None
    try:
        with heavy_imports("export"):
            import kvae.export.parity  # noqa: F401
            from kvae.runs import load_run
        return load_run(folder)
    except Exception as error:  # a broken Keras may raise anything; the bundle is checked without
        if against:
            raise
        say(f"not compared with the Keras model of {folder}: {first_line(error)}")
        return None


def enclosing_run(bundle: str) -> Path | None:
    """The run folder that contains a bundle; None if there is none or Keras is not installed."""
    parent = Path(bundle).resolve().parent
    return (
        parent
        if (parent / MODEL).is_file() and find_spec("keras") and find_spec("tensorflow")
        else None
    )
