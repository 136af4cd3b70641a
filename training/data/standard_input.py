"""Standard input as a corpus: kept in a file, since a run reads its texts again when it is resumed
or evaluated."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from kvae.configuration import Config
from kvae.texts.files import PIECE, STANDARD_INPUT
from kvae.writing import atomic_write

from ..messages import Say
from .downloads import data_folder


def with_kept_input(config: Config, say: Say) -> Config:
    """The configuration with a file as its source if that was standard input."""
    if config.data.source != STANDARD_INPUT:
        return config
    file = kept_input()
    say(f"standard input is kept in {file}, where the run finds its texts again")
    return config.with_settings({"data.source": str(file)})


def kept_input() -> Path:
    """Standard input as a file in the data folder.

    Its name is a hash of its content, so that equal input is kept once.
    """
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as spooled:
        while piece := sys.stdin.buffer.read(PIECE):
            digest.update(piece)
            spooled.write(piece)
        file = data_folder() / "standard-input" / digest.hexdigest()[:24]
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            spooled.seek(0)
            with atomic_write(file) as partial, partial.open("wb") as copy:
                shutil.copyfileobj(spooled, copy)
    return file
