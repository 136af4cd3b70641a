"""Train the published baselines of MOSES for some minutes, or compute its own measures.

    python benchmarks/moses_rivals.py [--models vae char_rnn] [--minutes 15] [--samples 30000]
                                      [--out runs/moses_rivals] [--environment FOLDER]
    python benchmarks/moses_rivals.py --measures FILE [--out ...] [--environment FOLDER]

MOSES (Polykovskiy et al. 2020) publishes a VAE and a CharRNN in the package `molsets`. They are
trained on its data, by its own trainers with its own default settings, on the CPU. The time ends
the training, which may be in the first epoch. `--out` then has `NAME.json` with the numbers of a
model, `NAME.txt` with its samples and `test.txt` with the held-out molecules that it was measured
on.

The trainer of the VAE averages the reconstruction over tokens and sums the KL over a molecule. Its
weight of the KL is 0 for all of the first epoch and grows by 0.0005 an epoch, to 0.0495 in the
last of 100. With 37 tokens a molecule, that last weight is 1.8 in nats a molecule. This schedule is
kept as it is. A training that ends in the first epoch is that of an autoencoder: nothing draws its
codes to the prior.

`--measures` computes `get_all_metrics` on a file of SMILES, one a line. It compares them with the
statistics of the test sets that the package has. The result is `measures-NAME.json`, and a table
shows it beside the measures of `kvae.training.moses` (the extra `molecules`).

The package needs older versions of others. So an environment of some 6 GB is made, in FOLDER or in
a temporary folder, and used again if it is complete. It needs Python 3.11. Beside other programs
on the same cores, set OMP_WAIT_POLICY=PASSIVE: waiting threads then leave the cores to others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

MODELS = ("vae", "char_rnn")
PACKAGES = (
    "pandas==1.5.3",
    "numpy==1.26.4",
    "rdkit==2024.3.5",
    "torch==2.14.1",
    "scipy==1.17.1",
    "tqdm==4.70.1",
    "fcd_torch==1.0.7",
    "matplotlib==3.11.2",
)
MOSES = "molsets==0.3.1"
"""Installed without its requirements: one of them, for other baselines, is not needed."""

PYTHON = (3, 11)
"""The newest Python for which this pandas is built."""

OURS = {
    "Frag": "fragments",
    "Scaf": "scaffolds",
    "IntDiv": "internal_diversity",
    "IntDiv2": "internal_diversity_2",
    "Filters": "filters",
    "Novelty": "novel",
}
"""Names of measures in kvae, where they differ from those of MOSES."""

WORKER = Path(__file__).with_name("moses_worker.py")


def installed(folder: Path) -> Path:
    """The Python of the virtual environment in `folder`, made unless it is there."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        if sys.version_info[:2] != PYTHON:
            sys.exit(f"the environment needs Python {PYTHON[0]}.{PYTHON[1]}")
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *PACKAGES], check=True)
        subprocess.run([*install, "--no-deps", MOSES], check=True)
        (folder / "complete").touch()
    return python


def work(python: Path, result: Path, *arguments: Any) -> dict[str, Any]:
    """What the worker writes to `result`. It runs in the environment of `python`."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [str(python), str(WORKER), *map(str, arguments), "--result", str(result)]
    subprocess.run(command, check=True, env=environment)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def ours(file: Path) -> dict[str, float]:
    """The measures of kvae on the lines of a file."""
    from kvae.training.molecules import canonical
    from kvae.training.moses import (
        measures,
        published_activations,
        reference_profiles,
        training_set,
    )

    samples = canonical(file.read_text(encoding="utf-8").splitlines())
    return measures(samples, reference_profiles(print), training_set(), published_activations())


def print_beside_ours(theirs: dict[str, float], found: dict[str, float]) -> None:
    """A line for each measure: the value of MOSES and ours."""
    for name, value in theirs.items():
        part, slash, reference = name.partition("/")
        mine = found.get(OURS.get(part, part) + slash + reference, float("nan"))
        print(f"{name:14} {value:9.5f} {mine:9.5f}")


def run(python: Path, options: argparse.Namespace) -> None:
    """Compute the measures of a file, or train and measure each model."""
    out: Path = options.out
    if options.measures:
        result = out / f"measures-{options.measures.stem}.json"
        found = work(python, result, "measures", options.measures, "--jobs", options.jobs)
        print_beside_ours(found["metrics"], ours(options.measures))
        return
    for name in options.models:
        settings = ["--minutes", options.minutes, "--samples", options.samples]
        found = work(python, out / f"{name}.json", "train", name, *settings)
        print(name, json.dumps(found, indent=1), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--minutes", type=float, default=15, help="of training (default: 15)")
    parser.add_argument("--samples", type=int, default=30000, help="(default: 30000)")
    parser.add_argument("--measures", type=Path, metavar="FILE", help="a file of SMILES")
    parser.add_argument("--jobs", type=int, default=1, help="processes for the measures")
    parser.add_argument("--out", type=Path, default=Path("runs/moses_rivals"))
    parser.add_argument("--environment", type=Path, help="(default: a temporary folder)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.environment:
        run(installed(options.environment.absolute()), options)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(installed(Path(folder)), options)


if __name__ == "__main__":
    main()
