"""Who may import whom.

The folders are installed as kvae, kvae.training, kvae.export and kvae.serving.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "kvae": "kvae",
    "kvae/bulk": "kvae.bulk",
    "kvae/commands": "kvae.commands",
    "kvae/texts": "kvae.texts",
    "training": "kvae.training",
    "export": "kvae.export",
    "serving": "kvae.serving",
}
"""The folders that a rule is about, and the packages that they are installed as."""

ALLOWED = {
    "serving": {"numpy", "onnxruntime", "kvae.serving"},
    "kvae": {
        "keras",
        "numpy",
        "kvae",
        "kvae.serving.alphabet",
        "kvae.serving.errors",
        "kvae.serving.logit_masks",
        "kvae.serving.patterns",
        "kvae.serving.random_numbers",
        "kvae.serving.tokenizers",
    },
    "kvae/bulk": {"kvae", "kvae.bulk", "kvae.texts", "kvae.serving", "distributed", "pyarrow"},
    "kvae/commands": {
        "kvae",
        "kvae.bulk.folders",
        "kvae.commands",
        "kvae.texts",
        "kvae.serving.alphabet",
        "kvae.serving.choices",
        "kvae.serving.errors",
    },
    "kvae/texts": {"kvae.sections", "kvae.texts", "kvae.serving.errors"},
    "training": {
        "kvae",
        "kvae.texts",
        "kvae.training",
        "kvae.serving.alphabet",
        "kvae.serving.byte_pairs",
        "kvae.serving.errors",
        "kvae.serving.tokenizers",
        "keras",
        "tensorflow",
        "jax",
        "keras_nlp",
        "tokenizers",
        "keras_tuner",
        "tensorboard",
        "matplotlib",
        "numpy",
    },
    "export": {
        "kvae",
        "kvae.export",
        "kvae.serving",
        "keras",
        "tensorflow",
        "tf2onnx",
        "onnx",
        "numpy",
    },
}
"""What each folder may import besides the standard library; `kvae` alone is the folder kvae/."""

LAZY = {
    "kvae/cli.py": {"kvae.commands"},
    "kvae/commands": {"keras", "kvae.bulk", "kvae.training", "kvae.export", "kvae.serving"},
    "kvae/__init__.py": {"kvae.serving", "kvae.training"},
    "kvae/transformers.py": {"keras_nlp"},
    "kvae/texts/compression.py": {"pyarrow"},
    "kvae/texts/tables.py": {"pyarrow"},
    "training/fitted.py": {"kvae.export", "kvae.serving"},
    "training/molecules.py": {"rdkit", "selfies", "kvae.serving.cores"},
    "training/moses.py": {"rdkit", "fcd"},
    "serving/constraints.py": {"regex"},
    "serving/openvino_sessions.py": {"openvino"},
    "serving/server.py": {"fastapi", "pydantic", "starlette", "uvicorn"},
    "serving/endpoints.py": {"fastapi", "prometheus_client", "pydantic"},
    "serving/pages.py": {"fastapi"},
    "serving/problems.py": {"fastapi", "starlette"},
    "serving/openapi.py": {"fastapi"},
    "serving/middleware.py": {"fastapi", "starlette"},
    "serving/service.py": {"fastapi", "prometheus_client"},
    "serving/schemas.py": {"pydantic", "pydantic_core"},
    "serving/connections.py": {"uvicorn"},
}
"""Where the parts are put together: these files import the packages inside functions.

The server's files are themselves imported inside functions.
"""


def python_files() -> list[Path]:
    return sorted({path for folder in FOLDERS for path in (ROOT / folder).glob("**/*.py")})


def folder_of(path: Path) -> str:
    """The folder whose rule a file follows: the innermost one that has a rule."""
    return next(
        name for parent in path.parents if (name := parent.relative_to(ROOT).as_posix()) in FOLDERS
    )


def module_of(path: Path) -> str:
    """The name that a file is imported by."""
    folder = folder_of(path)
    parts = path.relative_to(ROOT / folder).with_suffix("").parts
    return ".".join([FOLDERS[folder], *(part for part in parts if part != "__init__")])


MODULES = {module_of(path): path for path in python_files()}


def tree_of(path: Path) -> ast.Module:
    """The statements of a file, read once for as long as it does not change."""
    return tree_of_text(path.read_text(encoding="utf-8"))


@cache
def tree_of_text(text: str) -> ast.Module:
    return ast.parse(text)


def imported(path: Path) -> Iterator[str]:
    """Absolute names of the modules that a file imports anywhere."""
    yield from imports(ast.walk(tree_of(path)), path)


def imported_at_once(path: Path) -> Iterator[str]:
    """Absolute names of the modules that the top-level statements of a file import."""
    yield from imports(tree_of(path).body, path)


def imported_when_run(path: Path) -> Iterator[str]:
    """Absolute names of the modules that a file imports outside `TYPE_CHECKING`."""
    nodes = list(ast.walk(tree_of(path)))
    unused = {
        id(inner)
        for node in nodes
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    yield from imports((node for node in nodes if id(node) not in unused), path)


def imports(nodes: Iterable[ast.AST], path: Path) -> Iterator[str]:
    """The modules that statements import; for `from package import module`, that module."""
    package = module_of(path.with_name("__init__.py"))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", max(node.level - 1, 0))[0]
            assert f"{above}.".startswith(f"{FOLDERS[folder_of(path)]}."), (
                f"{path}: relative imports stay inside a folder"
            )
            origin = ".".join(filter(None, (above if node.level else "", node.module)))
            within = [f"{origin}.{alias.name}" for alias in node.names]
            yield from dict.fromkeys(name if name in MODULES else origin for name in within)


def home(module: str) -> str:
    """The package whose rule holds for a module.

    That of `kvae.model` is `kvae`, that of `kvae.training.ngram` is `kvae.training`.
    """
    parts = module.split(".")
    if parts[0] != "kvae":
        return parts[0]
    return ".".join(parts[:2]) if ".".join(parts[:2]) in FOLDERS.values() else "kvae"


def violations(path: Path) -> list[str]:
    name, folder = path.relative_to(ROOT).as_posix(), folder_of(path)
    allowed = ALLOWED[folder] | LAZY.get(folder, set()) | LAZY.get(name, set())
    return [
        module
        for module in imported(path)
        if module.split(".")[0] not in sys.stdlib_module_names
        if module != "__future__" and home(module) not in allowed and module not in allowed
    ]


@pytest.mark.parametrize("path", python_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_imports_only_what_its_folder_may(path: Path) -> None:
    assert violations(path) == []


def test_a_forbidden_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "serving").mkdir()
    file = tmp_path / "serving" / "sampler.py"
    file.write_text(
        "import keras\nfrom kvae.model import TextVAE\nfrom .errors import KvaeError\nimport json\n"
    )
    assert violations(file) == ["keras", "kvae.model"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "kvae/commands").glob("*.py")), ids=lambda path: path.name
)
def test_a_command_imports_the_other_folders_when_it_runs(path: Path) -> None:
    at_once = {
        module
        for module in imported_at_once(path)
        if module.split(".")[0] not in sys.stdlib_module_names
    }
    allowed = ALLOWED["kvae/commands"]
    assert [
        module for module in at_once if home(module) not in allowed and module not in allowed
    ] == []


def test_one_module_imports_the_runtime() -> None:
    importing = [path for path in python_files() if "onnxruntime" in imported(path)]
    assert [path.relative_to(ROOT).as_posix() for path in importing] == ["serving/runtime.py"]


def test_in_kvae_only_the_commands_lead_to_training_and_export() -> None:
    arrows = [
        (path.name, home(module))
        for path in (ROOT / "kvae").glob("*.py")
        for module in imported_when_run(path)
    ]
    assert [name for name, package in arrows if package in ("kvae.training", "kvae.export")] == []
    assert {name for name, package in arrows if package == "kvae.commands"} == {"cli.py"}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, wherever in their files; empty if none do."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_round() -> None:
    assert circle({name: set(imported_when_run(path)) for name, path in MODULES.items()}) == []
    assert sorted(set(circle({"cli": {"demo", "runs"}, "demo": {"cli"}}))) == ["cli", "demo"]


def test_a_relative_import_stays_inside_its_folder_of_the_four(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "training" / "studies").mkdir(parents=True)
    file = tmp_path / "training" / "studies" / "toy.py"
    file.write_text(
        "from . import rows\nfrom .rows import with_steps\nfrom ..corpora import CORPORA\n"
    )
    assert list(imported(file)) == [
        "kvae.training.studies.rows",
        "kvae.training.studies.rows",
        "kvae.training.corpora",
    ]
    file.write_text("from ...model import TextVAE\n")
    with pytest.raises(AssertionError, match="relative imports stay inside a folder"):
        list(imported(file))


def test_the_folders_are_never_imported_by_their_bare_names() -> None:
    files = [*python_files(), *(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    bare = [
        (path.name, module)
        for path in files
        for module in imported_from_anywhere(path)
        if module in FOLDERS
    ]
    assert [entry for entry in bare if entry[1] != "kvae"] == []


def imported_from_anywhere(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


def test_only_public_names_steps_of_a_backend_and_studies_are_found_by_name() -> None:
    dynamic = [path for path in python_files() if "import_module" in names_in(path)]
    assert [path.relative_to(ROOT).as_posix() for path in dynamic] == [
        "kvae/__init__.py",
        "kvae/steps.py",
        "training/__init__.py",
        "training/studies/__init__.py",
    ]


def test_of_the_ground_floor_only_a_model_that_is_trained_asks_for_the_steps() -> None:
    asking = [
        path.name for path in (ROOT / "kvae").glob("*.py") if "backend_steps" in names_in(path)
    ]
    assert sorted(asking) == ["model.py"]
    methods = {"run_checked", "train_step", "test_step", "predict_step"}
    tree = tree_of(ROOT / "kvae" / "model.py")
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert {
        function.name for function in functions if "backend_steps" in names_of(function)
    } == methods


def names_in(path: Path) -> set[str]:
    return names_of(tree_of(path))


def names_of(tree: ast.AST) -> set[str]:
    """The names that code uses, not those it defines or imports."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("name", ["kvae", "kvae.training"])
def test_names_imported_on_first_use_are_known_to_editors(name: str) -> None:
    """Under `TYPE_CHECKING` a package imports each of them from its module."""
    package = import_module(name)
    tree = tree_of(MODULES[name])
    blocks = [
        node.body
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    told = {
        alias.asname: next(iter(imports([node], MODULES[name])))
        for node in chain.from_iterable(blocks)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert told == package._MODULES
