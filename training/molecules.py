"""Molecules as text: SMILES and SELFIES strings, checked and described with RDKit (extra
`molecules`).

`smiles` and `selfies` are validators (see `kvae.training.validity`). RDKit and the package selfies
are imported when a function needs them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

from kvae.serving.cores import usable_cores
from kvae.serving.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 1000
"""Texts that a process works on at a time."""


def needs(package: str) -> ConfigError:
    """The error for a package of the extra `molecules` that is not installed."""
    return ConfigError(
        f"molecules need the package {package}, which is not installed: "
        "pip install 'kvae-text[molecules]'"
    )


@functools.cache
def chemistry() -> Any:
    """`rdkit.Chem`, with RDKit's messages about invalid strings switched off."""
    try:
        from rdkit import Chem, RDLogger
    except ModuleNotFoundError as error:
        raise needs("rdkit") from error
    RDLogger.DisableLog("rdApp.*")
    return Chem


@functools.cache
def selfies_package() -> Any:
    """The package `selfies`."""
    try:
        import selfies
    except ModuleNotFoundError as error:
        raise needs("selfies") from error
    return selfies


def smiles(text: str) -> str | None:
    """The canonical form of a SMILES string; None if RDKit cannot read or sanitise it."""
    molecule = chemistry().MolFromSmiles(text) if text else None
    return None if molecule is None else str(chemistry().MolToSmiles(molecule)) or None


def selfies(text: str) -> str | None:
    """The canonical SMILES string of a SELFIES string (Krenn et al. 2020); None if it has none.

    An empty molecule counts as invalid.
    """
    return smiles(decoded_selfies(text))


def decoded_selfies(text: str) -> str:
    """The SMILES string of a SELFIES string; empty if it contains what is no SELFIES symbol."""
    try:
        return str(selfies_package().decoder(text))
    except selfies_package().DecoderError:
        return ""


def to_selfies(text: str) -> str | None:
    """The SELFIES string of a SMILES string; None if the package selfies cannot write it."""
    try:
        return str(selfies_package().encoder(text))
    except selfies_package().EncoderError:
        return None


def properties() -> dict[str, Callable[[Any], float]]:
    """The properties that MOSES compares, by name: functions of an RDKit molecule.

    logP (Wildman and Crippen 1999), QED (Bickerton et al. 2012), SA (synthetic accessibility, Ertl
    and Schuffenhauer 2009), weight in g/mol.
    """
    chemistry()
    from rdkit.Chem import QED, Crippen, Descriptors
    from rdkit.Contrib.SA_Score import sascorer

    return {
        "logP": Crippen.MolLogP,
        "QED": QED.qed,
        "SA": sascorer.calculateScore,
        "weight": Descriptors.MolWt,
    }


def on_all_cores(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield `function` of each item in order, computed by a process on each core.

    The function must be picklable. Few items are computed in this process.
    """
    workers = usable_cores()
    if len(items) <= CHUNK or workers == 1:
        yield from map(function, items)
        return
    # A forked process may inherit locks of TensorFlow's threads.
    environment = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=environment) as pool:
        yield from pool.map(function, items, chunksize=CHUNK)


def canonical(texts: Iterable[str]) -> list[str | None]:
    """`smiles` of each text."""
    return list(on_all_cores(smiles, list(texts)))
