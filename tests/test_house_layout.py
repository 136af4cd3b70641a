"""Files and functions have a largest size, and one module alone renames files to their place."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("kvae", "training", "export", "serving")
    for path in (ROOT / folder).glob("**/*.py")
)
LONGEST_FILE, MEDIAN_FILE, LONGEST_FUNCTION = 450, 150, 60
"""Lines."""

files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def nodes(source: str) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(source))


def long_functions(source: str, most: int) -> list[str]:
    """The functions of a module that have more than so many lines, decorators left out."""
    functions = (
        node for node in nodes(source) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return [node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > most]


def renamings(source: str) -> list[str]:
    """Calls that rename a file: `.rename`, and `.replace` with one argument, as paths have it."""
    calls = (
        node
        for node in nodes(source)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    )
    return [
        ast.unparse(call)
        for call in calls
        if call.func.attr in ("rename", "renames")
        or (
            call.func.attr == "replace"
            and (len(call.args) == 1 or ast.unparse(call.func) == "os.replace")
        )
        or (call.func.attr == "move" and ast.unparse(call.func) == "shutil.move")
    ]


@files
def test_a_file_is_not_long(path: Path) -> None:
    assert lines_of(path) <= LONGEST_FILE


def test_most_files_are_short() -> None:
    assert median(map(lines_of, FILES)) <= MEDIAN_FILE


@files
def test_a_function_is_not_long(path: Path) -> None:
    assert long_functions(path.read_text(encoding="utf-8"), LONGEST_FUNCTION) == []


def test_a_long_function_is_seen() -> None:
    source = (
        "@one\n@two\nasync def f():\n    x = 1\n    return x\n\n"
        "class A:\n    def g(self):\n        pass\n"
    )
    assert long_functions(source, 2) == ["f"]
    assert long_functions(source, 1) == ["f", "g"]


@files
def test_one_module_puts_files_in_their_place(path: Path) -> None:
    if path != ROOT / "kvae" / "writing.py":
        assert renamings(path.read_text(encoding="utf-8")) == []


def test_a_renaming_is_seen() -> None:
    source = (
        "partial.replace(path)\nos.replace(a, b)\npath.rename(other)\n"
        'text.replace("a", "b")\nreplace(config, x=1)\n'
    )
    assert renamings(source) == ["partial.replace(path)", "os.replace(a, b)", "path.rename(other)"]
