"""SMILES strings as SELFIES strings, a file for each split (package selfies, extra `molecules`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kvae.serving.errors import DataError
from kvae.writing import atomic_write

from .data.downloads import data_folder
from .data.named_corpora import held_out_molecules, molecules
from .messages import Say
from .molecules import on_all_cores, to_selfies

BLOCK = 50_000
"""Strings between two messages."""


def write_selfies(texts: Sequence[str], out: Path, say: Say) -> int:
    """Write the SELFIES string of each SMILES string as a line of `out`, and return their number.

    Strings that the package selfies cannot write are left out, and a message says how many. Raises
    `DataError` if none is left; `out` appears complete or not at all.
    """
    written = read = 0
    with atomic_write(out) as partial:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for start in range(0, len(texts), BLOCK):
                block = texts[start : start + BLOCK]
                lines = [text for text in on_all_cores(to_selfies, block) if text]
                file.writelines(f"{line}\n" for line in lines)
                written, read = written + len(lines), read + len(block)
                say(f"{read:,} strings read")
        if not written:
            raise DataError(f"{out}: none of {read:,} strings has a SELFIES string")
    if written < read:
        say(f"{read - written:,} strings without a SELFIES string left out")
    return written


def write_moses_selfies(say: Say) -> list[Path]:
    """Write the corpus `moses-selfies` into the data folder, from that of `moses`."""
    parts = {"train": lambda: molecules("train"), "valid": held_out_molecules}
    files = [data_folder() / f"moses-selfies.{part}.txt" for part in parts]
    for file, texts in zip(files, parts.values(), strict=True):
        if not file.is_file():
            say(f"writing {file}")
            write_selfies(texts(), file, say)
    return files
