"""What the code of a run does and does not do: the measurements of `kvae diagnose`.

Each is taken on a sample of held-out texts. `kvae.training.advice` says what follows from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from keras import ops

from kvae.model import TextVAE, as_int
from kvae.objectives import cross_entropy, token_mask
from kvae.parts import shifted
from kvae.runs import METRICS, Run, read_epochs
from kvae.serving.errors import ConfigError, DataError
from kvae.steps import backend_steps
from kvae.tensors import Tensor

from .alarm import judged, ramp_is_over
from .data.prepare import HeldOut
from .evaluation import (
    active_units,
    aggregated_posterior,
    code_usage,
    collect,
    evenly_spaced,
    mutual_information,
    rows_differ,
    standard_error,
)
from .fitted_prior import prior_log_prob
from .gaussian_mixture import GaussianMixture, diagonal_covariance, full_covariance
from .measuring import labelled_batches, text_inputs
from .messages import Say, quiet

QUARTERS = 4
"""Parts of a text, by relative position, that the effect of the code is summed over."""


def diagnose(
    run: Run, data: HeldOut, texts: int = 1000, seed: int = 0, say: Say = quiet
) -> dict[str, Any]:
    """The measurements of a run on at most `texts` held-out texts, as docs/diagnosis.md explains
    them.

    Codes, the texts that exchange them and codes of the prior are drawn from `seed`. A language
    model has `has_code` alone. Raises `ConfigError` for fewer than two texts, and `DataError` if
    all held-out texts are equal.
    """
    if texts < 2:
        raise ConfigError(f"texts must be at least 2, got {texts}")
    if not run.model.hierarchy.shapes:
        return {"run": str(run.path), "has_code": False}
    places = evenly_spaced(np.arange(len(data.rows)), texts)
    rows = data.rows[places]
    attribute = None if data.attribute is None else data.attribute[places]
    if not rows_differ(rows):
        raise DataError(f"{run.path}: all held-out texts are equal, so no code can tell them apart")
    model = run.model.in_float32()
    say(f"measuring {len(rows):,} held-out texts with their own codes")
    collected = collect(model, rows, seed=seed, attribute=attribute)
    say("measuring them with the codes of other texts and of the prior")
    nats = exchanged_nats(model, rows, attribute, collected, seed)
    say("comparing the codes with the prior")
    means = {name: float(values.mean()) for name, values in collected.items() if values.ndim == 1}
    usage = code_usage(model, rows, collected)
    top = f"kl_level_{len(model.hierarchy.shapes) - 1}"
    names = ("reconstruction", "kl", "elbo", *kl_levels(means))
    return {
        "run": str(run.path),
        "has_code": True,
        "texts": len(rows),
        **{name: means[name] for name in names},
        **usage,
        "latent_size": model.hierarchy.size,
        "state": judged(
            means["kl"],
            usage["active_units"],
            usage["mutual_information"],
            means[top],
            usage["mutual_information_ceiling"],
        ),
        "exchanged": exchange(nats, collected["kl"], usage),
        "quarters": quarters(nats, rows),
        "positions": positions(nats, rows),
        "levels": levels(model, collected),
        "dimensions": dimensions(model, collected),
        "map_positions": map_positions(model, collected),
        "aggregated": aggregated(model, collected, means[top], usage, seed),
        "training": training_state(run, means["elbo"]),
    }


AGGREGATED = {
    "kl": "nats, of the top level",
    "information": "nats of it that are information about the text",
    "marginal_kl": "the rest: at least the KL of the aggregated posterior from the prior",
    "gaussian_saves": "of that KL, nats that a single Gaussian saves as the prior",
    "gaussian_error": "its standard error",
    "log_determinant": "of the covariance of all codes: 0 for N(0, I)",
    "aggregated_mean_norm": "length of the mean of all codes: 0 for N(0, I)",
}
"""Numbers of `aggregated` in the order of their tables, each with its meaning."""


def kl_levels(names: Mapping[str, Any]) -> list[str]:
    """The names of the KL of each level, if there are several."""
    levels = [name for name in names if name.startswith("kl_level_")]
    return levels if len(levels) > 1 else []


def exchanged_nats(
    model: TextVAE,
    rows: np.ndarray,
    attribute: np.ndarray | None,
    collected: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, np.ndarray]:
    """Nats of each position (N, T), 0 in the padding, with the code of the text (`own`), with that
    of another one (`other`) and with one of the prior (`prior`). The label is always its own."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(rows))
    other = np.empty(len(rows), np.int64)
    other[order] = np.roll(order, 1)  # one cycle: no text keeps its code
    noise = generator.standard_normal((len(rows), model.parts.noise_size)).astype(np.float32)
    size = model.hierarchy.size
    batches = (noise[start : start + 512] for start in range(0, len(noise), 512))
    drawn = [ops.convert_to_numpy(model.hierarchy.sample(batch)) for batch in batches]
    codes = {
        "own": collected["z"],
        "other": collected["z"][other],
        "prior": np.concatenate(drawn)[:, :size],
    }
    return {name: position_nats(model, rows, z, attribute) for name, z in codes.items()}


def position_nats(
    model: TextVAE,
    rows: np.ndarray,
    z: np.ndarray,
    attribute: np.ndarray | None = None,
    batch_size: int = 128,
) -> np.ndarray:
    """The teacher-forced cross-entropy of tokens (N, T) with codes z (N, d), nats per position,
    (N, T), 0 in the padding."""
    run = compiled_nats(model)
    batches = [
        run(tokens, z[places].astype(np.float32), labels)["nats"]
        for places, tokens, labels in labelled_batches(rows, attribute, batch_size)
    ]
    return np.concatenate(batches)


@lru_cache(maxsize=1)
def compiled_nats(model: TextVAE) -> Callable[..., dict[str, np.ndarray]]:
    """The function that `position_nats` runs on a batch, compiled once for the last model."""
    parts = model.parts

    def nats_of(tokens: Tensor, z: Tensor, attribute: Tensor) -> dict[str, Tensor]:
        code = z
        if parts.attributes:
            features = parts.features_of(*parts.reader(tokens), training=False)
            value = parts.one_hot(attribute, parts.classify(features))
            code = ops.concatenate([z, value], axis=-1)
        features = parts.cut(parts.expander(code, training=False), tokens)
        logits = parts.head(features, shifted(tokens), training=False)
        return {"nats": token_mask(tokens) * cross_entropy(tokens, logits)}

    return backend_steps().compiled(model, nats_of, text_inputs(model, model.hierarchy.size))


def exchange(
    nats: Mapping[str, np.ndarray], kl: np.ndarray, usage: Mapping[str, Any]
) -> dict[str, float]:
    """What another code costs: reconstruction in nats per sequence with each code, and `cost`, how
    much more it is with the code of another text.

    A decoder that is the exact inverse of the encoder loses I + L, the mutual information and the
    lautum information (Palomar and Verdu 2008), so `share_of_information` is at least 1 for it.
    `left_after_kl` is what the code saves beside codes of the prior, which have no KL: if it is
    negative, the decoder would have a lower bound with codes that say nothing. Both come with
    their standard errors.
    """
    sums = {name: each.sum(axis=1) for name, each in nats.items()}
    more, left = sums["other"] - sums["own"], sums["prior"] - sums["own"] - kl
    cost, information = float(more.mean()), usage["mutual_information"]
    return {
        **{name: float(each.mean()) for name, each in sums.items()},
        "cost": cost,
        "cost_error": standard_error(more),
        "share_of_reconstruction": cost / max(float(sums["own"].mean()), 1e-9),
        **({"share_of_information": cost / information} if information >= 0.1 else {}),
        "left_after_kl": float(left.mean()),
        "left_error": standard_error(left),
    }


def quarters(nats: Mapping[str, np.ndarray], rows: np.ndarray) -> list[float]:
    """The cost of another text's code in each quarter of the texts, nats per sequence; their sum is
    the whole cost."""
    more, lengths = nats["other"] - nats["own"], np.maximum((rows != 0).sum(axis=1), 1)
    part = np.minimum(np.arange(rows.shape[1]) * QUARTERS // lengths[:, None], QUARTERS - 1)
    return [float(np.where(part == index, more, 0).sum() / len(rows)) for index in range(QUARTERS)]


def positions(nats: Mapping[str, np.ndarray], rows: np.ndarray) -> list[dict[str, float]]:
    """Nats of each position with either code, mean over the texts that reach it."""
    reached = (rows != 0).sum(axis=0)
    return [
        {
            "position": position,
            "texts": int(reached[position]),
            **{name: float(nats[name][:, position].sum() / reached[position]) for name in nats},
        }
        for position in range(rows.shape[1])
        if reached[position]
    ]


def levels(model: TextVAE, collected: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """KL, size and active units of each level of the code, bottom first."""
    shifts = model.hierarchy.split(collected["shift"])
    return [
        {
            "level": number,
            "size": shift.shape[1],
            "kl": float(collected[f"kl_level_{number}"].mean()),
            "active_units": active_units(shift),
        }
        for number, shift in enumerate(shifts)
    ]


def dimensions(model: TextVAE, collected: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every dimension, those that say most about the text first.

    `information` is that of the text and this dimension alone, nats; `kl` its KL, if the KL is a
    sum over dimensions; `activity` the variance of its posterior mean. `mean` and `variance` are
    those of the aggregated posterior, `deviation` the KL of a Gaussian with them from N(0, 1). A
    map has `position` and `channel`.
    """
    found = []
    sizes = model.hierarchy.sizes
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    for place in range(model.hierarchy.size):
        level = int(numbers[place])
        within = place - sum(sizes[:level])
        shape = model.hierarchy.shapes[level]
        mean, log_variance, z = (
            collected[name][:, place : place + 1] for name in ("mean", "log_variance", "z")
        )
        spread = np.exp(log_variance.astype(np.float64)).mean()
        kl = collected.get("kl_per_dimension")
        found.append(
            {
                "level": level,
                "dimension": within,
                **(
                    {"position": within // shape[1], "channel": within % shape[1]}
                    if len(shape) == 2
                    else {}
                ),
                **({} if kl is None else {"kl": float(kl[:, place].mean())}),
                "information": mutual_information(mean, log_variance, z),
                "activity": float(collected["shift"][:, place].var()),
                **moments_of(mean.astype(np.float64), spread),
            }
        )
    return sorted(found, key=lambda each: -each["information"])


def map_positions(model: TextVAE, collected: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Active units, and the KL if it is a sum over dimensions, of each position of each level that
    is a map; empty for vectors."""
    kl = collected.get("kl_per_dimension")
    of_dimensions = [] if kl is None else model.hierarchy.split(kl)
    found = []
    for number, shape in enumerate(model.hierarchy.shapes):
        if len(shape) < 2:
            continue
        shift = model.hierarchy.split(collected["shift"])[number].reshape(-1, *shape)
        for position in range(shape[0]):
            entry: dict[str, Any] = {"level": number, "position": position}
            entry["active_units"] = active_units(shift[:, position])
            if of_dimensions:
                each = of_dimensions[number].reshape(-1, *shape)[:, position]
                entry["kl"] = float(each.sum(axis=1).mean())
            found.append(entry)
    return found


def aggregated(
    model: TextVAE,
    collected: Mapping[str, np.ndarray],
    kl: float,
    usage: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """The aggregated posterior of the top level beside its prior.

    KL = I(x; z) + KL(q(z) || p(z)) (Hoffman and Johnson 2016). The estimate of I is too small where
    it is within a few nats of its ceiling, so `marginal_kl`, the rest, is at least the second term.
    `gaussian_saves` is at most that term: the nats per text that one Gaussian with the moments of
    the codes saves as the prior, and `gaussian_error` is the standard error. The moments are those
    of one half of the texts, and the saving is measured on the other half.
    """
    mean, log_variance, z = (
        model.hierarchy.split(collected[name])[-1] for name in ("mean", "log_variance", "z")
    )
    information = usage["mutual_information"]
    saved = gaussian_saving(model, z, seed)
    return {
        "fitted": model.model_config.prior_covariance == "full",
        "kl": kl,
        "information": information,
        "marginal_kl": kl - information,
        **aggregated_posterior(mean, log_variance),
        "gaussian_saves": float(saved.mean()),
        "gaussian_error": standard_error(saved),
    }


def gaussian_saving(model: TextVAE, z: np.ndarray, seed: int) -> np.ndarray:
    """log N(z) - log p(z) of codes (N, d), nats (N,): what a Gaussian with the moments of the other
    half of the codes saves. Its covariance is full or diagonal, whichever saves more; all are 0 if
    neither saves anything."""
    z, prior = z.astype(np.float64), prior_log_prob(model, z)
    halves = np.array_split(np.random.default_rng(seed).permutation(len(z)), 2)
    found = [np.zeros(len(z))]
    for shape in (full_covariance, diagonal_covariance):
        saved = np.empty(len(z))
        for known, tested in (halves, halves[::-1]):
            centre = z[known].mean(axis=0)
            weights = np.full(len(known), 1 / len(known))
            covariance = shape(z[known] - centre, weights) + 1e-6 * np.eye(z.shape[1])
            factor = np.linalg.cholesky(covariance)[None]
            gaussian = GaussianMixture(np.zeros(1), centre[None], factor)
            saved[tested] = gaussian.log_prob(z[tested]) - prior[tested]
        found.append(saved)
    return max(found, key=lambda each: float(each.mean()))


def moments_of(means: np.ndarray, spread: float) -> dict[str, float]:
    """Mean, variance and deviation of a dimension of the aggregated posterior, from the posterior
    means (N, 1) and the mean of the posterior variances."""
    mean, variance = float(means.mean()), float(means.var() + spread)
    deviation = 0.5 * (variance + mean**2 - 1.0 - math.log(max(variance, 1e-30)))
    return {"mean": mean, "variance": variance, "deviation": deviation}


def training_state(run: Run, elbo: float) -> dict[str, Any]:
    """How far the training of a run is.

    `ramp_is_over` says whether the KL has its full weight and `steps_to_go` how many steps it still
    takes, None if the ramp waits. `training_elbo` is the bound of the training texts in the last
    epoch, and `falling` the nats by which the held-out bound fell in the last quarter of the epochs
    after the ramp. Both are left out if the run has no such epochs.
    """
    model, objective = run.model, run.model.objective_config
    over, step = ramp_is_over(model), as_int(model.training_steps)
    start = objective.warm_start_steps + as_int(model.ramp_start)
    waits = objective.ramp_after_convergence and as_int(model.ramp_start) > step
    to_go = max(0, start + as_int(model.ramp_steps) - step)
    epochs = read_epochs(run.path / METRICS)
    last = epochs[-1].get("elbo") if epochs else None
    bounds = [each["val_elbo"] for each in epochs if each.get("val_elbo") is not None]
    falling = bounds[-1 - len(bounds) // 4] - bounds[-1] if len(bounds) >= 4 else None
    return {
        "step": step,
        "ramp_is_over": over,
        "steps_to_go": None if waits else 0 if over else to_go,
        **({} if last is None else {"training_elbo": last}),
        **({} if falling is None else {"falling": falling}),
    }
