"""Compare the throughput of sampling from a bundle with the alternatives.

    python benchmarks/sampling.py [--batches 1 16 64 256] [--rounds 5] [--bundles BUNDLE ...]

The model is the tweet-sized hybrid of Semeniuta et al. 2017 (latent code of 100, five
deconvolutions, a layer-normalised LSTM of 1,000 units, T 128, bytes). It is trained for 600 steps
of batch 32 on 50,000 tweets (`kvae data get tweets --from FOLDER`), or on the names of the Unicode
characters if there are no tweets. Compared are:

- the bundle, in float32 and in eight bits;
- Keras, with each step a `tf.function`;
- a SavedModel;
- PyTorch, eager and with a compiled step.

Samples have full length. Each program runs in a process of its own. The programs take turns; a turn
is one warm-up run and then a third of a second or one batch, whichever takes longer. Needs PyTorch
(the extra `benchmarks`). The model and its exports are kept in `runs/benchmarks`; training takes a
quarter of an hour, once.

`--bundles` compares bundles of your own instead; the first is the baseline.
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
from typing import TYPE_CHECKING, Any

import numpy as np
from turns import (
    MEMORY,
    Worker,
    argument_parser,
    bandwidth,
    mean_seconds,
    median_seconds,
    memory_triad,
    serve_requests,
    write_report,
)

if TYPE_CHECKING:
    from kvae.runs import Run

ARTIFACTS = Path("runs/benchmarks")
TEXTS, RUN, BUNDLE, EIGHT_BITS, SAVED, WEIGHTS = (
    ARTIFACTS / name
    for name in ("tweets.txt", "tweets-run", "tweets", "tweets-int8", "tweets-saved", "tweets.npz")
)
STEPS, MAX_TEXTS = 600, 50_000
"""Training steps, and most texts to use; a fiftieth is held out to compare eight bits."""
TRAINING = f"--preset hybrid-lstm-tweets --tokenizer byte --steps {STEPS} --batch-size 32"
SETTINGS = {
    "data.too_long": "cut",
    "data.validation_fraction": 0.02,
    "training.learning_rate": 2e-3,
    "training.learning_rate_schedule": "cosine",
    "objective.ramp_start": 0,
    "objective.ramp_steps": STEPS // 2,
}
PROGRAMS = ("bundle", "bundle, eight bits", "Keras", "SavedModel", "PyTorch", "PyTorch, compiled")
PRODUCTS_ALONE: dict[str, dict[str, bool]] = {
    "products": {},
    "products, by onnxruntime": {"pytorch_too": False},
    "products, eight bits": {"eight_bits": True},
}
"""Workers that time the matrix products alone, with their options for `seconds_of_all_products`."""
LENGTH, CODE, UNITS, FEATURES, SYMBOLS = 128, 100, 1000, 200, 260


def make_artifacts() -> None:
    """Train and export the model, skipping the artifacts that exist."""
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    if not TEXTS.exists():
        TEXTS.parent.mkdir(parents=True, exist_ok=True)
        TEXTS.write_text("\n".join(training_texts()) + "\n", encoding="utf-8")
    for artifact, command in (
        (
            RUN / "model.keras",
            ["train", *TRAINING.split(), f"--data={TEXTS}", *settings, "--resume", f"--out={RUN}"],
        ),
        (BUNDLE, ["export", str(RUN), str(BUNDLE)]),
        (EIGHT_BITS, ["export", str(RUN), str(EIGHT_BITS), "--int8"]),
        (SAVED, ["export", str(RUN), f"--saved-model={SAVED}"]),
    ):
        if not artifact.exists():
            print(f"making {artifact}: takes minutes, once", file=sys.stderr)
            subprocess.run(
                [sys.executable, "-P", "-m", "kvae", *command], check=True, stdout=sys.stderr
            )
    if not WEIGHTS.exists():
        model = load_trained_run().model
        parts = [*model.expander.weights, *model.head.weights]
        np.savez(
            WEIGHTS,
            **{"/".join(weight.path.split("/")[-2:]): np.asarray(weight.value) for weight in parts},
        )


def training_texts() -> Sequence[str]:
    """At most `MAX_TEXTS` evenly spaced tweets, or the names of the Unicode characters."""
    from kvae.training.data.downloads import file_of, missing_files
    from kvae.training.data.named_corpora import lines_of, unicode_names

    if missing_files("tweets"):
        return unicode_names()
    texts = lines_of(file_of("tweets", "tweets.train.txt"))
    return texts[:: max(len(texts) // MAX_TEXTS, 1)][:MAX_TEXTS]


def load_trained_run() -> Run:
    """The trained `kvae.runs.Run`, with its model."""
    from kvae.runs import load_run

    return load_run(RUN)


def bundle_sampler(path: str) -> Callable[[int], Any]:
    from kvae.serving import Sampler

    sampler = Sampler.load(path)
    return lambda batch: sampler.generate(batch, seed=0, min_length=sampler.length)


def keras_sampler() -> Callable[[int], Any]:
    from kvae.decoding import at_temperature, sample
    from kvae.training.generation import compiled_step

    model = load_trained_run().model
    model.head.step = compiled_step(model.head)
    return lambda batch: np.asarray(sample(model, batch, at_temperature(1.0, 0), seed=0))


def saved_model_sampler() -> Callable[[int], Any]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(SAVED))
    sample = loaded.signatures["sample"]
    one = tf.constant(1.0)
    return lambda batch: sample(seed=tf.constant(0), count=tf.constant(batch), temperature=one)[
        "ids"
    ].numpy()


def pytorch_sampler(compiled: bool) -> Callable[[int], Any]:
    import torch
    from pytorch_models import Sampler

    torch.manual_seed(0)
    model = Sampler(dict(np.load(WEIGHTS)), LENGTH)
    mask = torch.zeros(SYMBOLS)
    mask[[0, 1, 2, 3]] = -1e9  # no END, so that every sample has full length
    step = torch.compile(model.step, dynamic=False) if compiled else None
    return lambda batch: model.sample(torch.randn(batch, CODE), False, mask, step).numpy()


def sampler_of(name: str) -> Callable[[int], Any]:
    """The program of that name, or the bundle at that path, as a function of the batch size."""
    programs: dict[str, Callable[[], Callable[[int], Any]]] = {
        "bundle": lambda: bundle_sampler(str(BUNDLE)),
        "bundle, eight bits": lambda: bundle_sampler(str(EIGHT_BITS)),
        "Keras": keras_sampler,
        "SavedModel": saved_model_sampler,
        "PyTorch": lambda: pytorch_sampler(False),
        "PyTorch, compiled": lambda: pytorch_sampler(True),
    }
    return programs[name]() if name in programs else bundle_sampler(name)


def worker_answer(name: str) -> Callable[..., dict[str, Any]]:
    """A worker's answer: seconds of a batch, of its matrix products alone or of the triad."""
    if name == MEMORY:
        return memory_triad()
    if name in PRODUCTS_ALONE:
        return lambda batch: {"seconds": seconds_of_all_products(batch, **PRODUCTS_ALONE[name])}
    sample = sampler_of(name)
    return lambda batch: {"seconds": mean_seconds(lambda: sample(batch))}


def seconds_of_all_products(
    batch: int, eight_bits: bool = False, pytorch_too: bool = True
) -> float:
    """Seconds of the matrix products of a batch.

    At every position the LSTM's state is multiplied by the kernel of the LSTM and by that of the
    classifier. The features of all positions are multiplied once by the kernel of the gates. The
    deconvolutions are taken to have the throughput of this last product.

    Each product is timed in onnxruntime; with `pytorch_too` also in PyTorch, and the faster one
    counts. With `eight_bits`, the product with the LSTM's kernel is timed in eight bits in
    onnxruntime; a bundle computes only this one in eight bits.
    """
    recurrence = LENGTH * seconds_of_product(
        batch, UNITS, 4 * UNITS, pytorch_too and not eight_bits, eight_bits
    )
    classifier = LENGTH * seconds_of_product(batch, UNITS, SYMBOLS, pytorch_too)
    features = seconds_of_product(batch * LENGTH, FEATURES, 4 * UNITS, pytorch_too, calls=1)
    return (
        recurrence
        + classifier
        + features * (1 + expander_multiplications() / (LENGTH * FEATURES * 4 * UNITS))
    )


def expander_multiplications() -> int:
    """Multiplications in the coarse grid and the deconvolutions, per text."""
    sizes, length = [512, 512, 512, 256, 128, FEATURES], LENGTH // 2**5
    multiplications = CODE * length * sizes[0]
    for before, after in itertools.pairwise(sizes):
        multiplications += length * 3 * before * after
        length *= 2
    return multiplications


def seconds_of_product(
    rows: int,
    inner: int,
    columns: int,
    pytorch_too: bool,
    eight_bits: bool = False,
    calls: int = 16,
) -> float:
    """Seconds of a product (rows, inner) x (inner, columns): the mean of `calls` products in a row.

    Timed in onnxruntime; with `pytorch_too` also in PyTorch, and the faster one counts.
    """
    import onnxruntime
    import torch
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.random.default_rng(0).standard_normal((inner, columns)).astype(np.float32)
    input_type, output_type, operation = TensorProto.FLOAT, TensorProto.FLOAT, "MatMul"
    constant, inputs = kernel, np.ones((rows, inner), np.float32)
    if eight_bits:
        input_type, output_type, operation = TensorProto.UINT8, TensorProto.INT32, "MatMulInteger"
        constant, inputs = (30 * kernel).clip(-127, 127).astype(np.int8), inputs.astype(np.uint8)
    names = [str(number) for number in range(calls)]
    graph = helper.make_graph(
        [helper.make_node(operation, [name, "kernel"], [f"of {name}"]) for name in names],
        "products",
        [helper.make_tensor_value_info(name, input_type, None) for name in names],
        [helper.make_tensor_value_info(f"of {name}", output_type, None) for name in names],
        [numpy_helper.from_array(constant, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feed = dict.fromkeys(names, inputs)
    programs = [lambda: session.run(None, feed)]
    if pytorch_too:
        left, right = torch.from_numpy(inputs), torch.from_numpy(kernel)
        programs.append(lambda: [torch.mm(left, right) for _ in names])
    return min(map(mean_seconds, programs)) / calls


def equal_texts_fraction() -> float:
    """Fraction of 64 codes whose greedy texts are equal in PyTorch and in the bundle.

    1 shows that both are the same network.
    """
    import torch
    from pytorch_models import Sampler

    from kvae.serving import Sampler as Bundle

    bundle, model = Bundle.load(BUNDLE), Sampler(dict(np.load(WEIGHTS)), LENGTH)
    codes = np.random.default_rng(0).standard_normal((64, CODE)).astype(np.float32)
    mask = torch.zeros(SYMBOLS)
    mask[[0, 1, 3]] = -1e9
    ids = model.sample(torch.from_numpy(codes), True, mask).numpy()
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
    parser = argument_parser(__doc__, "sampling", rounds=5)
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[1, 16, 64, 256], help="batch sizes"
    )
    parser.add_argument(
        "--bundles", nargs="+", default=[], help="compare these; the first is the baseline"
    )
    options = parser.parse_args()
    if options.rival:
        serve_requests(worker_answer(options.rival))
        return
    if options.bundles:
        compare_bundles(options)
        return
    make_artifacts()
    workers = [Worker(__file__, name) for name in (*PROGRAMS, *PRODUCTS_ALONE)]
    seconds = {}
    for batch in options.batches:
        seconds[batch] = median_seconds(workers, options.rounds, batch=batch)
        for name, taken in seconds[batch].items():
            throughput, speedup = batch * LENGTH / taken, seconds[batch]["PyTorch"] / taken
            print(
                f"batch {batch:4}  {throughput:9,.0f} characters/s  "
                f"{speedup:5.2f} times PyTorch  {name}",
                flush=True,
            )
    memory = Worker(__file__, MEMORY)
    gigabytes = bandwidth(median_seconds([memory], options.rounds)[MEMORY])
    for worker in (*workers, memory):
        worker.close()
    print(f"memory: {gigabytes:.0f} GB/s", flush=True)
    manifest = json.loads((EIGHT_BITS / "manifest.json").read_text(encoding="utf-8"))
    write_report(
        options.json,
        {
            "seconds": seconds,
            "memory_gigabytes_per_second": gigabytes,
            "weights": UNITS * (4 * UNITS + SYMBOLS),
            "same_texts": equal_texts_fraction(),
            "steps": int(load_trained_run().model.training_steps.numpy()),
            "texts": len(TEXTS.read_text(encoding="utf-8").splitlines()),
            "quantization": manifest["quantization"],
            "rounds": options.rounds,
            "length": LENGTH,
        },
    )


def compare_bundles(options: argparse.Namespace) -> None:
    """Print the throughput of each bundle and its speedup over the first."""
    from kvae.serving import Sampler

    lengths = {path: Sampler.load(path).length for path in options.bundles}
    workers = [Worker(__file__, os.path.abspath(path)) for path in options.bundles]
    for batch in options.batches:
        seconds = list(median_seconds(workers, options.rounds, batch=batch).values())
        for path, taken in zip(options.bundles, seconds, strict=True):
            print(
                f"batch {batch:4}  {batch * lengths[path] / taken:9,.0f} tokens/s  "
                f"{seconds[0] / taken:5.2f} times the first  {path}"
            )


if __name__ == "__main__":
    main()
