"""The notebooks run from the first cell to the last, and are kept without their outputs."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@notebooks
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert [
        cell["outputs"] for cell in code if cell["outputs"] or cell["execution_count"] is not None
    ] == []


@notebooks
def test_a_notebook_speaks_between_its_cells_which_are_short(path: Path) -> None:
    lengths = [
        len("".join(cell["source"]).splitlines())
        for cell in cells(path)
        if cell["cell_type"] == "code"
    ]
    assert max(lengths) <= 30
    assert sum(cell["cell_type"] == "markdown" for cell in cells(path)) >= len(lengths) - 2


def test_the_notebooks_are_numbered_without_a_gap() -> None:
    assert [path.name[:3] for path in NOTEBOOKS] == ["01_", "02_", "03_", "04_"]


@notebooks
def test_the_files_that_a_notebook_links_to_are_there(path: Path) -> None:
    text = "".join(
        "".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "markdown"
    )
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert [link for link in links if ":" not in link and not (FOLDER / link).is_file()] == []


@pytest.mark.slow
@notebooks
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert not list(tmp_path.iterdir())  # a notebook writes into a temporary folder of its own
