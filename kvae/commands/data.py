"""`kvae data list` and `kvae data get`: list the named corpora, and fetch the files of some."""

from __future__ import annotations

import argparse

from .arguments import Commands, json_argument
from .output import say, show, table


def add(commands: Commands) -> None:
    data = commands.add_parser("data", help="corpora")
    subcommands = data.add_subparsers(dest="data_command", required=True, metavar="COMMAND")

    parser = subcommands.add_parser("list", help="the corpora that `--data` knows by name")
    parser.set_defaults(run=list_corpora)
    json_argument(parser)

    parser = subcommands.add_parser(
        "get", help="download or copy a corpus that kvae may not ship into the data folder"
    )
    parser.set_defaults(run=get_files)
    parser.add_argument("collection", choices=("ptb", "tweets"))
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER",
        help="copy the files from this folder (default: the public download)",
    )
    json_argument(parser)


def list_corpora(options: argparse.Namespace) -> None:
    from kvae.training.data.downloads import COLLECTIONS, data_folder, missing_files
    from kvae.training.data.named_corpora import CORPORA

    report = [
        {
            "name": name,
            "description": item.description,
            "settings": dict(item.settings),
            "labels": item.label is not None,
            "entropy": item.entropy,
            "missing": missing_files(item.collection) if item.collection else [],
            "terms": COLLECTIONS[item.collection].terms if item.collection else None,
        }
        for name, item in CORPORA.items()
    ]
    rows = {
        name: item.description
        + (f"; entropy {item.entropy} nats a text, no bound is lower" if item.entropy else "")
        for name, item in CORPORA.items()
    }
    for name, item in CORPORA.items():
        if item.collection:
            place = f"in {data_folder()}"
            if missing_files(item.collection):
                place = f"not there: `kvae data get {item.collection}`"
            rows[name] += f"; {COLLECTIONS[item.collection].terms}; {place}"
    rows["FILE"] = (
        "your own: UTF-8, plain, .gz, .bz2 or .xz, one text a line; a folder of such files; "
        "a pattern 'books/*.txt'"
    )
    show(options, {"folder": str(data_folder()), "corpora": report}, table(rows))


def get_files(options: argparse.Namespace) -> None:
    from kvae.training.data.downloads import get

    files = list(map(str, get(options.collection, options.source, say)))
    show(options, {"files": files}, "\n".join(files))
