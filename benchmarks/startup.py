"""Measure the time and memory until the first text, and the size of the installed packages.

    python benchmarks/startup.py [BUNDLE] [--rounds 7]

The script makes two fresh environments from the wheels of this checkout, one with kvae and one with
the sampler alone (kvae-text-serving). It reports the size that each adds to numpy and onnxruntime.
Then it times these processes in turn, each from start to exit:

- an empty program;
- one that imports numpy and onnxruntime;
- one that imports kvae.serving;
- one in which onnxruntime loads the sampler graph, without kvae's checks;
- one that samples a first text with kvae, and without BUNDLE also with the SavedModel and PyTorch.

Without BUNDLE, the bundle is that of the tweet-sized hybrid of `benchmarks/sampling.py` (34 MB of
sampler).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from sampling import BUNDLE, make_artifacts
from turns import argument_parser, write_report

ROOT = Path(__file__).parents[1]
PRINT_PEAK = (
    "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
)
KVAE_CODE = (
    "from kvae.serving import Sampler; Sampler.load({bundle!r}).sample(1, seed=0); " + PRINT_PEAK
)
ALTERNATIVE_CODE = (
    "import sys; sys.path.insert(0, 'benchmarks'); from sampling import sampler_of; "
    "sampler_of({name!r})(1); " + PRINT_PEAK
)
LOAD_GRAPH_CODE = (
    "import numpy, onnxruntime; onnxruntime.InferenceSession({graph!r}); " + PRINT_PEAK
)
FIRST_TEXT, LOAD_GRAPH = "kvae, the first text", "onnxruntime, the graph open"
IMPORT, IMPORT_DEPENDENCIES = "import kvae.serving", "import numpy, onnxruntime"


def environment(folder: Path, project: Path) -> tuple[Path, dict[str, float]]:
    """Make a fresh environment with a project's wheel; return its Python and sizes in megabytes."""
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    wheel = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(project)]
    # builds from the source archive, so nothing is written in the project
    subprocess.run(wheel, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    pip += ["--constraint", str(ROOT / "constraints.txt")]
    empty = megabytes(folder)
    subprocess.run([*pip, "numpy", "onnxruntime"], check=True)
    base, source = megabytes(folder), megabytes(folder, "*.py")
    subprocess.run([*pip, str(file)], check=True)
    added = {"source": megabytes(folder, "*.py") - source, "installed": megabytes(folder) - base}
    return python, {"numpy and onnxruntime": base - empty, **added}


def megabytes(folder: Path, pattern: str = "*") -> float:
    """Megabytes of an environment's packages, byte-code included."""
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    return sum(file.stat().st_size for file in packages.rglob(pattern) if file.is_file()) / 1e6


def run_process(python: Path, code: str) -> tuple[float, int]:
    """Run `code` in a process; return its seconds, start and exit included, and its last output.

    The output is the peak memory in kilobytes, 0 if `code` prints nothing.
    """
    started = time.perf_counter()
    done = subprocess.run(
        [str(python), "-P", "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return time.perf_counter() - started, int((done.stdout.split() or ["0"])[-1])


def main() -> None:
    parser = argument_parser(__doc__, "startup", rounds=7)
    parser.add_argument("bundle", nargs="?", type=Path, help="(default: tweet-sized hybrid)")
    options = parser.parse_args()
    this_python = Path(sys.executable)
    if options.bundle is None:
        make_artifacts()
    bundle = (options.bundle or ROOT / BUNDLE).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        _, whole = environment(Path(temporary, "whole"), ROOT)
        python, alone = environment(Path(temporary, "alone"), ROOT / "serving")
        programs = {
            "an empty program": (python, ""),
            IMPORT_DEPENDENCIES: (python, "import numpy, onnxruntime"),
            IMPORT: (python, "import kvae.serving"),
            LOAD_GRAPH: (python, LOAD_GRAPH_CODE.format(graph=str(bundle / "sampler.onnx"))),
            FIRST_TEXT: (python, KVAE_CODE.format(bundle=str(bundle))),
        }
        if options.bundle is None:
            alternatives = {"SavedModel": "SavedModel", "PyTorch, eager": "PyTorch"}
            programs |= {
                f"{name}, the first text": (
                    this_python,
                    ALTERNATIVE_CODE.format(name=alternative),
                )
                for name, alternative in alternatives.items()
            }
        taken: dict[str, list[tuple[float, int]]] = {name: [] for name in programs}
        for _ in range(options.rounds):
            for name, program in programs.items():
                taken[name].append(run_process(*program))
    seconds = {name: statistics.median(each for each, _ in runs) for name, runs in taken.items()}
    peak = {
        name: statistics.median(size for _, size in runs) / 1024 for name, runs in taken.items()
    }
    for name, value in seconds.items():
        memory = f"  {peak[name]:6.0f} MB" if peak[name] else ""
        print(f"{name:28} {value:6.3f} s{memory}")
    ratio = seconds[IMPORT] / seconds[IMPORT_DEPENDENCIES]
    print(f"import kvae.serving takes {ratio:.2f} times the import of numpy and onnxruntime")
    added, added_by_serving = whole["installed"], alone["installed"]
    print(f"megabytes: kvae adds {added:.2f}, kvae-text-serving {added_by_serving:.2f}")
    report = {
        "seconds": seconds,
        "peak_megabytes": {name: value for name, value in peak.items() if value},
        "kvae": whole,
        "kvae-text-serving": alone,
        "rounds": options.rounds,
    }
    write_report(options.json, report)


if __name__ == "__main__":
    main()
