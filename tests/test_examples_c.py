"""The client in C writes, scores and encodes as Python does. It was written from docs/graphs.md."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kvae.serving import Sampler
from kvae.serving.alphabet import Alphabet

from .conftest import made_once
from .test_examples_javascript import small_bundle

EXAMPLE = Path(__file__).parents[1] / "examples" / "c"
COMPILER = shutil.which("cc")
LIBRARIES = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
HEADERS = [
    Path(folder)
    for folder in (os.environ.get("KVAE_ONNXRUNTIME_HEADERS", ""), "/usr/include/onnxruntime")
    if folder and (Path(folder) / "onnxruntime_c_api.h").is_file()
]

pytestmark = [
    pytest.mark.compiler,
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler, cc on the PATH"),
    pytest.mark.skipif(not LIBRARIES, reason="needs onnxruntime as a library in its wheel"),
    pytest.mark.skipif(
        not HEADERS,
        reason="needs the headers of onnxruntime: libonnxruntime-dev, or their folder in "
        "KVAE_ONNXRUNTIME_HEADERS",
    ),
    pytest.mark.skipif(
        not Path("/usr/include/cjson/cJSON.h").is_file(), reason="needs cJSON: libcjson-dev"
    ),
]


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client, compiled with checks of memory, beside the library of Python's onnxruntime."""

    def make(folder: Path) -> None:
        folder.mkdir()
        for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
            (folder / name).symlink_to(LIBRARIES[-1])
        strict = ["-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsanitize=address,undefined"]
        options = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", *strict, f"-I{HEADERS[0]}"]
        libraries = [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lonnxruntime", "-lcjson", "-lm"]
        sources = [str(path) for path in sorted(EXAMPLE.glob("*.c"))]
        command = [str(COMPILER), *options, *sources, *libraries, "-o", str(folder / "kvae-client")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "c-client", make) / "kvae-client"


def run(client: Path, bundle: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(client), str(bundle), *map(str, words)]
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # onnxruntime keeps its own
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def lines_of(client: Path, bundle: Path, *words: object) -> list[str]:
    done = run(client, bundle, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


LETTERS = Alphabet(("A", "K", "é", "日", "🙂"))
SYSTEMS: dict[str, tuple[Alphabet, dict[str, Any]]] = {
    "c-gru": (LETTERS, {"head": "gru"}),
    "c-convolutions": (LETTERS, {"head": "bytenet", "head_layers": 3}),
    "c-no-head": (LETTERS, {"head": "none", "auxiliary": False}),
    "c-language-model": (
        LETTERS,
        {
            "encoder": "none",
            "latent": "none",
            "expander": "repeat",
            "expander_base": 0,
            "auxiliary": False,
            "mode": "windows",
        },
    ),
    "c-bytes": (Alphabet.of_bytes(), {"attributes": ("short", "long")}),
}
"""Heads with one, three, no and two states; windows; labels."""


@pytest.fixture(params=["bundle_folder", *SYSTEMS])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "bundle_folder":
        path: Path = request.getfixturevalue("bundle_folder")
        return path
    alphabet, settings = SYSTEMS[request.param]
    return small_bundle(tmp_path_factory, request.param, alphabet, **settings)


def test_c_writes_the_texts_of_python(client: Path, bundle: Path) -> None:
    sampler = Sampler.load(bundle)
    if sampler.alphabet.tokenizer == "byte":
        pytest.skip("its texts are bytes at random, among them zeros and line breaks")
    for seed in (0, 2**40 + 5):
        expected = sampler.sample(130, seed=seed, first_row=2**32 - 200)
        assert lines_of(client, bundle, "sample", 130, seed, 2**32 - 200) == expected
        assert lines_of(client, bundle, "stream", 5, seed, 2**32 - 200) == expected[:5]


def test_c_scores_and_encodes_as_python_does(client: Path, bundle: Path) -> None:
    sampler = Sampler.load(bundle)
    texts = ["KAé", "A", "日🙂?", "K" * 15, *(["KA"] * 130)]
    if sampler.manifest["mode"] == "windows":
        texts = ["KAé日" * 4, "🙂?" * 8]
    scores = [line.split("\t") for line in lines_of(client, bundle, "score", *texts)]
    assert [score[4] for score in scores] == texts
    for score, expected in zip(scores, sampler.score(texts), strict=True):
        names = ("bound", "reconstruction", "kl", "bits_per_character")
        wanted = [getattr(expected, name) for name in names]
        assert list(map(float, score[:4])) == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    if sampler.manifest["latent"]["kind"] != "none":
        codes = [line.split(" ") for line in lines_of(client, bundle, "encode", *texts)]
        found = np.array(codes, np.float32)
        np.testing.assert_allclose(found, sampler.encode(texts, "replace"), atol=1e-4)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["score", "A" * 16], "more than 15 tokens"),
        (["score"], "usage"),
        (["sing", "1"], "usage"),
    ],
)
def test_what_makes_no_sense_is_refused(
    client: Path, bundle_folder: Path, words: list[str], reason: str
) -> None:
    done = run(client, bundle_folder, *words)
    assert done.returncode != 0
    assert reason in done.stderr


def test_a_damaged_bundle_is_one_line(client: Path, bundle_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle_folder, tmp_path / "copy")
    (copy / "sampler.onnx").write_bytes(b"no graph")
    for path, reason in ((copy, "sampler.onnx"), (tmp_path / "none", "cannot be read")):
        done = run(client, path, "sample", 1, 0)
        assert done.returncode == 1
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
