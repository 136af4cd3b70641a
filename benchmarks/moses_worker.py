"""The part of moses_rivals.py that runs in the environment of MOSES, which that script makes.

A model is trained by the `fit` of its trainer. Only the progress bar is another one: it counts the
examples and ends the training when the time is over.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import random
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import rdkit
import torch
from torch.nn import functional
from torch.nn.utils.rnn import pack_sequence

SEED = 0
HELD_OUT, RECONSTRUCTED = 2000, 200
"""Test molecules for the bound, and those of them for the reconstructions."""

BATCH = 512
"""Rows of a batch in all that is measured. The batches of the training are those of MOSES."""

COLD = 1e-8
"""A temperature at which only exact ties are left to chance."""

CLASSES = {"vae": ("VAE", "VAETrainer"), "char_rnn": ("CharRNN", "CharRNNTrainer")}


# --- what MOSES needs to run beside today's packages ----------------------------------------------


class TorchWithBooleans(ModuleType):
    """PyTorch, where a mask of bytes becomes one of booleans, as today's PyTorch expects."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def zeros(*size: Any, dtype: torch.dtype | None = None, **options: Any) -> torch.Tensor:
        return torch.zeros(*size, dtype=torch.bool if dtype is torch.uint8 else dtype, **options)


def import_moses() -> None:
    """Import MOSES, with a stand-in for the module of RDKit that went with Python 2."""
    warnings.simplefilter("ignore", FutureWarning)
    six: Any = ModuleType("rdkit.six")
    six.iteritems = lambda mapping: iter(mapping.items())
    sys.modules["rdkit.six"] = six
    model: Any = importlib.import_module("moses.vae.model")
    model.torch = TorchWithBooleans("torch")


# --- training -------------------------------------------------------------------------------------


class TimeIsOver(Exception):
    """The training has had its minutes."""


class Clock:
    """Stands in for the progress bar of a trainer, a bar for each epoch."""

    start: ClassVar[float]
    seconds: ClassVar[float]
    batch: ClassVar[int]
    steps: ClassVar[int] = 0
    progress: ClassVar[Any] = None
    """What the trainer last said of its losses."""

    def __init__(self, batches: Any, desc: str = "") -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            if time.perf_counter() - Clock.start > Clock.seconds:
                raise TimeIsOver
            yield batch
            Clock.steps += 1

    def set_postfix_str(self, text: str) -> None:
        Clock.progress = text

    def set_postfix(self, values: dict[str, Any]) -> None:
        Clock.progress = dict(values)


def trained(name: str, minutes: float) -> tuple[Any, Any, dict[str, Any]]:
    """A model, its trainer and the numbers of its training."""
    from moses.dataset import get_dataset

    package: Any = importlib.import_module(f"moses.{name}")
    model_class, trainer_class = (getattr(package, part) for part in CLASSES[name])
    config = getattr(package, f"{name}_parser")().parse_args([])
    config.log_file = config.model_save = None
    trainer = trainer_class(config)
    data = get_dataset("train")
    torch.manual_seed(SEED)
    model = model_class(trainer.get_vocabulary(data), config)
    loop: Any = importlib.import_module(f"moses.{name}.trainer")
    loop.tqdm = Clock
    Clock.seconds, Clock.batch, Clock.start = 60 * minutes, config.n_batch, time.perf_counter()
    with contextlib.suppress(TimeIsOver):
        trainer.fit(model, data)
    seconds = time.perf_counter() - Clock.start
    examples = Clock.steps * Clock.batch
    return (
        model.eval(),
        trainer,
        {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "batch": Clock.batch,
            "seconds": seconds,
            "examples": examples,
            "epochs": examples / len(data),
            "examples_per_second": examples / seconds,
            "last_losses": Clock.progress,
        },
    )


# --- measuring ------------------------------------------------------------------------------------


def batches(texts: list[str]) -> Iterator[list[str]]:
    """The texts in batches, the longest text of each first as the models need it."""
    for start in range(0, len(texts), BATCH):
        yield sorted(texts[start : start + BATCH], key=len, reverse=True)


@torch.no_grad()
def bound_of_vae(model: Any, collate: Any, texts: list[str]) -> dict[str, float]:
    """Reconstruction and KL in nats a molecule. `kl_loss` is a mean over molecules and
    `recon_loss` one over tokens."""
    reconstruction = kl = tokens = 0.0
    for batch in batches(texts):
        kl_loss, recon_loss = model(collate(batch))
        kl += kl_loss.item() * len(batch)
        targets = sum(len(text) + 1 for text in batch)
        reconstruction += recon_loss.item() * targets
        tokens += targets
    return per_molecule(reconstruction, kl, tokens, len(texts))


@torch.no_grad()
def bound_of_char_rnn(model: Any, collate: Any, texts: list[str]) -> dict[str, float]:
    """The negative log-likelihood in nats a molecule, without the padding that the trainer counts
    in its loss."""
    loss = tokens = 0.0
    for batch in batches(texts):
        previous, targets, lengths = collate(batch)
        logits, _, _ = model(previous, lengths)
        padding = model.vocabulary.pad
        losses = functional.cross_entropy(
            logits.transpose(1, 2), targets, ignore_index=padding, reduction="sum"
        )
        loss += losses.item()
        tokens += int((targets != padding).sum())
    return per_molecule(loss, 0.0, tokens, len(texts))


def per_molecule(reconstruction: float, kl: float, tokens: float, texts: int) -> dict[str, float]:
    """The terms of the bound, and the tokens with the end mark, as means over molecules."""
    return {
        "bound": (reconstruction + kl) / texts,
        "reconstruction": reconstruction / texts,
        "kl": kl / texts,
        "tokens": tokens / texts,
    }


@torch.no_grad()
def exact_reconstructions(model: Any, texts: list[str]) -> int:
    """How many texts the model decodes greedily from the means of their posteriors."""
    exact = 0
    for batch in batches(texts):
        embedded = [model.x_emb(model.string2tensor(text)) for text in batch]
        _, state = model.encoder_rnn(pack_sequence(embedded))
        decoded = model.sample(len(batch), z=model.q_mu(state[-1]), temp=COLD)
        exact += sum(text == other for text, other in zip(batch, decoded, strict=True))
    return exact


def sampled(model: Any, count: int) -> tuple[list[str], float]:
    """Samples at temperature 1, and the seconds that they took."""
    started, texts = time.perf_counter(), list[str]()
    while len(texts) < count:
        texts += model.sample(min(BATCH, count - len(texts)))
    return texts, time.perf_counter() - started


def valid_share(texts: list[str]) -> float:
    """The share of texts that are molecules, as MOSES counts it."""
    from moses.metrics import fraction_valid

    rdkit.RDLogger.DisableLog("rdApp.*")
    return float(fraction_valid(texts))


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure a model. The samples and the test molecules lie beside the result."""
    from moses.dataset import get_dataset

    name, out = options.name, options.result.parent
    model, trainer, numbers = trained(name, options.minutes)
    # The files of MOSES are not shuffled: the first molecules are shorter than the mean.
    texts = random.Random(SEED).sample(list(get_dataset("test")), HELD_OUT)
    (out / "test.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    torch.manual_seed(SEED)
    bound = bound_of_vae if name == "vae" else bound_of_char_rnn
    numbers |= bound(model, trainer.get_collate_fn(model), texts)
    if name == "vae":
        numbers["exact_reconstructions"] = exact_reconstructions(model, texts[:RECONSTRUCTED])
        numbers["reconstructed_of"] = RECONSTRUCTED
    samples, seconds = sampled(model, options.samples)
    (out / f"{name}.txt").write_text("\n".join(samples) + "\n", encoding="utf-8")
    return {
        "model": name,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **numbers,
        "samples": len(samples),
        "sample_seconds": seconds,
        "samples_per_second": len(samples) / seconds,
        "valid": valid_share(samples),
    }


def measures(options: argparse.Namespace) -> dict[str, Any]:
    """`get_all_metrics` of the lines of a file, with their number and the seconds."""
    from moses.metrics import get_all_metrics

    started = time.perf_counter()
    texts = options.file.read_text(encoding="utf-8").splitlines()
    found = get_all_metrics(texts, n_jobs=options.jobs)
    numbers = {name: float(value) for name, value in found.items()}
    return {
        "file": options.file.name,
        "lines": len(texts),
        "rdkit": rdkit.__version__,
        "seconds": time.perf_counter() - started,
        "metrics": numbers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.add_argument("name", choices=list(CLASSES))
    training.add_argument("--minutes", type=float, required=True)
    training.add_argument("--samples", type=int, required=True)
    training.set_defaults(work=train)
    measuring = commands.add_parser("measures")
    measuring.add_argument("file", type=Path)
    measuring.add_argument("--jobs", type=int, required=True)
    measuring.set_defaults(work=measures)
    for command in (training, measuring):
        command.add_argument("--result", type=Path, required=True)
    options = parser.parse_args()
    import_moses()
    result = options.work(options)
    options.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
