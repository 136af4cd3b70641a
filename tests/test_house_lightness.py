"""The serving side works, and stays small, where nothing but numpy and onnxruntime is installed."""

import shutil
import subprocess
import sys
from pathlib import Path

HEAVY = (
    *("keras", "tensorflow", "onnx", "tf2onnx", "matplotlib", "tensorboard", "keras_nlp", "jax"),
    *("distributed", "pyarrow"),
)

BLOCK = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {HEAVY}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split('.')[0])
sys.meta_path.insert(0, Refuse())
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def loaded_after(statement: str) -> set[str]:
    done = python(
        f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_serving_loads_neither_keras_nor_tensorflow_nor_onnx() -> None:
    assert loaded_after("import kvae.serving") & set(HEAVY) == set()


def test_importing_kvae_loads_not_even_numpy() -> None:
    assert loaded_after("import kvae") & {*HEAVY, "numpy", "onnxruntime"} == set()


def test_listing_presets_and_corpora_loads_nothing_heavy() -> None:
    assert (
        loaded_after(
            "from kvae.presets import PRESETS; from kvae.training.data.named_corpora import CORPORA"
        )
        & set(HEAVY)
        == set()
    )


def test_the_help_of_every_command_loads_nothing_heavy() -> None:
    assert loaded_after("from kvae.cli import parser; parser().format_help()") & set(HEAVY) == set()


def test_sampling_works_where_only_the_base_dependencies_are_installed(
    bundle_folder: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    run = BLOCK + "from kvae.cli import main; sys.exit(main(sys.argv[1:]))"
    done = python(run, "sample", str(bundle), "-n", "10", "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split("\n")) == 11
    assert python(run, "verify", str(bundle)).returncode == 0


def test_reading_texts_of_any_format_loads_neither_training_nor_what_it_needs() -> None:
    code = (
        "import sys; from kvae.texts.formats import records_of; from kvae.texts.records import "
        "Columns; list(records_of(sys.argv[1], Columns(), [])); print(*sys.modules)"
    )
    done = python(code, __file__)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert loaded & {*HEAVY, "pyarrow", "kvae.training"} == set()


def test_encoding_a_file_loads_nothing_of_training(bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("name,n\nKAMITO,1\nRUNE,2\n")
    code = BLOCK + "from kvae.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    # the parser lists the names of the studies
    names = {"kvae.training", "kvae.training.study_names"}
    for command in ("encode", "reconstruct", "score"):
        done = python(code, command, str(bundle_folder), str(tmp_path / "names.csv"))
        assert done.returncode == 0, done.stderr
        *results, modules = done.stdout.splitlines()
        assert len(results) == 2 + (command == "score")
        assert {name for name in modules.split() if name.startswith("kvae.training")} == names


def test_looking_at_texts_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("KAMITO\nRUNE\nTOKA\n")
    run = BLOCK + "from kvae.cli import main; sys.exit(main(sys.argv[1:]))"
    done = python(run, "data", "show", str(tmp_path / "names.txt"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("texts")


def test_training_without_its_extra_names_the_extra(tmp_path: Path) -> None:
    run = BLOCK + "from kvae.cli import main; sys.exit(main(sys.argv[1:]))"
    done = python(run, "train", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("pip install 'kvae-text[train]'")
    assert not (tmp_path / "run").exists()
