"""How fast does training run, beside the same networks in PyTorch?

    python benchmarks/training_step.py [--rounds 5] [--lengths 12 24 60 120 240 480] [--frameworks JAX PyTorch ...]

Penn Treebank's hybrid and LSTM VAE of Semeniuta et al. 2017 (T 60, LSTM 500, batch 64), with the paper's layer-normalised LSTM
and with a plain one: ours on TensorFlow, as a graph and under XLA, and on JAX; in PyTorch the former written by hand and
the latter with `nn.LSTM`. A step is forward, backward and Adam, on a batch that is always there. The LSTM VAE has the hybrid's
number of parameters; the operations of the products of a step of each are counted in PyTorch. Then the recurrence alone
beside its products, the machine's largest speed of products and of memory, and the hybrid's step at other lengths. PyTorch has
to be there (the extra `benchmarks`). Where PyTorch and JAX see a GPU, both use it: with `--frameworks JAX PyTorch --json
docs/performance/training-gpu.json` the figures get a chapter of their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from turns import MEMORY, Rival, arguments, bandwidth, fastest_device, finish, in_turn, serve, timed, triad, written

BATCH, LENGTH, SYMBOLS, UNITS = 64, 60, 54, 500
STEPS = 3
"""Of a turn."""
READER = 523
"""Units of the LSTM VAE's encoder that give it the hybrid's number of parameters."""

JAX = {
    "KERAS_BACKEND": "jax",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several share a GPU's memory
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",  # single precision on a GPU too, as PyTorch's
}


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
    from kvae.steps import backend_steps

    keras.utils.set_random_seed(0)
    config = configuration(system, plain, length)
    model = TextVAE(config.model, config.objective)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=xla)
    tokens = some_tokens(length).astype(np.int32)
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    if keras.backend.backend() == "jax":
        if fastest_device() != "cpu" and not backend_steps().accelerators():
            raise RuntimeError("JAX sees no GPU where PyTorch does; install jax[cuda12]")
        return lambda: model.train_on_batch(tokens), parameters
    import tensorflow as tf

    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(tokens).cache().repeat().prefetch(2))
    return lambda: float(model.train_function(batches)["loss"]), parameters


def theirs(system: str, plain: bool, length: int, device: str) -> tuple[Callable[[], Any], int]:
    import pytorch_models
    import torch

    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    sizes = {"symbols": SYMBOLS, "length": length, "code": 50, "units": UNITS, "encoder": (128, 256)}
    sizes |= {"base": 256, "filters": (128, 200)}
    if system == "LSTM VAE":
        model: Any = pytorch_models.LSTMVAE({**sizes, "encoder": (READER,)}, not plain)
    else:
        model = pytorch_models.Hybrid(sizes, not plain)
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    tokens = torch.from_numpy(some_tokens(length)).to(device)

    def step() -> float:
        optimizer.zero_grad()
        loss = model(tokens)
        loss.backward()
        optimizer.step()
        finish(device)
        return float(loss.detach())

    return step, sum(weight.numel() for weight in model.parameters())


def operations(system: str) -> int:
    """Floating-point operations of the products and convolutions of a step, both ways, the previous symbols looked up and not
    multiplied; the recurrence's are the same with layer normalisation and without."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    step, _ = theirs(system, plain=False, length=LENGTH, device="cpu")
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:  # it hides nn.LSTM's
        step()
    return counter.get_total_flops()


def some_tokens(length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(4, SYMBOLS, (BATCH, length))


def recurrence(plain: bool, framework: str) -> tuple[Callable[[], Any], int]:
    """Forward and backward through the LSTM of the hybrid's head alone."""
    from kvae.configuration import ObjectiveConfig
    from kvae.heads import lstm

    layer = lstm(configuration("hybrid", plain, LENGTH).model, ObjectiveConfig()).recurrence
    layer.build((BATCH, LENGTH, 4 * UNITS))
    inputs = np.random.default_rng(0).standard_normal((BATCH, LENGTH, 4 * UNITS)).astype(np.float32)
    first = np.zeros((BATCH, UNITS), np.float32)
    if framework == "JAX":
        return recurrence_on_jax(layer, inputs, first), 0
    return recurrence_on_tensorflow(layer, inputs, first, "XLA" in framework), 0


def recurrence_on_jax(layer: Any, inputs: Any, first: Any) -> Callable[[], Any]:
    import jax
    import keras

    from kvae.recurrences import over_positions

    weights = [weight.value for weight in layer.trainable_weights]

    @jax.jit
    def run(inputs: Any, weights: Any) -> Any:
        def loss(inputs: Any, weights: Any) -> Any:
            with keras.StatelessScope(list(zip(layer.trainable_weights, weights, strict=True))):
                return over_positions(layer, inputs, [first, first], training=True).sum()

        return jax.grad(loss, argnums=(0, 1))(inputs, weights)

    return lambda: jax.block_until_ready(run(inputs, weights))


def recurrence_on_tensorflow(layer: Any, inputs: Any, first: Any, xla: bool) -> Callable[[], Any]:
    import tensorflow as tf

    from kvae.training.tensorflow_step import over_positions

    inputs, first = tf.constant(inputs), tf.constant(first)

    @tf.function(jit_compile=xla)
    def run() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(over_positions(layer, inputs, [first, first], training=True))
        return tape.gradient(loss, [inputs, layer.cell.kernel.value])

    return lambda: run()[0].numpy()


def products(framework: str) -> tuple[Callable[[], Any], int]:
    """The products that this cannot do without: two a position and one behind them."""
    return (products_of_pytorch() if framework == "PyTorch" else products_of_tensorflow()), 0


def products_of_tensorflow() -> Callable[[], Any]:
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

    return lambda: run()[2].numpy()


def products_of_pytorch() -> Callable[[], Any]:
    import torch

    device = fastest_device()
    state, kernel = torch.randn(BATCH, UNITS, device=device), torch.randn(UNITS, 4 * UNITS, device=device)
    gates, back = torch.randn(BATCH, 4 * UNITS, device=device), torch.randn(4 * UNITS, UNITS, device=device)
    rows, columns = (torch.randn(BATCH * LENGTH, size, device=device) for size in (UNITS, 4 * UNITS))

    def run() -> None:
        for _ in range(LENGTH):
            torch.mm(state, kernel)
            torch.mm(gates, back)
        torch.mm(rows.T, columns)
        finish(device)

    return run


LARGE = 4096
"""Rows and columns of the product that shows the machine's largest speed."""


def largest_product() -> tuple[Callable[[], Any], int]:
    """The product of two large matrices in single precision."""
    import torch

    device = fastest_device()
    left, right = torch.randn(LARGE, LARGE, device=device), torch.randn(LARGE, LARGE, device=device)

    def run() -> None:
        torch.mm(left, right)
        finish(device)

    return run, 0


def of_name(name: str, length: int) -> tuple[Callable[[], Any], int]:
    system, _, rest = name.partition(", ")
    kind, _, framework = rest.rpartition(", ")
    plain = kind == "plain"
    if system == "recurrence":
        return recurrence(plain, framework)
    if system == "products":
        return products(framework)
    if system == PEAK:
        return largest_product()
    if framework == "PyTorch":
        return theirs(system, plain, length, fastest_device())
    return ours(system, plain, length, framework in ("TensorFlow XLA", "JAX"))


def answering(name: str) -> Callable[..., dict[str, Any]]:
    if name == MEMORY:
        return triad(fastest_device())
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
GROWING = ("TensorFlow", "JAX")
"""Of these the growth with the length is measured."""
SYSTEMS = ("hybrid", "LSTM VAE")
PEAK = "largest product"


def main() -> None:
    parser = arguments(__doc__, "training", rounds=5)
    parser.add_argument("--lengths", nargs="+", type=int, default=[12, 24, 60, 120, 240, 480])
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    options = parser.parse_args()
    if options.rival:
        serve(answering(options.rival))
        return
    ours_too = [name for name in options.frameworks if name != "PyTorch"]
    computing = ["products, PyTorch", *(["products, TensorFlow"] if "TensorFlow" in ours_too else [])]
    device = device_name()
    if device and set(options.frameworks) != {"JAX", "PyTorch"}:
        parser.error(
            f"PyTorch would use {device} and TensorFlow not; name --frameworks JAX PyTorch, and another --json"
        )
    report: dict[str, Any] = {"batch": BATCH, "length": LENGTH, "rounds": options.rounds, "device": device}
    report["seconds"], report["parameters"] = compared(
        [f"{system}, {kind}, {name}" for system in SYSTEMS for kind in KINDS for name in options.frameworks], options
    )
    report["recurrence"], _ = compared(
        [*(f"recurrence, {kind}, {name}" for kind in KINDS for name in ours_too), *computing], options
    )
    alone, _ = compared([PEAK, MEMORY], options)
    fastest = min(report["recurrence"][name] for name in computing)
    report["products_gflops"] = 3 * 2 * BATCH * UNITS * 4 * UNITS * LENGTH / fastest / 1e9
    report["peak_gflops"] = max(2 * LARGE**3 / alone[PEAK] / 1e9, report["products_gflops"])
    report["memory_gigabytes_per_second"] = bandwidth(alone[MEMORY])
    report["operations"] = {system: operations(system) for system in SYSTEMS}
    report["lengths"] = by_length([name for name in GROWING if name in ours_too], options)
    written(options.json, report)


def device_name() -> str:
    """The GPU that PyTorch sees, or nothing."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def started(name: str) -> Rival:
    """The process of a rival, on its backend."""
    return Rival(__file__, name, environment=JAX if "JAX" in name else {"KERAS_BACKEND": "tensorflow"})


def compared(names: Sequence[str], options: argparse.Namespace) -> tuple[dict[str, float], dict[str, int]]:
    """Median seconds of a step of each, all in turn, and their numbers of parameters."""
    rivals, parameters = [started(name) for name in names], {}
    found = in_turn(rivals, options.rounds, length=LENGTH)
    for rival in rivals:
        parameters[rival.name] = rival.ask(length=LENGTH).get("parameters", 0)
        print(f"{1e3 * found[rival.name]:8.1f} ms  {rival.name}", flush=True)
        rival.close()
    return found, parameters


def by_length(frameworks: Sequence[str], options: argparse.Namespace) -> dict[str, dict[int, float]]:
    """Median seconds of a step of the hybrid on each, by the number of positions."""
    rivals = {name: started(f"hybrid, normalised, {name}") for name in frameworks}
    lengths: dict[str, dict[int, float]] = {name: {} for name in rivals}
    for length in options.lengths:
        found = in_turn(rivals.values(), options.rounds, length=length)
        for name, rival in rivals.items():
            lengths[name][length] = seconds = found[rival.name]
            print(
                f"T {length:4}  {1e3 * seconds:8.1f} ms, {1e3 * seconds / length:6.2f} a position  {name}", flush=True
            )
    for rival in rivals.values():
        rival.close()
    return lengths


if __name__ == "__main__":
    main()
