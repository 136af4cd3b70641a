"""The hybrid, with an LSTM or a Transformer, and the LSTM VAE of Semeniuta et al. 2017 in idiomatic
PyTorch, as baselines for kvae.

Shapes: B is the batch size, T the number of positions, V the size of the vocabulary.
"""

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
    """A layer-normalised LSTM (Ba et al. 2016, supplementary eq. 20-22) in a Python loop.

    `inputs` (B, T, 4 units) are the projected inputs of the gates.
    """

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
    """Logits (B, T, V) of features and previous tokens through a layer-normalised LSTM.

    With `reads_state`, the features give the LSTM's initial state instead of its inputs.
    """

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

    def project(self, features: Tensor, previous: Tensor) -> Tensor:
        rows = self.read_previous(previous)
        rows = rows if self.read_features is None else rows + self.read_features(features)
        return self.normalize_inputs(rows) + self.bias

    def initial_state(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if self.read_state is None:
            zeros = features.new_zeros(len(features), self.units)
            return zeros, zeros
        linear = self.read_state(features[:, 0])
        return torch.tanh(linear), linear

    def forward(self, features: Tensor, previous: Tensor) -> Tensor:
        return self.classify(
            self.lstm(self.project(features, previous), *self.initial_state(features))
        )


class FusedHead(nn.Module):
    """As `NormalizedHead`, with PyTorch's `nn.LSTM`, which has no layer normalisation."""

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


class CausalBlock(nn.Module):
    """A decoder layer of a Transformer that normalises its inputs (Vaswani et al. 2017; Xiong et
    al. 2020): rows (B, T, units) to rows, with PyTorch's scaled dot-product attention."""

    def __init__(self, units: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.normalize_attention = nn.LayerNorm(units)
        self.read = nn.Linear(units, 3 * units)
        self.write = nn.Linear(units, units)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(units),
            nn.Linear(units, 4 * units),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * units, units),
        )

    def forward(self, rows: Tensor) -> Tensor:
        batch, length, units = rows.shape
        parts = self.read(self.normalize_attention(rows)).view(batch, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        read = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        rows = rows + self.write(read.transpose(1, 2).reshape(batch, length, units))
        return rows + self.feed_forward(rows)


class AttentionHead(nn.Module):
    """Logits (B, T, V) of features and previous tokens through a Transformer decoder."""

    def __init__(
        self, features: int, units: int, symbols: int, length: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.read_features = nn.Linear(features, units, bias=False)
        self.read_previous = nn.Embedding(symbols, units)
        self.positions = nn.Parameter(nn.init.xavier_uniform_(torch.empty(length, units)))
        self.blocks = nn.Sequential(*(CausalBlock(units, heads) for _ in range(layers)))
        self.normalize = nn.LayerNorm(units)
        self.classify = nn.Linear(units, symbols)

    def forward(self, features: Tensor, previous: Tensor) -> Tensor:
        rows = self.read_features(features) + self.read_previous(previous) + self.positions
        return self.classify(self.normalize(self.blocks(rows)))


def head_of(features: int, sizes: Mapping[str, Any], normalized: bool) -> nn.Module:
    """The decoder of `sizes`: a Transformer if it has `layers`, else an LSTM."""
    units, symbols = sizes["units"], sizes["symbols"]
    if sizes.get("layers"):
        shape = sizes["length"], sizes["layers"], sizes["heads"]
        return AttentionHead(features, units, symbols, *shape)
    return (NormalizedHead if normalized else FusedHead)(features, units, symbols)


def convolutions(sizes: Sequence[int]) -> nn.Sequential:
    """Convolutions with kernel 3 and stride 2, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [
            nn.Conv1d(before, after, 3, 2, padding=1, bias=False),
            nn.BatchNorm1d(after, eps=1e-3),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class Expander(nn.Module):
    """A coarse grid, then transposed convolutions that double its length: (B, d) -> (B, T, C)."""

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
    """The hybrid: convolutions, latent code, deconvolutions, LSTM (fig. 2b) or Transformer,
    auxiliary loss.

    A call returns the loss of tokens (B, T), in nats per text.
    """

    def __init__(self, sizes: Mapping[str, Any], normalized: bool) -> None:
        super().__init__()
        symbols, length, encoder = sizes["symbols"], sizes["length"], sizes["encoder"]
        self.symbols = symbols
        self.encoder = convolutions([symbols, *encoder])
        self.posterior = nn.Linear(length // 2 ** len(encoder) * encoder[-1], 2 * sizes["code"])
        self.expander = Expander(sizes["code"], length, sizes["base"], sizes["filters"])
        features = sizes["filters"][-1]
        self.head = head_of(features, sizes, normalized)
        self.auxiliary = nn.Linear(features, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        symbols = functional.one_hot(tokens, self.symbols).float()
        mean, log_variance = self.posterior(self.encoder(symbols.transpose(1, 2)).flatten(1)).chunk(
            2, dim=1
        )
        features = self.expander(posterior_sample(mean, log_variance))
        logits = self.head(features, previous_tokens(tokens))
        return (
            reconstruction_loss(logits, tokens)
            + kl(mean, log_variance)
            + 0.2 * reconstruction_loss(self.auxiliary(features), tokens)
        )


class LSTMVAE(nn.Module):
    """An LSTM encoder, a latent code, and an LSTM that starts from it (Bowman et al. 2016).

    A call returns the loss of tokens (B, T), in nats per text.
    """

    def __init__(self, sizes: Mapping[str, Any], normalized: bool) -> None:
        super().__init__()
        self.symbols = sizes["symbols"]
        self.encoder = nn.LSTM(self.symbols, sizes["encoder"][0], batch_first=True)
        self.posterior = nn.Linear(sizes["encoder"][0], 2 * sizes["code"])
        self.head = (NormalizedHead if normalized else FusedHead)(
            sizes["code"], sizes["units"], self.symbols, True
        )

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.encoder(functional.one_hot(tokens, self.symbols).float())
        mean, log_variance = self.posterior(states[:, -1]).chunk(2, dim=1)
        logits = self.head(posterior_sample(mean, log_variance)[:, None], previous_tokens(tokens))
        return reconstruction_loss(logits, tokens) + kl(mean, log_variance)


def posterior_sample(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A sample (B, d) of the posterior, by reparameterisation."""
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def previous_tokens(tokens: Tensor) -> Tensor:
    """The token before each position (B, T), START at the first."""
    return torch.cat([torch.full_like(tokens[:, :1], START), tokens[:, :-1]], dim=1)


def reconstruction_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of the tokens in nats per text, the mean of the batch."""
    return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum") / len(
        tokens
    )


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of the posterior from a standard normal prior in nats per text, batch mean."""
    return 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).sum(dim=1).mean()


class Sampler(nn.Module):
    """The decoder alone, with the weights of a kvae model by "layer/weight" names."""

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
    def sample(
        self, code: Tensor, greedy: bool, mask: Tensor, step: Callable[..., Any] | None = None
    ) -> Tensor:
        """Tokens (B, T) of codes (B, d); `mask` (V,) is added to the logits at every position."""
        step = step or self.step
        features = self.expander(code)
        projected = self.head.read_features(features)
        hidden, cell = self.head.initial_state(features)
        previous = torch.full((len(code),), START, device=code.device)
        tokens = []
        for position in range(self.length):
            logits, hidden, cell = step(projected[:, position], previous, hidden, cell)
            logits = logits + mask
            previous = (
                logits.argmax(dim=1)
                if greedy
                else torch.multinomial(torch.softmax(logits, dim=1), 1)[:, 0]
            )
            tokens.append(previous)
        return torch.stack(tokens, dim=1)
