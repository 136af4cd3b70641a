"""How fast does training run, beside the same networks in PyTorch?

    python benchmarks/training_step.py [--rounds 5] [--lengths 12 24 60 120 240 480]

Penn Treebank's hybrid and LSTM VAE of Semeniuta et al. 2017 (T 60, LSTM 500, batch 64), with the paper's layer-normalised LSTM
and with a plain one: ours on TensorFlow, as a graph and under XLA, and on JAX; in PyTorch the former written by hand and
the latter with `nn.LSTM`. A step is forward, backward and Adam, on a batch that is always there. The LSTM VAE has the hybrid's
number of parameters; the operations of the products of a step of each are counted in PyTorch. Then the recurrence alone
beside the machine's products, and the hybrid's step at other lengths. PyTorch has to be there (`pip install torch`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from turns import Rival, arguments, in_turn, serve, timed, written

BATCH, LENGTH, SYMBOLS, UNITS = 64, 60, 54, 500
STEPS = 3
"""Of a turn."""
READER = 523
"""Units of the LSTM VAE's encoder that give it the hybrid's number of parameters."""

JAX = {"KERAS_BACKEND": "jax"}


def configuration(system: str, plain: bool, length: int) -> Any:
    from kvae.presets import preset

    name = {"hybrid": "hybrid-lstm-ptb", "LSTM VAE": "lstm-vae-ptb"}[system]
    settings = {"model.length": length, "model.vocabulary_size": SYMBOLS, "model.head_layer_normalization": not plain}
    settings |= {"model.encoder_units": [READER], "model.latent_size": 50} if system == "LSTM VAE" else {}
    return preset(name).with_settings({**settings, "objective.input_dropout": 0.0})


def ours(system: str, plain: bool, length: int, xla: bool) -> tuple[Callable[[], Any], int]:
    """A training step, and the number of parameters."""
    import keras

    from kvae.model import TextVAE

    keras.utils.set_random_seed(0)
    config = configuration(system, plain, length)
    model = TextVAE(config.model, config.objective)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=xla)
    tokens = some_tokens(length).astype(np.int32)
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    if keras.backend.backend() == "jax":
        return lambda: model.train_on_batch(tokens), parameters
    import tensorflow as tf

    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(tokens).cache().repeat().prefetch(2))
    return lambda: float(model.train_function(batches)["loss"]), parameters


def theirs(system: str, plain: bool, length: int) -> tuple[Callable[[], Any], int]:
    import pytorch_models
    import torch

    torch.manual_seed(0)
    sizes = {"symbols": SYMBOLS, "length": length, "code": 50, "units": UNITS, "encoder": (128, 256)}
    sizes |= {"base": 256, "filters": (128, 200)}
    if system == "LSTM VAE":
        model: Any = pytorch_models.LSTMVAE({**sizes, "encoder": (READER,)}, not plain)
    else:
        model = pytorch_models.Hybrid(sizes, not plain)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    tokens = torch.from_numpy(some_tokens(length))

    def step() -> float:
        optimizer.zero_grad()
        loss = model(tokens)
        loss.backward()
        optimizer.step()
        return float(loss)

    return step, sum(weight.numel() for weight in model.parameters())


def operations(system: str) -> int:
    """Floating-point operations of the products and convolutions of a step, both ways."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    step, _ = theirs(system, plain=True, length=LENGTH)
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:  # it hides nn.LSTM's
        step()
    return counter.get_total_flops()


def some_tokens(length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(4, SYMBOLS, (BATCH, length))


def recurrence(plain: bool, xla: bool) -> tuple[Callable[[], Any], int]:
    """Forward and backward through the LSTM of the hybrid's head alone."""
    import tensorflow as tf

    from kvae.backends import backend_steps
    from kvae.configuration import ObjectiveConfig
    from kvae.heads import lstm

    layer = lstm(configuration("hybrid", plain, LENGTH).model, ObjectiveConfig()).recurrence
    layer.build((BATCH, LENGTH, 4 * UNITS))
    inputs, first = tf.random.normal((BATCH, LENGTH, 4 * UNITS)), tf.zeros((BATCH, UNITS))

    @tf.function(jit_compile=xla)
    def run() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(backend_steps().over_positions(layer, inputs, [first, first], training=True))
        return tape.gradient(loss, [inputs, layer.cell.kernel.value])

    return lambda: run()[0].numpy(), 0


def products() -> tuple[Callable[[], Any], int]:
    """The products that this cannot do without: two a position and one behind them."""
    import tensorflow as tf

    state, kernel = tf.random.normal((BATCH, UNITS)), tf.random.normal((UNITS, 4 * UNITS))
    gates = tf.random.normal((BATCH, 4 * UNITS))
    rows, columns = tf.random.normal((BATCH * LENGTH, UNITS)), tf.random.normal((BATCH * LENGTH, 4 * UNITS))
    back = tf.transpose(kernel)

    @tf.function
    def run() -> Any:
        for _ in tf.range(LENGTH):
            forward = tf.matmul(state, kernel)
            backward = tf.matmul(gates, back)
        return forward, backward, tf.matmul(rows, columns, transpose_a=True)

    return lambda: run()[2].numpy(), 0


def of_name(name: str, length: int) -> tuple[Callable[[], Any], int]:
    system, _, rest = name.partition(", ")
    plain = "plain" in rest
    if system == "recurrence":
        return recurrence(plain, "XLA" in rest)
    if system == "products":
        return products()
    if "PyTorch" in rest:
        return theirs(system, plain, length)
    return ours(system, plain, length, "XLA" in rest or "JAX" in rest)


def answering(name: str) -> Callable[..., dict[str, Any]]:
    made: dict[int, tuple[Callable[[], Any], int]] = {}

    def answer(length: int) -> dict[str, Any]:
        if length not in made:
            made[length] = of_name(name, length)
            made[length][0]()
        run, parameters = made[length]
        return {"seconds": timed(lambda: [run() for _ in range(STEPS)]) / STEPS, "parameters": parameters}

    return answer


KINDS = ("normalised", "plain")
FRAMEWORKS = ("TensorFlow", "TensorFlow XLA", "JAX", "PyTorch")


def main() -> None:
    parser = arguments(__doc__, "training", rounds=5)
    parser.add_argument("--lengths", nargs="+", type=int, default=[12, 24, 60, 120, 240, 480])
    options = parser.parse_args()
    if options.rival:
        serve(answering(options.rival))
        return
    report: dict[str, Any] = {
        "batch": BATCH,
        "length": LENGTH,
        "rounds": options.rounds,
        "seconds": {},
        "parameters": {},
    }
    for system in ("hybrid", "LSTM VAE"):
        report["seconds"] |= compared(
            [f"{system}, {kind}, {name}" for kind in KINDS for name in FRAMEWORKS], options, report
        )
    alone = compared(
        [*(f"recurrence, {kind}, {name}" for kind in KINDS for name in FRAMEWORKS[:2]), "products"], options, report
    )
    report["recurrence"] = {**alone, "gflops": 3 * 2 * BATCH * UNITS * 4 * UNITS * LENGTH / alone["products"] / 1e9}
    report["operations"] = {system: operations(system) for system in ("hybrid", "LSTM VAE")}
    report["lengths"] = by_length(options)
    written(options.json, report)


def compared(names: list[str], options: argparse.Namespace, report: dict[str, Any]) -> dict[str, float]:
    """Median seconds of a step of each."""
    rivals = [
        Rival(__file__, name, environment=JAX if "JAX" in name else {"KERAS_BACKEND": "tensorflow"}) for name in names
    ]
    found = in_turn(rivals, options.rounds, length=LENGTH)
    for rival in rivals:
        report["parameters"][rival.name] = rival.ask(length=LENGTH)["parameters"]
        print(f"{BATCH / found[rival.name]:7.1f} examples/s  {rival.name}", flush=True)
        rival.close()
    return found


def by_length(options: argparse.Namespace) -> dict[int, float]:
    """Median seconds of a step of the hybrid on TensorFlow, by the number of positions."""
    rival = Rival(__file__, "hybrid, normalised, TensorFlow")
    found = {length: in_turn([rival], options.rounds, length=length)[rival.name] for length in options.lengths}
    for length, seconds in found.items():
        print(f"T {length:4}  {1e3 * seconds:8.1f} ms a step  {1e3 * seconds / length:6.2f} ms a position", flush=True)
    rival.close()
    return found


if __name__ == "__main__":
    main()
