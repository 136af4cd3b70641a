"""Compare the speed of training with the same networks in PyTorch.

    python benchmarks/training_step.py [--rounds 5] [--lengths 12 24 60 120 240 480]
                                       [--frameworks JAX PyTorch ...]

The networks are Penn Treebank's hybrid and LSTM VAE of Semeniuta et al. 2017 (T 60, LSTM 500, batch
64), each with the paper's layer-normalised LSTM and with a plain one. kvae runs on TensorFlow, in
graph mode and under XLA, and on JAX. In PyTorch the layer-normalised LSTM is written by hand and
the plain one is `nn.LSTM`. The hybrid with a GRU runs in kvae only. A step is forward, backward,
and Adam, on a batch that is always in memory. The LSTM VAE has as many parameters as the hybrid.

Also measured are: the operations in the matrix products of a step (counted in PyTorch), the
recurrence alone and its matrix products alone, the peak matrix throughput and the memory bandwidth
of the machine, and the hybrid's step at other lengths. Needs PyTorch (the extra `benchmarks`).

This is a comparison on the CPU; `gpu.py` has one for a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gpu_steps import random_tokens
from turns import (
    MEMORY,
    Worker,
    argument_parser,
    bandwidth,
    median_seconds,
    memory_triad,
    seconds_of,
    serve_requests,
    write_report,
)

if TYPE_CHECKING:
    import keras

    from kvae.configuration import Config
    from kvae.tensors import Tensor

BATCH, LENGTH, SYMBOLS, UNITS = 64, 60, 54, 500
STEPS = 3
"""Training steps in one turn."""
ENCODER_UNITS = 523
"""Units of the LSTM VAE's encoder, chosen to give it as many parameters as the hybrid."""

Step = Callable[[], Any]
"""A call that computes one step and waits for its result."""


def configuration(system: str, plain: bool, length: int) -> Config:
    """Configuration of a system at T `length`, with a plain or a layer-normalised recurrence."""
    from kvae.presets import preset

    name = "lstm-vae-ptb" if system == "LSTM VAE" else "hybrid-lstm-ptb"
    settings = {
        "model.length": length,
        "model.vocabulary_size": SYMBOLS,
        "model.head_layer_normalization": not plain,
    }
    settings |= (
        {"model.encoder_units": [ENCODER_UNITS], "model.latent_size": 50}
        if system == "LSTM VAE"
        else {}
    )
    settings |= {"model.head": "gru"} if system == GRU else {}
    return preset(name).with_settings({**settings, "objective.input_dropout": 0.0})


def kvae_step(config: Config, batch: int, xla: bool) -> tuple[Step, int]:
    """A training step of kvae on the Keras backend in use, and the number of its parameters."""
    import keras

    from kvae.model import TextVAE

    keras.utils.set_random_seed(0)
    model = TextVAE(config.model, config.objective)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=xla)
    tokens = random_tokens(config, batch)
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    if keras.backend.backend() == "jax":
        return lambda: model.train_on_batch(tokens), parameters
    import tensorflow as tf

    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(tokens).cache().repeat().prefetch(2))
    return lambda: float(model.train_function(batches)["loss"]), parameters


def pytorch_step(system: str, plain: bool, length: int) -> tuple[Step, int]:
    """A training step in PyTorch, and the number of its parameters."""
    import pytorch_models
    import torch

    torch.manual_seed(0)
    sizes = {
        "symbols": SYMBOLS,
        "length": length,
        "code": 50,
        "units": UNITS,
        "encoder": (128, 256),
    }
    sizes |= {"base": 256, "filters": (128, 200)}
    if system == "LSTM VAE":
        model: Any = pytorch_models.LSTMVAE({**sizes, "encoder": (ENCODER_UNITS,)}, not plain)
    else:
        model = pytorch_models.Hybrid(sizes, not plain)
    return step_in_pytorch(model, random_tokens(configuration(system, plain, length), BATCH))


def step_in_pytorch(model: Any, tokens: np.ndarray) -> tuple[Step, int]:
    """A training step of a PyTorch model on tokens (B, T), and the number of its parameters."""
    import torch

    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    batch = torch.from_numpy(tokens).long()

    def step() -> float:
        optimizer.zero_grad()
        loss = model(batch)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step, sum(weight.numel() for weight in model.parameters())


def step_operations(system: str) -> int:
    """Floating-point operations in the matrix products and convolutions of a step, both passes.

    Embedding look-ups are not counted. The number is the same with and without layer normalisation.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    step, _ = pytorch_step(system, plain=False, length=LENGTH)
    with (
        torch.backends.mkldnn.flags(enabled=False),
        FlopCounterMode(display=False) as counter,
    ):  # mkldnn would hide the operations of nn.LSTM
        step()
    return counter.get_total_flops()


def recurrence_step(plain: bool, framework: str) -> tuple[Step, int]:
    """Forward and backward pass of the LSTM in the hybrid's head alone; no parameters counted."""
    from kvae.configuration import ObjectiveConfig
    from kvae.heads import lstm

    layer = lstm(configuration("hybrid", plain, LENGTH).model, ObjectiveConfig()).recurrence
    layer.build((BATCH, LENGTH, 4 * UNITS))
    inputs = np.random.default_rng(0).standard_normal((BATCH, LENGTH, 4 * UNITS)).astype(np.float32)
    initial = np.zeros((BATCH, UNITS), np.float32)
    if framework == "JAX":
        return recurrence_on_jax(layer, inputs, initial), 0
    return recurrence_on_tensorflow(layer, inputs, initial, "XLA" in framework), 0


def recurrence_on_jax(layer: keras.layers.RNN, inputs: np.ndarray, initial: np.ndarray) -> Step:
    """Gradient of the summed outputs on JAX; inputs (B, T, 4 units), initial state (B, units)."""
    import jax
    import keras

    from kvae.training.jax_step import over_positions

    weights = [weight.value for weight in layer.trainable_weights]

    @jax.jit
    def run(inputs: Tensor, weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        def loss(inputs: Tensor, weights: list[Tensor]) -> Tensor:
            with keras.StatelessScope(list(zip(layer.trainable_weights, weights, strict=True))):
                return over_positions(layer, inputs, [initial, initial], training=True).sum()

        return jax.grad(loss, argnums=(0, 1))(inputs, weights)

    return lambda: jax.block_until_ready(run(inputs, weights))


def recurrence_on_tensorflow(
    layer: keras.layers.RNN, inputs: np.ndarray, initial: np.ndarray, xla: bool
) -> Step:
    """As `recurrence_on_jax`, on TensorFlow in graph mode or under XLA."""
    import tensorflow as tf

    from kvae.training.tensorflow_step import over_positions

    rows, state = tf.constant(inputs), tf.constant(initial)

    @tf.function(jit_compile=xla)
    def run() -> list[Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(rows)
            loss = tf.reduce_sum(over_positions(layer, rows, [state, state], training=True))
        gradients: list[Tensor] = tape.gradient(loss, [rows, layer.cell.kernel.value])
        return gradients

    return lambda: run()[0].numpy()


def products_step(framework: str) -> tuple[Step, int]:
    """The matrix products of the recurrence alone: two per position and one at the end."""
    return (products_on_pytorch() if framework == "PyTorch" else products_on_tensorflow()), 0


def products_on_tensorflow() -> Step:
    import tensorflow as tf

    state, kernel = tf.random.normal((BATCH, UNITS)), tf.random.normal((UNITS, 4 * UNITS))
    gates = tf.random.normal((BATCH, 4 * UNITS))
    rows, columns = (
        tf.random.normal((BATCH * LENGTH, UNITS)),
        tf.random.normal((BATCH * LENGTH, 4 * UNITS)),
    )
    back = tf.transpose(kernel)

    @tf.function
    def run() -> tuple[Tensor, Tensor, Tensor]:
        for _ in tf.range(LENGTH):
            forward = tf.matmul(state, kernel)
            backward = tf.matmul(gates, back)
        return forward, backward, tf.matmul(rows, columns, transpose_a=True)

    return lambda: run()[2].numpy()


def products_on_pytorch() -> Step:
    import torch

    state, kernel = (
        torch.randn(BATCH, UNITS),
        torch.randn(UNITS, 4 * UNITS),
    )
    gates, back = (
        torch.randn(BATCH, 4 * UNITS),
        torch.randn(4 * UNITS, UNITS),
    )
    rows, columns = (torch.randn(BATCH * LENGTH, size) for size in (UNITS, 4 * UNITS))

    def run() -> None:
        for _ in range(LENGTH):
            torch.mm(state, kernel)
            torch.mm(gates, back)
        torch.mm(rows.T, columns)

    return run


LARGE = 4096
"""Rows and columns of the matrices whose product measures the peak matrix throughput."""


def peak_product_step() -> tuple[Step, int]:
    """The product of two large matrices in single precision."""
    import torch

    left, right = torch.randn(LARGE, LARGE), torch.randn(LARGE, LARGE)

    def run() -> None:
        torch.mm(left, right)

    return run, 0


def step_of(name: str, length: int) -> tuple[Step, int]:
    """The step of a worker's name "SYSTEM, KIND, FRAMEWORK", and the number of parameters."""
    system, _, rest = name.partition(", ")
    kind, _, framework = rest.rpartition(", ")
    plain = kind == "plain"
    if system == "recurrence":
        return recurrence_step(plain, framework)
    if system == "products":
        return products_step(framework)
    if system == PEAK:
        return peak_product_step()
    if framework == "PyTorch":
        return pytorch_step(system, plain, length)
    return kvae_step(configuration(system, plain, length), BATCH, framework in COMPILED)


def worker_answer(name: str) -> Callable[..., dict[str, Any]]:
    """A worker's answer: seconds of a step at T `length`, and the number of parameters."""
    if name == MEMORY:
        return memory_triad()
    steps: dict[int, tuple[Step, int]] = {}

    def answer(length: int) -> dict[str, Any]:
        if length not in steps:
            steps[length] = step_of(name, length)
            steps[length][0]()  # compiles
        run, parameters = steps[length]
        seconds = seconds_of(lambda: [run() for _ in range(STEPS)]) / STEPS
        return {"seconds": seconds, "parameters": parameters}

    return answer


KINDS = ("normalised", "plain")
FRAMEWORKS = ("TensorFlow", "TensorFlow XLA", "JAX", "PyTorch")
COMPILED = ("TensorFlow XLA", "JAX")
"""Frameworks on which kvae's step is compiled."""
LENGTH_FRAMEWORKS = ("TensorFlow", "JAX")
"""Frameworks on which a step is timed at other lengths."""
SYSTEMS = ("hybrid", "LSTM VAE")
GRU = "GRU hybrid"
"""The hybrid with a GRU, which has no counterpart in PyTorch."""
PEAK = "largest product"
"""Name of the worker that measures the peak matrix throughput."""


def main() -> None:
    parser = argument_parser(__doc__, "training", rounds=5)
    parser.add_argument(
        "--lengths", nargs="+", type=int, default=[12, 24, 60, 120, 240, 480], help="values of T"
    )
    parser.add_argument(
        "--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS, help="(default: all)"
    )
    options = parser.parse_args()
    if options.rival:
        serve_requests(worker_answer(options.rival))
        return
    kvae_frameworks = [name for name in options.frameworks if name != "PyTorch"]
    products_workers = ["products, PyTorch"]
    products_workers += ["products, TensorFlow"] if "TensorFlow" in kvae_frameworks else []
    report: dict[str, Any] = {
        "batch": BATCH,
        "length": LENGTH,
        "rounds": options.rounds,
    }
    report["seconds"], report["parameters"] = compare(
        [
            f"{system}, {kind}, {name}"
            for system in SYSTEMS
            for kind in KINDS
            for name in options.frameworks
        ],
        options,
    )
    report["gru"], _ = compare(
        [f"{GRU}, {kind}, {name}" for kind in KINDS for name in kvae_frameworks], options
    )
    recurrences = [f"recurrence, {kind}, {name}" for kind in KINDS for name in kvae_frameworks]
    report["recurrence"], _ = compare([*recurrences, *products_workers], options)
    alone, _ = compare([PEAK, MEMORY], options)
    fastest = min(report["recurrence"][name] for name in products_workers)
    report["products_gflops"] = 3 * 2 * BATCH * UNITS * 4 * UNITS * LENGTH / fastest / 1e9
    report["peak_gflops"] = max(2 * LARGE**3 / alone[PEAK] / 1e9, report["products_gflops"])
    report["memory_gigabytes_per_second"] = bandwidth(alone[MEMORY])
    report["operations"] = {system: step_operations(system) for system in SYSTEMS}
    length_frameworks = [name for name in LENGTH_FRAMEWORKS if name in kvae_frameworks]
    report["lengths"] = seconds_by_length(length_frameworks, options)
    write_report(options.json, report)


def start_worker(name: str, script: str = __file__) -> Worker:
    """Start the worker of that name on its Keras backend, without any GPU."""
    backend = "jax" if "JAX" in name else "tensorflow"
    cpu = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    return Worker(script, name, environment={"KERAS_BACKEND": backend, **cpu})


def compare(
    names: Sequence[str], options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, int]]:
    """By worker name: median seconds of a step, measured in turn, and the number of parameters."""
    workers = [start_worker(name) for name in names]
    seconds, parameters = median_seconds(workers, options.rounds, length=LENGTH), {}
    for worker in workers:
        parameters[worker.name] = worker.ask(length=LENGTH).get("parameters", 0)
        print(f"{1e3 * seconds[worker.name]:8.1f} ms  {worker.name}", flush=True)
        worker.close()
    return seconds, parameters


def seconds_by_length(
    frameworks: Sequence[str], options: argparse.Namespace
) -> dict[str, dict[int, float]]:
    """Median seconds of a step of the hybrid, by framework and T."""
    workers = {name: start_worker(f"hybrid, normalised, {name}") for name in frameworks}
    by_framework: dict[str, dict[int, float]] = {name: {} for name in workers}
    for length in options.lengths:
        medians = median_seconds(workers.values(), options.rounds, length=length)
        for name, worker in workers.items():
            by_framework[name][length] = seconds = medians[worker.name]
            per_position = 1e3 * seconds / length
            print(
                f"T {length:4}  {1e3 * seconds:8.1f} ms, {per_position:6.2f} per position  {name}",
                flush=True,
            )
    for worker in workers.values():
        worker.close()
    return by_framework


if __name__ == "__main__":
    main()
