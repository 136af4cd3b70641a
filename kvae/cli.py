"""The command line. Each command imports what it needs when it runs: `kvae sample` works with numpy and onnxruntime alone.

Results go to standard output, progress and errors to standard error. Exit codes: 0 ok, 1 a check failed, 2 usage,
3 bad model or bundle, 4 bad input or data, 5 not done in the time of --deadline.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from kvae import __version__
from kvae.backends import first_line, start_keras
from kvae.disk import sentence
from kvae.runs import CHECKPOINTS, CONFIG, to_json
from kvae.serving.alphabet import one_line
from kvae.serving.errors import CheckFailed, ConfigError, DataError, KvaeError

PRESET = "hybrid-lstm"
"""What `kvae train` trains when it is not told."""

STUDIES = (
    "toy",
    "twitter",
    "historyless",
    "length",
    "alpha",
    "receptive-field",
    "tweets",
    "kl-target",
    "ptb-word",
    "anti-collapse",
)
"""The keys of `kvae.training.studies.STUDIES`, which the parser must not import."""

SYSTEMS, BOOK, ALL = "systems", "book", "all"
"""What else `kvae reproduce` makes: every preset on one corpus, the book without training, every study."""


CHOICES = ("greedy", "temperature", "top_k", "top_p", "min_length", "max_length", "attribute")
"""Arguments that say how a text is written."""

KERAS_EXTRAS = {"train", "export", "tune"}
"""Extras whose commands run on Keras."""

SCORED_AT_ONCE = 1024
"""Texts between two lines of progress."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped job keeps its model, as with Ctrl-C
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a character gets its code
    try:
        options.run(options)
        sys.stdout.flush()
    except KvaeError as error:
        say(f"kvae {options.command}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except BrokenPipeError:  # the reader of a pipe has left, as `head` does
        discard_output()
        return 141
    except OSError as error:  # a full disk, a folder that may not be written
        if error.filename is None and raised_here(error):  # this file writes nothing else
            error.filename = "standard output"
            discard_output()
        say(f"kvae {options.command}: {sentence(error)}{goes_on(options)}")
        return DataError.exit_code
    return 0


def raised_here(error: BaseException) -> bool:
    """Whether a line of this file raised an error, and no function that it called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename == __file__


def discard_output() -> None:
    """Send what is still to be written to standard output nowhere, which Python would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def goes_on(options: argparse.Namespace) -> str:
    """How a command that wrote part of its work goes on after its error."""
    if options.command == "train" and any((Path(options.out) / CHECKPOINTS).glob("*.npz")):
        return f"; then `kvae train --resume --out {quote(options.out)}` goes on"
    return "; then the same command goes on" if options.command in ("tune", "reproduce") else ""


def demo(options: argparse.Namespace) -> None:
    with heavy_imports("train", "export"):
        from kvae.demo import demonstrate
    demonstrate(options.out, say, options.overwrite)


def train(options: argparse.Namespace) -> None:
    from kvae.presets import preset

    going_on = options.resume and (Path(options.out) / CONFIG).is_file()
    if options.resume and not going_on and options.preset is None and options.data is None:
        raise ConfigError(
            f"--resume: {options.out} holds no run; give the folder of one, or --preset and --data to start it"
        )
    with heavy_imports("train"):
        from kvae.training.experiment import resume, run, stored_config
    stored = going_on and options.preset is None
    config = with_arguments(stored_config(Path(options.out)) if stored else preset(options.preset or PRESET), options)
    trained, _ = resume(config, options.out, say) if going_on else run(config, options.out, say, options.overwrite)
    report = {"run": str(trained.path), **trained.evaluation}
    show(options, report, evaluation_table(report))
    if not options.json:
        print(f"\nnext: {on_tensorflow()}{program('kvae')} export {options.out} {options.out}/bundle")
        print(f"      {program('tensorboard')} --logdir {options.out}/logs")


def tune(options: argparse.Namespace) -> None:
    from kvae.presets import preset

    config = with_arguments(preset(options.preset or PRESET), options)
    with heavy_imports("tune"):
        from kvae.training.tune import parse_search, results_table
        from kvae.training.tune import tune as search_settings
    results = search_settings(config, options.out, say, options.trials, dict(map(parse_search, options.search)))
    best = " ".join(f"--set {key}={json.dumps(value)}" for key, value in results[0]["settings"].items())
    show(options, {"best": results[0], "trials": results}, f"{results_table(results)}\n\nbest: {best}")
    if not options.json:
        print(f"next: {program('tensorboard')} --logdir {options.out}/trials   (HParams)")


def evaluate(options: argparse.Namespace) -> None:
    with heavy_imports("train"):
        from kvae.training.corpora import entropy_of, held_out
        from kvae.training.evaluation import evaluate as measure
        from kvae.training.generation import text_report
        from kvae.training.ngram import character_count
    run = opened(options.run_folder)
    config = run.config if options.too_long is None else run.config.with_settings({"data.too_long": options.too_long})
    if options.labels and (options.data is None or not config.model.attributes):
        raise ConfigError("--labels: belongs to the texts of --data, and to a model that was trained with labels")
    data = held_out(config, run.alphabet, options.data, options.labels)
    for note in data.notes:
        say(note)
    samples = options.importance_samples
    say(f"measuring {len(data.rows):,} texts" + (f", then again with {samples:,} codes each" if samples > 0 else ""))
    numbers = measure(
        run.model,
        data.rows,
        seed=options.seed,
        attribute=data.attribute,
        importance_samples=samples,
        characters=character_count(data.texts, config.data.mode == "lines"),
    )
    report = {"run": options.run_folder, "data": options.data or "held-out split", **numbers}
    entropy = entropy_of(config) if options.data is None else None
    report |= {} if entropy is None else {"entropy": entropy}
    report |= text_report(run, data, training_texts(run), options.texts, options.samples, options.seed, say)
    show(options, report, "\n\n".join([evaluation_table(report), *text_tables(report)]))


def opened(folder: str) -> Any:
    """A run for evaluation or export; a sentence where its model is not the latest of its training, or that diverged."""
    from kvae.runs import after_divergence, divergence, load_run, said_of, steps_behind

    run = load_run(folder)
    diverged, behind = divergence(run.path), steps_behind(run)
    if diverged:
        say(
            f"{folder}: {said_of(diverged)}, this is its model of step {int(run.model.training_steps):,}; "
            f"{after_divergence(run.path, run.config)}"
        )
    elif behind:
        say(
            f"the newest checkpoint of {folder} is {behind:,} steps ahead of its model: "
            f"`kvae train --resume --out {quote(folder)}` goes on from there"
        )
    return run


def training_texts(run: Any) -> list[str] | None:
    """What a run learned from, where it is still there."""
    from kvae.training.corpora import learned_texts

    try:
        return learned_texts(run.config, run.alphabet)
    except DataError as error:
        say(f"{error} (without the training texts there is no novelty and no forward perplexity)")
        return None


def export(options: argparse.Namespace) -> None:
    with heavy_imports("export"):
        from kvae.export.bundle import write_bundle
        from kvae.export.saved_model import write_saved_model
    for target in (options.bundle, options.saved_model):
        if target is not None and Path(target).exists():
            raise ConfigError(f"{target} exists already; give another folder or remove it")
    run = opened(options.run_folder)
    if options.bundle is None and options.saved_model is None:
        options.bundle = str(run.path / ("bundle-int8" if options.int8 else "bundle"))
    report: dict[str, Any] = {}
    if options.bundle is not None:
        say("exporting, then comparing with Keras")
        texts = held_out_tokens(run)
        manifest = write_bundle(
            run.model, run.alphabet, run.config, options.bundle, run.evaluation, texts, options.int8
        )
        report |= {"bundle": options.bundle}
        report |= {name: manifest[name] for name in ("endpoints", "parity", "quantization") if name in manifest}
    if options.saved_model is not None:
        write_saved_model(run.model, options.saved_model)
        report["saved_model"] = options.saved_model
    lines = [f"{report[name]}" for name in ("bundle", "saved_model") if name in report]
    lines += [parity_line(report["parity"])] if "parity" in report else []
    lines += [quantization_line(report["quantization"])] if "quantization" in report else []
    show(options, report, "\n".join(lines))


def held_out_tokens(run: Any) -> Any:
    """The tokens of a run's held-out texts, where they are still there."""
    from kvae.training.corpora import held_out

    try:
        return held_out(run.config, run.alphabet).rows
    except DataError as error:
        say(f"{error} (compared on codes of the prior alone)")
        return None


def verify(options: argparse.Namespace) -> None:
    from kvae.serving.verification import verify as check

    report = check(options.bundle)
    run = run_to_compare(options.bundle, options.against)
    if run is not None:
        from kvae.export.bundle import model_id
        from kvae.export.parity import compare
        from kvae.serving.bundle import read_bundle

        if model_id(run.model) == report["model_id"]:
            report["against"] = str(run.path)
            if "quantization" not in report:  # rounded weights are not the model's, by how much was measured at export
                report["parity"] = compare(run.model, read_bundle(options.bundle), held_out_tokens(run))
        elif options.against:
            raise CheckFailed(f"{run.path} holds the model {model_id(run.model)}, the bundle {report['model_id']}")
    lines = [
        f"{report['files']} files are as they were written",
        f"{report['seed_test_texts']} texts of the seed test are the same",
    ]
    lines.append(
        parity_line(report["parity"])
        if "parity" in report
        else parity_line(report["parity_at_export"]) + " (recorded at export)"
    )
    lines += [quantization_line(report["quantization"])] if "quantization" in report else []
    show(options, report, "\n".join(lines))


def run_to_compare(bundle: str, asked: str | None) -> Any:
    """The run whose Keras model a bundle is compared with: the one asked for or, where it opens, the one the bundle lies in."""
    folder = asked or beside(bundle)
    if folder is None:
        return None
    try:
        with heavy_imports("export"):
            import kvae.export.parity  # noqa: F401
            from kvae.runs import load_run
        return load_run(folder)
    except Exception as error:  # whatever a Keras that does not work raises: a bundle is checked without it
        if asked:
            raise
        say(f"not compared with the Keras model of {folder}: {first_line(error)}")
        return None


def info(options: argparse.Namespace) -> None:
    from kvae.serving.sampler import Sampler

    sampler = Sampler.load(options.bundle)
    manifest, rules = sampler.info(), sampler.alphabet.rules
    latent, training = manifest["latent"], manifest["training"]
    longest = manifest["length"] - (manifest["mode"] == "lines")
    size = sum(entry["size"] for entry in manifest["endpoints"].values())
    limit = "exactly" if manifest["mode"] == "fixed" else "up to"
    given = " given its label" if latent.get("attributes") else ""
    bound = "not evaluated"
    if "elbo" in training:
        bound = f"{training['elbo']:.2f} nats a text{given}, {training['bits_per_character']:.3f} bits a character"
    rows = {
        "model": manifest["model_id"],
        "trained on": f"{training['source']} ({manifest['mode']})",
        "texts": f"{limit} {longest} {rules.tokens} of {len(manifest['vocabulary']['symbols'])} kinds",
        "latent code": latent_line(latent),
        **({"attributes": ", ".join(latent["attributes"])} if latent.get("attributes") else {}),
        "bound": bound,
        "active units": training.get("active_units", "not evaluated"),
        "size": f"{size / 1e6:.1f} MB in {len(manifest['endpoints'])} graphs",
        "parity": parity_line(manifest["parity"]),
        **({"weights": quantization_line(manifest["quantization"])} if "quantization" in manifest else {}),
        "made with": ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
    }
    show(options, manifest, table(rows))


def latent_line(latent: Mapping[str, Any]) -> str:
    """What a code consists of."""
    if latent["kind"] == "none":
        return "none, a language model"
    labels = len(latent.get("attributes", []))
    levels = f"{latent['levels']} levels, " if latent.get("levels", 1) > 1 else ""
    beside = f" and {labels} for the label" if labels else ""
    return f"{latent['kind']}, {levels}{latent['size'] - labels} dimensions{beside}, {latent['prior']} prior"


def sample(options: argparse.Namespace) -> None:
    sampler = load_sampler(options)
    chosen = {name: getattr(options, name) for name in (*CHOICES, "first_row")}
    if options.json:
        samples = sampler.generate(options.n, options.seed, **chosen)
        print(to_json({"samples": [vars(item) for item in samples]}))
        return
    for number, item in enumerate(sampler.iterate(options.n, options.seed, **chosen)):
        if options.seed is None and number == 0:
            say(f"seed {item.seed}")
        print(one_line(item.text))


def stream(options: argparse.Namespace) -> None:
    import secrets

    seed = secrets.randbits(32) if options.seed is None else options.seed
    chosen = {name: getattr(options, name) for name in CHOICES}
    pieces = load_sampler(options).stream(seed, options.row, **chosen)
    if options.json:
        found = list(pieces)
        print(to_json({"seed": seed, "row": options.row, "text": "".join(found), "pieces": found}))
        return
    if options.seed is None:
        say(f"seed {seed}")
    for piece in pieces:
        print(one_line(piece), end="", flush=True)
    print()


def score(options: argparse.Namespace) -> None:
    sampler, texts = load_sampler(options), input_texts(options)
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts, start=1):
        places.setdefault(text, []).append(place)
    distinct, found = list(places), []
    reading = {"attribute": options.attribute, "unknown": options.unknown, "too_long": options.too_long}
    for start in range(0, len(distinct), SCORED_AT_ONCE):
        found += sampler.score(distinct[start : start + SCORED_AT_ONCE], options.samples, options.seed, **reading)
        if len(distinct) > SCORED_AT_ONCE:
            say(f"{len(found):,} of {len(distinct):,} distinct texts")
    ranked = sorted(found, key=lambda each: -getattr(each, options.by))[: options.n]
    report = [{"places": places[each.text], **vars(each)} for each in ranked]
    heading = f"{'bound':>9} {'bits/char':>9} {'times':>6} {'first':>7}  text"
    rows = [
        f"{each.bound:>9.2f} {each.bits_per_character:>9.3f} {len(places[each.text]):>6,} {places[each.text][0]:>7,}  "
        f"{one_line(each.text)}"
        for each in ranked
    ]
    show(options, {"scores": report}, "\n".join([heading, *rows]))


def encode(options: argparse.Namespace) -> None:
    sampler, texts = load_sampler(options), input_texts(options)
    codes = sampler.encode(texts, options.unknown).tolist()
    report = {"codes": [{"text": text, "code": code} for text, code in zip(texts, codes, strict=True)]}
    show(options, report, "\n".join(" ".join(f"{number:.6g}" for number in code) for code in codes))


def reconstruct(options: argparse.Namespace) -> None:
    sampler, texts = load_sampler(options), input_texts(options)
    again = sampler.reconstruct(texts, options.unknown)
    pairs = list(zip(texts, again, strict=True))
    report = {
        "reconstructions": [{"text": text, "reconstruction": other, "equal": text == other} for text, other in pairs]
    }
    show(options, report, "\n".join(f"{one_line(text)}\t{one_line(other)}" for text, other in pairs))


def interpolate(options: argparse.Namespace) -> None:
    texts = load_sampler(options).interpolate(options.first, options.last, options.steps, options.path, options.unknown)
    show(options, {"interpolation": texts}, "\n".join(map(one_line, texts)))


def variations(options: argparse.Namespace) -> None:
    texts = load_sampler(options).variations(options.text, options.n, options.scale, options.seed, options.unknown)
    show(options, {"variations": texts}, "\n".join(map(one_line, texts)))


def neighbours(options: argparse.Namespace) -> None:
    found = load_sampler(options).neighbours(options.text, input_texts(options), options.n, options.unknown)
    report = [{"text": text, "distance": distance} for text, distance in found]
    show(options, {"neighbours": report}, "\n".join(f"{distance:>8.3f}  {one_line(text)}" for text, distance in found))


def arithmetic(options: argparse.Namespace) -> None:
    text = load_sampler(options).arithmetic(options.plus, options.minus, options.unknown)
    show(options, {"text": text}, one_line(text))


def serve(options: argparse.Namespace) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # until it serves there is nothing to finish
        signal.signal(number, lambda *_: os._exit(0))
    with heavy_imports("server"):
        from kvae.serving.server import serve as serve_bundle
        from kvae.serving.service import Limits
    names = ("max_texts", "max_body_bytes", "queue", "deadline", "shutdown_deadline", "connections", "head_deadline")
    limits = Limits(**{name: getattr(options, name) for name in names})

    def started(url: str, model: str) -> None:
        show(options, {"url": url, "model_id": model}, url)
        sys.stdout.flush()
        say(f"model {model}; {url}/docs lists what there is to call, Ctrl-C stops")

    serve_bundle(options.bundle, options.host, options.port, limits, say, started, options.threads)


def reproduce(options: argparse.Namespace) -> None:
    {SYSTEMS: reproduce_systems, BOOK: reproduce_book}.get(options.id, reproduce_studies)(options)


def reproduce_studies(options: argparse.Namespace) -> None:
    if options.page is not None:
        raise ConfigError(f"--page: belongs to `kvae reproduce {SYSTEMS}`; a study takes --book FOLDER")
    with heavy_imports("train"):
        from kvae.training.book import VERDICTS, add_chapter, by_seed, results_table, sample_lines, sentence
        from kvae.training.corpora import require_corpora
        from kvae.training.reproduction import FIGURE, judged, unfinished
        from kvae.training.reproduction import reproduce as run_study
        from kvae.training.studies import STUDIES
    names = list(STUDIES) if options.id == ALL else [options.id]
    if options.id == ALL and options.rows:
        raise ConfigError(f"--rows: belongs to one study; name it instead of {ALL!r}")
    folders = {name: Path(options.out or "runs/reproduce") / name / options.scale for name in names}
    asked = (options.scale, options.seeds, options.rows)
    require_corpora(config for name, folder in folders.items() for config in unfinished(STUDIES[name], folder, *asked))
    reports, failed = {}, 0
    for name, folder in folders.items():
        study = STUDIES[name]
        found = run_study(study, folder, say, *asked)
        verdicts = judged(study, found)
        failed += sum(verdict.passed is False for _, verdict in verdicts)
        said = [{"statement": each.text, "source": each.source, **vars(verdict)} for each, verdict in verdicts]
        reports[name] = {**found, "verdicts": said, "folder": str(folder)}
        if options.book:
            reports[name]["page"] = str(add_chapter(Path(options.book), name, folder, found, STUDIES))
        if not options.json:
            print(f"{study.title} ({study.source})\n\n{results_table(study, found['rows'])}\n")
            for statement, verdict in verdicts:
                print(
                    f"{VERDICTS[verdict.passed]}  {statement.text} {sentence(verdict.evidence)} {by_seed(verdict)}".rstrip()
                )
            print("\n".join(["", *sample_lines(study, found), f"figure: {folder / FIGURE}", ""]))
    if options.json:
        print(to_json(reports[options.id] if options.id != ALL else reports))
    if failed:
        raise CheckFailed(f"{failed} statement(s) do not hold of these numbers")


def reproduce_book(options: argparse.Namespace) -> None:
    with heavy_imports("train"):
        from kvae.training.book import write_book
        from kvae.training.studies import STUDIES
    page = str(write_book(Path(options.book or "docs"), STUDIES))
    show(options, {"page": page}, page)


def reproduce_systems(options: argparse.Namespace) -> None:
    for name in ("book", "seeds"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name}: belongs to a study; {SYSTEMS} takes --page FILE and has one seed")
    if options.scale != "small":
        raise ConfigError(f"--scale: {SYSTEMS} compares the small sizes; leave it out")
    with heavy_imports("train"):
        from kvae.training.systems import reproduce as systems
    page = systems(options.out or f"runs/{SYSTEMS}", say, options.rows, options.page)
    print(to_json({"page": str(page)}) if options.json else page.read_text(encoding="utf-8"))


def presets(options: argparse.Namespace) -> None:
    from kvae.preset_parameters import PARAMETERS
    from kvae.presets import PRESETS

    report = [
        {
            "name": name,
            "description": item.description,
            "source": item.source,
            "parameters": PARAMETERS[name],
            "counted_at": dict(zip(("length", "vocabulary_size"), item.shape, strict=True)),
            "published_nats": item.honest,
            "config": item.config.to_dict(),
        }
        for name, item in PRESETS.items()
    ]
    rows = {
        name: f"{PARAMETERS[name]:>10,} parameters  {item.description} [{item.source}]"
        for name, item in PRESETS.items()
    }
    show(options, {"presets": report}, table(rows))


def data_list(options: argparse.Namespace) -> None:
    from kvae.training.corpora import CORPORA
    from kvae.training.downloads import COLLECTIONS, data_folder, missing

    report = [
        {
            "name": name,
            "description": item.description,
            "settings": dict(item.settings),
            "labels": item.label is not None,
            "entropy": item.entropy,
            "missing": missing(item.collection) if item.collection else [],
            "terms": COLLECTIONS[item.collection].terms if item.collection else None,
        }
        for name, item in CORPORA.items()
    ]
    rows = {
        name: item.description + (f"; entropy {item.entropy} nats a text, no bound is lower" if item.entropy else "")
        for name, item in CORPORA.items()
    }
    for name, item in CORPORA.items():
        if item.collection:
            lacking = missing(item.collection)
            rows[name] += f"; {COLLECTIONS[item.collection].terms}; " + (
                f"not there: `kvae data get {item.collection}`" if lacking else f"in {data_folder()}"
            )
    rows["FILE"] = (
        "your own: UTF-8, plain, .gz, .bz2 or .xz, one text a line; a folder of such files; a pattern 'books/*.txt'"
    )
    show(options, {"folder": str(data_folder()), "corpora": report}, table(rows))


def data_get(options: argparse.Namespace) -> None:
    from kvae.training.downloads import get

    files = list(map(str, get(options.collection, options.source, say)))
    show(options, {"files": files}, "\n".join(files))


def parser() -> argparse.ArgumentParser:
    """Every command with its arguments."""
    top = argparse.ArgumentParser(
        prog="kvae", description="Text VAEs whose latent code stays alive, shipped as ONNX samplers."
    )
    top.add_argument("--version", action="version", version=f"kvae {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, description: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=description, description=description)
        added.set_defaults(run=run)
        added.add_argument("--json", action="store_true", help="print one JSON object on standard output")
        return added

    def bundle_command(name: str, run: Any, description: str) -> argparse.ArgumentParser:
        added = command(name, within_deadline(run), description)
        added.add_argument("bundle", metavar="BUNDLE", help="the folder that `kvae export` wrote")
        added.add_argument("--threads", type=int, help="cores to use (default: all)")
        added.add_argument(
            "--deadline", type=float, metavar="SECONDS", help="give up after this time, with exit code 5"
        )
        return added

    def file_argument(added: argparse.ArgumentParser, unknown: str = "refuse") -> None:
        added.add_argument(
            "file",
            metavar="FILE",
            nargs="?",
            default="-",
            help="one text a line, .gz, .bz2 and .xz too; - is standard input (default)",
        )
        unknown_argument(added, unknown)

    def unknown_argument(added: argparse.ArgumentParser, default: str = "refuse") -> None:
        added.add_argument(
            "--unknown",
            choices=("refuse", "replace"),
            default=default,
            help="characters or words the model never saw (default: %(default)s)",
        )

    def choice_arguments(added: argparse.ArgumentParser) -> None:
        added.add_argument("--seed", type=int, help="same seed, same texts (default: drawn and shown)")
        added.add_argument("--greedy", action="store_true", help="always the likeliest symbol")
        added.add_argument("--temperature", type=float, help="below 1 safer, above 1 wilder (default: 1)")
        added.add_argument("--top-k", type=int, default=0, help="draw from the K likeliest symbols")
        added.add_argument(
            "--top-p", type=float, default=1.0, help="draw from the likeliest symbols that hold this share"
        )
        added.add_argument("--min-length", type=int, default=1, help="tokens at least (default: %(default)s)")
        added.add_argument("--max-length", type=int, help="tokens at most")
        added.add_argument(
            "--attribute", metavar="VALUE", help="the label to write for (default: each text draws its own)"
        )

    added = command(
        "demo", demo, "train a small hybrid on the names of the Unicode characters, export, verify and sample it"
    )
    added.add_argument("--out", default="runs/demo", help="run folder to make (default: %(default)s)")
    added.add_argument("--overwrite", action="store_true", help="remove an earlier run of that name first")

    def training_arguments(added: argparse.ArgumentParser, out: str) -> None:
        added.add_argument("--preset", help=f"see `kvae presets` (default: {PRESET})")
        added.add_argument(
            "--data",
            metavar="NAME|FILE",
            help="see `kvae data list`; UTF-8 files, plain, .gz, .bz2 or .xz, a folder or a pattern (default: unicode-names)",
        )
        added.add_argument(
            "--tokenizer",
            choices=("char", "byte", "word", "wordpiece"),
            help="what a symbol is (default: the preset's or the corpus', else char)",
        )
        added.add_argument("--validation", metavar="FILE", help="held-out texts (default: a twentieth of the data)")
        added.add_argument(
            "--labels",
            metavar="FILE",
            help="condition on the label in each line of FILE; `corpus`: the corpus' own labels",
        )
        added.add_argument("--validation-labels", metavar="FILE", help="the labels of --validation")
        added.add_argument("--out", required=True, help=out)
        length = added.add_mutually_exclusive_group()
        length.add_argument("--epochs", type=int)
        length.add_argument("--steps", type=int)
        added.add_argument("--batch-size", type=int)
        added.add_argument("--seed", type=int)
        added.add_argument("--devices", type=int, metavar="N", help="share each batch between N devices (default: 1)")
        added.add_argument(
            "--set",
            metavar="KEY=VALUE",
            action="append",
            default=[],
            help="any setting, as model.latent_size=64; may be repeated",
        )

    added = command("train", train, "train a preset on a corpus or a file")
    training_arguments(added, "run folder to make")
    earlier = added.add_mutually_exclusive_group()
    earlier.add_argument("--overwrite", action="store_true", help="remove an earlier run of that name first")
    earlier.add_argument(
        "--resume", action="store_true", help="go on with the run in --out from its last checkpoint, or start it"
    )

    added = command("tune", tune, "search for settings: many trainings, the best bound on held-out texts")
    training_arguments(added, "folder of the search; a search in it that was interrupted goes on")
    added.add_argument("--trials", type=int, default=20, help="trainings (default: %(default)s)")
    added.add_argument(
        "--search",
        metavar="KEY=VALUES",
        action="append",
        default=[],
        help="what to try: objective.alpha=0.05..0.5 or model.latent_size=[16,64,[32,16]]; may be repeated "
        "(default: weight of the KL, size and levels of the code, auxiliary loss)",
    )

    added = command("evaluate", evaluate, "measure a run on its held-out texts or on a file")
    added.add_argument("run_folder", metavar="RUN")
    added.add_argument("--data", metavar="FILE", help="other texts than the held-out split")
    added.add_argument("--labels", metavar="FILE", help="their labels, one a line")
    added.add_argument(
        "--importance-samples", type=int, default=0, metavar="K", help="also bound -log p(x) with K codes a text"
    )
    added.add_argument(
        "--texts", type=int, default=1000, metavar="N", help="held-out texts to reconstruct (default: %(default)s)"
    )
    added.add_argument(
        "--samples", type=int, default=1000, metavar="N", help="samples to draw and compare (default: %(default)s)"
    )
    added.add_argument(
        "--too-long", choices=("refuse", "cut", "drop"), help="lines longer than the model (default: as trained)"
    )
    added.add_argument("--seed", type=int, default=0, help="of the codes drawn (default: %(default)s)")

    added = command("export", export, "write a run as a verified ONNX bundle, as a SavedModel, or both")
    added.add_argument("run_folder", metavar="RUN")
    added.add_argument(
        "bundle",
        metavar="BUNDLE",
        nargs="?",
        help="folder to make (default: RUN/bundle; none with --saved-model alone)",
    )
    added.add_argument("--saved-model", metavar="DIR", help="folder to make")
    added.add_argument(
        "--int8",
        action="store_true",
        help="weights in eight bits: a quarter of the size, faster where the model is wide",
    )

    added = bundle_command(
        "verify", verify, "check a bundle: its files, its seed test and, where Keras is installed, its model"
    )
    added.add_argument(
        "--against", metavar="RUN", help="compare with this run's Keras model (default: the run the bundle lies in)"
    )
    bundle_command("info", info, "what a bundle is and how good")

    added = bundle_command("sample", sample, "write new texts")
    added.add_argument("-n", type=int, default=10, help="how many (default: %(default)s)")
    added.add_argument(
        "--first-row", type=int, default=0, help="go on from this row of the seed (default: %(default)s)"
    )
    choice_arguments(added)
    added = bundle_command("stream", stream, "write one text as it comes, symbol by symbol")
    added.add_argument("--row", type=int, default=0, help="of the seed (default: %(default)s)")
    choice_arguments(added)

    added = bundle_command("score", score, "how surprising texts are, the oddest first")
    file_argument(added, "replace")
    added.add_argument("-n", type=int, help="how many to show (default: all)")
    added.add_argument(
        "--by",
        choices=("bound", "bits_per_character"),
        default="bits_per_character",
        help="what to rank by: nats a text, or bits a character, which spares long texts (default: %(default)s)",
    )
    added.add_argument("--samples", type=int, default=1, help="codes a text to average over (default: %(default)s)")
    added.add_argument("--seed", type=int, default=0, help="of the codes (default: %(default)s)")
    added.add_argument("--attribute", metavar="VALUE", help="the label of all texts (default: guessed, at a price)")
    added.add_argument(
        "--too-long",
        choices=("refuse", "cut"),
        default="cut",
        help="texts longer than the model (default: %(default)s)",
    )

    file_argument(bundle_command("encode", encode, "the latent codes of texts"))
    file_argument(bundle_command("reconstruct", reconstruct, "texts through their codes and back, tab-separated"))
    added = bundle_command("interpolate", interpolate, "texts on the way from one to another")
    added.add_argument("first")
    added.add_argument("last")
    added.add_argument("--steps", type=int, default=7, help="texts, ends included (default: %(default)s)")
    added.add_argument("--path", choices=("linear", "spherical"), default="linear", help="(default: %(default)s)")
    unknown_argument(added)
    added = bundle_command("variations", variations, "texts from codes around that of a text")
    added.add_argument("text")
    added.add_argument("-n", type=int, default=10, help="how many (default: %(default)s)")
    added.add_argument(
        "--scale", type=float, default=1.0, help="how far, in standard deviations of its code (default: %(default)s)"
    )
    added.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    unknown_argument(added)
    added = bundle_command("neighbours", neighbours, "the texts of a file whose codes are closest to that of a text")
    added.add_argument("text")
    file_argument(added)
    added.add_argument("-n", type=int, default=10, help="how many (default: %(default)s)")
    added = bundle_command("arithmetic", arithmetic, "the text of a sum of codes")
    added.add_argument("--plus", nargs="+", required=True, metavar="TEXT", help="codes to add")
    added.add_argument("--minus", nargs="+", default=[], metavar="TEXT", help="codes to take away")
    unknown_argument(added)

    added = command("serve", serve, "a web service and a page to play with, for this machine")
    added.add_argument("bundle", metavar="BUNDLE", help="the folder that `kvae export` wrote")
    added.add_argument("--threads", type=int, help="cores to use (default: all)")
    added.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine only)"
    )
    added.add_argument("--port", type=int, default=8000, help="0: one that is free (default: %(default)s)")
    added.add_argument("--deadline", type=float, default=30.0, help="seconds a request may take (default: %(default)g)")
    added.add_argument(
        "--max-texts", type=int, default=1024, help="texts a request may be about (default: %(default)s)"
    )
    added.add_argument(
        "--max-body-bytes", type=int, default=2**20, help="bytes a request may have (default: %(default)s)"
    )
    added.add_argument("--queue", type=int, default=256, help="requests that may wait (default: %(default)s)")
    added.add_argument("--connections", type=int, default=1024, help="connections open at once (default: %(default)s)")
    added.add_argument(
        "--head-deadline",
        type=float,
        default=10.0,
        help="seconds for the head of a request to arrive (default: %(default)g)",
    )
    added.add_argument(
        "--shutdown-deadline",
        type=float,
        default=30.0,
        help="seconds to finish what runs when stopped (default: %(default)g)",
    )

    added = command(
        "reproduce",
        reproduce,
        "train what a table or figure needs and judge what its source says; finished runs are kept",
    )
    added.add_argument(
        "id",
        choices=(*STUDIES, ALL, BOOK, SYSTEMS),
        metavar="ID",
        help=f"{', '.join(STUDIES)}; {ALL}: all of these; {BOOK}: the book again from its results; {SYSTEMS}: every preset in "
        "small on one corpus",
    )
    added.add_argument("--scale", choices=("small", "paper"), default="small", help="for two cores, or as published")
    added.add_argument("--seeds", type=int, metavar="N", help="runs of each row (default: the study's own, 1 or 3)")
    added.add_argument("--rows", nargs="+", metavar="ROW", default=[], help="these rows only (of systems: presets)")
    added.add_argument("--out", help=f"folder of the runs (default: runs/reproduce, runs/{SYSTEMS})")
    added.add_argument("--book", metavar="FOLDER", help="also write the chapter into this book, as in docs")
    added.add_argument("--page", metavar="FILE", help=f"where {SYSTEMS} writes its table (default: in --out)")

    command("presets", presets, "the configurations that come with kvae")
    data = commands.add_parser("data", help="corpora").add_subparsers(
        dest="data_command", required=True, metavar="COMMAND"
    )
    added = data.add_parser("list", help="the corpora that `--data` knows by name")
    added.set_defaults(run=data_list)
    added.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    added = data.add_parser("get", help="bring the files of a corpus that cannot be shipped into the data folder")
    added.set_defaults(run=data_get)
    added.add_argument("collection", choices=("ptb", "tweets"))
    added.add_argument("--from", dest="source", metavar="FOLDER", help="copy from here (default: the public download)")
    added.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return top


def with_arguments(config: Any, options: argparse.Namespace) -> Any:
    """The preset with what the command line changes: flags, then --set."""
    from kvae.configuration import parse_setting

    flags = {
        "data.source": options.data,
        "model.tokenizer": options.tokenizer,
        "data.validation": options.validation,
        "data.labels": options.labels,
        "data.validation_labels": options.validation_labels,
        "training.epochs": options.epochs,
        "training.steps": options.steps,
        "training.batch_size": options.batch_size,
        "training.seed": options.seed,
        "training.devices": options.devices,
    }
    settings = {key: value for key, value in flags.items() if value is not None}
    if options.epochs is not None:
        settings["training.steps"] = None  # a run made longer may have been counted in steps
    if options.labels:
        settings["data.labelled_fraction"] = 1.0  # a preset may hide some, the user's own are all for use
    return config.with_settings({**settings, **dict(map(parse_setting, options.set))})


def load_sampler(options: argparse.Namespace) -> Any:
    from kvae.serving.sampler import Sampler

    return Sampler.load(options.bundle, options.threads)


def within_deadline(run: Any) -> Any:
    """A command that has `--deadline` seconds."""

    def limited(options: argparse.Namespace) -> None:
        from kvae.serving.limits import within

        with within(options.deadline):
            run(options)

    return limited


def input_texts(options: argparse.Namespace) -> list[str]:
    """The texts of the FILE argument, blank lines left out."""
    from kvae.training.corpora import read_texts

    notes: list[str] = []
    texts = read_texts(options.file, "lines", notes)
    for note in notes:
        say(note)
    return texts


def beside(bundle: str) -> Path | None:
    """The run folder that a bundle lies in, where Keras is there to read it."""
    from importlib.util import find_spec

    from kvae.runs import MODEL

    parent = Path(bundle).resolve().parent
    return parent if (parent / MODEL).is_file() and find_spec("keras") and find_spec("tensorflow") else None


@contextlib.contextmanager
def heavy_imports(*extras: str) -> Iterator[None]:
    """Import TensorFlow without its start-up chatter; say which extra is missing where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    follow_cpu_quota()
    with quiet_standard_error():
        try:
            if KERAS_EXTRAS & set(extras):
                start_keras()
            yield
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("kvae"):
                raise
            wanted = "jax" if error.name in ("jax", "jaxlib") else ",".join(extras)
            raise ConfigError(
                f"this command needs {error.name}, which is not installed: pip install 'kvae-text[{wanted}]'"
            ) from error


THREAD_COUNTS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "PJRT_NPROC")
"""What TensorFlow and JAX read when they start; without them they start a thread for each core of the affinity."""


def follow_cpu_quota() -> None:
    """In a container with a CPU quota, let TensorFlow and JAX start no more threads than it pays for."""
    from kvae.serving.cores import cpu_quota, usable_cores

    if math.isfinite(cpu_quota()):
        for name in THREAD_COUNTS:
            os.environ.setdefault(name, str(usable_cores()))


@contextlib.contextmanager
def quiet_standard_error() -> Iterator[None]:
    """Hold back what C libraries print, and give it out only if something fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            os.dup2(kept, 2)
            if not isinstance(error, KvaeError):
                held.seek(0)
                sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def on_tensorflow() -> str:
    """What stands before a command that runs on TensorFlow alone, where Keras is set to another backend."""
    import keras

    return "" if keras.backend.backend() == "tensorflow" else "KERAS_BACKEND=tensorflow "


def program(name: str) -> str:
    """How to call a program of this environment: by name where the shell finds it, by path where not."""
    return name if shutil.which(name) else os.path.relpath(Path(sys.executable).parent / name)


def say(sentence: str) -> None:
    """A line on standard error."""
    print(sentence, file=sys.stderr, flush=True)


def show(options: argparse.Namespace, report: Any, text: str) -> None:
    """A command's result: one JSON object with --json, else text."""
    print(to_json(report) if options.json else text)


def table(rows: Mapping[str, Any]) -> str:
    """Names and values in two columns."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def evaluation_table(report: Mapping[str, Any]) -> str:
    """The numbers of an evaluation with their units."""
    from kvae.training.evaluation import UNITS

    levels = [name for name in report if name.startswith("kl_level_")]
    units = UNITS | dict.fromkeys(levels if len(levels) > 1 else (), "nats per sequence")
    numbers = {name: value for name, value in report.items() if isinstance(value, int | float)}
    return table({name: f"{cell(value):>12}  {units[name]}" for name, value in numbers.items() if name in units})


def text_tables(report: Mapping[str, Any]) -> Iterator[str]:
    """The groups of numbers about what a model wrote, each with a heading."""
    from kvae.training.generation import TABLES, UNITS

    for title, groups in TABLES.items():
        columns = {name: heading for name, heading in groups.items() if name in report}
        names = [name for name in UNITS if any(name in report[group] for group in columns)]
        rows = {
            name: "  ".join(f"{cell(report[group].get(name, '')):>15}" for group in columns)
            + f"  {UNITS[name].format_map(report)}"
            for name in names
        }
        heads = {"": "  ".join(f"{heading:>15}" for heading in columns.values())}
        if rows:
            yield f"{title}\n{'-' * len(title)}\n" + table(heads | rows if len(columns) > 1 else rows)


def cell(value: Any) -> str:
    """A number with its points one under the other."""
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}    " if isinstance(value, int) else value


def parity_line(record: Mapping[str, Any]) -> str:
    """A parity record as a sentence."""
    return (
        f"largest logit difference against Keras {record['largest_turn_difference']:.1e} (at most {record['tolerance']:g}), "
        f"greedy decoding equal in {record['greedy_rows_equal']} of {record['rows']} rows"
    )


def quantization_line(record: Mapping[str, Any]) -> str:
    """What eight bits changed, as a sentence."""
    return (
        f"{record['kind']}, {100 * record['size_ratio']:.0f} % of the size; on {record['texts']} texts a bound of "
        f"{record['bound']:.2f} nats instead of {record['bound_in_float32']:.2f}, "
        f"{100 * record['likeliest_symbols_unchanged']:.2f} % of the likeliest symbols unchanged"
    )
