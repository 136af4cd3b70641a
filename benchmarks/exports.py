"""Does every system leave as the same model, and write the same texts in Python, in Node and in a browser?

    python benchmarks/exports.py [--out runs/exports] [--page docs/exports.md] [--presets NAME ...]

Each preset in small, and each tokenizer, is trained for a few steps, exported with up to 200 held-out texts and compared with
Keras; its bundle then writes 20 texts of 3 seeds here and, where `make test-javascript` has been run, in Node, and the page of
`examples/javascript` shows one of 10 seeds in Chromium. A row that is there is kept.
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
from kvae.training.corpora import prepare
from kvae.training.pipeline import training_stream
from kvae.training.systems import distinct

STEPS, BATCH = 60, 64
SEEDS = (0, 1, 2)
TEXTS = 20
SHOWN = range(10)
"""Seeds whose first text the page shows."""
NODE = Path(__file__).parents[1] / "examples" / "javascript"


def systems(names: list[str]) -> Iterator[tuple[str, Config]]:
    """Every preset's system on the sines, and the default one on names with each tokenizer."""
    for name, config, _ in distinct(names):
        yield name, config
    if names == list(PUBLISHED):
        for tokenizer, most in {"char": 0, "byte": 0, "word": 500, "wordpiece": 500}.items():
            settings = {"model.tokenizer": tokenizer, "data.max_symbols": most}
            yield f"hybrid-lstm, {tokenizer}", preset("hybrid-lstm-small").with_settings(settings)


def exported(config: Config, bundle: Path) -> dict[str, Any]:
    """Train, export and compare one; the record of its manifest."""
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


def same_in_node(bundle: Path) -> int | None:
    """How many of the texts Node writes as Python does; None where it cannot be asked."""
    if not has_node():
        return None
    sampler, equal = Sampler.load(bundle), 0
    for seed in SEEDS:
        command = [
            "node",
            "node.mjs",
            str(bundle.resolve()),
            "-n",
            str(TEXTS),
            "--seed",
            str(seed),
            "--json",
        ]
        done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, check=True)
        texts = [sample["text"] for sample in json.loads(done.stdout)["samples"]]
        equal += sum(
            ours == theirs for ours, theirs in zip(sampler.sample(TEXTS, seed), texts, strict=True)
        )
    return equal


def same_in_browser(bundle: Path) -> int | None:
    """How many seeds show the text of Python on the page; None where it cannot be asked."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not has_node() or not chromium:
        return None
    actions = [["fill", "temperature", 1], *(["fill", "seed", seed] for seed in SHOWN)]
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
    _, _, *shown = json.loads(done.stdout)
    return sum(
        sampler.sample(1, seed)[0] == each["text"] for seed, each in zip(SHOWN, shown, strict=True)
    )


def has_node() -> bool:
    return bool(shutil.which("node")) and (NODE / "node_modules").is_dir()


HEAD = f"""# Every system, exported

Made by `python benchmarks/exports.py --page docs/exports.md`: each preset in small, {STEPS} steps of {BATCH} on `sines`,
and the default one on the Unicode names with each tokenizer; exported, and compared with Keras on 200 codes of the prior
and 200 encodings of held-out texts (none for language models). *Logit*, *code*: largest differences; *bound*: largest
difference of the scorer's halves of the bound, as a share. *Greedy*: rows that decode to the same text. *Node*: of {TEXTS}
texts of each of {len(SEEDS)} seeds at temperature 1, how many Node writes as Python does; *browser*: of {len(SHOWN)}
seeds, how many show Python's first text on the page in Chromium.

| system | logit | code | bound | greedy | held-out rows | Node | browser | MB |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
"""


def page(rows: dict[str, dict[str, Any]]) -> str:
    """The table."""
    return HEAD + "".join(
        f"| `{name}` | {row['largest_logit_difference']:.1e} | {row['largest_code_difference']:.1e} | "
        f"{row['largest_bound_difference']:.1e} | {row['greedy_rows_equal']} of {row['rows']} | {row['held_out_rows']} | "
        + ("-" if row["node"] is None else f"{row['node']} of {len(SEEDS) * TEXTS}")
        + " | "
        + ("-" if row["browser"] is None else f"{row['browser']} of {len(SHOWN)}")
        + f" | {row['megabytes']:.1f} |\n"
        for name, row in rows.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/exports"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--presets", nargs="+", default=list(PUBLISHED))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name, config in systems(options.presets):
        kept = options.out / f"{name.replace(', ', '-')}.json"
        if not kept.exists():
            bundle = options.out / kept.stem
            row = exported(config, bundle)
            kept.write_text(
                json.dumps(
                    {**row, "node": same_in_node(bundle), "browser": same_in_browser(bundle)}
                )
            )
            shutil.rmtree(bundle)
        rows[name] = json.loads(kept.read_text())
        print(f"{name}: {rows[name]}", flush=True)
        keras.backend.clear_session()
    if options.page:
        options.page.write_text(page(rows), encoding="utf-8")
    print(page(rows))


if __name__ == "__main__":
    main()
