"""What a model writes is measured on its own reconstructions and samples."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.configuration import Config
from kvae.decoding import at_temperature, decode, greedy
from kvae.runs import Run, load_run
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError
from kvae.training.data.prepare import HeldOut, held_out, training_texts
from kvae.training.evaluation import evaluate
from kvae.training.generation import (
    BATCH,
    UNITS,
    compiled_step,
    decoded_texts,
    posterior_codes,
    prior_codes,
    text_report,
)
from kvae.training.validity import UNITS as VALIDITY_UNITS
from kvae.training.verdict import findings

from .conftest import random_tokens, small_model

ALPHABET = Alphabet(tuple("abcde"))


def silent(sentence: str) -> None:
    pass


def made_run(mode: str = "lines", **model: Any) -> Run:
    made = small_model(**model)
    config = Config(model=made.model_config).with_settings({"data.mode": mode})
    return Run(Path("nowhere"), config, ALPHABET, made)


def held(count: int = 20) -> HeldOut:
    rows = random_tokens(count)
    return HeldOut(rows, ALPHABET.decode(rows), (), None)


def test_a_compiled_step_writes_the_same_texts() -> None:
    run = made_run(head_layer_normalization=True)
    step = compiled_step(run.model.head)
    for choose in (lambda: greedy, lambda: at_temperature(1.0, 5)):
        expected = decoded_texts(run, prior_codes(run.model, 30, 0), choose(), None)
        assert len(set(expected)) > 3
        assert decoded_texts(run, prior_codes(run.model, 30, 0), choose(), step) == expected


@pytest.mark.jax
def test_a_compiled_step_follows_the_weights() -> None:
    run = made_run()
    step = compiled_step(run.model.head)
    before = decoded_texts(run, prior_codes(run.model, 30, 0), greedy, step)
    for weight in run.model.head.trainable_variables:
        weight.assign(-weight)
    after = decoded_texts(run, prior_codes(run.model, 30, 0), greedy, step)
    assert after == decoded_texts(run, prior_codes(run.model, 30, 0), greedy, None) != before


def test_batches_are_put_together_in_order() -> None:
    run, count = made_run(head="none", auxiliary=False), BATCH + 3
    codes = np.concatenate([np.asarray(batch) for batch in prior_codes(run.model, count, 0)])
    assert codes.shape == (count, 4)
    whole = run.alphabet.decode(np.asarray(decode(run.model, codes)))
    assert decoded_texts(run, prior_codes(run.model, count, 0), greedy, None) == whole


def test_reconstructions_are_of_the_texts_they_are_compared_with() -> None:
    run, data = made_run(), held()
    places = np.array([3, 17])
    (codes,) = posterior_codes(run.model, data, places)
    assert np.asarray(codes) == pytest.approx(
        np.asarray(run.model.encode(data.rows[[3, 17]])["mean"]), abs=1e-5
    )


def test_a_report_has_every_number_and_is_the_same_each_time() -> None:
    run, data = made_run(), held()
    settings = (["ab", "cd", "eab"], 5, 6, 0, silent, str.isascii)
    report = text_report(run, data, *settings)
    assert report == text_report(run, data, *settings)
    distances = report.pop("edit_distances")
    assert distances.keys() == {"reconstruction", "nearest", "random"}
    groups = {name: group for name, group in report.items() if isinstance(group, dict)}
    assert {name: group["texts"] for name, group in groups.items()} == {
        "reconstructions": 5,
        "samples": 6,
        "greedy_samples": 6,
        "real_texts": 3,
    }
    assert set().union(*groups.values()) == set(UNITS)
    assert (report["reference_texts"], report["training_texts"], report["ngram_texts"]) == (5, 3, 3)


def test_real_texts_of_one_choice_a_character_are_judged_by_both_models() -> None:
    """The corpus is one text.

    A model of the corpus is certain of that text, and finds samples of an untrained model unlikely.
    """
    text = "abcdecbad"
    data = HeldOut(ALPHABET.encode([text] * 8, 16), [text] * 8, (), None)
    report = text_report(made_run(), data, [text] * 500, 8, 10, 0, silent)
    assert report["real_texts"]["forward_perplexity"] == pytest.approx(1.0, abs=0.01)
    assert (
        report["real_texts"]["reverse_perplexity"] < 1.5 < report["samples"]["reverse_perplexity"]
    )
    assert report["samples"]["forward_perplexity"] > 2.0
    assert report["samples"]["novelty"] == 1.0


def test_reconstructions_are_compared_with_the_nearest_training_text() -> None:
    """Among training texts that contain the held-out ones, these are the nearest."""
    run, data = made_run(), held()
    training_texts = ["a", *data.texts, "bbbbbbbbbbbbbb"]
    report = text_report(run, data, training_texts, 5, 0, 0, silent)
    distances = report["edit_distances"]
    assert distances["nearest"] == 0.0 < distances["random"]
    assert distances["reconstruction"] == report["reconstructions"]["edit_distance"] > 0.0
    (finding,) = findings({"edit_distances": distances})
    assert "than its nearest training text" in finding.sentence or "random" in finding.sentence
    assert "edit_distances" not in text_report(run, data, None, 5, 0, 0, silent)


def test_without_the_training_texts_there_is_no_novelty() -> None:
    report = text_report(made_run(), held(), None, 5, 6, 0, silent)
    assert not {"real_texts", "training_texts", "ngram_texts"} & report.keys()
    assert not {"novelty", "forward_perplexity"} & (
        report["samples"].keys() | report["reconstructions"].keys()
    )
    assert report["samples"]["reverse_perplexity"] > 1.0


def test_a_language_model_reconstructs_nothing_and_has_one_greedy_text() -> None:
    run = made_run(
        encoder="none", latent="none", expander="repeat", expander_base=0, auxiliary=False
    )
    report = text_report(run, held(), ["ab"], 5, 6, 0, silent)
    assert not {"reconstructions", "greedy_samples"} & report.keys()
    assert report["samples"]["distinct_texts"] > 0.5


def test_a_model_with_labels_reconstructs_each_text_with_its_own() -> None:
    run = made_run(attributes=("low", "high"))
    rows, label = random_tokens(4), np.array([0, 1, -1, 1], np.int32)
    (codes,) = posterior_codes(
        run.model, HeldOut(rows, ALPHABET.decode(rows), (), label), np.arange(4)
    )
    assert np.asarray(codes)[[0, 1, 3], 4:].tolist() == [[1, 0], [0, 1], [0, 1]]
    assert "reconstructions" in text_report(
        run, HeldOut(rows, ALPHABET.decode(rows), (), label), None, 4, 4, 0, silent
    )


def test_pieces_of_a_stream_have_no_end_marks() -> None:
    """The n-gram models of windows count characters alone.

    A certain text has perplexity 1; with end marks it would be a little more.
    """
    text = "abcdeabcdeabcdea"
    data = HeldOut(np.array([ALPHABET.ids(text)] * 4), [text] * 4, (), None)
    report = text_report(made_run("windows"), data, [text] * 500, 4, 4, 0, silent)
    assert report["real_texts"]["forward_perplexity"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("texts", "samples"), [(-1, 5), (5, 100_001)])
def test_counts_have_bounds(texts: int, samples: int) -> None:
    with pytest.raises(ConfigError, match="must be between 0"):
        text_report(made_run(), held(), None, texts, samples, 0, silent)


def test_what_a_run_learned_from_is_read_again(run_folder: Path) -> None:
    run = load_run(run_folder)
    learned, held = (
        training_texts(run.config, run.alphabet),
        held_out(run.config, run.alphabet).texts,
    )
    assert len(learned) + len(held) == 125
    assert not set(learned) & set(held)


def test_the_command_reports_every_group(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kvae.cli import main
    from kvae.commands.reports import text_tables

    command = ["evaluate", str(run_folder), "--texts", "4", "--samples", "20", "--json"]
    assert main([*command, "--validator", "builtins:bool"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    run = load_run(run_folder)
    rows = held_out(run.config, run.alphabet).rows
    assert {
        name: report[name] for name in ("elbo", "perplexity", "bits_per_character")
    } == pytest.approx(
        {
            name: evaluate(run.model, rows)[name]
            for name in ("elbo", "perplexity", "bits_per_character")
        }
    )
    assert report["text_unit"] == "characters"
    assert report["reconstructions"]["texts"] == 4
    assert report["samples"]["texts"] == report["greedy_samples"]["texts"] == 20
    assert "reconstructing 4 held-out texts" in err
    table = "\n".join(text_tables(report))
    assert all(f"\n{name} " in table for name in UNITS)
    assert "BLEU over characters" in table
    assert "per character of 4 held-out texts, by an n-gram model of these texts" in table


def test_reconstructions_and_samples_can_be_left_out() -> None:
    run, data = made_run(), held()
    assert "reconstructions" not in (report := text_report(run, data, None, 0, 6, 0, silent))
    assert report["samples"].keys() == {
        name
        for name in UNITS.keys() - VALIDITY_UNITS.keys()
        if name.startswith(("texts", "distinct", "self"))
    }
    assert text_report(run, data, None, 0, 0, 0, silent) == {
        "text_unit": "characters",
        "reference_texts": 0,
    }


def test_a_corpus_that_is_gone_is_said_and_not_an_error(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kvae.commands.run_folders import training_texts

    run = load_run(run_folder)
    gone = replace(run, config=run.config.with_settings({"data.source": "gone.txt"}))
    assert training_texts(gone) is None
    assert "gone.txt: no such file" in (said := capsys.readouterr().err)
    assert "there is no novelty, no forward perplexity and no comparison" in said
