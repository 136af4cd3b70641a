"""Diagnoses: what is measured, which symptom is recognised, and that every command can be run."""

import json
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.cli import parser
from kvae.commands.training_arguments import base_of, with_arguments
from kvae.configuration import Config
from kvae.misfits import check_slots, check_training
from kvae.presets import PRESETS, preset
from kvae.runs import CONFIG, Run, write_json
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError, DataError
from kvae.training.advice import RULES, advised
from kvae.training.data.prepare import HeldOut
from kvae.training.diagnosis import diagnose, gaussian_saving, position_nats
from kvae.training.diagnosis_page import diagnosis_page

from .conftest import everyday, numbers, random_tokens, small_model

REPEAT = {"expander": "repeat"}
SYSTEMS: dict[str, dict[str, Any]] = {
    "hybrid": {},
    "map": {"latent": "map", "latent_size": 2, **REPEAT},
    "ladder": {"latent_size": (4, 3)},
    "ladder of maps": {"latent": "map", "latent_size": (4, 3), **REPEAT},
    "labels": {"attributes": ("low", "high")},
    "mixture": {"prior": "mixture", "prior_components": 2},
    "no history": {"head": "none", "auxiliary": False},
    "flow": {"posterior": "planar"},
}
LANGUAGE_MODEL = {
    "latent": "none",
    "encoder": "none",
    "expander": "repeat",
    "expander_base": 0,
    "auxiliary": False,
}


def run_of(model: Any, path: Path = Path("run")) -> Run:
    config = Config(model=model.model_config, objective=model.objective_config)
    return Run(path, config, Alphabet(tuple("abcde")), model)


def data_of(rows: np.ndarray, attributes: int = 0) -> HeldOut:
    attribute = np.arange(len(rows)) % attributes if attributes else None
    return HeldOut(rows, [str(row) for row in rows], (), attribute)


@cache
def found_of(system: str) -> tuple[Any, HeldOut, dict[str, Any]]:
    """A model, its texts and its diagnosis."""
    model = small_model(**SYSTEMS[system])
    data = data_of(random_tokens(60), len(model.model_config.attributes))
    return model, data, diagnose(run_of(model), data, texts=50)


def collapsed(**model: Any) -> Any:
    """A model whose posterior is N(0, I) for every text."""
    made = small_model({"ramp_steps": 0}, **model)
    for weight in made.posterior.trainable_weights:
        weight.assign(0.0 * weight)
    return made


@pytest.mark.parametrize("system", everyday(SYSTEMS, "labels", "ladder of maps"))
def test_the_parts_of_a_diagnosis_sum_to_the_numbers_of_the_evaluation(system: str) -> None:
    model, _, found = found_of(system)
    exchanged, positions = found["exchanged"], found["positions"]
    assert found["texts"] == 50
    assert exchanged["own"] == pytest.approx(found["reconstruction"], rel=1e-4)
    assert sum(found["quarters"]) == pytest.approx(exchanged["cost"], abs=1e-3)
    for name in ("own", "other", "prior"):
        total = sum(row["texts"] * row[name] for row in positions) / 50
        assert total == pytest.approx(exchanged[name], rel=1e-4)
    assert exchanged["cost"] == pytest.approx(exchanged["other"] - exchanged["own"], abs=1e-3)
    assert exchanged["left_after_kl"] == pytest.approx(exchanged["prior"] - found["elbo"], abs=1e-2)
    levels = found["levels"]
    assert sum(level["kl"] for level in levels) == pytest.approx(found["kl"], rel=1e-4)
    assert sum(level["active_units"] for level in levels) == found["active_units"]
    assert len(found["dimensions"]) == found["latent_size"] == model.hierarchy.size
    if "kl" in found["dimensions"][0]:
        total = sum(each["kl"] for each in found["dimensions"])
        assert total == pytest.approx(found["kl"], rel=1e-4)
    if found["map_positions"]:
        places = sum(shape[0] for shape in model.hierarchy.shapes)
        assert len(found["map_positions"]) == places
        units = sum(each["active_units"] for each in found["map_positions"])
        assert units == found["active_units"]
    together = found["aggregated"]
    assert together["kl"] == pytest.approx(together["information"] + together["marginal_kl"])
    assert together["kl"] == pytest.approx(levels[-1]["kl"], rel=1e-5)
    json.dumps(found)


def test_positions_with_a_code_cost_what_the_model_says() -> None:
    model, data, _ = found_of("hybrid")
    z = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    nats = position_nats(model, data.rows, z, batch_size=25)
    features = model.expander(z)
    previous = np.pad(data.rows, ((0, 0), (1, 0)), constant_values=1)[:, :-1]
    from kvae.parts import shifted

    np.testing.assert_array_equal(numbers(shifted(data.rows)), previous)
    logits = numbers(model.head(features, previous))
    normalised = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = -np.take_along_axis(normalised, data.rows[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(nats, np.where(data.rows == 0, 0, expected), atol=1e-4)


def test_a_collapsed_code_is_recognised_and_exchanging_it_costs_nothing() -> None:
    model = collapsed()
    run = run_of(model)
    found = diagnose(run, data_of(random_tokens(300)))
    assert found["state"] == "unused"
    assert found["active_units"] == 0
    assert abs(found["exchanged"]["cost"]) < 4 * found["exchanged"]["cost_error"] + 1e-3
    assert "share_of_information" not in found["exchanged"]
    assert all(each["information"] < 0.1 for each in found["dimensions"])
    result = advised(run, found)
    assert result["findings"][0]["sentence"].startswith("The latent code is not used")
    assert result["advice"][0]["symptom"] == "unused"
    assert not any(each["good"] for each in result["findings"])


@pytest.mark.slow
def test_a_code_that_decides_the_text_is_recognised() -> None:
    trained, data = trained_model()
    run = run_of(trained)
    found = diagnose(run, data)
    assert found["state"] == "used"
    assert found["exchanged"]["cost"] > 5 * found["exchanged"]["cost_error"]
    symptoms = {each["about"] for each in advised(run, found)["findings"]}
    assert not symptoms & {"unused", "empty"}


@cache
def trained_model() -> tuple[Any, HeldOut]:
    """A small model after a hundred steps without a KL, on texts of one symbol each."""
    import keras

    from .conftest import COMPILED

    model = small_model({"beta_max": 0.05, "ramp_steps": 0})
    symbols = np.random.default_rng(0).integers(4, 9, 256)
    rows = np.repeat(symbols[:, None], 16, axis=1).astype(np.int32)
    rows[:, 12], rows[:, 13:] = 2, 0
    model.compile(keras.optimizers.Adam(0.02), **COMPILED)
    model.fit(rows, batch_size=32, epochs=12, verbose=0)
    return model, data_of(rows[:100])


def test_what_a_gaussian_saves_is_its_kl_from_the_prior() -> None:
    """KL(N(m, C) || N(0, I)) for codes of that distribution."""
    generator = np.random.default_rng(0)
    mean, factor = np.array([1.0, 0.0, -0.5, 0.0]), np.eye(4)
    factor[1, 0], factor[3, 3] = 0.8, 0.3
    covariance = factor @ factor.T
    codes = mean + generator.normal(size=(20_000, 4)) @ factor.T
    expected = 0.5 * (
        np.trace(covariance) + mean @ mean - 4 - np.linalg.slogdet(covariance).logabsdet
    )
    saved = gaussian_saving(small_model(), codes, seed=0)
    assert saved.mean() == pytest.approx(expected, abs=5 * saved.std() / np.sqrt(len(saved)))


def test_codes_of_the_prior_have_nothing_to_save() -> None:
    codes = np.random.default_rng(0).normal(size=(400, 4))
    saved = gaussian_saving(small_model(), codes, seed=0)
    assert 0 <= saved.mean() < 0.02


def test_a_language_model_is_told_so() -> None:
    run = run_of(small_model(**LANGUAGE_MODEL))
    found = diagnose(run, data_of(random_tokens(5)))
    found |= advised(run, found)
    assert found["has_code"] is False
    assert "no latent code" in found["findings"][0]["sentence"]
    assert found["advice"] == []
    assert "no latent code" in diagnosis_page("run", found)


def test_what_cannot_be_measured_is_refused() -> None:
    run = run_of(small_model())
    with pytest.raises(ConfigError, match="texts must be at least 2"):
        diagnose(run, data_of(random_tokens(5)), texts=1)
    with pytest.raises(DataError, match="all held-out texts are equal"):
        diagnose(run, data_of(np.repeat(random_tokens(1), 5, axis=0)))


HEALTHY: dict[str, Any] = {
    "has_code": True,
    "state": "used",
    "elbo": 30.0,
    "reconstruction": 20.0,
    "kl": 10.0,
    "active_units": 20,
    "latent_size": 32,
    "mutual_information": 6.5,
    "mutual_information_ceiling": 6.9,
    "exchanged": {
        "cost": 25.0,
        "share_of_reconstruction": 1.2,
        "left_after_kl": 15.0,
        "left_error": 0.5,
    },
    "quarters": [10.0, 6.0, 5.0, 4.0],
    "aggregated": {
        "fitted": False,
        "kl": 10.0,
        "marginal_kl": 0.9,
        "gaussian_saves": 0.2,
        "gaussian_error": 0.05,
    },
    "training": {
        "step": 800,
        "ramp_is_over": True,
        "steps_to_go": 0,
        "training_elbo": 29.0,
        "falling": 0.1,
    },
}
SYMPTOMS: dict[str, dict[str, Any]] = {
    "ramp": {"training": {**HEALTHY["training"], "ramp_is_over": False, "steps_to_go": 200}},
    "unused": {"state": "unused", "kl": 0.01, "active_units": 0, "mutual_information": 0.0},
    "empty": {"state": "empty", "active_units": 0, "mutual_information": 0.01},
    "does not pay": {"exchanged": {**HEALTHY["exchanged"], "left_after_kl": -6.0}},
    "forgotten": {"quarters": [22.0, 2.0, 1.0, 0.0]},
    "far from the prior": {
        "aggregated": {**HEALTHY["aggregated"], "marginal_kl": 3.0, "gaussian_saves": 1.5}
    },
    "perhaps far from the prior": {"aggregated": {**HEALTHY["aggregated"], "marginal_kl": 3.0}},
    "few dimensions": {"active_units": 3},
    "overfitting": {"training": {**HEALTHY["training"], "training_elbo": 20.0}},
    "undertrained": {"training": {**HEALTHY["training"], "falling": 1.5}},
}
"""A measurement with each symptom and no other."""


def test_every_rule_has_its_symptom_here() -> None:
    assert list(SYMPTOMS) == [rule.symptom for rule in RULES]


def test_a_healthy_code_has_no_symptom() -> None:
    assert [rule.symptom for rule in RULES if rule.holds(HEALTHY)] == []


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_a_symptom_is_found_and_no_other(symptom: str) -> None:
    found = {**HEALTHY, **SYMPTOMS[symptom]}
    assert [rule.symptom for rule in RULES if rule.holds(found)] == [symptom]


CODES = {"objective.importance_samples": 5, "objective.penalty": "annealed"}
TO_ADVISE: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in PRESETS if name.endswith("-small")},
    "flow": ("lstm-vae-ptb-small", {"model.posterior": "iaf"}),
    "several codes": ("lstm-vae-ptb-small", CODES),
    "doubly reparameterized": (
        "lstm-vae-ptb-small",
        {**CODES, "objective.importance_gradient": "doubly_reparameterized"},
    ),
}


@pytest.mark.parametrize(
    "name", everyday(TO_ADVISE, "hybrid-lstm-small", "lvae-3-toy-small", *list(TO_ADVISE)[-3:])
)
def test_every_command_is_parsed_and_gives_a_configuration_that_works(
    name: str, tmp_path: Path
) -> None:
    start, changes = TO_ADVISE[name]
    settings = {"model.length": 48, "model.vocabulary_size": 20, "training.minutes": 5.0}
    config = preset(start).with_settings({**settings, **changes})
    if not config.model.has_code:
        return
    path = tmp_path / "a run"  # which a shell has to quote
    path.mkdir()
    write_json(path / CONFIG, config.to_dict())
    run = Run(path, config, Alphabet(()), None)  # type: ignore[arg-type]
    every = {symptom: {**HEALTHY, **change} for symptom, change in SYMPTOMS.items()}
    offered = {symptom: advised(run, found)["advice"] for symptom, found in every.items()}
    assert all(offered[symptom] for symptom in ("ramp", "unused", "empty", "undertrained"))
    for each in (advice for group in offered.values() for advice in group):
        program, *words = shlex.split(each["command"])
        options = parser().parse_args(words)
        assert program == "kvae"
        assert each["why"]
        assert each["source"]
        if words[0] == "fit-prior":
            assert options.run_folder == str(path)
            continue
        changed = with_arguments(base_of(options), options)
        assert changed != config
        assert all(
            changed.with_settings({key: value}) == changed
            for key, value in each["settings"].items()
        )
        check_slots(changed.model, changed.objective)
        check_training(changed)


def test_a_longer_training_resumes_if_there_is_something_to_resume_from(tmp_path: Path) -> None:
    run = Run(tmp_path / "a", preset("hybrid-lstm-small"), Alphabet(()), None)  # type: ignore[arg-type]
    found = {**HEALTHY, **SYMPTOMS["undertrained"]}
    (first,) = advised(run, found)["advice"]
    assert "--like" in first["command"]
    assert f"training.start_from={tmp_path}/a" in first["command"]
    (run.path / "checkpoints").mkdir(parents=True)
    (run.path / "checkpoints" / "step-800.npz").touch()
    (second,) = advised(run, found)["advice"]
    assert second["command"] == (
        f"kvae train --resume --out {tmp_path}/a --set=training.steps=1600"
    )


def test_a_run_like_another_has_its_settings_and_another_corpus_its_own(
    run_folder: Path,
) -> None:
    words = ["train", "--like", str(run_folder), "--out", "b", "--set", "objective.alpha=0.4"]
    stored = Config.from_stored(json.loads((run_folder / CONFIG).read_text()))
    options = parser().parse_args(words)
    assert with_arguments(base_of(options), options) == stored.with_settings(
        {"objective.alpha": 0.4}
    )
    other = parser().parse_args([*words, "--data", "sines"])
    config = with_arguments(base_of(other), other)
    assert (config.data.source, config.model.vocabulary_size) == ("sines", 0)
    with pytest.raises(SystemExit):
        parser().parse_args([*words, "--preset", "hybrid-lstm"])


def test_the_command_prints_a_diagnosis_and_writes_its_page(run_folder: Path, kvae: Any) -> None:
    code, printed, said = kvae("diagnose", run_folder, "--json")
    assert code == 0
    assert "measuring" in said
    found = json.loads(printed)
    assert found["run"] == str(run_folder)
    page = (run_folder / "report" / "diagnosis.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert json.loads((run_folder / "report" / "diagnosis.json").read_text()) == found
    code, printed, _ = kvae("diagnose", run_folder, "--texts", 3)
    assert code == 0
    for each in found["advice"]:
        assert shlex.split(each["command"])[0] == "kvae"
    assert "Where the code helps" in printed
    assert kvae("diagnose", run_folder, "--texts", 1)[0] == 2


def test_the_page_shows_the_maps_positions_and_escapes_what_it_shows() -> None:
    _, _, found = found_of("ladder of maps")
    model = found_of("ladder of maps")[0]
    page = diagnosis_page("<run>", found | advised(run_of(model), found))
    assert "Positions of the map" in page
    assert "<run>" not in page
