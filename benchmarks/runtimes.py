"""Run all graphs of bundles in other runtimes and compare the results with onnxruntime.

    python benchmarks/runtimes.py [--out runs/runtimes] [--page docs/runtimes.md] [--only NAME ...]
                                  [--bundles FOLDER]

Each runtime is installed in a virtual environment of its own, in the version of
`runtime_runners.RUNTIMES`. The bundles are those of tiny systems with random weights, or all
bundles in FOLDER. A graph that ends the process of a runtime is told from one that only fails.
Results that are already in `--out` are not measured again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import inspect
import json
import os
import platform
import re
import subprocess
import sys
import textwrap
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import runtime_litert
from runtime_litert import FUNCTIONS
from runtime_runners import RUNTIMES, Arrays, onnxruntime_runner

ENDPOINTS = (
    "sampler",
    "encoder",
    "prior",
    "scorer",
    "expand",
    "step",
    "sampler_plain",
    "step_plain",
)
TOLERANCE = 1e-4
"""Largest difference of a number, relative to 1 + |value|. Token ids must be equal."""

BATCHES = (1, 5, 64)
SEEDS = (0, 2**31 - 1)
CHOICES: tuple[dict[str, float], ...] = (
    {"temperature": 0.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 0.7, "top_k": 3, "top_p": 0.9},
)

REPEAT: dict[str, Any] = {"expander": "repeat", "expander_base": 0, "auxiliary": False}
SYSTEMS: dict[str, dict[str, Any]] = {
    "hybrid": {},
    "LSTM encoder": {**REPEAT, "encoder": "lstm", "encoder_units": (8,), "head_reads": "state"},
    "GRU encoder": {**REPEAT, "encoder": "gru", "encoder_bidirectional": True, "head": "gru"},
    "ladder": {"latent": "map", "latent_size": (4, 3), "expander": "repeat"},
    "mixture prior": {"prior": "mixture"},
    "labels": {"attributes": ("low", "high")},
    "hybrid for OpenVINO": {},
}
SIGNED_WORDS = ("hybrid for OpenVINO",)
"""Systems that are exported with `kvae export --openvino`."""

SIZES: dict[str, Any] = {
    "vocabulary_size": 9,
    "length": 16,
    "encoder_units": (8, 16),
    "latent_size": 4,
    "expander_base": 8,
    "expander_filters": (16, 8),
    "head_units": 12,
}
"""The model of each system, in tiny."""


# --- in the environment of a runtime --------------------------------------------------------------


def run_graphs(name: str, bundle: Path, endpoints: list[str]) -> None:
    """Run graphs of a bundle in a runtime and print a JSON line with the outcome of each."""
    for endpoint in endpoints:
        print(json.dumps({"begun": endpoint}), flush=True)
        cases = recorded(bundle / f"{endpoint}.npz")
        print(json.dumps({"ended": endpoint, "outcome": outcome(name, bundle, endpoint, cases)}))
        sys.stdout.flush()


def outcome(name: str, bundle: Path, endpoint: str, cases: list[tuple[Any, Arrays]]) -> str:
    """`ok`, or what is wrong in a few words."""
    file = bundle / f"{endpoint}{RUNTIMES[name].ending}"
    if (fault := file.with_name(f"{file.name}.txt")).exists():
        return f"does not convert: {tidied(fault.read_text(encoding='utf-8'))}"
    try:
        run = RUNTIMES[name].runner(str(file))
    except Exception as error:  # a runtime may raise anything
        return f"does not load: {reason(error)}"
    wrong = 0
    for inputs, expected in cases:
        try:
            found = run(dict(inputs))
        except Exception as error:
            return f"does not run: {reason(error)}"
        wrong += not all(map(equal, found, expected))
    return f"wrong in {wrong} of {len(cases)} cases" if wrong else "ok"


def equal(found: Any, expected: np.ndarray) -> bool:
    """Whether an output is that of onnxruntime: equal whole numbers, or close ones."""
    found = np.asarray(found)
    if found.shape != expected.shape:
        return False
    if expected.dtype.kind in "iub":
        return bool((found == expected).all())
    return bool((np.abs(found - expected) <= TOLERANCE * (1 + np.abs(expected))).all())


def reason(error: Exception) -> str:
    """The first line of an error message that says something, in at most 160 characters."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception from")]
    text = f"{type(error).__name__}: {said[0] if said else ''}"
    return tidied(text)


def tidied(text: str) -> str:
    """An error message for a cell of a table, in at most 160 characters."""
    return text.replace("|", "/").replace("`", "'")[:160]


def recorded(file: Path) -> list[tuple[dict[str, np.ndarray], Arrays]]:
    """Inputs and outputs of each case of a graph."""
    with np.load(file) as arrays:
        cases: dict[int, tuple[dict[str, np.ndarray], Arrays]] = {}
        for key in arrays.files:
            number, side, name = key.split("|")
            inputs, outputs = cases.setdefault(int(number), ({}, []))
            if side == "in":
                inputs[name] = arrays[key]
            else:
                outputs.append(arrays[key])
    return list(cases.values())


# --- bundles, and what onnxruntime gives ----------------------------------------------------------


def export_systems(folder: Path) -> None:
    """Export a tiny bundle of each system into `folder`, unless it is there."""
    import keras

    from kvae.configuration import Config, ModelConfig, ObjectiveConfig
    from kvae.export.bundle import write_bundle
    from kvae.export.saved_model import write_saved_model
    from kvae.model import TextVAE
    from kvae.serving.alphabet import Alphabet

    for system, settings in SYSTEMS.items():
        path = folder / system.replace(" ", "-")
        if not path.exists():
            keras.utils.set_random_seed(0)
            shape = ModelConfig(**{**SIZES, **settings})
            config = Config(model=shape, objective=ObjectiveConfig(alpha=0.2 * shape.auxiliary))
            model = TextVAE(config.model, config.objective)
            for weight in model.trainable_weights:
                weight.assign(weight + 0.3 * keras.random.normal(weight.shape, seed=1))
            signed_words = system in SIGNED_WORDS
            write_bundle(model, Alphabet(tuple("abcde")), config, path, signed_words=signed_words)
            if not signed_words:
                write_saved_model(model, saved_model_of(path))


def saved_model_of(bundle: Path) -> Path:
    """The SavedModel of the model of a bundle."""
    return bundle.parents[1] / "saved_models" / bundle.name


def record(bundle: Path) -> None:
    """Run every case of every graph in onnxruntime and write the results beside the graphs."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    run = {name: onnxruntime_runner(str(bundle / f"{name}.onnx")) for name in ENDPOINTS}
    arrays: dict[str, dict[str, np.ndarray]] = {name: {} for name in ENDPOINTS}
    counts = dict.fromkeys(ENDPOINTS, 0)

    def case(endpoint: str, **given: Any) -> Arrays:
        inputs = {name: np.asarray(value) for name, value in given.items()}
        outputs = run[endpoint](inputs)
        number, counts[endpoint] = counts[endpoint], counts[endpoint] + 1
        arrays[endpoint] |= {f"{number}|in|{name}": value for name, value in inputs.items()}
        arrays[endpoint] |= {f"{number}|out|{i}": value for i, value in enumerate(outputs)}
        return outputs

    for batch in BATCHES:
        for seed in SEEDS:
            run_cases(case, manifest, batch, seed)
    for name, values in arrays.items():
        np.savez(bundle / f"{name}.npz", **values)


def run_cases(case: Callable[..., Arrays], manifest: dict[str, Any], batch: int, seed: int) -> None:
    """The cases of all graphs for a batch of rows of a seed."""
    length = manifest["length"]
    place = {"seed": np.full(batch, seed), "row": np.arange(batch)}
    (z,) = case("prior", **place)
    uniform = np.random.default_rng(seed).random((batch, length), np.float32)
    shortest = {"min_length": np.int64(1)}
    for choices in map(typed, CHOICES):
        for given in (z, z[:0]):
            longest = {"max_length": np.int64(length)}
            case("sampler", **place, z=given, **choices, **shortest, **longest)
        case("sampler_plain", z=z, uniform=uniform, **choices, **shortest)
    tokens = tokens_of(manifest, batch)
    case("encoder", tokens=tokens)
    labels = {"attribute": np.full(batch, -1, np.int32)} if manifest["latent"]["attributes"] else {}
    case("scorer", tokens=tokens, **place, **labels)
    projected, *states = case("expand", z=z)
    previous = np.ones(batch, np.int64)
    mask = np.zeros((1, manifest["model"]["vocabulary_size"]), np.float32)
    mask[:, [0, 1, 3]] = -1e9  # ids that are never sampled
    for position, choices in enumerate(map(typed, CHOICES)):
        memory = {f"state_{number}": state for number, state in enumerate(states)}
        at = {"position": np.int64(position), **shortest}
        here = {"projected": projected[:, position], "previous": previous}
        case("step_plain", **here, **memory, uniform=uniform[:, position], mask=mask, **choices)
        previous, _, *states = case("step", **here, **memory, **at, **place, **choices)


def typed(choices: Mapping[str, float]) -> dict[str, Any]:
    """Sampling options with the types of the graphs."""
    kinds: dict[str, Any] = {"temperature": np.float32, "top_k": np.int64, "top_p": np.float32}
    return {name: kinds[name](value) for name, value in choices.items()}


def tokens_of(manifest: dict[str, Any], batch: int) -> np.ndarray:
    """Random texts (batch, T), with an end mark where the model has one."""
    generator = np.random.default_rng(0)
    length, size = manifest["length"], manifest["model"]["vocabulary_size"]
    tokens = generator.integers(4, size, (batch, length)).astype(np.int32)
    if manifest["mode"] == "lines":
        ends = generator.integers(0, length, batch)
        tokens[np.arange(batch), ends] = 2
        tokens[np.arange(length)[None, :] > ends[:, None]] = 0
    return tokens


# --- all of it ------------------------------------------------------------------------------------


def installed(name: str, folder: Path) -> Path:
    """The Python of a virtual environment with a runtime, made unless it is there."""
    path = folder / name.replace(" ", "-")
    python = path / "bin" / "python"
    if not (path / "complete").exists():
        venv.create(path, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *RUNTIMES[name].packages]
        subprocess.run(command, check=True)
        (path / "complete").touch()
    return python


def measured(name: str, python: Path, bundle: Path) -> dict[str, str]:
    """The outcome of each graph of a bundle in a runtime. After a graph that ends the process,
    another process goes on."""
    found: dict[str, str] = {}
    # Whatever the runtime's package starts, it starts in its own environment.
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "PIP_REQUIRE_VIRTUALENV": "1"}
    while left := [graph for graph in graphs_of(name) if graph not in found]:
        command = [str(python), __file__, "--run", name, "--bundle", str(bundle), *left]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        found |= {line["ended"]: line["outcome"] for line in lines if "ended" in line}
        begun = [line["begun"] for line in lines if "begun" in line and line["begun"] not in found]
        if not lines:
            sys.exit(f"{name}: {done.stderr[-2000:]}")
        found |= dict.fromkeys(begun, f"ends the process ({done.returncode})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/runtimes"))
    parser.add_argument("--bundles", type=Path, help="a folder of bundles")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--only", nargs="*", default=list(RUNTIMES), metavar="NAME")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("endpoints", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_graphs(options.run, options.bundle, options.endpoints)
        return
    folder = options.bundles or options.out / "bundles"
    if options.bundles is None:
        export_systems(folder)
    bundles = sorted(file.parent for file in folder.glob("*/manifest.json"))
    for bundle in bundles:
        record(bundle)
    saved = sorted(path for path in map(saved_model_of, bundles) if path.is_dir())
    for path in saved:
        if not list(path.glob("*.npz")):
            runtime_litert.convert(path)
            runtime_litert.record(path, SIZES["vocabulary_size"], BATCHES)
    results_file = options.out / "results.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    for name in options.only:
        if name not in results:
            python = installed(name, options.out / "environments")
            folders = saved if RUNTIMES[name].functions else bundles
            results[name] = {path.name: measured(name, python, path) for path in folders}
            results_file.write_text(json.dumps(results, indent=1))
            print(name, summary(name, results[name]), sep="\n", flush=True)
    if options.page:
        options.page.write_text(page(results), encoding="utf-8")


def summary(name: str, found: dict[str, dict[str, str]]) -> str:
    """The outcomes of a runtime, one graph in a line."""
    return "\n".join(f"  {graph}: {cell(found, graph)}" for graph in graphs_of(name))


def cell(found: dict[str, dict[str, str]], endpoint: str) -> str:
    """`ok`, or the systems whose graph is not."""
    bad = {system: graphs[endpoint] for system, graphs in found.items() if graphs[endpoint] != "ok"}
    kinds = sorted({text.split(":")[0].split(" in ")[0].split(" (")[0] for text in bad.values()})
    return f"{' or '.join(kinds)}{where(bad, found)}" if bad else "ok"


def where(some: Iterable[str], every: Iterable[str]) -> str:
    """The systems of a fault, in few words."""
    some, others = sorted(some), sorted({*every} - {*some})
    if not others:
        return ""
    return f": all but {', '.join(others)}" if len(others) == 1 else f": {', '.join(some)}"


PAGE = """# Runtimes

This page is made by `python benchmarks/runtimes.py --page docs/runtimes.md`. It compares the graphs
of bundles in other runtimes with onnxruntime {own}, on one machine ({machine}, CPU). Every runtime
has a virtual environment of its own.

- Bundles: tiny models with random weights. They are
  {systems}.
- Cases: batches of {batches} rows; the seeds {seeds}; greedy, sampled, and top-k with top-p; codes
  given and drawn.
- `ok`: all token ids are equal, and numbers to {tolerance:g}, for all bundles.

{table}

The random numbers of `prior` and `step` are right in OpenVINO if the bundle is written by
`kvae export --openvino`. Where `sampler` does not run, a program can draw codes with `prior`,
decode them with `expand` and call `step` for each position. The texts are the same, and
`BundleGraphs.write_steps` in `serving/bundle_graphs.py` is the loop. Where random numbers fail,
`sampler_plain` and `step_plain` take those of the program: `kvae.serving.random_numbers` and
`examples/javascript/kvae/random_numbers.js` compute them. If the prior is a standard normal one,
codes can come from `kvae.serving.random_numbers.normals`.

onnxruntime-web 1.30.0 (WebAssembly) is not in the table. The tests of `examples/javascript` compare
its texts, codes and scores with Python, in Node and in Chromium. WebGPU was not tried.

## What is missing, and what a program needs

Each function takes a file and returns a function of the inputs by name.

{sections}
## LiteRT

`kvae export RUN --saved-model DIR` writes a SavedModel with the functions `encode`, `decode`,
`sample` and `score`. LiteRT (formerly TensorFlow Lite) runs its files on phones and small machines.
The table has each function, converted by TensorFlow {tensorflow} for the same systems and run with
batches of {batches} rows: with LiteRT's own operations alone, and with TensorFlow's where LiteRT
has none. `ok`: token ids are equal to those of TensorFlow, and numbers to {tolerance:g}.

{litert}

**Codes of texts run in LiteRT, if the encoder is not recurrent.** Nothing else does without
TensorFlow's operations: `decode` lacks a single one, `BitwiseAnd`. With them all functions convert,
but the package for Python has no Flex delegate, which runs them. To sample on a phone, use
onnxruntime, which runs all graphs.

{litert_sections}"""


def page(results: dict[str, Any]) -> str:
    """The page of results."""
    import onnxruntime

    return PAGE.format(
        own=onnxruntime.__version__,
        machine=f"{platform.system()}, {platform.machine()}",
        systems=", ".join(next(iter(results.values()))),
        batches=", ".join(map(str, BATCHES)),
        seeds=" and ".join(map(str, SEEDS)),
        tolerance=TOLERANCE,
        table=table_of(results, ENDPOINTS),
        sections="\n".join(sections(results, ENDPOINTS)),
        tensorflow=importlib.metadata.version("tensorflow"),
        litert=table_of(results, FUNCTIONS),
        litert_sections="\n".join(sections(results, FUNCTIONS)),
    )


def table_of(results: dict[str, Any], graphs: tuple[str, ...]) -> str:
    """The outcomes of the runtimes that run these graphs."""
    header = "| runtime | " + " | ".join(graphs) + " |\n|---" + "|---" * len(graphs) + "|"
    rows = [
        f"| {name} | " + " | ".join(cell(results[name], graph) for graph in graphs) + " |"
        for name in RUNTIMES
        if name in results and graphs_of(name) == graphs
    ]
    return "\n".join([header, *rows])


def graphs_of(name: str) -> tuple[str, ...]:
    """What a runtime runs: graphs of bundles, or functions of a SavedModel."""
    return RUNTIMES[name].functions or ENDPOINTS


def sections(results: dict[str, Any], graphs: tuple[str, ...]) -> Iterator[str]:
    """A section for each way to run these graphs, with what fails in its newest version and its
    source."""
    there = [name for name in RUNTIMES if name in results and graphs_of(name) == graphs]
    for runner in dict.fromkeys(RUNTIMES[name].runner for name in there):
        names = [name for name in there if RUNTIMES[name].runner is runner]
        if graphs == ENDPOINTS:
            yield f"### {names[0].rsplit(' ', 1)[0]}\n"
            yield "\n".join(faults(results[names[-1]])) + "\n"
        else:
            yield from (f"{name}:\n\n" + "\n".join(faults(results[name])) + "\n" for name in names)
        yield f"```python\n{inspect.getsource(runner)}```\n"


def faults(found: dict[str, dict[str, str]]) -> list[str]:
    """What fails in a runtime, as a list. Faults that differ in numbers alone are one."""
    systems: dict[tuple[str, str], list[str]] = {}
    for system, graphs in found.items():
        for endpoint, text in graphs.items():
            if text != "ok":
                fault = re.sub(r"^wrong .*", "wrong", re.sub(r" ?#\d+|_\d+\b", "", text))
                systems.setdefault((endpoint, fault), []).append(system)
    lines = [
        f"- `{endpoint}` {fault}{where(bad, found)}"
        for (endpoint, fault), bad in sorted(systems.items())
    ]
    wrapped = (textwrap.fill(line, 128, subsequent_indent="  ") for line in lines)
    return list(wrapped) or ["Nothing is missing."]


if __name__ == "__main__":
    main()
