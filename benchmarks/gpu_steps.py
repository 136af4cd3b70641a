"""Training steps of kvae on JAX and of the same networks in PyTorch, for `gpu.py`.

A step is forward, backward and Adam on a batch of random tokens that is always in memory.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from turns import fastest_device, seconds_of, synchronize

if TYPE_CHECKING:
    from kvae.configuration import Config
    from kvae.model import TextVAE

PRECISIONS = ("float32", "TF32", "bfloat16")
"""Matrix products in single precision, in TF32, or all layers in bfloat16 with float32 weights."""

ATTENTION = "Transformer hybrid, tweets"
"""The tweet-sized hybrid with a Transformer in place of its LSTM."""

PRESETS = {
    "hybrid": "hybrid-lstm-ptb",
    "hybrid, tweets": "hybrid-lstm-tweets",
    "LSTM VAE": "lstm-vae-ptb",
    ATTENTION: "hybrid-lstm-tweets",
}
SHAPES = {
    "hybrid": (60, 54),
    "hybrid, tweets": (128, 260),
    "LSTM VAE": (60, 54),
    ATTENTION: (128, 260),
}
"""T and V of each system."""

TRANSFORMER = {
    "model.head": "transformer",
    "model.head_units": 384,
    "model.head_layers": 3,
    "model.head_attention_heads": 6,
}
"""The decoder of the tweet-sized Transformer hybrid: 10.6 million parameters with it, 11.1 million
with the LSTM of 1,000 units that it replaces."""

VARIANTS = [
    *(
        (system, kind)
        for system in PRESETS
        if system != ATTENTION
        for kind in ("normalised", "plain")
    ),
    (ATTENTION, "plain"),
]
"""The systems, with a layer-normalised and a plain LSTM. A Transformer normalises anyway."""

TINY = {
    "model.encoder_units": [8, 8],
    "model.expander_base": 8,
    "model.expander_filters": [8, 8],
    "model.head_units": 16,
    "model.latent_size": 4,
}
"""Sizes of a rehearsal."""


class Case(NamedTuple):
    """What is timed: a system, its kind of LSTM, its precision and the size of a batch."""

    system: str
    kind: str
    precision: str
    batch: int
    tiny: bool = False

    @property
    def name(self) -> str:
        return ", ".join([self.system, self.kind, self.precision, f"batch {self.batch}"])


Steps = Callable[[int], Any]
"""A call that computes so many steps and waits for the last one."""


def configuration(case: Case) -> Config:
    """The preset of a system, with a plain or a layer-normalised LSTM."""
    from kvae.presets import preset

    length, symbols = (16, 12) if case.tiny else SHAPES[case.system]
    settings: dict[str, Any] = {
        "model.length": length,
        "model.vocabulary_size": symbols,
        "model.head_layer_normalization": case.kind == "normalised" or case.system == ATTENTION,
        "objective.input_dropout": 0.0,
    }
    if case.system == "LSTM VAE":
        settings |= {"model.encoder_units": [523], "model.latent_size": 50}
    if case.system == ATTENTION:
        settings |= TRANSFORMER
    if case.tiny:
        tiny = TINY | ({"model.head_attention_heads": 2} if case.system == ATTENTION else {})
        if case.system == "LSTM VAE":
            tiny = {**tiny, "model.encoder_units": [8]}
            del tiny["model.expander_base"], tiny["model.expander_filters"]
        settings |= tiny
    return preset(PRESETS[case.system]).with_settings(settings)


def random_tokens(config: Config, rows: int) -> np.ndarray:
    """Random token ids (rows, T) without special tokens."""
    generator = np.random.default_rng(0)
    shape = (rows, config.model.length)
    return generator.integers(4, config.model.vocabulary_size, shape).astype(np.int32)


def kvae_model(case: Case, config: Config) -> TextVAE:
    """A model of kvae on JAX in the precision of the case, ready to train."""
    import jax
    import keras

    from kvae.model import TextVAE, computing_in

    level = {"float32": "highest", "TF32": "tensorfloat32"}.get(case.precision)
    jax.config.update("jax_default_matmul_precision", level)
    keras.utils.set_random_seed(0)
    with computing_in("mixed_bfloat16" if case.precision == "bfloat16" else "float32"):
        model = TextVAE(config.model, config.objective)
    model.compile(keras.optimizers.Adam(1e-3))
    return model


def kvae_steps(case: Case) -> tuple[Steps, int]:
    """Steps of kvae on JAX by `model.fit`, and the number of parameters."""
    config = configuration(case)
    model = kvae_model(case, config)
    batch = random_tokens(config, case.batch)

    def run(steps: int) -> None:
        rows = np.tile(batch, (steps, 1))
        model.fit(rows, batch_size=case.batch, shuffle=False, verbose=0)

    return run, sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def pytorch_model(case: Case) -> tuple[Any, Config]:
    """The network of a case in PyTorch, on the CPU, and its configuration."""
    import pytorch_models
    import torch

    torch.manual_seed(0)
    config = configuration(case)
    model = config.model
    sizes = {
        "symbols": model.vocabulary_size,
        "length": model.length,
        "code": model.latent_size[0],
        "units": model.head_units,
        "encoder": model.encoder_units,
        "base": model.expander_base,
        "filters": model.expander_filters,
        "layers": model.head_layers if case.system == ATTENTION else 0,
        "heads": model.head_attention_heads,
    }
    network = pytorch_models.LSTMVAE if case.system == "LSTM VAE" else pytorch_models.Hybrid
    return network(sizes, case.kind == "normalised"), config


def pytorch_steps(case: Case, compiled: bool) -> tuple[Steps, int]:
    """Steps in PyTorch on its fastest device, and the number of parameters."""
    import torch

    device = fastest_device()
    allowed = case.precision == "TF32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    model, config = pytorch_model(case)
    model.to(device)
    loss_of = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    tokens = torch.from_numpy(random_tokens(config, case.batch)).long().to(device)
    half = torch.autocast(device, torch.bfloat16, enabled=case.precision == "bfloat16")

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with half:
                loss = loss_of(tokens)
            loss.backward()
            optimizer.step()
        synchronize(device)

    return run, sum(weight.numel() for weight in model.parameters())


def operations(case: Case) -> int:
    """Floating-point operations in the matrix products and convolutions of a step per text.

    They are counted in PyTorch on the CPU, on a batch of two.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, config = pytorch_model(case._replace(kind="plain", batch=2))
    tokens = torch.from_numpy(random_tokens(config, 2)).long()
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        model(tokens).backward()
    return counter.get_total_flops() // 2


def steps_of(framework: str, case: Case) -> tuple[Steps, int]:
    """The steps of a case on "JAX", "PyTorch" or "PyTorch, compiled"."""
    if framework == "JAX":
        return kvae_steps(case)
    return pytorch_steps(case, compiled="compiled" in framework)


def worker_answer(framework: str) -> Callable[..., dict[str, Any]]:
    """A worker's answer: the seconds of a step, and the number of parameters.

    The worker keeps the steps of one case. A first call compiles and chooses how many steps a turn
    has, so that it takes about `turn` seconds.
    """
    current: dict[Case, tuple[Steps, int, int]] = {}

    def answer(case: list[Any], turn: float) -> dict[str, Any]:
        key = Case(*case)
        if key not in current:
            current.clear()
            gc.collect()
            run, parameters = steps_of(framework, key)
            run(2)
            seconds = seconds_of(lambda: run(2)) / 2
            current[key] = run, parameters, max(2, min(int(turn / seconds), 500))
        run, parameters, steps = current[key]
        seconds = seconds_of(lambda: run(steps)) / steps
        return {"seconds": seconds, "parameters": parameters}

    return answer
