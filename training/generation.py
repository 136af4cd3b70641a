"""What a model writes: reconstructions of held-out texts and samples from its prior, measured as texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from kvae.decoding import Chooser, at_temperature, decode, greedy
from kvae.model import TextVAE
from kvae.runs import Run
from kvae.serving.errors import ConfigError

from .corpora import HeldOut
from .evaluation import spread
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

MOST_TEXTS = 100_000
"""Texts that may be reconstructed or drawn."""

ORDER = 5
"""Characters that the n-gram models read."""

MOST_FOR_NGRAM = 2_000_000
"""Characters of training texts, at equal distances, that the forward n-gram model is fitted on at most, nearly."""

BATCH = 256

UNITS = {
    "texts": "texts",
    "bleu_2": "of 1, corpus BLEU over {text_unit}",
    "bleu_4": "of 1, corpus BLEU over {text_unit}",
    "rouge_2": "of 1, F1 over {text_unit}, mean over texts",
    "rouge_l": "of 1, F1 over {text_unit}, mean over texts",
    "edit_distance": "edits per character of the held-out texts",
    "exact_match": "share of texts",
    "distinct_1": "different / all {text_unit}",
    "distinct_2": "different / all pairs of {text_unit}",
    "self_bleu_2": "of 1, BLEU over {text_unit} of each text against the others",
    "self_bleu_4": "of 1, BLEU over {text_unit} of each text against the others",
    "distinct_texts": "share of texts",
    "novelty": "share of texts that are none of the {training_texts:,} to learn from",
    "forward_perplexity": "per character, of an n-gram model of {ngram_texts:,} training texts on these",
    "reverse_perplexity": "per character, of an n-gram model of these on {reference_texts:,} held-out texts",
}
"""What the groups of `text_report` hold, in the order it is shown, with what each number counts, filled in from the report."""

TABLES = {
    "Held-out texts, read and written again: greedy, from the posterior mean": {"reconstructions": "reconstructions"},
    "Samples from the prior": {
        "samples": "temperature 1",
        "greedy_samples": "greedy",
        "real_texts": "training texts",
    },
}
"""The groups of `text_report` by the table they stand in, with the heading of their column."""


def text_report(
    run: Run,
    data: HeldOut,
    learned: Sequence[str] | None,
    texts: int,
    samples: int,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """How well a model writes: `texts` of the held-out `data` (at equal distances) reconstructed, `samples` texts drawn from
    the prior. `learned` are the training texts; what compares with them is left out for None. See docs/metrics.md.

    Each group of numbers has a name of `TABLES`. A language model has no reconstructions, and its greedy samples are all one
    text, so it has neither group. Raises `ConfigError` for counts outside 0 to `MOST_TEXTS`.
    """
    for name, count in (("texts", texts), ("samples", samples)):
        if not 0 <= count <= MOST_TEXTS:
            raise ConfigError(f"{name} must be between 0 (none) and {MOST_TEXTS:,}, got {count}")
    has_code = bool(run.model.hierarchy.shapes)
    places = spread(np.arange(len(data.texts)), texts)
    references, unit = [data.texts[place] for place in places], unit_of(data.texts)
    report: dict[str, Any] = {"text_unit": unit, "reference_texts": len(references)}
    if learned:
        report["training_texts"] = len(learned)
    step = compiled(run.model.head.step)
    if has_code and references:
        say(f"reconstructing {len(references):,} held-out texts")
        again = written(run, posterior_codes(run.model, data, places), greedy, step)
        report["reconstructions"] = {**closeness(references, again, unit), **newness(run, again, learned)}
    if not samples:
        return report
    say(f"drawing {samples:,} samples from the prior" + (", and again greedily" if has_code else ""))
    drawn = {"samples": written(run, prior_codes(run.model, samples, seed), at_temperature(1.0, seed), step)}
    if has_code:
        drawn["greedy_samples"] = written(run, prior_codes(run.model, samples, seed), greedy, step)
    say("comparing the samples with real texts")
    ended = run.config.data.mode == "lines"
    known = some(learned, MOST_FOR_NGRAM * len(learned) // character_count(learned, ended)) if learned else []
    symbols = len(set("".join([*known, *data.texts, *drawn["samples"]]))) + ended
    fitted = partial(NGram.fit, order=ORDER, symbols=symbols, end_marks=ended)
    judge = fitted(known) if known else None
    for name, group in drawn.items():
        report[name] = {
            **variety(group, unit),
            **newness(run, group, learned),
            **perplexities(judge, fitted(group), group, references),
        }
    if judge:
        report["ngram_order"], report["ngram_texts"] = ORDER, len(known)
        real = some(known, samples)
        report["real_texts"] = {**variety(real, unit), **perplexities(judge, fitted(real), references, references)}
    return report


def some(texts: Sequence[str], count: int) -> list[str]:
    """At most `count` texts at equal distances."""
    return spread(np.array(texts, object), count).tolist()


def closeness(references: Sequence[str], again: Sequence[str], unit: str) -> dict[str, float]:
    """How near texts are to those they were read from."""
    wanted, found = list(map(UNIT_SPLITTERS[unit], references)), list(map(UNIT_SPLITTERS[unit], again))
    return {
        "texts": len(again),
        "bleu_2": bleu(wanted, found, 2),
        "bleu_4": bleu(wanted, found, 4),
        "rouge_2": rouge_n(wanted, found, 2),
        "rouge_l": rouge_l(wanted, found),
        "edit_distance": edit_distance(references, again),
        "exact_match": exact_match(references, again),
    }


def variety(texts: Sequence[str], unit: str) -> dict[str, float]:
    """How much texts differ from each other."""
    found = list(map(UNIT_SPLITTERS[unit], texts))
    return {
        "texts": len(texts),
        "distinct_1": distinct(found, 1),
        "distinct_2": distinct(found, 2),
        "self_bleu_2": self_bleu(found, 2),
        "self_bleu_4": self_bleu(found, 4),
        "distinct_texts": distinct_texts(texts),
    }


def newness(run: Run, texts: Sequence[str], learned: Sequence[str] | None) -> dict[str, float]:
    """How many texts training did not show, where its texts are there."""
    return {"novelty": novelty(texts, learned, run.config.data.mode == "windows")} if learned else {}


def perplexities(judge: NGram | None, own: NGram, texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Of `texts` under a model of the training texts, and of held-out ones under the texts' `own` (Zhao et al. 2018, 4.1)."""
    return {
        **({"forward_perplexity": judge.perplexity(texts)} if judge and any(texts) else {}),
        **({"reverse_perplexity": own.perplexity(references)} if references else {}),
    }


def posterior_codes(model: TextVAE, data: HeldOut, places: np.ndarray) -> Iterator[Any]:
    """The posterior means of the texts at `places`, with their labels, in batches (B, code_size)."""
    for batch in batches(places):
        attribute = None if data.attribute is None else data.attribute[batch]
        yield model.encode(data.rows[batch].astype(np.int32), attribute)["mean"]


def prior_codes(model: TextVAE, count: int, seed: int) -> Iterator[Any]:
    """Codes drawn from the prior, in batches (B, code_size): the same for a seed."""
    noise = np.random.default_rng(seed).standard_normal((count, model.parts.noise_size)).astype(np.float32)
    return (model.codes(batch) for batch in batches(noise))


def batches(values: np.ndarray) -> Iterator[np.ndarray]:
    """Neighbouring pieces of at most `BATCH`."""
    return (values[start : start + BATCH] for start in range(0, len(values), BATCH))


def written(run: Run, codes: Iterable[Any], choose: Chooser, step: Any) -> list[str]:
    """The texts that codes are decoded to."""
    tokens = (keras.ops.convert_to_numpy(decode(run.model, batch, choose, step)) for batch in codes)
    return [text for batch in tokens for text in run.alphabet.decode(batch)]


def compiled(step: Any) -> Any:
    """A head's step, traced once for all positions and batches of a size where the backend can."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(step, autograph=False, reduce_retracing=True)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(step)
    return step
