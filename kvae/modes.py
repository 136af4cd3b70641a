"""How the texts of a corpus become rows of T tokens: the choices of `data.mode`, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """A way from texts to rows."""

    is_stream: bool = False
    """Rows are windows of one stream, not texts."""
    is_file: bool = False
    """Each file is one text."""
    has_end: bool = True
    """Texts are shorter than a row and end with a mark."""

    @property
    def is_fixed(self) -> bool:
        """Every text fills its row."""
        return not (self.is_stream or self.has_end)


MODES = {
    "lines": Mode(),
    "files": Mode(is_file=True),
    "fixed": Mode(has_end=False),
    "windows": Mode(is_stream=True, has_end=False),
}
