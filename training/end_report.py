"""The report at the end of a run: texts beside the numbers, and what both mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kvae.components import main_components
from kvae.decoding import at_temperature, greedy
from kvae.runs import METRICS, REPORT, REPORT_JSON, REPORT_PAGE, Run, read_epochs, write_json
from kvae.writing import write_text

from .data.orders import lengths_of
from .data.prepare import HeldOut, Prepared
from .data.rows import Stream
from .evaluation import collect, evenly_spaced
from .generation import (
    MEASURED,
    ORDER,
    beside_training_texts,
    compiled_step,
    decoded_texts,
    evenly_spaced_texts,
    posterior_codes,
    prior_codes,
    reconstruction_metrics,
    sample_metrics,
    texts_for_ngram,
)
from .messages import Say
from .ngram import NGram, character_count
from .report_page import page
from .text_metrics import unit_of
from .verdict import findings

SHOWN_RECONSTRUCTIONS, SHOWN_SAMPLES = 5, 10
"""Number of texts that the report shows."""

RIVAL_TEXTS = 2000
"""Largest number of held-out texts that the n-gram model is measured on."""

TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Temperatures that are compared with the texts of the corpus."""

TRAINING_TEXTS = 50_000
"""Largest number of training texts that the report compares with."""

POINTS = 1000
"""Largest number of codes on the map."""


def reported(run: Run, prepared: Prepared, say: Say) -> dict[str, Any]:
    """What a run ends with: its evaluation, and its report if the bound is finite."""
    report = {"run": str(run.path), **run.evaluation}
    if "elbo" not in report:
        return report
    return report | end_report(run, held_out_of(prepared), training_sample(prepared), say)


def end_report(run: Run, data: HeldOut, training_texts: Sequence[str], say: Say) -> dict[str, Any]:
    """The report of a run on held-out `data`, also written to its report folder.

    It has the evaluation, reconstructions, samples, comparisons with n-gram models and with copies,
    and `findings`, sentences on what they mean. `training_texts` may be a part of them.
    """
    report = {**run.evaluation, **training_bound(run)}
    step = compiled_step(run.model.head)
    ended = run.config.data.reading.has_end
    say("comparing with a character n-gram model and with real texts")
    rival = rival_of(training_texts, data.texts, ended)
    report |= rival_report(rival, training_texts, data.texts)
    if run.model.hierarchy.shapes:
        say(f"reconstructing {min(MEASURED, len(data.texts))} held-out texts")
        report |= reconstruction_report(run, data, training_texts, step)
    say(f"drawing {MEASURED} samples at each of {len(TEMPERATURES)} temperatures")
    report |= sample_report(run, data.texts, training_texts, rival, step)
    report["findings"] = [vars(finding) for finding in findings(report)]
    write_json(run.path / REPORT / REPORT_JSON, report)
    write_text(run.path / REPORT / REPORT_PAGE, page(run, report, latent_map(run, data)))
    return report


def rival_of(training_texts: Sequence[str], texts: Sequence[str], ended: bool) -> NGram:
    """The character n-gram model of training texts, with the symbols of `texts` too."""
    known = texts_for_ngram(training_texts, ended)
    return NGram.fit(known, ORDER, len(set("".join([*known, *texts]))) + ended, ended)


def rival_report(
    rival: NGram, training_texts: Sequence[str], texts: Sequence[str]
) -> dict[str, float]:
    """Bits per character of the n-gram model on at most `RIVAL_TEXTS` of the texts, its order, and
    the number of its training texts."""
    measured = evenly_spaced_texts(texts, RIVAL_TEXTS)
    nats = rival.mean_nats(measured) * len(measured)
    characters = character_count(measured, rival.end_marks)
    return {
        "rival_bits_per_character": nats / characters / math.log(2),
        "rival_order": rival.order,
        "rival_texts": len(texts_for_ngram(training_texts, rival.end_marks)),
    }


def held_out_of(prepared: Prepared) -> HeldOut:
    """The held-out texts of prepared data."""
    return HeldOut(
        prepared.validation,
        list(prepared.validation_texts),
        (),
        prepared.validation_attribute,
    )


def training_sample(prepared: Prepared) -> list[str]:
    """At most `TRAINING_TEXTS` training texts at equal distances; of a stream, windows."""
    train, length = prepared.train, prepared.config.model.length
    if isinstance(train, Stream):
        starts = evenly_spaced(np.arange(0, len(train) - length + 1, length), TRAINING_TEXTS)
        return prepared.alphabet.decode(train.take(starts, length))
    places = evenly_spaced(np.arange(len(train)), TRAINING_TEXTS)
    return prepared.alphabet.decode(train.take(places))


def training_bound(run: Run) -> dict[str, float]:
    """The bound on training texts in the last epoch, {} if there is none."""
    *_, last = {}, *read_epochs(run.path / METRICS)
    return {"training_elbo": last["elbo"]} if "elbo" in last else {}


def reconstruction_report(
    run: Run, data: HeldOut, training_texts: Sequence[str], step: Any
) -> dict[str, Any]:
    """Reconstructions of held-out texts, and their distances beside those of training texts."""
    places = evenly_spaced(np.arange(len(data.texts)), MEASURED)
    originals = [data.texts[place] for place in places]
    decoded = decoded_texts(run, posterior_codes(run.model, data, places), greedy, step)
    distances, nearest = beside_training_texts(run, originals, decoded, training_texts)
    shown = evenly_spaced(np.arange(len(originals)), SHOWN_RECONSTRUCTIONS)
    return {
        "reconstructions": reconstruction_metrics(originals, decoded, unit_of(data.texts)),
        "edit_distances": distances,
        "reconstructed": [
            {"text": originals[i], "reconstruction": decoded[i], "nearest": nearest[i]}
            for i in shown
        ],
    }


def sample_report(
    run: Run, texts: Sequence[str], training_texts: Sequence[str], rival: NGram, step: Any
) -> dict[str, Any]:
    """Samples, greedy and at the temperature whose samples are as probable under the n-gram model
    as real texts."""
    has_code = bool(run.model.hierarchy.shapes)
    references = evenly_spaced_texts(texts, MEASURED)
    real = math.log(rival.perplexity(references))
    drawn = {
        temperature: decoded_texts(
            run, prior_codes(run.model, MEASURED, 0), at_temperature(temperature, 0), step
        )
        for temperature in TEMPERATURES
    }
    gaps = {
        temperature: abs(math.log(rival.perplexity(group)) - real)
        for temperature, group in drawn.items()
        if any(group)
    }
    best = min(gaps, key=lambda temperature: gaps[temperature]) if gaps else 1.0
    groups = {"samples": drawn[best]}
    if has_code:
        groups["greedy_samples"] = decoded_texts(
            run, prior_codes(run.model, MEASURED, 0), greedy, step
        )
    return {
        **sample_metrics(run, groups, texts, references, training_texts),
        "temperature": best,
        "shown_samples": {name: group[:SHOWN_SAMPLES] for name, group in groups.items()},
    }


def latent_map(run: Run, data: HeldOut) -> dict[str, Any]:
    """Posterior means of held-out texts on their two main components, (N, 2), with their texts,
    lengths and labels; {} without a code of at least two numbers, or for fewer than two texts."""
    if run.model.hierarchy.size < 2 or len(data.texts) < 2:
        return {}
    places = evenly_spaced(np.arange(len(data.texts)), POINTS)
    attribute = None if data.attribute is None else data.attribute[places]
    means = collect(run.model.in_float32(), data.rows[places], attribute=attribute)["mean"]
    centre, components, shares = main_components(means)
    return {
        "points": (means - centre) @ components.T,
        "explained": float(shares.sum()),
        "texts": [data.texts[place] for place in places],
        "lengths": lengths_of(data.rows[places]),
        "labels": None
        if attribute is None
        else [run.config.model.attributes[index] if index >= 0 else "" for index in attribute],
    }
