"""The measures of MOSES on samples of molecules (Polykovskiy et al. 2020), computed with RDKit.

Samples are canonical SMILES strings; invalid ones are left out first. Similarities are Tanimoto
coefficients of Morgan fingerprints with radius 2 and 1,024 bits. The Frechet ChemNet distance
(Preuer et al. 2018) needs the package fcd.
"""

from __future__ import annotations

import csv
import functools
import importlib.metadata
import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kvae.serving.errors import DataError
from kvae.writing import atomic_write

from .data.downloads import COLLECTIONS, data_folder, file_of, sha256_of
from .data.named_corpora import molecules
from .messages import Say
from .molecules import canonical, chemistry, needs, on_all_cores, properties

SAMPLES = 30_000
"""Number of samples that MOSES measures."""

BITS, RADIUS = 1024, 2
"""Size of a fingerprint, and the radius of its atom environments in bonds."""

ALLOWED = frozenset(("C", "N", "S", "O", "F", "Cl", "Br", "H"))
"""Elements that pass the filters."""

LARGEST_RING = 7
"""Largest ring, in atoms, that passes the filters."""

FEWEST_RINGS = 2
"""Smallest number of rings of a scaffold that is compared."""

BLOCK = 5000
"""Fingerprints compared at a time."""

REFERENCES = {"test": "Test", "scaffolds": "TestSF"}
"""The parts of MOSES that samples are compared with, and the name that MOSES gives them."""


@dataclass(frozen=True)
class Profile:
    """What MOSES compares of a set of valid molecules."""

    fingerprints: np.ndarray
    """(N, 128) uint8, packed bits."""
    fragments: Mapping[str, int]
    scaffolds: Mapping[str, int]
    properties: Mapping[str, np.ndarray]
    """(N,) by name."""


class Description(NamedTuple):
    """What a `Profile` takes of one molecule."""

    fingerprint: np.ndarray
    fragments: list[str]
    scaffold: str
    """Empty with fewer than `FEWEST_RINGS` rings."""
    properties: tuple[float, ...]


@functools.cache
def fingerprints_of() -> Any:
    """RDKit's generator of fingerprints."""
    chemistry()
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)


def described(text: str) -> Description:
    """The description of a molecule by its SMILES string."""
    chem = chemistry()
    from rdkit.Chem.rdMolDescriptors import CalcNumRings
    from rdkit.Chem.rdmolops import FragmentOnBRICSBonds
    from rdkit.Chem.Scaffolds import MurckoScaffold

    molecule = chem.MolFromSmiles(text)
    scaffold = MurckoScaffold.GetScaffoldForMol(molecule)
    return Description(
        np.packbits(fingerprints_of().GetFingerprintAsNumPy(molecule)),
        chem.MolToSmiles(FragmentOnBRICSBonds(molecule)).split("."),
        chem.MolToSmiles(scaffold) if CalcNumRings(scaffold) >= FEWEST_RINGS else "",
        tuple(float(function(molecule)) for function in properties().values()),
    )


def profile(texts: Sequence[str]) -> Profile:
    """The profile of valid SMILES strings."""
    rows = list(on_all_cores(described, texts))
    scaffolds = Counter(row.scaffold for row in rows)
    del scaffolds[""]
    values = np.array([row.properties for row in rows]).reshape(len(rows), len(properties()))
    return Profile(
        np.array([row.fingerprint for row in rows], np.uint8).reshape(len(rows), BITS // 8),
        Counter(fragment for row in rows for fragment in row.fragments),
        scaffolds,
        dict(zip(properties(), values.T, strict=True)),
    )


class Gaussian(NamedTuple):
    """A Gaussian fitted to ChemNet's activations."""

    mean: np.ndarray
    """(512,)"""
    covariance: np.ndarray
    """(512, 512)"""


def chemnet(texts: Sequence[str]) -> Gaussian:
    """The Gaussian of valid SMILES strings. Raises `ConfigError` without the package fcd."""
    try:
        from fcd import get_predictions, load_ref_model
    except ModuleNotFoundError as error:
        raise needs("fcd") from error
    # Large batches are three times as fast on two cores.
    found = get_predictions(load_ref_model(), list(texts), batch_size=2048, n_jobs=0)
    return Gaussian(found.mean(axis=0, dtype=np.float64), np.cov(found.T.astype(np.float64)))


def published_chemnet(part: str) -> Gaussian:
    """The Gaussian of a part of MOSES, from the statistics in its package.

    The file holds a pickled object, so its sha256 is checked again first.
    """
    name = f"moses.{part}.npz"
    file = Path(file_of("moses", name))
    if sha256_of(file) != COLLECTIONS["moses"].files[name]:
        raise DataError(f"{file}: is not the file of MOSES; move it away and get it again")
    with np.load(file, allow_pickle=True) as arrays:
        statistics = arrays["stats"].item()["FCD"]
    return Gaussian(statistics["mu"], statistics["sigma"])


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The squared Frechet distance of two Gaussians, each by mean and covariance.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson and Landau 1982). The trace of the root is
    that of the symmetric matrix S1^(1/2) S2 S1^(1/2), which has the same eigenvalues.
    """
    (mean, covariance), (other_mean, other) = first, second
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ other @ root)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    distance = ((mean - other_mean) ** 2).sum() + np.trace(covariance) + np.trace(other)
    return float(distance - 2.0 * trace_of_root)


def similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Tanimoto coefficients (N, M) of packed fingerprints (N, 128) and (M, 128).

    Two empty fingerprints count as equal, as in MOSES.
    """
    left, right = (np.unpackbits(part, axis=1).astype(np.float32) for part in (first, second))
    shared = left @ right.T
    either = left.sum(axis=1)[:, None] + right.sum(axis=1) - shared
    coefficients = np.ones_like(shared)
    np.divide(shared, either, out=coefficients, where=either > 0)
    return coefficients


def blocks(table: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of a table, `BLOCK` at a time."""
    return (table[start : start + BLOCK] for start in range(0, len(table), BLOCK))


def nearest_similarity(samples: np.ndarray, references: np.ndarray) -> float:
    """Mean over the samples of the similarity to the nearest reference."""
    nearest = [
        np.max([similarities(rows, others).max(axis=1) for others in blocks(references)], axis=0)
        for rows in blocks(samples)
    ]
    return float(np.concatenate(nearest).mean())


def internal_diversity(samples: np.ndarray, power: int = 1) -> float:
    """1 - the mean over the samples of (mean over all samples of similarity^p)^(1/p)."""
    means = [
        sum((similarities(rows, others) ** power).sum(axis=1) for others in blocks(samples))
        / len(samples)
        for rows in blocks(samples)
    ]
    return 1.0 - float((np.concatenate(means) ** (1.0 / power)).mean())


def cosine(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """The cosine of two tables of counts; nan if one is empty."""
    dot = sum(count * second.get(name, 0) for name, count in first.items())
    norms = [np.sqrt(sum(count**2 for count in part.values())) for part in (first, second)]
    return float(dot / np.prod(norms)) if all(norms) else float("nan")


def wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """The Wasserstein distance of two samples of a number: the area between their distribution
    functions."""
    values = np.sort(np.concatenate([first, second]))
    shares = [
        np.searchsorted(np.sort(part), values[:-1], side="right") / len(part)
        for part in (first, second)
    ]
    return float((np.abs(shares[0] - shares[1]) * np.diff(values)).sum())


@functools.cache
def unwanted() -> list[Any]:
    """The substructures of MOSES' filters: medicinal chemistry (MCF) and PAINS."""
    # MCF has a header and the patterns in its second column, PAINS none and in its first.
    tables = {"moses.mcf.csv": (1, 1), "moses.pains.csv": (0, 0)}
    patterns = []
    for name, (first_row, column) in tables.items():
        with Path(file_of("moses", name)).open(encoding="utf-8", newline="") as file:
            patterns += [row[column] for row in list(csv.reader(file))[first_row:]]
    return [chemistry().MolFromSmarts(pattern) for pattern in patterns]


def passes_filters(text: str) -> bool:
    """Whether a valid SMILES string passes the filters of MOSES.

    It has only `ALLOWED` elements, no charged atom, no ring above `LARGEST_RING` and no unwanted
    substructure.
    """
    chem = chemistry()
    molecule = chem.MolFromSmiles(text)
    atoms = list(molecule.GetAtoms())
    if any(atom.GetFormalCharge() or atom.GetSymbol() not in ALLOWED for atom in atoms):
        return False
    if any(len(ring) > LARGEST_RING for ring in molecule.GetRingInfo().AtomRings()):
        return False
    with_hydrogens = chem.AddHs(molecule)
    return not any(with_hydrogens.HasSubstructMatch(pattern) for pattern in unwanted())


def measures(
    samples: Sequence[str | None],
    references: Mapping[str, Profile],
    training: frozenset[str],
    activations: Mapping[str, Gaussian] | None = None,
) -> dict[str, float]:
    """The measures of MOSES on samples: canonical SMILES strings, None for an invalid sample.

    docs/molecules.md explains them. `references` are profiles by the names of `REFERENCES`,
    `training` is the training set. With `activations`, Gaussians by the same names, FCD is measured
    too, which needs the package fcd. Without a valid sample only `valid` is measured.
    """
    valid = [text for text in samples if text is not None]
    result = {"valid": len(valid) / max(len(samples), 1)}
    if not valid:
        return result
    for count in (1000, 10_000):
        first = valid[:count]
        result[f"unique@{count}"] = len(set(first)) / len(first)
    distinct = set(valid)
    own = profile(valid)
    result |= {
        "novel": len(distinct - training) / len(distinct),
        "filters": float(np.mean(list(on_all_cores(passes_filters, valid)))),
        "internal_diversity": internal_diversity(own.fingerprints),
        "internal_diversity_2": internal_diversity(own.fingerprints, 2),
    }
    for part, reference in references.items():
        result[f"SNN/{part}"] = nearest_similarity(own.fingerprints, reference.fingerprints)
        result[f"fragments/{part}"] = cosine(own.fragments, reference.fragments)
        result[f"scaffolds/{part}"] = cosine(own.scaffolds, reference.scaffolds)
    if activations:
        fitted = chemnet(valid)
        result |= {
            f"FCD/{part}": frechet_distance(fitted, other) for part, other in activations.items()
        }
    if "Test" in references:
        result |= {
            name: wasserstein(values, references["Test"].properties[name])
            for name, values in own.properties.items()
        }
    return result


def reference_profiles(say: Say) -> dict[str, Profile]:
    """The profiles of `REFERENCES`, computed once and kept in the data folder."""
    return {label: kept_profile(part, say) for part, label in REFERENCES.items()}


def published_activations() -> dict[str, Gaussian]:
    """The Gaussians of `REFERENCES`; {} without the package fcd."""
    return {label: published_chemnet(part) for part, label in REFERENCES.items() if has_fcd()}


def part_profile(part: str) -> Profile:
    """The profile of a part of MOSES."""
    return profile([text for text in canonical(molecules(part)) if text])


def training_set() -> frozenset[str]:
    """The SMILES strings of the training set, as they are in the file.

    They are canonical but for one or two in 10,000, which RDKit writes in another way today.
    """
    return frozenset(molecules("train"))


def kept_profile(part: str, say: Say) -> Profile:
    """The profile of a part, from the data folder, else computed and written there.

    Its name contains the version of RDKit, on which fingerprints and canonical forms depend.
    """
    version = importlib.metadata.version("rdkit")
    file = data_folder() / f"moses.{part}.rdkit-{version}.npz"
    if not file.is_file():
        say(f"describing the {part} molecules of MOSES with RDKit {version}, once")
        arrays: dict[str, Any] = arrays_of(part_profile(part))
        with atomic_write(file) as partial, partial.open("wb") as opened:
            np.savez_compressed(opened, **arrays)
    return read_profile(file)


def has_fcd() -> bool:
    """Whether the package fcd is installed."""
    return importlib.util.find_spec("fcd") is not None


def arrays_of(item: Profile) -> dict[str, np.ndarray]:
    """A profile as arrays without pickled objects."""
    arrays = {"fingerprints": item.fingerprints}
    for name in ("fragments", "scaffolds"):
        counts = getattr(item, name)
        arrays[name] = np.array(list(counts))
        arrays[f"{name}_counts"] = np.array(list(counts.values()), np.int64)
    return arrays | {f"property_{name}": values for name, values in item.properties.items()}


def read_profile(file: Path) -> Profile:
    """The profile in a file that `kept_profile` wrote."""
    with np.load(file, allow_pickle=False) as arrays:
        counts = {
            name: dict(zip(arrays[name].tolist(), arrays[f"{name}_counts"].tolist(), strict=True))
            for name in ("fragments", "scaffolds")
        }
        return Profile(
            arrays["fingerprints"],
            counts["fragments"],
            counts["scaffolds"],
            {
                name.removeprefix("property_"): arrays[name]
                for name in arrays.files
                if name.startswith("property_")
            },
        )
