"""`kvae demo`: train, export, verify and sample a small model of Unicode character names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import Commands, add_command, overwrite_argument
from .export import EXPORTING
from .heavy_imports import heavy_imports
from .output import program, say
from .reports import GREEDY_SAMPLES, evaluation_table, pair, parity_line, section

if TYPE_CHECKING:
    from kvae.configuration import Config
    from kvae.runs import Run
    from kvae.serving.sampler import Sampler
    from kvae.training.data.prepare import Prepared
    from kvae.training.messages import Say

CORPUS = "unicode-names"
STEPS = 5400
"""Training steps of the demo, six epochs of equal length."""

INTERPOLATION_ENDS = ("GREEK SMALL LETTER ALPHA", "BLACK CHESS QUEEN")
"""The two names of characters between which the report interpolates."""


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "demo",
        run,
        "train a small hybrid on the names of the Unicode characters, export, verify and sample it",
    )
    parser.add_argument(
        "--out", default="runs/demo", help="run folder to make (default: %(default)s)"
    )
    overwrite_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Train, evaluate, export, verify and sample into a new run folder, and print a report."""
    with heavy_imports("train", "export"):
        import kvae.export.bundle  # noqa: F401  (a missing package is reported before training)
        from kvae.export.convert import check_backend
        from kvae.training.experiment import run_keeping_lock
    check_backend()
    with run_keeping_lock(demo_config(), options.out, say, options.overwrite, read=demo_plan) as (
        trained,
        prepared,
    ):
        report(trained, prepared)  # the run folder stays locked until the bundle is written


def demo_config() -> Config:
    """The preset that plans start from, on the corpus that needs no file."""
    from kvae.presets import preset
    from kvae.run_defaults import PRESET

    return preset(PRESET).with_settings({"data.source": CORPUS})


def demo_plan(config: Config, say: Say) -> Prepared:
    """The plan of `--goal reconstruction` for a number of steps, so that the demo ends with the
    same texts each time."""
    from kvae.training.plan import Wishes, planned

    return planned(config, (), STEPS, Wishes("reconstruction"), say)


def report(trained: Run, prepared: Prepared) -> None:
    """Export, verify and sample a trained run, and print the results."""
    from kvae.export.bundle import write_bundle
    from kvae.serving.sampler import Sampler
    from kvae.serving.verification import verify
    from kvae.training.evaluation import evenly_spaced

    say("counting character n-grams for comparison")
    baselines = ngram_bounds(prepared)
    say(EXPORTING)
    bundle = trained.path / "bundle"
    write_bundle(
        trained.model,
        trained.alphabet,
        trained.config,
        bundle,
        trained.evaluation,
        prepared.validation,
        say=say,
    )
    verification = verify(bundle)
    originals = trained.alphabet.decode(evenly_spaced(prepared.validation, 5))

    print_bounds(trained.evaluation, baselines)
    print("\n" + section("Verified bundle"))
    print(parity_line(verification["parity_at_export"]))
    print_texts(Sampler.load(bundle), originals)
    print_next_steps(trained.path, bundle)


def ngram_bounds(prepared: Prepared) -> dict[int, float]:
    """Nats a name of two character n-gram models, by their order, the characters that they read."""
    from kvae.training.generation import ORDER
    from kvae.training.ngram import NGram

    return {
        order: NGram.fit(prepared.train_texts, order).mean_nats(prepared.validation_texts)
        for order in (3, ORDER)
    }


def print_bounds(evaluation: Mapping[str, Any], baselines: Mapping[int, float]) -> None:
    """Print the evaluation, and compare our bound with the n-gram models."""
    print("\n" + section(f"Held-out {CORPUS}"))
    print(evaluation_table(evaluation))
    bits = evaluation["bits_per_character"]
    print(
        f"\nour bound  {evaluation['elbo']:6.2f} nats a name, {bits:.3f} bits a character: "
        "lower is better"
    )
    for order, nats in baselines.items():
        print(
            f"order {order}    {nats:6.2f} nats a name: a character model that reads {order} "
            "characters, Witten-Bell smoothing"
        )


def print_texts(sampler: Sampler, originals: list[str]) -> None:
    """Print samples, reconstructions and an interpolation."""
    print("\n" + section(GREEDY_SAMPLES, sampler.sample(10, seed=0, greedy=True)))
    pairs = zip(originals, sampler.reconstruct(originals), strict=True)
    print("\n" + section("Five held-out names and their reconstructions", map(pair, pairs)))
    walk = sampler.interpolate(*INTERPOLATION_ENDS)
    print("\n" + section(f"From {INTERPOLATION_ENDS[0]} to {INTERPOLATION_ENDS[1]}", walk))


def print_next_steps(run_folder: Path, bundle: Path) -> None:
    """Print commands to try with the new run and bundle."""
    print("\n" + section("Next"))
    print(
        f"TensorBoard logs are in {run_folder}/logs, the learning curves in "
        f"{run_folder}/report/curves.png. Try:\n"
    )
    print(f"  {program('kvae')} sample {bundle} -n 10 --temperature 0.8")
    print(f"  {program('kvae')} serve {bundle}")
    print(f"  {program('tensorboard')} --logdir {run_folder}/logs")
    print(f"  {program('kvae')} train --data YOUR_FILE.txt --out runs/mine")
