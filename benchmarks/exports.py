"""Compare every exported system with Keras, and its texts in Python, Node and a browser.

    python benchmarks/exports.py [--out runs/exports] [--page docs/exports.md] [--presets NAME ...]

The small variant of each preset, and the default one with each tokenizer, is trained for a few
steps and exported. The export is compared with Keras, on up to 200 held-out texts among others.
Then the bundle samples 20 texts for each of 3 seeds in Python and, once `make test-javascript` has
installed the packages, in Node. The page of `examples/javascript` shows a text for each of 10 seeds
in Chromium. A result that is already in `--out` is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from kvae.configuration import Config
from kvae.export.bundle import write_bundle
from kvae.model import TextVAE
from kvae.presets import PUBLISHED, preset
from kvae.serving import Sampler
from kvae.training.data.pipeline import training_stream
from kvae.training.data.prepare import prepare
from kvae.training.systems import distinct_configs

STEPS, BATCH = 60, 64
SEEDS = (0, 1, 2)
TEXTS = 20
PAGE_SEEDS = range(10)
"""Seeds whose first text is compared on the page."""
NODE = Path(__file__).parents[1] / "examples" / "javascript"


def systems(names: list[str]) -> Iterator[tuple[str, Config]]:
    """Each distinct system of the presets on `sines`, and the default one with each tokenizer."""
    for config, (name, *_) in distinct_configs(names):
        yield name, config
    if names == list(PUBLISHED):
        for tokenizer, max_symbols in {"char": 0, "byte": 0, "word": 500, "wordpiece": 500}.items():
            settings = {"model.tokenizer": tokenizer, "data.max_symbols": max_symbols}
            yield f"hybrid-lstm, {tokenizer}", preset("hybrid-lstm-small").with_settings(settings)


def train_and_export(config: Config, bundle: Path) -> dict[str, Any]:
    """Train a system and export it to `bundle`.

    Returns `parity` of its manifest, the seconds of the export and the megabytes of its graphs.
    """
    keras.utils.set_random_seed(0)
    data = prepare(
        config.with_settings({"training.batch_size": BATCH, "training.start_from": None})
    )
    model = TextVAE(data.config.model, data.config.objective)
    model.compile(keras.optimizers.Adam(2e-3, global_clipnorm=5.0), jit_compile=False)
    model.fit(training_stream(data), steps_per_epoch=STEPS, epochs=1, verbose=0)
    shutil.rmtree(bundle, ignore_errors=True)
    started = time.perf_counter()
    manifest = write_bundle(model, data.alphabet, data.config, bundle, held_out=data.validation)
    size = sum(entry["size"] for entry in manifest["endpoints"].values())
    return {
        **manifest["parity"],
        "export_seconds": time.perf_counter() - started,
        "megabytes": size / 1e6,
    }


def equal_in_node(bundle: Path) -> int | None:
    """Number of texts that are equal in Node and in Python; None if Node is not available."""
    if not has_node():
        return None
    sampler, equal = Sampler.load(bundle), 0
    for seed in SEEDS:
        command = ["node", "node.mjs", str(bundle.resolve())]
        command += ["-n", str(TEXTS), "--seed", str(seed), "--json"]
        done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, check=True)
        texts = [sample["text"] for sample in json.loads(done.stdout)["samples"]]
        equal += sum(
            ours == theirs for ours, theirs in zip(sampler.sample(TEXTS, seed), texts, strict=True)
        )
    return equal


def equal_in_browser(bundle: Path) -> int | None:
    """Number of seeds whose text on the page is Python's; None without Node or Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not has_node() or not chromium:
        return None
    actions = [["fill", "temperature", 1], *(["fill", "seed", seed] for seed in PAGE_SEEDS)]
    command = ["node", "serve.mjs", str(bundle.resolve()), "--port", "0"]
    with subprocess.Popen(command, cwd=NODE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            page = server.stdout.readline().strip()
            environment = {**os.environ, "KVAE_CHROMIUM": chromium}
            done = subprocess.run(
                ["node", "drive.mjs", page],
                cwd=NODE,
                env=environment,
                input=json.dumps(actions),
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            server.terminate()
    sampler = Sampler.load(bundle)
    _, _, *observed = json.loads(done.stdout)
    return sum(
        sampler.sample(1, seed)[0] == page_state["text"]
        for seed, page_state in zip(PAGE_SEEDS, observed, strict=True)
    )


def has_node() -> bool:
    """True if Node and the packages of the examples are installed."""
    return bool(shutil.which("node")) and (NODE / "node_modules").is_dir()


HEAD = f"""# Every system, exported

This page is made by `python benchmarks/exports.py --page docs/exports.md`. The small variant of
each preset is trained on `sines` for {STEPS} steps of batch {BATCH}, and the default one also on
the Unicode names with each tokenizer. Each is exported and compared with Keras on 200 codes sampled
from the prior and on 200 encodings of held-out texts (none for language models).

- *logit*, *code*: largest absolute difference;
- *bound*: largest relative difference of the two terms of the bound that the scorer returns;
- *greedy*: rows that decode to the same text;
- *Node*: texts that are equal in Node and in Python, of {TEXTS} texts for each of
  {len(SEEDS)} seeds at temperature 1;
- *browser*: seeds, of {len(PAGE_SEEDS)}, for which the page shows Python's first text in Chromium.

| system | logit | code | bound | greedy | held-out rows | Node | browser | MB |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
"""


def page(rows: dict[str, dict[str, Any]]) -> str:
    """The page: one row for each system."""
    return HEAD + "".join(
        f"| `{name}` | {row['largest_logit_difference']:.1e} | "
        f"{row['largest_code_difference']:.1e} | "
        f"{row['largest_bound_difference']:.1e} | {row['greedy_rows_equal']} of {row['rows']} | "
        f"{row['held_out_rows']} | "
        + ("-" if row["node"] is None else f"{row['node']} of {len(SEEDS) * TEXTS}")
        + " | "
        + ("-" if row["browser"] is None else f"{row['browser']} of {len(PAGE_SEEDS)}")
        + f" | {row['megabytes']:.1f} |\n"
        for name, row in rows.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/exports"), help="folder for the results"
    )
    parser.add_argument("--page", type=Path, help="also write the page to this file")
    parser.add_argument(
        "--presets", nargs="+", default=list(PUBLISHED), help="(default: all published ones)"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name, config in systems(options.presets):
        result = options.out / f"{name.replace(', ', '-')}.json"
        if not result.exists():
            bundle = options.out / result.stem
            row = train_and_export(config, bundle)
            row |= {"node": equal_in_node(bundle), "browser": equal_in_browser(bundle)}
            result.write_text(json.dumps(row))
            shutil.rmtree(bundle)
        rows[name] = json.loads(result.read_text())
        print(f"{name}: {rows[name]}", flush=True)
        keras.backend.clear_session()
    if options.page:
        options.page.write_text(page(rows), encoding="utf-8")
    print(page(rows))


if __name__ == "__main__":
    main()
