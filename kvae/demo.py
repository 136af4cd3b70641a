"""`kvae demo`: the whole way in small, from the names of the Unicode characters to a verified sampler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kvae.cli import evaluation_table, parity_line, program
from kvae.configuration import Config
from kvae.export.bundle import write_bundle
from kvae.export.convert import check_backend
from kvae.presets import preset
from kvae.runs import Run
from kvae.serving.sampler import Sampler
from kvae.serving.verification import verify
from kvae.training.corpora import Prepared
from kvae.training.evaluation import spread
from kvae.training.experiment import running
from kvae.training.generation import ORDER
from kvae.training.ngram import NGram

CORPUS = "unicode-names"
ENDS = ("GREEK SMALL LETTER ALPHA", "BLACK CHESS QUEEN")
"""The two real names that the interpolation joins."""

RIVALS = (3, ORDER)
"""Orders of the character models printed beside the bound."""


def demo_config() -> Config:
    """Preset `hybrid-lstm` on the corpus that is always there."""
    return preset("hybrid-lstm").with_settings({"data.source": CORPUS})


def demonstrate(out: str | Path, say: Callable[[str], None], overwrite: bool = False) -> None:
    """Train, evaluate, export, verify and sample into the new run folder `out`, and print a report."""
    check_backend()
    with running(demo_config(), out, say, overwrite) as (trained, prepared):  # until its bundle is there too
        report(trained, prepared, say)


def report(trained: Run, prepared: Prepared, say: Callable[[str], None]) -> None:
    """Export, verify and sample a trained run, and print what came out."""
    say("counting character n-grams for comparison")
    rivals = {order: NGram.fit(prepared.train_texts, order).mean_nats(prepared.validation_texts) for order in RIVALS}
    say("exporting, then comparing with Keras")
    bundle = trained.path / "bundle"
    write_bundle(trained.model, trained.alphabet, trained.config, bundle, trained.evaluation, prepared.validation)
    checked = verify(bundle)
    sampler = Sampler.load(bundle)
    originals = trained.alphabet.decode(spread(prepared.validation, 5))
    evaluation = trained.evaluation

    section(f"Held-out {CORPUS}")
    print(evaluation_table(evaluation))
    bits = evaluation["bits_per_character"]
    print(f"\nour bound  {evaluation['elbo']:6.2f} nats a name, {bits:.3f} bits a character: lower is better")
    for order, nats in rivals.items():
        print(
            f"order {order}    {nats:6.2f} nats a name: a character model that reads {order} characters, Witten-Bell smoothing"
        )
    section("Verified bundle")
    print(parity_line(checked["parity_at_export"]))
    section("Ten samples, greedy: all variety comes from the latent code")
    print("\n".join(sampler.sample(10, seed=0, greedy=True)))
    section("Five held-out names and their reconstructions")
    print(
        "\n".join(
            f"{text}\n  -> {again}" for text, again in zip(originals, sampler.reconstruct(originals), strict=True)
        )
    )
    section(f"From {ENDS[0]} to {ENDS[1]}")
    print("\n".join(sampler.interpolate(*ENDS)))
    section("Next")
    print(
        f"TensorBoard logs are in {trained.path}/logs, the learning curves in {trained.path}/report/curves.png. Try:\n"
    )
    print(f"  {program('kvae')} sample {bundle} -n 10 --temperature 0.8")
    print(f"  {program('kvae')} serve {bundle}")
    print(f"  {program('tensorboard')} --logdir {trained.path}/logs")
    print(f"  {program('kvae')} train --data YOUR_FILE.txt --out runs/mine")


def section(title: str) -> None:
    """A heading of the report."""
    print(f"\n{title}\n{'-' * len(title)}")
