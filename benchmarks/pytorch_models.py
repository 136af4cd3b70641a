"""The hybrid and the LSTM VAE of Semeniuta et al. 2017 in PyTorch, written as one would: what ours are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

START = 1


class LayerNormalizedLSTM(nn.Module):
    """Ba et al. 2016, supplementary eq. 20-22, position by position; `inputs` are what the gates get from outside."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(nn.init.orthogonal_(torch.empty(units, 4 * units)))
        self.normalize_hidden = nn.LayerNorm(4 * units, eps=1e-3)
        self.normalize_cell = nn.LayerNorm(units, eps=1e-3)

    def step(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        gates = inputs + self.normalize_hidden(hidden @ self.kernel)
        sigmoids, candidate = gates.split([3 * hidden.shape[1], hidden.shape[1]], dim=1)
        input_gate, forget_gate, output_gate = torch.sigmoid(sigmoids).chunk(3, dim=1)
        cell = forget_gate * cell + input_gate * torch.tanh(candidate)
        return output_gate * torch.tanh(self.normalize_cell(cell)), cell

    def forward(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
        outputs = []
        for position in inputs.unbind(1):
            hidden, cell = self.step(position, hidden, cell)
            outputs.append(hidden)
        return torch.stack(outputs, dim=1)


class NormalizedHead(nn.Module):
    """Features and previous symbol through a layer-normalised LSTM."""

    def __init__(self, features: int, units: int, symbols: int, reads_state: bool = False) -> None:
        super().__init__()
        self.units = units
        self.read_features = None if reads_state else nn.Linear(features, 4 * units, bias=False)
        self.read_state = nn.Linear(features, units) if reads_state else None
        self.read_previous = nn.Embedding(symbols, 4 * units)
        self.normalize_inputs = nn.LayerNorm(4 * units, eps=1e-3)
        self.bias = nn.Parameter(torch.zeros(4 * units))
        self.lstm = LayerNormalizedLSTM(units)
        self.classify = nn.Linear(units, symbols)

    def read(self, features: Tensor, previous: Tensor) -> Tensor:
        rows = self.read_previous(previous)
        rows = rows if self.read_features is None else rows + self.read_features(features)
        return self.normalize_inputs(rows) + self.bias

    def first(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if self.read_state is None:
            zeros = features.new_zeros(len(features), self.units)
            return zeros, zeros
        linear = self.read_state(features[:, 0])
        return torch.tanh(linear), linear

    def forward(self, features: Tensor, previous: Tensor) -> Tensor:
        return self.classify(self.lstm(self.read(features, previous), *self.first(features)))


class FusedHead(nn.Module):
    """The same with PyTorch's own LSTM, which has no layer normalisation."""

    def __init__(self, features: int, units: int, symbols: int, reads_state: bool = False) -> None:
        super().__init__()
        self.units, self.symbols = units, symbols
        self.read_state = nn.Linear(features, units) if reads_state else None
        self.lstm = nn.LSTM(symbols if reads_state else features + symbols, units, batch_first=True)
        self.classify = nn.Linear(units, symbols)

    def forward(self, features: Tensor, previous: Tensor) -> Tensor:
        inputs = functional.one_hot(previous, self.symbols).float()
        if self.read_state is None:
            return self.classify(self.lstm(torch.cat([features, inputs], dim=-1))[0])
        linear = self.read_state(features[:, 0])[None]
        return self.classify(self.lstm(inputs, (torch.tanh(linear), linear))[0])


def convolutions(sizes: Sequence[int]) -> nn.Sequential:
    """Kernel 3, stride 2, batch normalisation, ReLU."""
    found: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        found += [
            nn.Conv1d(before, after, 3, 2, padding=1, bias=False),
            nn.BatchNorm1d(after, eps=1e-3),
            nn.ReLU(),
        ]
    return nn.Sequential(*found)


class Expander(nn.Module):
    """A coarse grid, then transposed convolutions that double it: (B, d) -> (B, T, C)."""

    def __init__(self, code: int, length: int, base: int, filters: Sequence[int]) -> None:
        super().__init__()
        self.coarse, self.base = length // 2 ** len(filters), base
        self.grid = nn.Linear(code, self.coarse * base)
        sizes = [base, *filters]
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose1d(before, after, 3, 2, bias=False)
            for before, after in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(size, eps=1e-3) for size in filters)

    def forward(self, code: Tensor) -> Tensor:
        features = torch.relu(self.grid(code)).view(-1, self.coarse, self.base).transpose(1, 2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features = torch.relu(norm(convolution(features)[:, :, :-1]))
        return features.transpose(1, 2)


class Hybrid(nn.Module):
    """Convolutions, a code, deconvolutions, an LSTM (fig. 2b), and the auxiliary loss."""

    def __init__(self, sizes: Mapping[str, Any], normalized: bool) -> None:
        super().__init__()
        symbols, length, encoder = sizes["symbols"], sizes["length"], sizes["encoder"]
        self.symbols = symbols
        self.encoder = convolutions([symbols, *encoder])
        self.posterior = nn.Linear(length // 2 ** len(encoder) * encoder[-1], 2 * sizes["code"])
        self.expander = Expander(sizes["code"], length, sizes["base"], sizes["filters"])
        features = sizes["filters"][-1]
        self.head = (NormalizedHead if normalized else FusedHead)(features, sizes["units"], symbols)
        self.auxiliary = nn.Linear(features, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        symbols = functional.one_hot(tokens, self.symbols).float()
        mean, log_variance = self.posterior(self.encoder(symbols.transpose(1, 2)).flatten(1)).chunk(
            2, dim=1
        )
        features = self.expander(drawn(mean, log_variance))
        logits = self.head(features, shifted(tokens))
        return (
            cost(logits, tokens)
            + kl(mean, log_variance)
            + 0.2 * cost(self.auxiliary(features), tokens)
        )


class LSTMVAE(nn.Module):
    """An LSTM that reads, a code, an LSTM that begins with it (Bowman et al. 2016)."""

    def __init__(self, sizes: Mapping[str, Any], normalized: bool) -> None:
        super().__init__()
        self.symbols = sizes["symbols"]
        self.encoder = nn.LSTM(self.symbols, sizes["encoder"][0], batch_first=True)
        self.posterior = nn.Linear(sizes["encoder"][0], 2 * sizes["code"])
        self.head = (NormalizedHead if normalized else FusedHead)(
            sizes["code"], sizes["units"], self.symbols, True
        )

    def forward(self, tokens: Tensor) -> Tensor:
        read, _ = self.encoder(functional.one_hot(tokens, self.symbols).float())
        mean, log_variance = self.posterior(read[:, -1]).chunk(2, dim=1)
        logits = self.head(drawn(mean, log_variance)[:, None], shifted(tokens))
        return cost(logits, tokens) + kl(mean, log_variance)


def drawn(mean: Tensor, log_variance: Tensor) -> Tensor:
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def shifted(tokens: Tensor) -> Tensor:
    """What stands before each position."""
    return torch.cat([torch.full_like(tokens[:, :1], START), tokens[:, :-1]], dim=1)


def cost(logits: Tensor, tokens: Tensor) -> Tensor:
    """Nats a text, the mean of the batch."""
    return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum") / len(
        tokens
    )


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    return 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).sum(dim=1).mean()


class Sampler(nn.Module):
    """The decoder alone, with the weights of one of ours by the names of its layers."""

    def __init__(self, weights: Mapping[str, np.ndarray], length: int) -> None:
        super().__init__()
        kernels = [
            weights[f"deconvolution_{level}/kernel"]
            for level in range(20)
            if f"deconvolution_{level}/kernel" in weights
        ]
        filters = [kernel.shape[1] for kernel in kernels]
        code, symbols = weights["grid/kernel"].shape[0], weights["classify/bias"].shape[0]
        self.length = length
        self.expander = Expander(code, length, kernels[0].shape[2], filters)
        self.head = NormalizedHead(filters[-1], weights["normalize_cell/gamma"].shape[0], symbols)
        linear = {
            "grid": self.expander.grid,
            "read_features": self.head.read_features,
            "classify": self.head.classify,
        }
        norms = {name: getattr(self.head, name) for name in ("normalize_inputs",)}
        norms |= {
            name: getattr(self.head.lstm, name) for name in ("normalize_hidden", "normalize_cell")
        }
        with torch.no_grad():
            for name, layer in linear.items():
                layer.weight.copy_(torch.from_numpy(weights[f"{name}/kernel"].T))
                if layer.bias is not None:
                    layer.bias.copy_(torch.from_numpy(weights[f"{name}/bias"]))
            for name, norm in norms.items():
                norm.weight.copy_(torch.from_numpy(weights[f"{name}/gamma"]))
                norm.bias.copy_(torch.from_numpy(weights[f"{name}/beta"]))
            for level, kernel in enumerate(kernels):
                self.expander.convolutions[level].weight.copy_(
                    torch.from_numpy(kernel.transpose(2, 1, 0))
                )
                norm = self.expander.norms[level]
                for ours, theirs in {
                    "gamma": norm.weight,
                    "beta": norm.bias,
                    "moving_mean": norm.running_mean,
                    "moving_variance": norm.running_var,
                }.items():
                    theirs.copy_(
                        torch.from_numpy(weights[f"expander_normalization_{level}/{ours}"])
                    )
            self.head.read_previous.weight.copy_(torch.from_numpy(weights["rows/embeddings"]))
            self.head.bias.copy_(torch.from_numpy(weights["cell/bias"]))
            self.head.lstm.kernel.copy_(torch.from_numpy(weights["cell/kernel"]))
        self.eval()

    def step(
        self, projected: Tensor, previous: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs = (
            self.head.normalize_inputs(projected + self.head.read_previous(previous))
            + self.head.bias
        )
        hidden, cell = self.head.lstm.step(inputs, hidden, cell)
        return self.head.classify(hidden), hidden, cell

    @torch.inference_mode()
    def write(
        self, code: Tensor, greedy: bool, barrier: Tensor, step: Callable[..., Any] | None = None
    ) -> Tensor:
        """Tokens (B, T) of codes (B, d), to the full length."""
        step = step or self.step
        features = self.expander(code)
        projected = self.head.read_features(features)
        hidden, cell = self.head.first(features)
        previous = torch.full((len(code),), START)
        written = []
        for position in range(self.length):
            logits, hidden, cell = step(projected[:, position], previous, hidden, cell)
            logits = logits + barrier
            previous = (
                logits.argmax(dim=1)
                if greedy
                else torch.multinomial(torch.softmax(logits, dim=1), 1)[:, 0]
            )
            written.append(previous)
        return torch.stack(written, dim=1)
