"""How soon is the first text there, and how large is what writes it, beside what one would use instead?

    python benchmarks/startup.py [BUNDLE] [--rounds 7]

Makes two fresh environments with the wheels of this checkout, kvae and the sampler alone (kvae-text-serving), and says what
each adds to numpy and onnxruntime. Then in turn, a process each: importing numpy and onnxruntime, these opening the sampler's
graph unchecked, importing kvae.serving, and from the start of a process to the end of its first text; the last also with the
SavedModel and with PyTorch where BUNDLE is left out, which means the tweet-sized hybrid of `benchmarks/sampling.py` (34 MB
of sampler).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from sampling import BUNDLE, prepare
from turns import arguments, written

ROOT = Path(__file__).parents[1]
MEMORY = (
    "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
)
TEXT = "from kvae.serving import Sampler; Sampler.load({bundle!r}).sample(1, seed=0); " + MEMORY
RIVAL = (
    "import sys; sys.path.insert(0, 'benchmarks'); from sampling import of_name; of_name({name!r})(1); "
    + MEMORY
)
FIRST_TEXT, IMPORT, BASE = (
    "kvae, the first text",
    "import kvae.serving",
    "import numpy, onnxruntime",
)
OPEN = "onnxruntime, the graph open"
OPENING = "import numpy, onnxruntime; onnxruntime.InferenceSession({graph!r}); " + MEMORY


def environment(folder: Path, project: Path) -> tuple[Path, dict[str, float]]:
    """The Python of a fresh environment with a project's wheel, and the megabytes of what lies in it."""
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    wheel = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(project)]
    subprocess.run(
        wheel, check=True, capture_output=True
    )  # from a source archive: nothing is built within the project
    (file,) = folder.glob("*.whl")
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        str(ROOT / "constraints.txt"),
    ]
    empty = megabytes(folder)
    subprocess.run([*pip, "numpy", "onnxruntime"], check=True)
    base, source = megabytes(folder), megabytes(folder, "*.py")
    subprocess.run([*pip, str(file)], check=True)
    added = {"source": megabytes(folder, "*.py") - source, "installed": megabytes(folder) - base}
    return python, {"numpy and onnxruntime": base - empty, **added}


def megabytes(folder: Path, pattern: str = "*") -> float:
    """Size of an environment's packages, byte-code included."""
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    return sum(file.stat().st_size for file in packages.rglob(pattern) if file.is_file()) / 1e6


def process(python: Path, code: str) -> tuple[float, int]:
    """Seconds of a process that runs `code`, start and end included, and the last number that it prints."""
    started = time.perf_counter()
    done = subprocess.run(
        [str(python), "-P", "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return time.perf_counter() - started, int((done.stdout.split() or ["0"])[-1])


def main() -> None:
    parser = arguments(__doc__, "startup", rounds=7)
    parser.add_argument("bundle", nargs="?", type=Path)
    options = parser.parse_args()
    own = Path(sys.executable)
    if options.bundle is None:
        prepare()
    bundle = (options.bundle or ROOT / BUNDLE).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        _, whole = environment(Path(temporary, "whole"), ROOT)
        python, alone = environment(Path(temporary, "alone"), ROOT / "serving")
        programs = {
            "an empty program": (python, ""),
            BASE: (python, "import numpy, onnxruntime"),
            IMPORT: (python, "import kvae.serving"),
            OPEN: (python, OPENING.format(graph=str(bundle / "sampler.onnx"))),
            FIRST_TEXT: (python, TEXT.format(bundle=str(bundle))),
        }
        if options.bundle is None:
            rivals = {"SavedModel": "SavedModel", "PyTorch, eager": "PyTorch"}
            programs |= {
                f"{name}, the first text": (own, RIVAL.format(name=rival))
                for name, rival in rivals.items()
            }
        taken: dict[str, list[tuple[float, int]]] = {name: [] for name in programs}
        for _ in range(options.rounds):
            for name, program in programs.items():
                taken[name].append(process(*program))
    seconds = {
        name: statistics.median(each for each, _ in values) for name, values in taken.items()
    }
    peak = {
        name: statistics.median(kilobytes for _, kilobytes in values) / 1024
        for name, values in taken.items()
    }
    for name, value in seconds.items():
        print(
            f"{name:28} {value:6.3f} s  {peak[name]:6.0f} MB"
            if peak[name]
            else f"{name:28} {value:6.3f} s"
        )
    print(
        f"import kvae.serving takes {seconds[IMPORT] / seconds[BASE]:.2f} times the import of numpy and onnxruntime"
    )
    print(
        f"megabytes: kvae adds {whole['installed']:.2f}, kvae-text-serving {alone['installed']:.2f}"
    )
    report = {
        "seconds": seconds,
        "peak_megabytes": {name: value for name, value in peak.items() if value},
    }
    written(
        options.json,
        {**report, "kvae": whole, "kvae-text-serving": alone, "rounds": options.rounds},
    )


if __name__ == "__main__":
    main()
