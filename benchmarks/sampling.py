"""How fast does a bundle write, beside what one would use instead?

    python benchmarks/sampling.py [--batches 1 16 64 256] [--rounds 5] [--bundles BUNDLE ...]

The tweet-sized hybrid of Semeniuta et al. 2017 (code 100, five deconvolutions, a layer-normalised LSTM of 1,000, T 128,
bytes), trained for 600 steps of 32 on 50,000 tweets (`kvae data get tweets --from FOLDER`; where they are not there on the
names of the Unicode characters), as: our bundle, the same in eight bits, Keras (each step a `tf.function`), a SavedModel,
PyTorch as one writes it (eager) and with its step compiled. Texts run to their full length. Each lives in a process of its own
and all run in turn, for a third of a second or one batch, behind a run that is not counted; PyTorch has to be there (the extra
`benchmarks`). What is made is kept in `runs/benchmarks`: training takes a quarter of an hour, once. `--bundles` compares
bundles of your own instead, the first with the others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from turns import MEMORY, Rival, arguments, bandwidth, in_turn, serve, steady, triad, written

MADE = Path("runs/benchmarks")
TEXTS, RUN, BUNDLE, EIGHT_BITS, SAVED, WEIGHTS = (
    MADE / name
    for name in ("tweets.txt", "tweets-run", "tweets", "tweets-int8", "tweets-saved", "tweets.npz")
)
STEPS, MOST = 600, 50_000
"""Of training, and the texts that it takes: a fiftieth of them is held out, enough for what eight bits change."""
TRAINING = f"--preset hybrid-lstm-tweets --tokenizer byte --steps {STEPS} --batch-size 32"
SETTINGS = {
    "data.too_long": "cut",
    "data.validation_fraction": 0.02,
    "training.learning_rate": 2e-3,
    "training.learning_rate_schedule": "cosine",
    "objective.ramp_start": 0,
    "objective.ramp_steps": STEPS // 2,
}
RIVALS = ("bundle", "bundle, eight bits", "Keras", "SavedModel", "PyTorch", "PyTorch, compiled")
CEILINGS: dict[str, dict[str, bool]] = {
    "products": {},
    "products, by onnxruntime": {"pytorch_too": False},
    "products, eight bits": {"eight_bits": True},
}
"""What the products that a batch cannot do without are measured with."""
LENGTH, CODE, UNITS, FEATURES, SYMBOLS = 128, 100, 1000, 200, 260


def prepare() -> None:
    """Make what is not there."""
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    if not TEXTS.exists():
        TEXTS.parent.mkdir(parents=True, exist_ok=True)
        TEXTS.write_text("\n".join(some_texts()) + "\n", encoding="utf-8")
    for made, command in (
        (
            RUN / "model.keras",
            ["train", *TRAINING.split(), f"--data={TEXTS}", *settings, "--resume", f"--out={RUN}"],
        ),
        (BUNDLE, ["export", str(RUN), str(BUNDLE)]),
        (EIGHT_BITS, ["export", str(RUN), str(EIGHT_BITS), "--int8"]),
        (SAVED, ["export", str(RUN), f"--saved-model={SAVED}"]),
    ):
        if not made.exists():
            print(f"making {made}: minutes, once", file=sys.stderr)
            subprocess.run(
                [sys.executable, "-P", "-m", "kvae", *command], check=True, stdout=sys.stderr
            )
    if not WEIGHTS.exists():
        model = trained().model
        parts = [*model.expander.weights, *model.head.weights]
        np.savez(
            WEIGHTS,
            **{"/".join(weight.path.split("/")[-2:]): np.asarray(weight.value) for weight in parts},
        )


def some_texts() -> Sequence[str]:
    """Tweets at equal distances, or the names of the Unicode characters where there are no tweets."""
    from kvae.training.corpora import lines_of, unicode_names
    from kvae.training.downloads import file_of, missing

    if missing("tweets"):
        return unicode_names()
    texts = lines_of(file_of("tweets", "tweets.train.txt"))
    return texts[:: max(len(texts) // MOST, 1)][:MOST]


def trained() -> Any:
    """The run."""
    from kvae.runs import load_run

    return load_run(RUN)


def of_bundle(path: str) -> Callable[[int], Any]:
    from kvae.serving import Sampler

    sampler = Sampler.load(path)
    return lambda batch: sampler.generate(batch, seed=0, min_length=sampler.length)


def of_keras() -> Callable[[int], Any]:
    from kvae.decoding import at_temperature, sample
    from kvae.training.generation import compiled

    model = trained().model
    model.head.step = compiled(model.head.step)
    return lambda batch: np.asarray(sample(model, batch, at_temperature(1.0, 0), seed=0))


def of_saved_model() -> Callable[[int], Any]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(SAVED))
    write = loaded.signatures["sample"]
    one = tf.constant(1.0)
    return lambda batch: write(seed=tf.constant(0), count=tf.constant(batch), temperature=one)[
        "ids"
    ].numpy()


def of_pytorch(compiled: bool) -> Callable[[int], Any]:
    import torch
    from pytorch_models import Sampler

    torch.manual_seed(0)
    model = Sampler(dict(np.load(WEIGHTS)), LENGTH)
    barrier = torch.zeros(SYMBOLS)
    barrier[[0, 1, 2, 3]] = -1e9  # no end mark, so that every text is of full length
    step = torch.compile(model.step, dynamic=False) if compiled else None
    return lambda batch: model.write(torch.randn(batch, CODE), False, barrier, step).numpy()


def of_name(name: str) -> Callable[[int], Any]:
    """What writes a batch."""
    named: dict[str, Callable[[], Callable[[int], Any]]] = {
        "bundle": lambda: of_bundle(str(BUNDLE)),
        "bundle, eight bits": lambda: of_bundle(str(EIGHT_BITS)),
        "Keras": of_keras,
        "SavedModel": of_saved_model,
        "PyTorch": lambda: of_pytorch(False),
        "PyTorch, compiled": lambda: of_pytorch(True),
    }
    return named[name]() if name in named else of_bundle(name)


def answering(name: str) -> Callable[..., dict[str, Any]]:
    """A worker: seconds of a batch, or of the products that a batch cannot do without, or of the memory's triad."""
    if name == MEMORY:
        return triad()
    if name in CEILINGS:
        return lambda batch: {"seconds": seconds_of_products(batch, **CEILINGS[name])}
    write = of_name(name)
    return lambda batch: {"seconds": steady(lambda: write(batch))}


def seconds_of_products(batch: int, eight_bits: bool = False, pytorch_too: bool = True) -> float:
    """Of a batch: at every position the state times the LSTM's kernel and times the classifier's, and at once the features
    times what the gates read of them; the deconvolutions are taken to be as fast as the latter. Each by PyTorch or onnxruntime,
    whichever is faster, or by the latter; in eight bits the first, which alone is computed so, by onnxruntime."""
    recurrence = LENGTH * product(
        batch, UNITS, 4 * UNITS, pytorch_too and not eight_bits, eight_bits
    )
    classifier = LENGTH * product(batch, UNITS, SYMBOLS, pytorch_too)
    features = product(batch * LENGTH, FEATURES, 4 * UNITS, pytorch_too, calls=1)
    return (
        recurrence + classifier + features * (1 + of_expander() / (LENGTH * FEATURES * 4 * UNITS))
    )


def of_expander() -> int:
    """Multiplications of a text's coarse grid and deconvolutions."""
    sizes, length = [512, 512, 512, 256, 128, FEATURES], LENGTH // 2**5
    found = CODE * length * sizes[0]
    for before, after in itertools.pairwise(sizes):
        found += length * 3 * before * after
        length *= 2
    return found


def product(
    rows: int,
    inner: int,
    columns: int,
    pytorch_too: bool,
    eight_bits: bool = False,
    calls: int = 16,
) -> float:
    """Seconds of a product of (rows, inner) and (inner, columns) numbers, of so many in a row, by onnxruntime or the faster."""
    import onnxruntime
    import torch
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.random.default_rng(0).standard_normal((inner, columns)).astype(np.float32)
    read, written, operation = TensorProto.FLOAT, TensorProto.FLOAT, "MatMul"
    constant, inputs = kernel, np.ones((rows, inner), np.float32)
    if eight_bits:
        read, written, operation = TensorProto.UINT8, TensorProto.INT32, "MatMulInteger"
        constant, inputs = (30 * kernel).clip(-127, 127).astype(np.int8), inputs.astype(np.uint8)
    names = [str(number) for number in range(calls)]
    graph = helper.make_graph(
        [helper.make_node(operation, [name, "kernel"], [f"of {name}"]) for name in names],
        "products",
        [helper.make_tensor_value_info(name, read, None) for name in names],
        [helper.make_tensor_value_info(f"of {name}", written, None) for name in names],
        [numpy_helper.from_array(constant, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feed = dict.fromkeys(names, inputs)
    ways = [lambda: session.run(None, feed)]
    if pytorch_too:
        left, right = torch.from_numpy(inputs), torch.from_numpy(kernel)
        ways.append(lambda: [torch.mm(left, right) for _ in names])
    return min(map(steady, ways)) / calls


def same_texts() -> float:
    """Of 64 greedy texts, the share that PyTorch writes as the bundle does: that it is the same network."""
    import torch
    from pytorch_models import Sampler

    from kvae.serving import Sampler as Bundle

    bundle, model = Bundle.load(BUNDLE), Sampler(dict(np.load(WEIGHTS)), LENGTH)
    codes = np.random.default_rng(0).standard_normal((64, CODE)).astype(np.float32)
    barrier = torch.zeros(SYMBOLS)
    barrier[[0, 1, 3]] = -1e9
    ids = model.write(torch.from_numpy(codes), True, barrier).numpy()
    theirs = bundle.alphabet.decode(ids)
    return float(
        np.mean(
            [
                ours == text
                for ours, text in zip(bundle.decode(codes, greedy=True), theirs, strict=True)
            ]
        )
    )


def main() -> None:
    parser = arguments(__doc__, "sampling", rounds=5)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64, 256])
    parser.add_argument("--bundles", nargs="+", default=[])
    options = parser.parse_args()
    if options.rival:
        serve(answering(options.rival))
        return
    if options.bundles:
        own_bundles(options)
        return
    prepare()
    rivals = [Rival(__file__, name) for name in (*RIVALS, *CEILINGS)]
    seconds = {}
    for batch in options.batches:
        found = in_turn(rivals, options.rounds, batch=batch)
        seconds[batch] = found
        for name, taken in found.items():
            speed = batch * LENGTH / taken
            print(
                f"batch {batch:4}  {speed:9,.0f} characters/s  {found['PyTorch'] / taken:5.2f} times PyTorch  {name}",
                flush=True,
            )
    memory = Rival(__file__, MEMORY)
    gigabytes = bandwidth(in_turn([memory], options.rounds)[MEMORY])
    for rival in (*rivals, memory):
        rival.close()
    print(f"memory: {gigabytes:.0f} GB/s", flush=True)
    manifest = json.loads((EIGHT_BITS / "manifest.json").read_text(encoding="utf-8"))
    written(
        options.json,
        {
            "seconds": seconds,
            "memory_gigabytes_per_second": gigabytes,
            "weights": UNITS * (4 * UNITS + SYMBOLS),
            "same_texts": same_texts(),
            "steps": int(trained().model.training_steps.numpy()),
            "texts": len(TEXTS.read_text(encoding="utf-8").splitlines()),
            "quantization": manifest["quantization"],
            "rounds": options.rounds,
            "length": LENGTH,
        },
    )


def own_bundles(options: argparse.Namespace) -> None:
    """Any bundles beside the first."""
    from kvae.serving import Sampler

    lengths = {path: Sampler.load(path).length for path in options.bundles}
    rivals = [Rival(__file__, os.path.abspath(path)) for path in options.bundles]
    for batch in options.batches:
        found = in_turn(rivals, options.rounds, batch=batch)
        first = next(iter(found.values()))
        for path, taken in zip(options.bundles, found.values(), strict=True):
            print(
                f"batch {batch:4}  {batch * lengths[path] / taken:9,.0f} tokens/s  {first / taken:5.2f} times the first  {path}"
            )


if __name__ == "__main__":
    main()
