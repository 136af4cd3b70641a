"""The generated pages of the site.

They are the README and its neighbours, a page for each command and a page for each module. MkDocs
calls `on_startup` and `on_files`. Each fact stays in its place: links are rewritten, the help comes
from the parsers, and the reference is read from the sources.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import kvae
import kvae.serving
import kvae.training
from kvae.cli import parser

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "build" / "reference"
"""The packages under their installed names, for mkdocstrings, which reads and does not import."""

FROM_THE_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
"""Pages beside docs/, and what they are called on the site."""

COMMAND_LINE = ("kvae.cli", "kvae.commands")
"""Modules without a page of their own: the pages of the commands describe them."""

PUBLIC = (kvae, kvae.training, kvae.serving)
"""Packages whose `__all__` is the interface for applications."""


def on_startup(**_: object) -> None:
    """Lay the packages out under their names."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for package, folder in settings["tool"]["setuptools"]["package-dir"].items():
        shutil.copytree(
            ROOT / folder,
            SOURCES / package.replace(".", "/"),
            ignore=shutil.ignore_patterns("__pycache__"),
        )


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site and to its navigation."""
    commands, reference = dict(command_pages()), dict(module_pages())
    for address, text in {**dict(root_pages()), **commands, **reference}.items():
        files.append(File.generated(config, address, content=text))
    assert config.nav is not None
    config.nav[-1:-1] = [{"Commands": list(commands)}, {"Reference": navigation()}]
    return files


def root_pages() -> Iterator[tuple[str, str]]:
    """The pages beside docs/, with their links made relative to docs/."""
    for file, address in FROM_THE_ROOT.items():
        yield address, re.sub(r"\]\(docs/", "](", (ROOT / file).read_text(encoding="utf-8"))


def command_pages() -> Iterator[tuple[str, str]]:
    """A page for `kvae` and one for each command: what `--help` prints, 80 columns wide."""
    os.environ["COLUMNS"] = "80"
    top = parser()
    commands = subparsers(top)
    listed = "\n".join(f"- [`kvae {name}`]({name}.md)" for name in commands)
    yield "commands/index.md", f"# Commands\n\n{help_of(top)}\n\n{listed}\n"
    for name, command in commands.items():
        parts = [f"# kvae {name}", help_of(command)]
        for inner, subcommand in subparsers(command).items():
            parts += [f"## kvae {name} {inner}", help_of(subcommand)]
        yield f"commands/{name}.md", "\n\n".join(parts) + "\n"


def subparsers(command: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a command's own commands, by name."""
    actions = [
        action for action in command._actions if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(actions[0].choices) if actions else {}


def help_of(command: argparse.ArgumentParser) -> str:
    return f"```text\n{command.format_help()}```"


def module_pages() -> Iterator[tuple[str, str]]:
    """The index of the interface, and a page for each module outside the command line."""
    yield (
        "reference/index.md",
        "\n\n".join(["# Reference", INTRODUCTION, *map(interface, PUBLIC)]) + "\n",
    )
    for module in modules():
        yield page_of(module), f"# {module}\n\n::: {module}\n"


INTRODUCTION = (
    "The names in the tables below are the interface for applications. "
    "The pages beside them show every module\n"
    "with all of its public names, for those who study a model or build one; "
    "these may change from version to version."
)


def modules() -> list[str]:
    """The names of all modules that have a page, in alphabetical order."""
    files = [path.relative_to(SOURCES).with_suffix("").parts for path in SOURCES.rglob("*.py")]
    names = {".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in files}
    return sorted(
        name
        for name in names
        if not name.startswith(COMMAND_LINE) and not name.endswith("__main__")
    )


def file_of(module: str) -> Path:
    """The source of a module."""
    path = SOURCES.joinpath(*module.split("."))
    return path / "__init__.py" if is_package(module) else path.with_suffix(".py")


def page_of(module: str) -> str:
    """The address of a module's page."""
    path = f"reference/{module.replace('.', '/')}"
    return f"{path}/index.md" if is_package(module) else f"{path}.md"


def is_package(module: str) -> bool:
    return SOURCES.joinpath(*module.split(".")).is_dir()


def navigation() -> list[Any]:
    """The reference in the navigation: one section a package."""
    sections: dict[str, list[str]] = {}
    for module in modules():
        package = module if is_package(module) else module.rpartition(".")[0]
        sections.setdefault(package, []).append(page_of(module))
    return [
        "reference/index.md",
        *({package: addresses} for package, addresses in sections.items()),
    ]


def interface(package: Any) -> str:
    """A table of the names in a package's `__all__`, each with the first sentence of its docs."""
    rows = [f"| [`{name}`][{home}] | {summary(home)} |" for name, home in homes(package).items()]
    return "\n".join([f"## {package.__name__}", "", "| name | |", "|---|---|", *rows])


def homes(package: Any) -> dict[str, str]:
    """The names in a package's `__all__` with the dotted names where they are defined."""
    package_file = file_of(package.__name__)
    imported = {
        alias.name: f"{package.__name__}.{node.module}"
        for node in ast.walk(ast.parse(package_file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    found = {**imported, **getattr(package, "_MODULES", {})}
    return {name: f"{found[name]}.{name}" for name in package.__all__ if name in found}


def summary(home: str) -> str:
    """The first sentence of what documents a class, a function or a constant."""
    module, name = home.rsplit(".", 1)
    body = ast.parse(file_of(module).read_text(encoding="utf-8")).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return first_sentence(ast.get_docstring(node))
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in ast.unparse(node).split("=")[0]:
            documented = isinstance(following, ast.Expr) and isinstance(
                following.value, ast.Constant
            )
            return first_sentence(following.value.value) if documented else ""
    return ""


def first_sentence(text: str | None) -> str:
    return re.split(r"(?<=[.!?])\s(?=[A-Z])", " ".join((text or "").split()), maxsplit=1)[0]
