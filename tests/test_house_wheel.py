"""What people install is what stands in the folders."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "kvae": "kvae",
    "training": "kvae/training",
    "export": "kvae/export",
    "serving": "kvae/serving",
}
PAGE_FILES = {path.name for path in (ROOT / "serving" / "page").iterdir()}
PROJECTS = (ROOT / "pyproject.toml", ROOT / "serving" / "pyproject.toml")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of the sources."""
    source = tmp_path_factory.mktemp("source") / "kvae"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    return source


def built(project: Path, target: Path) -> Path:
    """The wheel of a project, which then lies in `target`."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
    ]
    subprocess.run([*command, str(target), str(project)], check=True, capture_output=True)
    (file,) = target.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(sources, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sampler_wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(sources / "serving", tmp_path_factory.mktemp("sampler"))


def test_the_wheel_holds_every_module_of_every_folder(wheel: Path) -> None:
    wanted = {
        f"{installed}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, installed in FOLDERS.items()
        for path in (ROOT / folder).glob("**/*.py")
    }
    wanted |= {f"kvae/serving/page/{name}" for name in PAGE_FILES}
    assert wanted | {"kvae/py.typed"} <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_puts_only_kvae_into_site_packages(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"kvae"}


def test_the_sampler_alone_writes_texts_and_takes_less_than_a_megabyte(
    sampler_wheel: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--compile",
        "--target",
    ]
    subprocess.run(
        [*command, str(tmp_path / "packages"), str(sampler_wheel)], check=True, capture_output=True
    )
    installed = [path for path in (tmp_path / "packages").rglob("*") if path.is_file()]
    assert {path.name for path in installed} >= {"sampler.py", "py.typed", *PAGE_FILES}
    assert {path.parent.name for path in installed if path.suffix == ".py"} == {"serving"}
    assert sum(path.stat().st_size for path in installed) < 1e6
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "packages")!r})
from kvae.serving import Sampler, sampler
print(Sampler.load({str(bundle_folder)!r}).sample(2, seed=0), sampler.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert str(tmp_path / "packages") in done.stdout


@pytest.mark.parametrize("name", ["wheel", "sampler_wheel"])
def test_the_base_dependencies_are_numpy_and_onnxruntime(
    name: str, request: pytest.FixtureRequest
) -> None:
    archive = zipfile.ZipFile(request.getfixturevalue(name))
    (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    required = re.findall(
        r"^Requires-Dist: ([\w-]+)([^\n]*)$", archive.read(metadata).decode(), re.MULTILINE
    )
    assert {name for name, rest in required if "extra ==" not in rest} == {"numpy", "onnxruntime"}


ENDS = {"lowest": ["--constraint", str(ROOT / "constraints-oldest.txt")], "newest": []}
"""Options of pip for both ends of the declared range; without options it takes the newest."""

KINDS: dict[str, dict[str, Any]] = {
    "language model": {},
    "GRU VAE": {},
    "ladder of recurrent maps": {"prior": "mixture"},  # in eight bits
}
"""Systems of test_export_systems whose graphs together have almost all operations."""

USE = """
import json, sys, kvae.serving.verification as verification
from kvae.serving import Sampler
for folder in sys.argv[1:]:
    verification.verify(folder)
    sampler = Sampler.load(folder)
    texts = sampler.sample(50, seed=1) + sampler.sample(50, seed=2, greedy=True)
    texts += sampler.sample(50, seed=3, top_k=4, top_p=0.9)
    codes = sampler.encode(["abc", "d"]).tolist() if sampler.info()["latent"]["size"] else []
    bounds = [score.bound for score in sampler.score(["abc", "d"])]
    print(json.dumps({"texts": texts, "codes": codes, "bounds": bounds}))
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A bundle of each of `KINDS`, exported by this checkout."""
    from kvae.configuration import Config
    from kvae.export import quantization
    from kvae.export.bundle import write_bundle
    from kvae.serving.alphabet import Alphabet

    from .conftest import small_model
    from .test_export_systems import SYSTEMS

    folder = tmp_path_factory.mktemp("bundles")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WIDE_IN_STEP", "WIDE_IN_SEQUENCE"):
            patch.setattr(
                quantization, name, quantization.SMALLEST
            )  # products in eight bits in a model this small
        for kind, settings in KINDS.items():
            model = small_model(**SYSTEMS[kind], **settings)
            config = Config(model=model.model_config, objective=model.objective_config)
            write_bundle(
                model,
                Alphabet(tuple("abcde")),
                config,
                folder / kind,
                weights="int8" if settings else "float32",
            )
    return [str(folder / kind) for kind in KINDS]


def used(python: str, bundles: list[str]) -> list[dict[str, Any]]:
    """What `USE` prints of each bundle."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-P", "-c", USE, *bundles],
        capture_output=True,
        text=True,
        check=False,
        env=outside,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.ranges
@pytest.mark.parametrize("end", ENDS)
def test_the_sampler_alone_writes_the_same_texts_at_both_ends_of_its_range(
    end: str, bundles: list[str], sampler_wheel: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *ENDS[end], str(sampler_wheel)], check=True
    )
    for kind, here, there in zip(
        KINDS, used(sys.executable, bundles), used(python, bundles), strict=True
    ):
        assert (kind, there["texts"]) == (kind, here["texts"])
        for name in ("codes", "bounds"):
            np.testing.assert_allclose(there[name], here[name], atol=1e-4, rtol=1e-4, err_msg=kind)


def declared(project: Path, *without: str) -> list[str]:
    """What a project needs, to be used and to be built, as `name>=version` or `name`."""
    whole = tomllib.loads(project.read_text())
    extras = whole["project"].get("optional-dependencies", {})
    needed = [
        *whole["project"]["dependencies"],
        *(item for name in extras if name not in without for item in extras[name]),
    ]
    return [
        item
        for item in (*needed, *whole["build-system"]["requires"])
        if not item.startswith("kvae-text")
    ]


TOOLS = ("dev", "docs", "benchmarks")
"""Extras that only those who work on kvae install."""


@pytest.mark.parametrize("project", PROJECTS, ids=["whole", "alone"])
def test_what_is_run_as_the_lowest_version_is_what_is_declared(project: Path) -> None:
    run = re.findall(
        r"^([\w-]+==[\w.]+)", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE
    )
    bounds = {item.replace(">=", "==") for item in declared(project, *TOOLS)}
    assert bounds == set(run) if project == PROJECTS[0] else bounds <= set(run)


def test_tools_have_no_lower_bound_since_no_test_runs_them_in_another_version() -> None:
    tools = set(declared(PROJECTS[0])) - set(declared(PROJECTS[0], *TOOLS))
    assert [item for item in tools if not re.fullmatch(r"[\w-]+", item)] == []


def test_every_direct_dependency_is_pinned() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    for project in PROJECTS:
        assert {item.split(">=")[0] for item in declared(project)} <= pinned


def test_the_sampler_alone_asks_for_what_kvae_asks_for() -> None:
    whole, alone = (tomllib.loads(project.read_text())["project"] for project in PROJECTS)
    assert alone["dependencies"] == whole["dependencies"]
    assert alone["optional-dependencies"]["server"] == whole["optional-dependencies"]["server"]


def test_the_version_is_the_same_everywhere() -> None:
    import kvae

    assert {tomllib.loads(project.read_text())["project"]["version"] for project in PROJECTS} == {
        kvae.__version__
    }
    assert f"## {kvae.__version__}" in (ROOT / "CHANGELOG.md").read_text()


FOREIGN = r"kvae\[|pip install '?kvae\b(?!-text)|kvae[-_]serving|dist/kvae(?!_text)"
"""How to install the `kvae` of the package index, another project, and earlier names of ours."""


def test_whatever_is_installed_has_the_name_that_is_ours_on_the_package_index() -> None:
    whole, alone = (tomllib.loads(project.read_text())["project"]["name"] for project in PROJECTS)
    assert (whole, alone) == ("kvae-text", "kvae-text-serving")
    folders = (ROOT / folder for folder in (*FOLDERS, "tests", "examples", "benchmarks", "docs"))
    pages = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in (".py", ".md", ".toml")
    ]
    pages += [*ROOT.glob("*.toml"), ROOT / "Makefile", ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    told = {
        path: re.findall(FOREIGN, path.read_text())
        for path in pages
        if "node_modules" not in path.parts
    }
    own, decisions = (
        Path(__file__),
        ROOT / "docs" / "decisions.md",
    )  # which say what is not, or no longer, so
    assert {
        path: found for path, found in told.items() if found and path not in (own, decisions)
    } == {}


def test_nothing_asks_an_environment_for_the_version_of_kvae_which_has_it_at_hand() -> None:
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert [
        path
        for path in sources
        if re.search(r"""version\(["']kvae|\("kvae", "keras\"""", path.read_text())
    ] == []
