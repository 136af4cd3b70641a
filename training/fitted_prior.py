"""A prior fitted to the codes of a run after its training: `kvae fit-prior`.

Encoder and decoder stay as they are. The prior that makes the bound of the training texts lowest is
their aggregated posterior (Hoffman and Johnson 2016), and a Gaussian mixture fitted to its samples
comes near it: ex-post density estimation (Ghosh et al. 2020, 4). The result is a run of its own
with prior `mixture`, so that every command works on it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import Any

import keras
import numpy as np

from kvae.configuration import Config, ModelConfig
from kvae.misfits import has_free_bits_per_dimension
from kvae.model import TextVAE, computing_in
from kvae.runs import (
    CONFIG,
    EVALUATION,
    IDENTITY,
    MODEL,
    REPORT,
    REPORT_JSON,
    VOCABULARY,
    Run,
    check_bound,
    read_json,
    write_json,
)
from kvae.serving.errors import ConfigError
from kvae.slots import PRIORS
from kvae.steps import backend_steps
from kvae.tensors import Tensor
from kvae.writing import atomic_create

from .data.prepare import Prepared
from .data.rows import Stream
from .data.stores import remember_user
from .end_report import end_report as report_of_run
from .end_report import held_out_of, training_sample
from .evaluation import evenly_spaced, standard_error
from .experiment import evaluation_of, read_corpus, save_model
from .gaussian_mixture import GaussianMixture, fit, parameters
from .measuring import labelled_batches, text_inputs
from .messages import Say

RECORD = "prior.json"
"""File with the record of the fit, in the report folder of the new run."""

FEWEST_CODES = 20_000
"""Codes that a prior is fitted to at least: several of each text, if the texts are fewer."""

OVERFIT_SHARE = 0.25
"""A fitted prior overfits if held-out texts gain less than training texts by more than this share,
and by two standard errors."""


@dataclass(frozen=True)
class Fit:
    """What is fitted: K components with `full` or `diagonal` covariances, to the codes of at most
    `texts` training texts. `seed` draws the codes and the first centres."""

    components: int = 10
    covariance: str = "full"
    texts: int = 50_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("components", "texts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


def fit_prior(run: Run, out: str | Path, wish: Fit, say: Say) -> dict[str, Any]:
    """Fit a prior to the codes of a run's training texts and write the run with it to `out`.

    Returns the record that `FIELDS` explains, with the report of the new run as `report`. In a
    ladder it is the prior of the top level. Raises `ConfigError` for a language model, for texts
    that are fewer than the components and if `out` exists, `CheckFailed` for a run without a finite
    bound, and `DataError` if the texts of the run are gone.
    """
    if not run.model.hierarchy.shapes:
        raise ConfigError(f"{run.path}: a language model has no code and no prior; give another")
    check_bound(run)
    prepared = read_corpus(run.config, say)
    rows, attribute = training_rows(prepared, wish.texts)
    if len(rows) < wish.components:
        raise ConfigError(
            f"components {wish.components}: more than the {len(rows)} training texts; give fewer"
        )
    model = run.model.in_float32()
    draws = math.ceil(FEWEST_CODES / len(rows))
    say(f"encoding {len(rows):,} training texts" + (f", {draws} codes each" if draws > 1 else ""))
    codes = np.concatenate(
        [top_codes(model, rows, attribute, wish.seed + draw) for draw in range(draws)]
    )
    say(f"fitting {wish.components} components ({wish.covariance} covariances)")
    mixture, densities = fit(codes, wish.components, wish.covariance, wish.seed, say)
    held_out = top_codes(model, prepared.validation, prepared.validation_attribute, wish.seed)
    saved = mixture.log_prob(held_out) - prior_log_prob(model, held_out)
    record = {
        "run": str(run.path),
        "components": wish.components,
        "covariance": wish.covariance,
        "prior_parameters": parameters(wish.components, codes.shape[1], wish.covariance),
        "texts": len(rows),
        "codes": len(codes),
        "iterations": len(densities),
        "elbo_before": run.evaluation["elbo"],
        "kl_before": run.evaluation["kl"],
        "saved": float(saved.mean()),
        "saved_error": standard_error(saved),
        "saved_training": float(densities[-1] - prior_log_prob(model, codes).mean()),
    }
    return finished(run, Path(out), prepared, mixture, wish, record, say)


FIELDS = {
    "components": "Gaussians",
    "prior_parameters": "numbers of the prior",
    "codes": "samples of the posteriors of the training texts that it is fitted to",
    "elbo_before": "nats per held-out text, with the prior of the run",
    "elbo": "nats per held-out text, with the fitted prior, one code each",
    "kl_before": "nats per held-out text",
    "kl": "nats per held-out text",
    "saved": "nats per held-out text that the fitted prior saves, at the same codes",
    "saved_error": "its standard error",
    "saved_training": "nats that it saves at the codes of the training texts",
    "forward_perplexity_before": "per character of samples, by an n-gram model of training texts",
    "forward_perplexity": "the same with the fitted prior",
    "reverse_perplexity_before": "per character of held-out texts, by an n-gram model of samples",
    "reverse_perplexity": "the same with the fitted prior",
}
"""Numbers of the record in the order of its table, each with its unit and meaning."""


def finished(
    run: Run,
    out: Path,
    prepared: Prepared,
    mixture: GaussianMixture,
    wish: Fit,
    record: dict[str, Any],
    say: Say,
) -> dict[str, Any]:
    """Write the run with the fitted prior, evaluate it and make its report."""
    config = with_mixture(run, wish, say)
    model = with_weights_of(run.model, config, mixture)
    with atomic_create(out) as partial:
        (partial / REPORT).mkdir(parents=True)
        write_json(partial / CONFIG, config.to_dict())
        write_json(partial / VOCABULARY, run.alphabet.to_dict())
        write_json(partial / IDENTITY, {"run": secrets.token_hex(8)})
        save_model(model, partial / MODEL)
        say(f"evaluating on {len(prepared.validation):,} held-out texts")
        numbers = {**evaluation_of(model, prepared, say), "parameters": model.count_params()}
        record |= {"elbo": numbers["elbo"], "kl": numbers["kl"], **warning_of(record, wish)}
        write_json(partial / REPORT / EVALUATION, numbers)
        write_json(partial / REPORT / RECORD, record)
    remember_user(config, out)
    fitted = Run(out, config, run.alphabet, model)
    report = report_of_run(fitted, held_out_of(prepared), training_sample(prepared), say)
    return {**record, **samples_of(run, report), "out": str(out), "report": report}


def warning_of(record: dict[str, Any], wish: Fit) -> dict[str, Any]:
    """{"overfits", "warning"}: whether the prior overfits, and what to do then or if it saves
    nothing, or empty."""
    saved, error, training = (record[n] for n in ("saved", "saved_error", "saved_training"))
    overfits = training - saved > OVERFIT_SHARE * abs(training) + 2 * error
    numbers = f"{training:.2f} nats on training texts and {saved:.2f} on held-out ones"
    simpler = (
        f"--components {max(wish.components // 2, 1)}"
        if wish.components > 1
        else "--covariance diagonal"
    )
    if saved <= 2 * error:
        sentence = f"the fitted prior is no better than that of the run: it saves {numbers}"
        return {"overfits": overfits, "warning": f"{sentence}; keep {quote(record['run'])}"}
    warning = f"the fitted prior overfits: it saves {numbers}; try {simpler}" if overfits else ""
    return {"overfits": overfits, "warning": warning}


def samples_of(run: Run, report: dict[str, Any]) -> dict[str, float]:
    """Forward and reverse perplexity of samples with both priors, each at the temperature that is
    closest to the corpus; {} unless both runs have a report."""
    file = run.path / REPORT / REPORT_JSON
    before = read_json(file, "remove this file").get("samples", {}) if file.is_file() else {}
    after = report.get("samples", {})
    names = [n for n in ("forward_perplexity", "reverse_perplexity") if n in before and n in after]
    return {name: after[name] for name in names} | {f"{n}_before": before[n] for n in names}


def training_rows(prepared: Prepared, most: int) -> tuple[np.ndarray, np.ndarray | None]:
    """At most `most` training texts at equal distances, as tokens (N, T), and their labels (N,) or
    None; of a stream its windows."""
    train, length = prepared.train, prepared.config.model.length
    if isinstance(train, Stream):
        starts = evenly_spaced(np.arange(0, len(train) - length + 1, length), most)
        return train.take(starts, length), None
    places = evenly_spaced(np.arange(len(train)), most)
    attribute = prepared.train_attribute
    return train.take(places), None if attribute is None else attribute[places]


def top_codes(
    model: TextVAE,
    rows: np.ndarray,
    attribute: np.ndarray | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> np.ndarray:
    """A sample of the posterior of each text, (N, d) of the top level, drawn from `seed`."""
    encode, generator = compiled_codes(model), np.random.default_rng(seed)
    batches = []
    for _, tokens, labels in labelled_batches(rows, attribute, batch_size):
        noise = generator.standard_normal((len(tokens), model.parts.noise_size), np.float32)
        batches.append(encode(tokens, noise, labels)["z"])
    return np.concatenate(batches).astype(np.float64)


@lru_cache(maxsize=1)
def compiled_codes(model: TextVAE) -> Callable[..., dict[str, np.ndarray]]:
    """The function that `top_codes` runs on a batch, compiled once for the last model."""

    def codes_of(tokens: Tensor, noise: Tensor, attribute: Tensor) -> dict[str, Tensor]:
        outputs, _ = model.parts.infer(tokens, noise, attribute, training=False)
        return {"z": model.hierarchy.split(outputs["z"])[-1]}

    return backend_steps().compiled(model, codes_of, text_inputs(model, model.parts.noise_size))


def prior_log_prob(model: TextVAE, codes: np.ndarray, batch_size: int = 512) -> np.ndarray:
    """Log density of codes (N, d) of the top level under the prior of the model, nats, (N,)."""
    prior = model.hierarchy.prior
    batches = (
        codes[start : start + batch_size].astype(np.float32)
        for start in range(0, len(codes), batch_size)
    )
    densities = (prior.distribution(batch).log_prob(batch) for batch in batches)
    return np.concatenate([keras.ops.convert_to_numpy(each) for each in densities])


def with_mixture(run: Run, wish: Fit, say: Say) -> Config:
    """The configuration of a run with the fitted prior, and without settings of other priors and
    terms of the objective that it does not have."""
    objective, default = run.config.objective, ModelConfig()
    own = {name for row in PRIORS.values() for name in row.reads}
    settings = {
        **{f"model.{name}": getattr(default, name) for name in own},
        "model.prior": "mixture",
        "model.prior_components": wish.components,
        "model.prior_covariance": wish.covariance,
    }
    left_out: dict[str, Any] = {
        f"objective.{n}": 0.0 for n in ("mmd", "moments") if getattr(objective, n)
    }
    if has_free_bits_per_dimension(objective):
        total = objective.free_bits * run.model.hierarchy.size
        left_out |= {"objective.free_bits_over": "total", "objective.free_bits": total}
    if left_out:
        changes = ", ".join(f"{name}={value}" for name, value in left_out.items())
        say(f"further training of this run has {changes}, since its prior is not N(0, I)")
    return run.config.with_settings({**settings, **left_out})


def with_weights_of(model: TextVAE, config: Config, mixture: GaussianMixture) -> TextVAE:
    """A model of `config` with the weights and counters of `model` and the fitted prior."""
    with computing_in(config.training.precision):
        fitted = TextVAE(config.model, config.objective, name=model.name)
    prior = fitted.hierarchy.prior
    own = {weight.path for weight in prior.weights}
    known = {weight.path: weight for weight in model.weights}
    for weight in fitted.weights:
        if weight.path not in own and not weight.path.endswith("seed_generator_state"):
            weight.assign(keras.ops.convert_to_numpy(known[weight.path]))
    scales = np.diagonal(mixture.factors, axis1=1, axis2=2)
    prior.logits.assign(mixture.log_weights)
    prior.mean.assign(mixture.means)
    prior.log_variance.assign(2 * np.log(scales))
    if prior.below is not None:
        lower = np.tril_indices(scales.shape[1], -1)
        prior.below.assign((mixture.factors / scales[:, None, :])[:, lower[0], lower[1]])
    return fitted
