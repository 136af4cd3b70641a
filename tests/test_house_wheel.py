"""What people install is what stands in the folders."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"kvae": "kvae", "training": "kvae/training", "export": "kvae/export", "serving": "kvae/serving"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a clean copy of the sources."""
    source, target = tmp_path_factory.mktemp("source") / "kvae", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(target), str(source)], check=True, capture_output=True)
    (file,) = target.glob("*.whl")
    return file


def test_the_wheel_holds_every_module_of_every_folder(wheel: Path) -> None:
    wanted = {
        f"{installed}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, installed in FOLDERS.items()
        for path in (ROOT / folder).glob("**/*.py")
    }
    assert wanted | {"kvae/py.typed"} <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_puts_only_kvae_into_site_packages(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"kvae"}


def test_the_base_dependencies_are_numpy_and_onnxruntime(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    required = re.findall(r"^Requires-Dist: ([\w-]+)([^\n]*)$", archive.read(metadata).decode(), re.MULTILINE)
    assert {name for name, rest in required if "extra ==" not in rest} == {"numpy", "onnxruntime"}


def test_every_direct_dependency_is_pinned() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    named = set(re.findall(r'"([a-z][\w-]*)>=', (ROOT / "pyproject.toml").read_text()))
    assert named <= pinned


def test_the_version_is_the_same_everywhere() -> None:
    import kvae

    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared
    assert declared[1] == kvae.__version__
    assert f"## {kvae.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_tree_in_the_readme_names_every_file() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [path.name for folder in FOLDERS for path in (ROOT / folder).glob("*.py") if path.name not in readme]
    assert [name for name in missing if not name.startswith("__")] == []
