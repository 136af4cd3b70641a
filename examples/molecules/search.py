"""A latent space of molecules: neighbours, interpolation, prediction of a property, and a search.

    pip install kvae-text rdkit
    python search.py BUNDLE MOLECULES --property logP --out pictures

BUNDLE is a bundle that `kvae export` wrote of a model of SMILES strings, MOLECULES a file with a
SMILES string in each line, or a CSV file with a column SMILES. The program needs the bundle, kvae's
sampler, numpy and RDKit. It prints numbers and writes pictures of molecules.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem import QED, Crippen, Descriptors, Draw

from kvae.serving import Sampler

PROPERTIES: dict[str, Callable[[Chem.Mol], float]] = {
    "logP": Crippen.MolLogP,
    "QED": QED.qed,
    "weight": Descriptors.MolWt,
}
RIDGE = 1.0
"""Penalty of the squared weights of a regression, on standardised features."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("molecules")
    parser.add_argument("--property", choices=PROPERTIES, default="logP")
    parser.add_argument("--count", type=int, default=20_000, help="molecules to learn from")
    parser.add_argument("--test", type=int, default=20_000, help="molecules to test on")
    parser.add_argument("--steps", type=int, default=10, help="steps of the search")
    parser.add_argument("--out", type=Path, default=Path("pictures"))
    options = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    sampler = Sampler.load(options.bundle)
    texts = fitting(sampler, read_molecules(options.molecules))
    # Files of molecules are often sorted, and those of MOSES are in no random order either.
    np.random.default_rng(0).shuffle(texts)
    learn, test = texts[: options.count], texts[options.count :][: options.test]
    if not test:
        raise SystemExit(f"{options.molecules}: has {len(texts):,} molecules; lower --count")
    options.out.mkdir(parents=True, exist_ok=True)
    show_neighbours(sampler, learn[:2000], options.out)
    show_interpolation(sampler, test[0], test[-1], options.out)
    measure = PROPERTIES[options.property]
    codes = sampler.encode(learn, "replace")
    report(codes, sampler.encode(test, "replace"), learn, test)
    show_search(sampler, measure, options.property, learn, codes, options)


def read_molecules(file: str) -> list[str]:
    """The SMILES strings of a file of lines, or of the column SMILES of a CSV file, that RDKit can
    read."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    if "SMILES" in lines[0].split(","):
        lines = [row["SMILES"] for row in csv.DictReader(lines)]
    return [line for line in lines if line and Chem.MolFromSmiles(line)]


def fitting(sampler: Sampler, texts: Sequence[str]) -> list[str]:
    """The texts that are not too long for the model, whose last position is the end mark."""
    return [text for text in texts if sampler.alphabet.count(text) < sampler.length]


def measured(texts: Sequence[str], measure: Callable[[Chem.Mol], float]) -> np.ndarray:
    """A property of each molecule, (n,)."""
    return np.array([measure(Chem.MolFromSmiles(text)) for text in texts])


def standardised(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Features (n, d) with mean 0 and deviation 1 on the reference, and a column of ones."""
    deviation = reference.std(axis=0)
    scaled = (features - reference.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return np.hstack([scaled, np.ones((len(scaled), 1))])


def ridge(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weights (d + 1,) of a ridge regression on standardised features (Hoerl and Kennard 1970)."""
    table = standardised(features, features)
    penalty = RIDGE * np.eye(table.shape[1])
    penalty[-1, -1] = 0.0  # the constant is free
    return np.linalg.solve(table.T @ table + penalty, table.T @ values)


def r_squared(values: np.ndarray, predicted: np.ndarray) -> float:
    """1 - the squared error divided by that of the mean."""
    return float(1.0 - ((values - predicted) ** 2).sum() / ((values - values.mean()) ** 2).sum())


def character_counts(texts: Sequence[str], characters: Sequence[str]) -> np.ndarray:
    """How often each character occurs in each text, (n, d)."""
    return np.array([[text.count(character) for character in characters] for text in texts], float)


def report(
    codes: np.ndarray, test_codes: np.ndarray, learn: Sequence[str], test: Sequence[str]
) -> None:
    """Print R2 of every property on the test molecules, predicted from codes and from counts of
    characters."""
    characters = sorted(set("".join(learn)))
    tables = {
        "code": (codes, test_codes),
        "counts of characters": tuple(character_counts(part, characters) for part in (learn, test)),
    }
    for name, measure in PROPERTIES.items():
        values, test_values = measured(learn, measure), measured(test, measure)
        phrases = []
        for kind, (known, new) in tables.items():
            predicted = standardised(new, known) @ ridge(known, values)
            phrases.append(f"{r_squared(test_values, predicted):.3f} from the {kind}")
        print(f"{name}: R2 {', '.join(phrases)}")


def show_neighbours(sampler: Sampler, texts: Sequence[str], out: Path) -> None:
    """Print the molecules with the codes nearest to that of the first one, and draw them."""
    nearest = sampler.neighbours(texts[0], texts[1:], n=8, unknown="replace")
    print(f"neighbours of {texts[0]}:")
    for text, distance in nearest:
        print(f"  {distance:6.2f}  {text}")
    draw([texts[0], *(text for text, _ in nearest)], out / "neighbours.png")


def show_interpolation(sampler: Sampler, first: str, last: str, out: Path) -> None:
    """Print and draw the molecules on the way from one to another, and the share that is valid."""
    path = sampler.interpolate(first, last, steps=9, path="spherical", unknown="replace")
    valid = [text for text in path if Chem.MolFromSmiles(text)]
    print(f"interpolation: {len(valid)} of {len(path)} valid: " + "  ".join(path))
    draw(valid, out / "interpolation.png")


def show_search(
    sampler: Sampler,
    measure: Callable[[Chem.Mol], float],
    name: str,
    learn: Sequence[str],
    codes: np.ndarray,
    options: argparse.Namespace,
) -> None:
    """Move the codes of the best molecules along the gradient of the prediction, decode them, and
    compare the best valid molecule with the best of the training sample."""
    values = measured(learn, measure)
    best = np.argsort(-values)[:200]
    # The prediction is linear in the code, so its gradient is the same everywhere.
    gradient = ridge(codes, values)[:-1] / np.maximum(codes.std(axis=0), 1e-6)
    step = gradient / np.linalg.norm(gradient)
    found: dict[str, float] = {}
    for distance in np.linspace(0.0, 3.0, options.steps):
        moved = (codes[best] + distance * step).astype(np.float32)
        for text in sampler.decode(moved):
            molecule = Chem.MolFromSmiles(text) if text else None
            if molecule is not None:
                found[Chem.MolToSmiles(molecule)] = measure(molecule)
    known = {Chem.MolToSmiles(Chem.MolFromSmiles(text)) for text in learn}
    new = sorted(set(found) - known, key=lambda text: -found[text])
    print(f"best {name} of {len(learn):,} molecules: {values.max():.2f} {learn[values.argmax()]}")
    best_new = f"{found[new[0]]:.2f} {new[0]}" if new else "none"
    print(f"best of {len(new):,} new molecules on the way: {best_new}")
    draw(new[:9], options.out / "search.png")


def draw(texts: Sequence[str], file: Path) -> None:
    """Write a picture of molecules with their SMILES strings."""
    if texts:
        picture = Draw.MolsToGridImage(
            [Chem.MolFromSmiles(text) for text in texts],
            molsPerRow=3,
            subImgSize=(300, 220),
            legends=list(texts),
        )
        picture.save(file)


if __name__ == "__main__":
    main()
