"""The `--help` of every command is the recorded one.

`python -m tests.test_cli_help` prints the record anew.
"""

import contextlib
import io
import os
import re
from pathlib import Path

import pytest

from kvae.cli import parser

RECORDED = Path(__file__).with_name("recorded_help.txt")
"""One part for each command: a line `$ kvae COMMAND --help`, then its output in 80 columns."""


def help_of(command: str) -> str:
    """What a command line that ends in `--help` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
        parser().parse_args(command.split()[1:])
    assert stop.value.code == 0
    return printed.getvalue()


def subcommands(text: str) -> list[str]:
    """The names that a help lists under `COMMAND`."""
    return re.findall(r"^    ([a-z]\S*)", text, re.MULTILINE)


def recording() -> str:
    """The whole record, as the parser is now."""
    parts: dict[str, str] = {}
    commands = ["kvae"]
    for command in commands:
        parts[command] = help_of(f"{command} --help")
        commands += [f"{command} {name}" for name in subcommands(parts[command])]
    return "\n".join(f"$ {command} --help\n{text}" for command, text in parts.items())


def words(text: str) -> list[str]:
    """A text without its line breaks, also those behind hyphens; Python versions differ in them."""
    return re.sub(r"(?<=\w)-\s+", "-", text).split()


def test_every_help_is_as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert words(recording()) == words(RECORDED.read_text(encoding="utf-8"))


if __name__ == "__main__":
    os.environ["COLUMNS"] = "80"
    print(recording(), end="")
