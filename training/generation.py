"""Text metrics of a model: of reconstructions of held-out texts and of samples from the prior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from kvae.decoding import Chooser, at_temperature, decode, greedy
from kvae.model import TextVAE
from kvae.runs import Run
from kvae.serving.errors import ConfigError
from kvae.tensors import Tensor

from .data.prepare import HeldOut
from .evaluation import evenly_spaced
from .ngram import NGram, character_count
from .text_metrics import (
    UNIT_SPLITTERS,
    bleu,
    distinct,
    distinct_texts,
    edit_distance,
    exact_match,
    novelty,
    rouge_l,
    rouge_n,
    self_bleu,
    unit_of,
)
from .validity import UNITS as VALIDITY_UNITS
from .validity import Validator, reconstruction_validity, sample_validity

MAX_TEXTS = 100_000
"""Largest number of texts to reconstruct or to sample."""

ORDER = 5
"""Number of preceding characters that the n-gram models read."""

MAX_NGRAM_CHARACTERS = 2_000_000
"""About how many characters of training texts the forward n-gram model is fitted on at most."""

MEASURED = 200
"""Number of held-out texts and of samples that a verdict is measured on."""

CANDIDATES = 5000
"""Number of training texts among which the nearest one is looked for."""

BATCH = 256
"""Texts per batch of encoding and decoding."""

UNITS = {
    "texts": "texts",
    "bleu_2": "from 0 to 1, corpus BLEU over {text_unit}",
    "bleu_4": "from 0 to 1, corpus BLEU over {text_unit}",
    "rouge_2": "from 0 to 1, F1 over {text_unit}, mean over texts",
    "rouge_l": "from 0 to 1, F1 over {text_unit}, mean over texts",
    "edit_distance": "edits per character of the held-out texts",
    "exact_match": "share of texts",
    "distinct_1": "different / all {text_unit}",
    "distinct_2": "different / all pairs of {text_unit}",
    "self_bleu_2": "from 0 to 1, BLEU over {text_unit} of each text against the others",
    "self_bleu_4": "from 0 to 1, BLEU over {text_unit} of each text against the others",
    "distinct_texts": "share of texts",
    "novelty": "share of texts that are not among the {training_texts:,} training texts",
    "forward_perplexity": "per character of these texts, by an n-gram model of {ngram_texts:,} "
    "training texts",
    "reverse_perplexity": "per character of {reference_texts:,} held-out texts, by an n-gram model "
    "of these texts",
    **VALIDITY_UNITS,
}
"""Metrics of the groups of `text_report` in the order of its tables, with unit and meaning.

Entries of the report fill the fields in braces.
"""

TABLES = {
    "Reconstructions of held-out texts: greedy decoding from the posterior mean": {
        "reconstructions": "reconstructions"
    },
    "Samples from the prior": {
        "samples": "temperature 1",
        "greedy_samples": "greedy",
        "real_texts": "training texts",
    },
}
"""Tables of `text_report` by title: the groups of each with the headings of their columns."""


def text_report(
    run: Run,
    data: HeldOut,
    training_texts: Sequence[str] | None,
    texts: int,
    samples: int,
    seed: int,
    say: Callable[[str], None],
    validator: Validator | None = None,
) -> dict[str, Any]:
    """Text metrics of the model of `run`, by the groups of `TABLES` (see docs/metrics.md).

    `texts` of the held-out `data`, at equal distances, are reconstructed, and `samples` texts are
    drawn from the prior with `seed`. Metrics that need the training texts are left out if
    `training_texts` is None. A language model has neither reconstructions nor greedy samples, which
    would all be the same text. With a `validator` there is also what `training.validity` measures.
    Raises `ConfigError` for counts outside 0 to `MAX_TEXTS`.
    """
    for name, count in (("texts", texts), ("samples", samples)):
        if not 0 <= count <= MAX_TEXTS:
            raise ConfigError(f"{name} must be between 0 (none) and {MAX_TEXTS:,}, got {count}")
    has_code = bool(run.model.hierarchy.shapes)
    places = evenly_spaced(np.arange(len(data.texts)), texts)
    references, unit = [data.texts[place] for place in places], unit_of(data.texts)
    report: dict[str, Any] = {"text_unit": unit, "reference_texts": len(references)}
    if training_texts:
        report["training_texts"] = len(training_texts)
    step = compiled_step(run.model.head)
    if has_code and references:
        say(f"reconstructing {len(references):,} held-out texts")
        codes = posterior_codes(run.model, data, places)
        reconstructions = decoded_texts(run, codes, greedy, step)
        report["reconstructions"] = {
            **reconstruction_metrics(references, reconstructions, unit),
            **novelty_metric(run, reconstructions, training_texts),
            **(
                reconstruction_validity(validator, references, reconstructions) if validator else {}
            ),
        }
        if training_texts:
            few, read = (evenly_spaced_texts(it, MEASURED) for it in (references, reconstructions))
            report["edit_distances"], _ = beside_training_texts(run, few, read, training_texts)
    if not samples:
        return report
    say(
        f"drawing {samples:,} samples from the prior" + (", and again greedily" if has_code else "")
    )
    choosers = {"samples": at_temperature(1.0, seed)}
    if has_code:
        choosers["greedy_samples"] = greedy
    groups = {
        name: decoded_texts(run, prior_codes(run.model, samples, seed), choose, step)
        for name, choose in choosers.items()
    }
    say("comparing the samples with real texts")
    report |= sample_metrics(run, groups, data.texts, references, training_texts)
    if validator:
        for name, group in groups.items():
            report[name] |= sample_validity(validator, group)
    return report


def sample_metrics(
    run: Run,
    groups: Mapping[str, Sequence[str]],
    texts: Sequence[str],
    references: Sequence[str],
    training_texts: Sequence[str] | None,
) -> dict[str, Any]:
    """The metrics of each group of samples, and of as many training texts.

    `texts` are all held-out texts, `references` those that the perplexities are computed on.
    """
    report: dict[str, Any] = {}
    unit = unit_of(texts)
    ended = run.config.data.reading.has_end
    ngram_texts = texts_for_ngram(training_texts, ended) if training_texts else []
    symbols = len(set("".join([*ngram_texts, *texts, *groups["samples"]]))) + ended
    fit_ngram = partial(NGram.fit, order=ORDER, symbols=symbols, end_marks=ended)
    training_ngram = fit_ngram(ngram_texts) if ngram_texts else None
    for name, group in groups.items():
        report[name] = {
            **diversity_metrics(group, unit),
            **novelty_metric(run, group, training_texts),
            **perplexities(training_ngram, fit_ngram(group), group, references),
        }
    if training_ngram:
        report["ngram_order"], report["ngram_texts"] = ORDER, len(ngram_texts)
        real_texts = evenly_spaced_texts(ngram_texts, len(groups["samples"]))
        report["real_texts"] = {
            **diversity_metrics(real_texts, unit),
            **perplexities(training_ngram, fit_ngram(real_texts), references, references),
        }
    return report


def texts_for_ngram(training_texts: Sequence[str], ended: bool) -> list[str]:
    """Training texts at equal distances, with about `MAX_NGRAM_CHARACTERS` characters at most."""
    characters = character_count(training_texts, ended)
    return evenly_spaced_texts(
        training_texts, MAX_NGRAM_CHARACTERS * len(training_texts) // characters
    )


def evenly_spaced_texts(texts: Sequence[str], count: int) -> list[str]:
    """At most `count` texts at equal distances."""
    return list(evenly_spaced(np.array(texts, object), count))


def reconstruction_metrics(
    references: Sequence[str], reconstructions: Sequence[str], unit: str
) -> dict[str, float]:
    """Similarity of reconstructions to the texts that were encoded."""
    expected = list(map(UNIT_SPLITTERS[unit], references))
    actual = list(map(UNIT_SPLITTERS[unit], reconstructions))
    return {
        "texts": len(reconstructions),
        "bleu_2": bleu(expected, actual, 2),
        "bleu_4": bleu(expected, actual, 4),
        "rouge_2": rouge_n(expected, actual, 2),
        "rouge_l": rouge_l(expected, actual),
        "edit_distance": edit_distance(references, reconstructions),
        "exact_match": exact_match(references, reconstructions),
    }


def beside_training_texts(
    run: Run, texts: Sequence[str], reconstructions: Sequence[str], training_texts: Sequence[str]
) -> tuple[dict[str, float], list[str]]:
    """Edits per character from texts to their reconstructions, to the nearest of at most
    `CANDIDATES` training texts and to random ones; and the nearest ones."""
    candidates = evenly_spaced_texts(training_texts, CANDIDATES)
    nearest = nearest_texts(run, texts, candidates)
    random = np.random.default_rng(0).choice(np.array(candidates, object), len(texts))
    others = {"reconstruction": reconstructions, "nearest": nearest, "random": list(random)}
    return {name: edit_distance(texts, group) for name, group in others.items()}, nearest


def nearest_texts(run: Run, texts: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """For each text the candidate with the largest cosine of token counts."""

    def counts(of: Sequence[str]) -> np.ndarray:
        table = np.zeros((len(of), len(run.alphabet)), np.float32)
        for row, text in zip(table, of, strict=True):
            np.add.at(row, run.alphabet.ids(text), 1.0)
        norms = np.linalg.norm(table, axis=1, keepdims=True)
        return np.asarray(table / np.maximum(norms, 1e-9))

    places = np.argmax(counts(texts) @ counts(candidates).T, axis=1)
    return [candidates[place] for place in places]


def diversity_metrics(texts: Sequence[str], unit: str) -> dict[str, float]:
    """How much texts differ from each other."""
    units = list(map(UNIT_SPLITTERS[unit], texts))
    return {
        "texts": len(texts),
        "distinct_1": distinct(units, 1),
        "distinct_2": distinct(units, 2),
        "self_bleu_2": self_bleu(units, 2),
        "self_bleu_4": self_bleu(units, 4),
        "distinct_texts": distinct_texts(texts),
    }


def novelty_metric(
    run: Run, texts: Sequence[str], training_texts: Sequence[str] | None
) -> dict[str, float]:
    """The share of texts that are not training texts; empty without training texts."""
    if not training_texts:
        return {}
    return {"novelty": novelty(texts, training_texts, run.config.data.reading.is_stream)}


def perplexities(
    training_ngram: NGram | None, ngram: NGram, texts: Sequence[str], references: Sequence[str]
) -> dict[str, float]:
    """Forward and reverse perplexity per character (Zhao et al. 2018, 4.1).

    Forward is that of `texts` under an n-gram model of the training texts. Reverse is that of the
    held-out `references` under `ngram`, a model of `texts`.
    """
    metrics: dict[str, float] = {}
    if training_ngram and any(texts):
        metrics["forward_perplexity"] = training_ngram.perplexity(texts)
    if references:
        metrics["reverse_perplexity"] = ngram.perplexity(references)
    return metrics


def posterior_codes(model: TextVAE, data: HeldOut, places: np.ndarray) -> Iterator[Tensor]:
    """The posterior means of the texts at `places` with their labels, in batches (B, code_size)."""
    for batch in batches(places):
        attribute = None if data.attribute is None else data.attribute[batch]
        yield model.encode(data.rows[batch].astype(np.int32), attribute)["mean"]


def prior_codes(model: TextVAE, count: int, seed: int) -> Iterator[Tensor]:
    """`count` latent codes drawn from the prior with `seed`, in batches (B, code_size)."""
    noise = (
        np.random.default_rng(seed)
        .standard_normal((count, model.parts.noise_size))
        .astype(np.float32)
    )
    return (model.codes(batch) for batch in batches(noise))


def batches(values: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive slices of at most `BATCH` rows."""
    return (values[start : start + BATCH] for start in range(0, len(values), BATCH))


def decoded_texts(
    run: Run, codes: Iterable[Tensor], choose: Chooser, step: Callable[..., Any] | None
) -> list[str]:
    """The texts that batches of codes (B, code_size) are decoded to.

    `step` is that of the head, or `compiled_step` of it; None means the former.
    """
    tokens = (keras.ops.convert_to_numpy(decode(run.model, batch, choose, step)) for batch in codes)
    return [text for batch in tokens for text in run.alphabet.decode(batch)]


def compiled_step(head: Any) -> Callable[..., Any]:
    """The step of a head, compiled once for all positions and all batches of one size.

    It always uses the current weights. A backend without a compiler gets the step itself.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        traced: Callable[..., Any] = tf.function(head.step, autograph=False, reduce_retracing=True)
        return traced
    if keras.backend.backend() == "jax":
        import jax

        from .jax_step import Scope

        variables = head.variables

        @jax.jit
        def jitted(values: Any, *arguments: Any) -> Any:
            with Scope(list(zip(variables, values, strict=True))):
                return head.step(*arguments)

        return lambda *arguments: jitted([variable.value for variable in variables], *arguments)
    step: Callable[..., Any] = head.step
    return step
