"""TensorBoard gets what the docs promise, for every kind of model, and reads it as written."""

import html
import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.configuration import Config
from kvae.model import TextVAE
from kvae.serving.alphabet import Alphabet
from kvae.training.latent_report import LatentReport
from kvae.training.tensorboard import (
    TensorBoardMonitor,
    TextPreview,
    as_code_block,
    inverse_cdf_chooser,
)

from .conftest import random_tokens, small_model

SYMBOLS = Alphabet(tuple("ab*#_"))
LANGUAGE_MODEL = {
    "encoder": "none",
    "latent": "none",
    "auxiliary": False,
    "expander": "repeat",
    "expander_base": 0,
}


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return found


def scalars(found: Any, name: str) -> list[float]:
    import tensorflow as tf

    return [float(tf.make_ndarray(event.tensor_proto)) for event in found.Tensors(name)]


def texts_of(found: Any, name: str) -> str:
    """The text of a TensorBoard page: its Markdown is rendered to HTML, and the HTML is read."""
    from tensorboard.plugin_util import markdown_to_safe_html

    (text,) = found.Tensors(name)[-1].tensor_proto.string_val
    shown = re.fullmatch(
        r"<pre><code>(.*)\n</code></pre>", markdown_to_safe_html(text.decode()), re.DOTALL
    )
    assert shown, text
    return html.unescape(shown[1])


def fitted(
    model: TextVAE,
    folder: Path,
    rows: np.ndarray,
    attribute: Any = None,
    alphabet: Alphabet = SYMBOLS,
    epochs: int = 1,
) -> TensorBoardMonitor:
    """A monitor that saw some epochs of two steps of four texts."""
    report = LatentReport(rows, attribute)
    config = Config(model=model.model_config, objective=model.objective_config)
    monitor = TensorBoardMonitor(folder, config, alphabet, report, batch_size=4, every=2)
    tokens = random_tokens(8)
    model.compile("adam", jit_compile=False)
    data = (
        {"tokens": tokens, "attribute": np.zeros(8, np.int32)}
        if model.model_config.attributes
        else tokens
    )
    held_out = rows if attribute is None else {"tokens": rows, "attribute": attribute}
    model.fit(
        data,
        batch_size=4,
        epochs=epochs,
        validation_data=(held_out,),
        verbose=0,
        callbacks=[report, monitor],
    )
    return monitor


def test_markdown_tabs_and_line_breaks_of_texts_show_unchanged() -> None:
    from tensorboard.plugin_util import markdown_to_safe_html

    strange = [
        "# head",
        "* a *b* _c_ **d**",
        "    deep",
        "<b>&amp;</b>",
        "[x](http://y)",
        "a|b\n---|---",
        "```",
        "1. x",
        ">",
    ]
    for text in strange:
        shown = markdown_to_safe_html(as_code_block(text))
        assert html.unescape(re.sub(r"</?(pre|code)>", "", shown)).rstrip("\n") == text


def test_a_run_compares_by_its_settings_and_its_last_held_out_numbers(run_folder: Path) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    found = events(run_folder / "logs" / "settings")
    content = found.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    started = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert started.hparams["objective.alpha"].number_value == pytest.approx(0.3)
    assert started.hparams["model.encoder_units"].string_value == "8, 16"
    assert started.hparams["model.auxiliary"].bool_value is True
    assert "objective.kl_target" not in started.hparams  # nothing reads it in this run
    last = json.loads((run_folder / "metrics.jsonl").read_text().splitlines()[-1])
    for name in ("val_elbo", "val_kl", "val_active_units", "val_mutual_information"):
        assert scalars(found, f"final/{name}")[-1] == pytest.approx(last[name], rel=1e-6)


def test_the_configuration_stands_there_whole(run_folder: Path) -> None:
    shown = json.loads(texts_of(events(run_folder / "logs" / "train"), "configuration"))
    assert shown == json.loads((run_folder / "config.json").read_text())


def test_the_mutual_information_says_on_how_many_texts_it_stands(run_folder: Path) -> None:
    found = events(run_folder / "logs" / "validation")
    assert (
        "N = 7 held-out texts: at most ln N = 1.95"
        in found.SummaryMetadata("mutual_information").summary_description
    )


def test_speed_is_there_and_positive(run_folder: Path) -> None:
    found = events(run_folder / "logs" / "train")
    assert [event.step for event in found.Tensors("examples_per_second")] == [7, 14, 21]
    assert all(speed > 0 for speed in scalars(found, "examples_per_second"))


def test_the_projector_reads_means_texts_and_lengths(run_folder: Path) -> None:
    from tensorboard.plugins.projector.projector_plugin import _read_tensor_tsv_file

    from kvae.runs import load_run
    from kvae.training.data.prepare import held_out

    trained = load_run(run_folder)
    data = held_out(trained.config, trained.alphabet)
    folder = run_folder / "logs" / "validation"
    assert "latent_means_texts.tsv" in (folder / "projector_config.pbtxt").read_text()
    means = trained.model.encode(data.rows.astype(np.int32))["mean"]
    np.testing.assert_allclose(
        _read_tensor_tsv_file(str(folder / "latent_means.tsv")), means, rtol=1e-3, atol=1e-4
    )
    lines = [
        line.split("\t") for line in (folder / "latent_means_texts.tsv").read_text().splitlines()
    ]
    assert lines == [
        ["text", "characters"],
        *([text, "6"] for text in trained.alphabet.decode(data.rows)),
    ]


@pytest.mark.slow
def test_symbols_that_would_break_a_table_are_written_out(tmp_path: Path) -> None:
    alphabet = Alphabet(tuple("\t\n\r *"))
    labels = {"attributes": ("new\nline", "tab\t")}
    rows = random_tokens(12)
    fitted(small_model(**labels), tmp_path, rows, np.arange(12) % 3 - 1, alphabet)
    table = (tmp_path / "validation" / "latent_means_texts.tsv").read_bytes().decode()
    lines = [line.split("\t") for line in table.rstrip("\n").split("\n")]
    assert [len(line) for line in lines] == [3] * 13
    assert lines[0] == ["text", "characters", "label"]
    assert [line[2] for line in lines[1:4]] == ["unknown", "new\\nline", "tab\\t"]
    assert "\\n" in table


@pytest.mark.parametrize(
    ("model", "names"),
    [
        pytest.param(
            {"latent_size": (4, 3)},
            {"kl_per_dimension_level_0", "kl_per_dimension_level_1", "kl_level_1"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"prior": "mixture", "prior_components": 2},
            {"kl_level_0", "interpolation"},
            marks=pytest.mark.slow,
        ),
        pytest.param(LANGUAGE_MODEL, {"samples"}, marks=pytest.mark.slow),
        pytest.param(
            {"attributes": ("one", "two")},
            {"interpolation", "reconstructions"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["ladder", "mixture", "language model", "labels"],
)
def test_every_kind_of_model_is_shown_with_one_held_out_text(
    tmp_path: Path, model: dict[str, Any], names: set[str]
) -> None:
    made = small_model(**model)
    fitted(made, tmp_path, random_tokens(1), np.array([1]) if "attributes" in model else None)
    found = events(tmp_path / "validation")
    assert names | {"samples"} <= set(found.Tags()["tensors"])
    samples = texts_of(found, "samples").split("\n")
    assert len(samples) == 8
    if "attributes" in model:
        assert [line.split(":")[0] for line in samples] == ["one", "two"] * 4
    if "reconstructions" in names:
        assert texts_of(found, "reconstructions").count("->") == 1
    if made.hierarchy.shapes:
        tables = sorted(
            path.name for path in (tmp_path / "validation").glob("latent_means*_texts.tsv")
        )
        assert len(tables) == len(made.hierarchy.shapes)
    else:
        assert not (tmp_path / "validation" / "projector_config.pbtxt").exists()


@pytest.mark.slow
def test_a_second_process_goes_on_in_the_folder_of_the_first(tmp_path: Path) -> None:
    rows, model = random_tokens(4), small_model()
    fitted(model, tmp_path, rows)
    fitted(model, tmp_path, rows, epochs=2)
    train = events(tmp_path / "train")
    assert [event.step for event in train.Tensors("loss")] == [2, 4, 6]
    assert [event.step for event in train.Tensors("configuration")] == [0]
    assert [event.step for event in events(tmp_path / "validation").Tensors("elbo")] == [2, 4, 6]
    assert len(events(tmp_path / "settings").PluginTagToContent("hparams")) == 1


@pytest.mark.slow
def test_several_steps_in_one_call_are_not_missed(tmp_path: Path) -> None:
    model, rows = small_model(), random_tokens(36)
    config = Config(model=model.model_config, objective=model.objective_config)
    report = LatentReport(random_tokens(4))
    monitor = TensorBoardMonitor(tmp_path, config, SYMBOLS, report, batch_size=4, every=4)
    model.compile("adam", jit_compile=False, steps_per_execution=3)
    model.fit(rows, batch_size=4, epochs=1, verbose=0, callbacks=[report, monitor])
    assert [event.step for event in events(tmp_path / "train").Tensors("loss")] == [6, 9]


@pytest.mark.slow
def test_what_the_compiled_preview_generates_is_what_the_model_decodes() -> None:
    from kvae.decoding import decode

    model, rows = small_model(), random_tokens(8)
    preview = TextPreview(model, 8)
    written = preview.generate(rows, np.full(8, -1))
    means = np.array(model.encode(rows)["mean"])
    np.testing.assert_array_equal(written["samples"], decode(model, model.codes(preview.noise)))
    np.testing.assert_array_equal(written["reconstructions"], decode(model, means))
    halves = means[0] + np.linspace(0, 1, 8, dtype="float32")[:, None] * (means[-1] - means[0])
    np.testing.assert_array_equal(written["interpolation"], decode(model, halves))


def test_drawing_follows_the_distribution_and_never_takes_what_is_forbidden() -> None:
    probability = np.array([0.0, 0.2, 0.5, 0.3], "float32")
    logits = np.log(np.maximum(probability, 1e-30))[None].repeat(4000, axis=0) + np.array(
        [-1e9, 0, 0, 0], "float32"
    )
    uniform = np.linspace(0.0, 1.0, 4000, endpoint=False, dtype="float32")[:, None]
    drawn = keras.ops.convert_to_numpy(inverse_cdf_chooser(uniform)(logits))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, probability, atol=1e-3)


def test_a_vocabulary_of_one_symbol_writes() -> None:
    written = TextPreview(small_model(vocabulary_size=5), 8).generate(
        random_tokens(8, vocabulary_size=5), np.full(8, -1)
    )
    assert set("".join(Alphabet(("a",)).decode(np.array(written["samples"])))) <= {"a"}


def test_a_language_model_draws_different_samples() -> None:
    model = small_model(**LANGUAGE_MODEL)
    samples = TextPreview(model, 8).generate(random_tokens(8), np.full(8, -1))["samples"]
    assert len({tuple(row) for row in np.array(samples)}) > 4
