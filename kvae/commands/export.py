"""`kvae export`: write a run as a verified ONNX bundle, as a SavedModel, or both."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kvae.serving.errors import ConfigError

from .arguments import Commands, add_command
from .heavy_imports import heavy_imports
from .output import say, show
from .reports import parity_line, quantization_line
from .run_folders import held_out_rows, open_run

EXPORTING = (
    "exporting: eight graphs are built, compared with Keras, written and verified; this takes ten "
    "seconds to a minute for most models on two cores"
)

WEIGHTS = ("float32", "int8", "int8-latency")
"""The kinds of weights, as in `kvae.export.quantization`."""


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "export", run, "write a run as a verified ONNX bundle, as a SavedModel, or both"
    )
    parser.add_argument("run_folder", metavar="RUN")
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        nargs="?",
        help="folder to write (default: RUN/bundle; no bundle with --saved-model alone)",
    )
    parser.add_argument("--saved-model", metavar="DIR", help="folder to write a SavedModel to")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default=WEIGHTS[0],
        help="int8: a quarter of the size, and faster for wide models; int8-latency: the fastest "
        "for a few texts at once, in onnxruntime only (default: %(default)s)",
    )
    parser.add_argument(
        "--int8",
        action="store_const",
        const="int8",
        dest="weights",
        help="the same as --weights int8",
    )
    parser.add_argument(
        "--openvino",
        action="store_true",
        help="prior and step as OpenVINO computes them rightly: a step takes a quarter longer",
    )
    parser.add_argument(
        "--no-plain",
        action="store_true",
        help="leave out the graphs without random numbers, which beam search, patterns and some "
        "runtimes need",
    )
    parser.add_argument(
        "--no-map",
        action="store_true",
        help="leave out the map of the latent space, which contains up to 500 held-out texts",
    )


def run(options: argparse.Namespace) -> None:
    with heavy_imports("export"):
        from kvae.export.bundle import write_bundle
        from kvae.export.saved_model import write_saved_model
    for target in (options.bundle, options.saved_model):
        if target is not None and Path(target).exists():
            raise ConfigError(f"{target} exists already; give another folder or remove it")
    trained = open_run(options.run_folder)
    bundle = options.bundle
    if bundle is None and options.saved_model is None:
        suffix = "" if options.weights == WEIGHTS[0] else f"-{options.weights}"
        bundle = str(trained.path / f"bundle{suffix}")
    report: dict[str, Any] = {}
    if bundle is not None:
        say(EXPORTING)
        rows, labels = held_out_rows(trained)
        manifest = write_bundle(
            trained.model,
            trained.alphabet,
            trained.config,
            bundle,
            trained.evaluation,
            rows,
            labels=labels,
            weights=options.weights,
            with_map=not options.no_map,
            with_plain=not options.no_plain,
            signed_words=options.openvino,
            temperature=trained.temperature,
            say=say,
        )
        report |= {"bundle": bundle}
        if "map" in manifest:
            say("map.json holds up to 500 held-out texts; --no-map leaves them out")
        report |= {
            name: manifest[name]
            for name in ("endpoints", "parity", "quantization", "map")
            if name in manifest
        }
    if options.saved_model is not None:
        say("writing a SavedModel")
        write_saved_model(trained.model, options.saved_model)
        report["saved_model"] = options.saved_model
    lines = [f"{report[name]}" for name in ("bundle", "saved_model") if name in report]
    lines += [parity_line(report["parity"])] if "parity" in report else []
    lines += [quantization_line(report["quantization"])] if "quantization" in report else []
    show(options, report, "\n".join(lines))
