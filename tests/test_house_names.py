"""Only docstrings, presets and studies name a paper; no other line of code does."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
AUTHORS = re.compile(
    r"semeniuta|petersen|prokhorov|bowman|s[oø]e?nderby|kalchbrenner|kingma|tomczak|razavi|burda"
    r"|dauphin|zhu et al|fu et al|he et al|li et al|zhao et al|[^a-z](s17|p18|k19|b16)[^a-z0-9]",
    re.IGNORECASE,
)


def code_without_docstrings(source: str) -> Iterator[str]:
    """Names and texts of a module; a text that stands alone as a statement is documentation."""
    tree = ast.parse(source)
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documentation
        ):
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


FILES = sorted(
    path
    for folder in ("kvae", "training", "export", "serving")
    for path in (ROOT / folder).glob("**/*.py")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_presets_studies_remedies_and_docstrings_name_papers(path: Path) -> None:
    found = [
        text
        for text in code_without_docstrings(path.read_text(encoding="utf-8"))
        if AUTHORS.search(f" {text} ")
    ]
    if path.name not in ("presets.py", "remedies.py") and path.parent.name != "studies":
        assert found == []
