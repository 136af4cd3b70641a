"""How fast does a bundle write, beside what one would use instead?

    python benchmarks/sampling.py [--batches 1 16 64 256] [--rounds 5] [--bundles BUNDLE ...]

The tweet-sized hybrid of Semeniuta et al. 2017 (code 100, five deconvolutions, a layer-normalised LSTM of 1,000, T 128, bytes)
with the same random weights as: our bundle, the same in eight bits, Keras (each step a `tf.function`), a SavedModel, PyTorch
as one writes it (eager) and with its step compiled. Texts run to their full length. Each lives in a process of its own and all
run in turn, for a third of a second or one batch, behind a run that is not counted; PyTorch has to be there (`pip install
torch`). What is made is kept in `runs/benchmarks`. `--bundles` compares bundles of your own instead, the first with the others.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from turns import Rival, arguments, in_turn, serve, steady, written

MADE = Path("runs/benchmarks")
BUNDLE, EIGHT_BITS, SAVED, WEIGHTS = (MADE / name for name in ("tweets", "tweets-int8", "tweets-saved", "tweets.npz"))
RIVALS = ("bundle", "bundle, eight bits", "Keras", "SavedModel", "PyTorch", "PyTorch, compiled")


def tweet_sized() -> tuple[Any, Any]:
    """The model, the same each time, and its configuration."""
    import keras

    from kvae.model import TextVAE
    from kvae.presets import preset

    keras.utils.set_random_seed(0)
    config = preset("hybrid-lstm-tweets").with_settings({"model.length": 128, "model.vocabulary_size": 260})
    return TextVAE(config.model, config.objective), config


def prepare() -> None:
    """Make what is not there."""
    if WEIGHTS.exists():
        return
    from kvae.export.bundle import write_bundle
    from kvae.export.saved_model import write_saved_model
    from kvae.serving.alphabet import Alphabet

    MADE.mkdir(parents=True, exist_ok=True)
    model, config = tweet_sized()
    for path, int8 in ((BUNDLE, False), (EIGHT_BITS, True)):
        print(f"writing {path}: minutes, once", file=sys.stderr)
        if not path.exists():
            write_bundle(model, Alphabet.of_bytes(), config, path, int8=int8)
    if not SAVED.exists():
        write_saved_model(model, SAVED)
    parts = [*model.expander.weights, *model.head.weights]
    np.savez(WEIGHTS, **{"/".join(weight.path.split("/")[-2:]): np.asarray(weight.value) for weight in parts})


def of_bundle(path: str) -> Callable[[int], Any]:
    from kvae.serving import Sampler

    sampler = Sampler.load(path)
    return lambda batch: sampler.generate(batch, seed=0, min_length=sampler.length)


def of_keras() -> Callable[[int], Any]:
    from kvae.decoding import at_temperature, sample
    from kvae.training.generation import compiled

    model, _ = tweet_sized()
    model.head.step = compiled(model.head.step)
    return lambda batch: np.asarray(sample(model, batch, at_temperature(1.0, 0), seed=0))


def of_saved_model() -> Callable[[int], Any]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(SAVED))
    write = loaded.signatures["sample"]
    one = tf.constant(1.0)
    return lambda batch: write(seed=tf.constant(0), count=tf.constant(batch), temperature=one)["ids"].numpy()


def of_pytorch(compiled: bool) -> Callable[[int], Any]:
    import torch
    from pytorch_models import Sampler

    torch.manual_seed(0)
    model = Sampler(dict(np.load(WEIGHTS)), 128)
    barrier = torch.zeros(260)
    barrier[[0, 1, 2, 3]] = -1e9  # no end mark, so that every text is of full length
    step = torch.compile(model.step, dynamic=False) if compiled else None
    return lambda batch: model.write(torch.randn(batch, 100), False, barrier, step).numpy()


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
    """A worker: seconds of a batch, or of the products that a batch cannot do without."""
    if name == "ceiling":
        multiply = products()
        return lambda batch: {"seconds": min(steady(run) for run in multiply(batch))}
    write = of_name(name)
    return lambda batch: {"seconds": steady(lambda: write(batch))}


def products() -> Callable[[int], list[Callable[[], Any]]]:
    """For a batch: hidden state times kernel at every position, by PyTorch and by onnxruntime; the faster is the ceiling."""
    import onnxruntime
    import torch
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.random.default_rng(0).standard_normal((1000, 4000)).astype(np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("state", "gates")]
    nodes = [helper.make_node("MatMul", ["state", "kernel"], ["gates"])]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], [numpy_helper.from_array(kernel, "kernel")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def of_batch(batch: int) -> list[Callable[[], Any]]:
        state = np.ones((batch, 1000), np.float32)
        tensors = torch.from_numpy(state), torch.from_numpy(kernel)
        return [
            lambda: [torch.mm(*tensors) for _ in range(128)],
            lambda: [session.run(None, {"state": state}) for _ in range(128)],
        ]

    return of_batch


def share_of_recurrence() -> float:
    """How many products a text takes, as a multiple of those of hidden state and kernel."""
    recurrence = 128 * 1000 * 4000
    others = 128 * (200 * 4000 + 1000 * 260) + 100 * 4 * 512
    sizes, length = [512, 512, 512, 256, 128, 200], 4
    for before, after in itertools.pairwise(sizes):
        others += length * 3 * before * after
        length *= 2
    return 1 + others / recurrence


def same_texts() -> float:
    """Of 64 greedy texts, the share that PyTorch writes as the bundle does: that it is the same network."""
    import torch
    from pytorch_models import Sampler

    from kvae.serving import Sampler as Bundle

    bundle, model = Bundle.load(BUNDLE), Sampler(dict(np.load(WEIGHTS)), 128)
    codes = np.random.default_rng(0).standard_normal((64, 100)).astype(np.float32)
    barrier = torch.zeros(260)
    barrier[[0, 1, 3]] = -1e9
    ids = model.write(torch.from_numpy(codes), True, barrier).numpy()
    theirs = bundle.alphabet.decode(ids)
    return float(np.mean([ours == text for ours, text in zip(bundle.decode(codes, greedy=True), theirs, strict=True)]))


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
    rivals = [Rival(__file__, name) for name in (*RIVALS, "ceiling")]
    seconds = {}
    for batch in options.batches:
        found = in_turn(rivals, options.rounds, batch=batch)
        found["ceiling"] *= share_of_recurrence()
        seconds[batch] = found
        for name, taken in found.items():
            speed = batch * 128 / taken
            print(
                f"batch {batch:4}  {speed:9,.0f} characters/s  {found['PyTorch'] / taken:5.2f} times PyTorch  {name}",
                flush=True,
            )
    for rival in rivals:
        rival.close()
    written(options.json, {"seconds": seconds, "same_texts": same_texts(), "rounds": options.rounds, "length": 128})


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
