"""How soon, and how large, is the sampler where nothing but its base dependencies is installed?

    python benchmarks/startup.py BUNDLE|--tweets [--rounds 7] [--json FILE]

Makes a fresh environment with the wheel of this checkout, then measures in turn, in a process each: importing numpy and
onnxruntime, importing kvae.serving, and from the start of a process to the first text. `--tweets` makes the bundle, one of
the tweet-sized hybrid (z 100, five deconvolutions, LSTM 1000, T 128) with random weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLE = "from kvae.serving import Sampler; print(Sampler.load({bundle!r}).sample(1, seed=0)[0])"
MEMORY = "; print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"


def tweet_sized(path: Path) -> Path:
    """A bundle of the tweet-sized hybrid with random weights."""
    from kvae.export.bundle import write_bundle
    from kvae.model import TextVAE
    from kvae.presets import preset
    from kvae.serving.alphabet import Alphabet

    config = preset("hybrid-lstm-tweets").with_settings({"model.length": 128, "model.vocabulary_size": 260})
    model = TextVAE(config.model, config.objective)
    write_bundle(model, Alphabet.of_bytes(), config, path)
    return path


def environment(folder: Path) -> Path:
    """The Python of a fresh environment with the wheel of this checkout."""
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*wheel, str(ROOT)], check=True)
    (file,) = folder.glob("*.whl")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "numpy", "onnxruntime"], check=True)
    print(f"numpy and onnxruntime: {megabytes(folder):.1f} MB of site-packages")
    before, own = megabytes(folder), megabytes(folder, "*.py")
    subprocess.run([*pip, str(file)], check=True)
    print(f"kvae adds {megabytes(folder) - before:.2f} MB, {megabytes(folder, '*.py') - own:.2f} of them source")
    return python


def megabytes(folder: Path, pattern: str = "*") -> float:
    """Size of an environment's packages, byte-code included."""
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    return sum(file.stat().st_size for file in packages.rglob(pattern) if file.is_file()) / 1e6


def seconds(python: Path, code: str) -> float:
    """A process that runs `code`, start and end included."""
    started = time.perf_counter()
    subprocess.run([str(python), "-c", code], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--tweets", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = tweet_sized(folder / "bundle") if options.tweets else options.bundle.resolve()
        python = environment(folder)
        programs = {
            "an empty program": "",
            "import numpy, onnxruntime": "import numpy, onnxruntime",
            "import kvae.serving": "import kvae.serving",
            "the first text": SAMPLE.format(bundle=str(bundle)),
        }
        taken: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(options.rounds):
            for name, code in programs.items():
                taken[name].append(seconds(python, code))
        memory = SAMPLE.format(bundle=str(bundle)) + MEMORY
        done = subprocess.run([str(python), "-c", memory], check=True, capture_output=True, text=True)
        peak = int(done.stdout.split()[-1]) // 1024
    medians = {name: statistics.median(values) for name, values in taken.items()}
    for name, value in medians.items():
        print(f"{name:28} {value:6.3f} s  (best {min(taken[name]):.3f})")
    own, base = (medians[name] for name in ("import kvae.serving", "import numpy, onnxruntime"))
    print(f"import kvae.serving takes {own / base:.2f} times the import of numpy and onnxruntime")
    print(f"peak memory with the first text: {peak} MB")
    if options.json:
        options.json.write_text(json.dumps({"medians": medians, "peak_megabytes": peak}))


if __name__ == "__main__":
    main()
