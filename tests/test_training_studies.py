"""The studies as data: their rows can be built, their statements can hold and can fail."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kvae.cli import parser
from kvae.misfits import check_slots
from kvae.presets import PUBLISHED, preset
from kvae.runs import Run
from kvae.training import studies
from kvae.training.book import results_table
from kvae.training.data.prepare import Prepared
from kvae.training.reproduction import Study, verdicts_of
from kvae.training.studies import STUDIES
from kvae.training.studies.alpha import ALPHAS
from kvae.training.studies.historyless import reconstruction_bits
from kvae.training.studies.kl_target import TARGETS
from kvae.training.studies.length import LENGTHS
from kvae.training.studies.petersen import POSITIONS
from kvae.training.studies.receptive_field import LAYERS
from kvae.training.studies.rows import with_steps
from kvae.training.studies.toy import FLOWS, TOY
from kvae.training.studies.tweets import HYBRIDS
from kvae.training.studies.twitter import TWITTER

SCALED = [(name, scale) for name, study in STUDIES.items() for scale in study.scales]


def test_every_module_with_a_study_is_named_and_the_command_line_takes_it() -> None:
    modules = Path(str(studies.__file__)).parent.glob("*.py")
    with_study = {path.stem for path in modules if "\nSTUDY = " in path.read_text("utf-8")}
    assert {name.replace("-", "_") for name in STUDIES} == with_study
    assert [parser().parse_args(["reproduce", name]).id for name in STUDIES] == list(STUDIES)


@pytest.mark.parametrize(("name", "scale"), SCALED)
def test_every_row_is_a_configuration_that_fits_together(name: str, scale: str) -> None:
    rows = STUDIES[name].scales[scale]()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        config = row.config.with_settings(
            {"model.length": row.config.model.length or 16, "model.vocabulary_size": 50}
        )
        check_slots(config.model, config.objective)


def test_a_row_lasts_as_long_as_it_says_and_is_annealed_later_without_an_auxiliary_loss() -> None:
    config = with_steps(preset("hybrid-lstm-small"), 800, 32, objective__alpha=0.5)
    assert config.training.epochs * (config.training.steps_per_epoch or 0) == 800
    assert (config.objective.ramp_start, config.objective.ramp_steps) == (0, 400)
    assert config.objective.alpha == 0.5
    without = with_steps(preset("lstm-vae-ptb-small"), 800, 32)
    assert (without.objective.ramp_start, without.objective.ramp_steps) == (200, 400)
    never = preset("historyless-cnn-ptb-small")
    assert with_steps(never, 800, 32).objective == never.objective


def verdicts(study: Study, numbers: dict[str, dict[str, float]]) -> list[bool | None]:
    return [statement.judge({"study": {}, **numbers}).passed for statement in study.statements]


def test_toy_wants_low_bounds_and_a_living_code() -> None:
    toy = STUDIES["toy"]
    good = {name: {"elbo": 12.0, "kl": 5.0} for name in TOY} | {
        "rnn-dense": {"elbo": 8.9, "kl": 3.1},
        FLOWS: {"elbo": 8.74, "kl": 3.1},
    }
    assert verdicts(toy, good) == [True, True, True, True]
    assert verdicts(toy, good | {"cnn-map": {"elbo": 20.5, "kl": 9.0}})[0] is False
    assert verdicts(toy, good | {"rnn-dense": {"elbo": 8.9, "kl": 2.9}})[1] is False
    assert verdicts(toy, good | {FLOWS: {"elbo": 8.76, "kl": 3.1}})[2] is False
    assert verdicts(toy, good | {FLOWS: {"elbo": 8.7, "kl": 2.9}})[2] is False
    assert verdicts(toy, good | {"lvae-3": {"elbo": 8.8, "kl": 3.5}})[3] is False


@pytest.mark.parametrize(("study", "rows"), [("toy", TOY), ("twitter", TWITTER)])
def test_what_petersen_reports_in_our_unit_is_the_same_in_the_book_and_of_the_presets(
    study: str, rows: dict[str, tuple[float, float, float]]
) -> None:
    for row in STUDIES[study].scales["small"]():
        if row.name not in rows:
            continue
        _, reconstruction, kl = rows[row.name]
        in_our_unit = round(POSITIONS[study] * reconstruction + kl, 1)
        assert (
            PUBLISHED[f"{row.name}-{study}"].published_nats == in_our_unit == row.published["elbo"]
        )


def test_twitter_wants_a_ladder_in_front() -> None:
    rows = {name: {"elbo": 60.0 + place, "kl": 5.0} for place, name in enumerate(reversed(TWITTER))}
    assert verdicts(STUDIES["twitter"], rows) == [True]
    assert verdicts(STUDIES["twitter"], rows | {"cnn-map": {"elbo": 50.0, "kl": 5.0}}) == [False]


def test_historyless_wants_one_to_fail_by_more_than_chance_and_the_other_to_fit() -> None:
    def rows(lstm: list[float], convolutional: list[float]) -> dict[str, dict[str, float]]:
        bits = {"LSTM": lstm, "convolutional": convolutional}
        return {
            f"{series}-{length}": {"reconstruction_bits": value}
            for series, values in bits.items()
            for length, value in zip((12, 28, 52), values, strict=True)
        } | {"study": {"step_ratio": 2.0}}

    study = STUDIES["historyless"]
    assert verdicts(study, rows([0.5, 2.0, 3.0], [0.1, 0.2, 0.9])) == [True, True]
    assert verdicts(study, rows([0.5, 2.0, 2.01], [0.1, 0.2, 0.9]))[0] is False, (
        "no worse at 52 than at 28"
    )
    assert verdicts(study, rows([0.5, 0.9, 3.0], [0.1, 0.2, 0.9]))[0] is False, (
        "the LSTM fits 28 characters"
    )
    assert verdicts(study, rows([0.5, 2.0, 3.0], [0.1, 0.2, 1.1]))[0] is False, (
        "convolutions do not fit 52"
    )


def lengths(lstm: list[float], hybrid: list[float]) -> dict[str, dict[str, float]]:
    """Shares of KL of a bound of 100 nats."""
    rows = {
        f"lstm-vae-p{p}-{length}": kl
        for p in (0.2, 0.5)
        for length, kl in zip(LENGTHS, lstm, strict=True)
    }
    rows |= {f"hybrid-{length}": kl for length, kl in zip(LENGTHS, hybrid, strict=True)}
    return {name: {"kl": kl, "elbo": 100.0} for name, kl in rows.items()}


def test_length_wants_one_share_to_vanish_and_the_other_to_stay() -> None:
    assert verdicts(STUDIES["length"], lengths([20, 10, 5, 2, 1], [20, 15, 15, 12, 11])) == [
        True,
        True,
    ]
    assert verdicts(STUDIES["length"], lengths([20, 20, 20, 20, 20], [20, 15, 15, 12, 9])) == [
        False,
        False,
    ]


@pytest.mark.parametrize("scale", LAYERS)
def test_receptive_field_wants_collapse_without_alpha_beyond_three_only(scale: str) -> None:
    alive = {row.name: {"kl": 5.0} for row in STUDIES["receptive-field"].scales[scale]()}
    assert verdicts(STUDIES["receptive-field"], alive) == [False, True, True]
    dead = {f"alpha-0-layers-{layers}": {"kl": 0.1} for layers in LAYERS[scale] if layers > 2}
    assert verdicts(STUDIES["receptive-field"], alive | dead) == [True, True, True]
    wrong = {"alpha-0-layers-2": {"kl": 0.1}, f"alpha-0.2-layers-{LAYERS[scale][-1]}": {"kl": 0.1}}
    assert verdicts(STUDIES["receptive-field"], alive | dead | wrong) == [True, False, False]


def test_kl_target_wants_five_per_cent_and_a_rise() -> None:
    numbers: dict[str, dict[str, Any]] = {
        f"C-{target}": {
            "kl": target * 1.04,
            "active_units": i,
            "latent_size": 64,
            "bleu_4": i / 10,
            "log_determinant": -i,
        }
        for i, target in enumerate(TARGETS)
    }
    assert verdicts(STUDIES["kl-target"], numbers) == [True, True, True, True]
    numbers["C-60"] |= {"kl": 64.0, "active_units": 3, "bleu_4": 0.05, "log_determinant": -5}
    assert verdicts(STUDIES["kl-target"], numbers) == [False, False, False, False]


def test_tweets_wants_the_code_for_nothing() -> None:
    hybrids = {name: {"elbo": 150.0, "kl": 10.0, "distinct_greedy": 99} for name in HYBRIDS}
    numbers = {**hybrids, "lstm-vae-p0.2": {"elbo": 149.0, "kl": 1.0, "distinct_greedy": 3}}
    numbers["hybrid-alpha-1-falls-free-8"] = {"elbo": 148.0, "kl": 6.0, "distinct_greedy": 97}
    assert verdicts(STUDIES["tweets"], numbers) == [True, True, True]
    numbers["hybrid-alpha-1-falls-free-8"] = {"elbo": 148.0, "kl": 4.0, "distinct_greedy": 97}
    assert verdicts(STUDIES["tweets"], numbers) == [False, True, True]
    numbers["lstm-vae-p0.2"]["distinct_greedy"] = 80
    assert verdicts(STUDIES["tweets"], numbers)[2] is False


def test_tweets_judges_at_each_seed_the_hybrid_that_the_means_choose() -> None:
    def row(name: str, seed: int, bound: float, kl: float) -> dict[str, Any]:
        return {
            "row": name,
            "seed": seed,
            "elbo": bound,
            "kl": kl,
            "distinct_greedy": 99 if kl > 5 else 20,
        }

    rows = [row(name, seed, 160.0, 2.0) for name in HYBRIDS for seed in (0, 1) if name != "hybrid"]
    rows += [row("hybrid", 0, 150.0, 6.0), row("hybrid", 1, 151.0, 6.0)]
    rows += [row("lstm-vae-p0.2", 0, 152.0, 0.9), row("lstm-vae-p0.2", 1, 150.5, 1.4)]
    first, distinct, _ = (
        verdict for _, verdict in verdicts_of(STUDIES["tweets"], {"rows": rows, "study": {}})
    )
    assert (first.passed, first.seeds) == (True, [True, False])
    assert (distinct.passed, distinct.seeds) == (True, [True, True])


def test_alpha_wants_more_kl_for_little() -> None:
    rows = {
        f"alpha-{value:g}-{kind}": {"kl": 10 * value + (kind == "annealed"), "elbo": 90 + 5 * value}
        for value in ALPHAS
        for kind in ("annealed", "at-once")
    }
    assert verdicts(STUDIES["alpha"], rows) == [True, True, True, True]
    rows["alpha-1-annealed"] = {"kl": 1.0, "elbo": 120.0}
    rows["alpha-0-at-once"] = {"kl": 2.0, "elbo": 90.0}
    assert verdicts(STUDIES["alpha"], rows) == [False, False, False, False]


def test_ptb_word_wants_the_best_published_bound_and_a_code() -> None:
    vae = {"test_elbo": 101.5, "test_kl": 4.2}
    numbers = {"language-model": {"test_elbo": 100.0, "test_kl": 0.0}, "lstm-vae": vae}
    assert verdicts(STUDIES["ptb-word"], numbers) == [True]
    assert verdicts(STUDIES["ptb-word"], {**numbers, "lstm-vae": vae | {"test_elbo": 101.7}}) == [
        False
    ]
    assert verdicts(STUDIES["ptb-word"], {**numbers, "lstm-vae": vae | {"test_kl": 3.9}}) == [False]


def test_reconstruction_in_bits_counts_positions() -> None:
    run = SimpleNamespace(evaluation={"reconstruction": 30.0, "positions": 1000.0, "texts": 100.0})
    found = reconstruction_bits(cast(Run, run), cast(Prepared, None))
    assert found["reconstruction_bits"] == pytest.approx(3.0 / 0.6931, rel=1e-3)


def test_figures_leave_the_backend_of_a_notebook_alone(tmp_path: Path) -> None:
    import matplotlib

    from kvae.training.figures import figure_axes

    before = matplotlib.get_backend()
    matplotlib.use("svg")
    try:
        with figure_axes(tmp_path / "figure.png") as (axis,):
            axis.plot([0, 1])
        assert matplotlib.get_backend() == "svg"
    finally:
        matplotlib.use(before)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_moses_wants_one_row_with_all_and_one_whose_molecules_come_back() -> None:
    good = {
        "valid": 0.97,
        "unique@10000": 0.999,
        "novel": 0.9,
        "FCD/Test": 0.8,
        "kl": 9.0,
        "active_units": 20.0,
        "exact": 0.1,
    }
    full = {**good, "valid": 0.85, "FCD/Test": 3.0, "kl": 30.0, "exact": 0.5}
    study = STUDIES["moses"]
    assert verdicts(study, {"a": good, "b": full}) == [True, True]
    assert verdicts(study, {"a": good}) == [True, False]
    for name, value in {
        "valid": 0.94,
        "unique@10000": 0.98,
        "novel": 0.84,
        "FCD/Test": 1.1,
        "kl": 7.0,
        "active_units": 15.0,
    }.items():
        assert verdicts(study, {"a": {**good, name: value}, "b": full})[0] is False
    assert verdicts(study, {"b": {**full, "valid": 0.79}}) == [False, False]
    without_fcd = {name: value for name, value in good.items() if name != "FCD/Test"}
    assert verdicts(study, {"a": without_fcd}) == [None, False]


def test_published_rows_have_every_measure_of_the_table() -> None:
    study = STUDIES["moses"]
    for row in study.published_rows.values():
        assert set(row) <= set(study.columns)
    line = next(line for line in results_table(study, []).splitlines() if "JTN-VAE" in line)
    assert line.startswith("| published: JTN-VAE | (1.000 ± 0.000) | (1.000 ± 0.000) | (0.914 ±")
