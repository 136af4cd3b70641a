"""`kvae serve`: a web service and a page to play with."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from .arguments import Commands, add_command, bundle_arguments
from .heavy_imports import heavy_imports
from .output import say, show


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "serve", run, "a web service and a page to play with, for this machine"
    )
    bundle_arguments(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default: %(default)s, this machine only)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        help="port to listen at, 0: a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=30.0,
        help="seconds a request may take (default: %(default)g)",
    )
    parser.add_argument(
        "--max-texts",
        type=int,
        default=1024,
        help="maximum number of texts in a request (default: %(default)s)",
    )
    parser.add_argument(
        "--max-body-bytes",
        type=int,
        default=2**20,
        help="maximum size of a request in bytes (default: %(default)s)",
    )
    parser.add_argument(
        "--queue",
        type=int,
        default=256,
        help="maximum number of waiting requests (default: %(default)s)",
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=1024,
        help="maximum number of open connections (default: %(default)s)",
    )
    parser.add_argument(
        "--head-deadline",
        type=float,
        default=10.0,
        help="seconds for the head of a request to arrive (default: %(default)g)",
    )
    parser.add_argument(
        "--shutdown-deadline",
        type=float,
        default=30.0,
        help="seconds to finish running requests when the server stops (default: %(default)g)",
    )


def run(options: argparse.Namespace) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # there is nothing to finish before it serves
        signal.signal(number, lambda *_: os._exit(0))
    with heavy_imports("server"):
        from kvae.serving.server import serve
        from kvae.serving.service import Limits
    names = (
        "max_texts",
        "max_body_bytes",
        "queue",
        "deadline",
        "shutdown_deadline",
        "connections",
        "head_deadline",
    )
    limits = Limits(**{name: getattr(options, name) for name in names})

    def started(url: str, model: str) -> None:
        show(options, {"url": url, "model_id": model}, url)
        sys.stdout.flush()
        say(f"model {model}; {url}/docs lists the endpoints, Ctrl-C stops")

    serve(options.bundle, options.host, options.port, limits, say, started, options.threads)
