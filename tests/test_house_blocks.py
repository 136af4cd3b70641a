"""The code blocks of the README and of the tutorials run as they stand."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIALS = ("csv", "collapse", "ship", "resume", "tensorboard")
"""In the order in which they use each other's runs."""

CHEAP = {"encode", "info", "interpolate", "presets", "reconstruct", "sample", "score", "verify"}
"""Commands that run every day; a block with another one waits for `make test-all`."""

Block = tuple[str, str]
"""A block's language, `sh` or `python`, and what it says."""


def blocks_of(name: str) -> list[Block]:
    """The blocks of a page that are to be run, by its path from the tutorials.

    examples/javascript has tests of its own.
    """
    text = (ROOT / "docs" / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for block in found if not block[1].startswith("cd examples/javascript")]


def is_cheap(block: Block, folder: Path) -> bool:
    """Whether a block trains nothing and the runs that it names are in the folder."""
    commands = (
        set(re.findall(r"(?:^|\s)kvae ([a-z]+)", block[1], re.MULTILINE))
        if block[0] == "sh"
        else set()
    )
    runs = re.findall(r"runs/[\w/]+", block[1])
    return commands <= CHEAP and all((folder / run).exists() for run in runs)


def execute(block: Block, folder: Path) -> str:
    """Run a block in a folder and return what it prints; raises where it fails."""
    language, code = block
    command = ["bash", "-euc", code] if language == "sh" else [sys.executable, "-c", code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "KVAE_DATA": str(folder / "data")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{code}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's training has left its bundle."""
    from kvae.training.data.named_corpora import unicode_names

    folder = tmp_path_factory.mktemp("readme")
    names = [
        name for name in unicode_names() if name.startswith(("GREEK", "DIGIT")) and len(name) < 32
    ]
    others = ["BLACK STAR", "WHITE STAR", "BLACK CHESS QUEEN"]
    (folder / "names.txt").write_text("\n".join([*names[:250], *others]), encoding="utf-8")
    with contextlib.chdir(folder):
        exec(re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0], {})
    return folder


def test_the_python_of_the_readme_trains_exports_and_samples(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    _, sampling = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(sampling, {})
    assert capsys.readouterr().out.count("[") >= 3


def test_the_blocks_of_the_tutorials_that_train_nothing_run(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "bundle", tmp_path / "runs" / "names" / "bundle")
    cheap = [block for name in TUTORIALS for block in blocks_of(name) if is_cheap(block, tmp_path)]
    assert {"sh", "python"} == {language for language, _ in cheap}
    assert len(cheap) >= 6
    printed = [execute(block, tmp_path) for block in cheap]
    assert len((tmp_path / "names.txt").read_text(encoding="utf-8").splitlines()) > 20_000
    assert any("8 files are unchanged since export" in text for text in printed)


@pytest.mark.slow
def test_every_block_of_the_tutorials_runs(tmp_path: Path) -> None:
    for name in TUTORIALS:
        for block in blocks_of(name):
            execute(block, tmp_path)


@pytest.mark.slow
def test_the_page_on_python_runs_from_top_to_bottom(tmp_path: Path) -> None:
    code = "".join(code for _, code in blocks_of("../python"))
    assert "nats a text" in execute(("python", code), tmp_path)


def test_the_python_of_the_page_on_bundles_runs(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its texts are in capitals, as those of the small model, and are replaced where they are not
    of its symbols."""
    testing = pytest.importorskip("fastapi.testclient")
    code = "".join(code for language, code in blocks_of("../serving") if language == "python")
    for text in (
        "GREEK SMALL LETTER ALPHA",
        "DIGIT ONE",
        "BLACK STAR",
        "WHITE CHESS KING",
        "BLACK CHESS QUEEN",
        "BLACK CHESS KING",
    ):
        code = code.replace(f'"{text}"', '"KAMITO"')
    (tmp_path / "bundle").symlink_to(bundle_folder)
    monkeypatch.chdir(tmp_path)
    found = {"texts": ["KAMITO", "RUNE"]}
    exec(code.replace("10**6", "200"), found)
    client = testing.TestClient(found["app"])
    assert client.get("/names", params={"n": 3, "seed": 0}).json() == found["sampler"].sample(
        3, seed=0
    )


def test_every_tutorial_is_among_those_that_run() -> None:
    assert {path.stem for path in (ROOT / "docs" / "tutorials").glob("*.md")} == set(TUTORIALS)


def test_the_readme_leaves_nothing_to_fill_in() -> None:
    assert not re.search(r"@@|TODO|TBD|XXX", README)


def test_every_picture_and_page_that_the_readme_names_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []
