"""The collapse alarm fires when the code is unused after the ramp, and stays silent otherwise."""

import os
from itertools import chain
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.configuration import Config, parse_setting
from kvae.misfits import check_slots
from kvae.model import TextVAE
from kvae.presets import PRESETS, preset
from kvae.serving.errors import ConfigError
from kvae.training.alarm import (
    CollapseAlarm,
    ramp_is_over,
    state_of_code,
    top_level,
)
from kvae.training.data.prepare import prepare
from kvae.training.experiment import run
from kvae.training.fit import fit
from kvae.training.latent_report import LatentReport
from kvae.training.remedies import flags, remedies

from .conftest import random_tokens, small_model

NOTHING = {"val_kl": 0.001, "val_active_units": 0, "val_mutual_information": 0.0}
ALIVE = {"val_kl": 6.0, "val_active_units": 4, "val_mutual_information": 2.5}
EMPTY = {
    "val_kl": 6.3,
    "val_active_units": 0,
    "val_mutual_information": 0.006,
    "val_mutual_information_ceiling": 7.6,
}
"""The KL of free bits that say nothing about the text."""


def alarm_of(model: TextVAE, said: list[str], **options: Any) -> CollapseAlarm:
    alarm = CollapseAlarm(said.append, **options)
    alarm.set_model(model)
    return alarm


def after(alarm: CollapseAlarm, step: int, numbers: dict[str, Any]) -> dict[str, Any]:
    """The logs of an epoch that ended at `step` with these numbers."""
    logs = dict(numbers)
    alarm.model.training_steps.assign(step)
    alarm.on_epoch_end(0, logs)
    return logs


def test_three_evaluations_without_a_trace_after_the_ramp_are_a_collapse() -> None:
    said: list[str] = []
    alarm = alarm_of(small_model({"ramp_steps": 100}), said)
    collapsed = [
        after(alarm, step, NOTHING)["val_collapsed"] for step in (50, 90, 100, 110, 120, 130)
    ]
    assert collapsed == [0, 0, 0, 0, 1, 1]
    assert len(said) == 1
    assert "the code is unused (step 120, 3 evaluations in a row" in said[0]
    assert "KL 0.0010 nats, 0 active units, mutual information 0.0000 nats" in said[0]


@pytest.mark.parametrize(
    "numbers",
    [
        ALIVE,
        {**NOTHING, "val_kl": 0.4},
        {**NOTHING, "val_active_units": 1},
        {**NOTHING, "val_mutual_information": 0.2},
        {**NOTHING, "val_kl": float("nan")},
        {**EMPTY, "val_mutual_information": float("nan")},
        # 60 nats of KL on 24 texts: all that the estimate could be
        {**ALIVE, "val_kl": 60.0, "val_mutual_information_ceiling": 3.18},
        # a ladder whose lower level has the KL
        {**ALIVE, "val_kl_level_0": 5.9, "val_kl_level_1": 0.1, "val_mutual_information": 0.09},
    ],
)
def test_a_code_that_carries_anything_is_no_collapse(numbers: dict[str, Any]) -> None:
    said: list[str] = []
    ladder: dict[str, Any] = (
        {"latent_size": (4, 3), "expander": "repeat"} if "val_kl_level_1" in numbers else {}
    )
    alarm = alarm_of(small_model({"ramp_steps": 0}, **ladder), said)
    assert [after(alarm, step, numbers)["val_collapsed"] for step in range(1, 9)] == [0] * 8
    assert said == []


def test_a_kl_without_information_is_told_by_the_first_evaluation_behind_the_ramp() -> None:
    said: list[str] = []
    alarm = alarm_of(small_model({"ramp_steps": 100}), said)
    collapsed = [after(alarm, step, EMPTY)["val_collapsed"] for step in (50, 99, 100, 110, 120)]
    assert collapsed == [0, 0, 1, 1, 1]
    assert len(said) == 1
    assert "the KL is not information (step 100, the ramp at its height): KL 6.3000 nats" in said[0]
    assert "mutual information 0.0060 nats (at most 7.60 on these texts)" in said[0]
    assert "objective.mmd=100.0" in said[0]
    assert "objective.penalty" not in said[0]  # more KL that is free would be empty too


@pytest.mark.parametrize(
    ("changed", "is_empty"),
    [
        ({"val_mutual_information": 0.7}, False),
        ({"val_mutual_information": 0.6}, True),
        ({"val_kl": 60.0, "val_mutual_information": 0.8}, False),  # of the ceiling, not of the KL
        ({"val_kl": 60.0, "val_mutual_information": 0.7}, True),
    ],
)
def test_information_is_compared_with_the_smaller_of_kl_and_ceiling(
    changed: dict[str, float], is_empty: bool
) -> None:
    said: list[str] = []
    numbers = {**EMPTY, "val_kl": 6.9, "val_active_units": 9, **changed}
    after(alarm_of(small_model({"ramp_steps": 0}), said), 1, numbers)
    assert bool(said) is is_empty


def test_the_kl_of_lower_levels_is_not_compared_with_the_information_of_the_top() -> None:
    said: list[str] = []
    model = small_model({"ramp_steps": 0}, latent_size=(4, 3), expander="repeat")
    levels = {"val_kl_level_0": 1.0, "val_kl_level_1": 5.3}
    after(alarm_of(model, said), 1, {**EMPTY, **levels})
    assert "KL 6.3000 nats (5.3000 of the top level)" in said[0]
    assert "batch_normalized" not in said[0]  # which a ladder cannot have


def test_a_run_with_an_empty_kl_stops_after_as_many_evaluations_as_without_kl() -> None:
    said: list[str] = []
    model = small_model({"ramp_steps": 0})
    model.stop_training = False
    alarm = alarm_of(model, said, stop=True)
    stopped = []
    for numbers in (EMPTY, ALIVE, EMPTY, NOTHING, EMPTY):
        after(alarm, 1, numbers)
        stopped.append(model.stop_training)
    assert stopped == [False] * 4 + [True]
    assert "training stops if the next 2 evaluations find the same" in said[0]
    assert said[1:] == ["training stops: 3 evaluations in a row found a useless code"]


def test_a_restored_alarm_knows_how_long_the_kl_has_been_empty() -> None:
    model = small_model({"ramp_steps": 0})
    model.stop_training = False
    first = alarm_of(model, [], stop=True)
    after(first, 1, EMPTY)
    after(first, 1, EMPTY)
    second = alarm_of(model, [], stop=True)
    second.restore(first.state())
    after(second, 1, EMPTY)
    assert model.stop_training
    old = alarm_of(model, [])
    old.restore({"collapsed": 0, "evaluations": 2})  # of an earlier version
    assert old.state() == {"collapsed": 0, "evaluations": 2, "useless": 2}


def test_evaluations_count_only_in_a_row() -> None:
    said: list[str] = []
    alarm = alarm_of(small_model({"ramp_steps": 0}), said)
    for numbers in (NOTHING, NOTHING, ALIVE, NOTHING, NOTHING):
        after(alarm, 1, numbers)
    assert said == []


def test_a_code_that_wakes_up_is_said_once_too() -> None:
    said: list[str] = []
    alarm = alarm_of(small_model({"ramp_steps": 0}), said)
    for numbers in [NOTHING] * 6 + [ALIVE] * 6:
        after(alarm, 1, numbers)
    assert len(said) == 2
    assert "in use again" in said[1]
    assert "KL 6.0000" in said[1]


def test_an_alarm_stops_the_run_only_when_asked_to() -> None:
    said: list[str] = []
    for stop in (False, True):
        model = small_model({"ramp_steps": 0})
        model.stop_training = False
        alarm = alarm_of(model, said, stop=stop)
        for _ in range(3):
            after(alarm, 1, NOTHING)
        assert model.stop_training is stop
    assert "training goes on" in said[0]
    assert "training stops" in said[1]


@pytest.mark.parametrize("known", range(1, 4))
def test_a_restored_alarm_goes_on_counting(known: int) -> None:
    import json

    said: list[str] = []
    model = small_model({"ramp_steps": 0})
    first = alarm_of(model, said)
    for _ in range(known):
        after(first, 1, NOTHING)
    second = alarm_of(model, said)
    second.restore(json.loads(json.dumps(first.state())))
    for _ in range(4 - known):
        after(second, 1, NOTHING)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("objective", "over"),
    [
        ({"ramp_start": 10, "ramp_steps": 20}, 30),
        ({"schedule": "cyclical", "ramp_steps": 20}, 20),
        ({"schedule": "constant", "ramp_steps": 20}, 0),
        ({"schedule": "constant", "ramp_start": 7}, 7),
        ({"warm_start_steps": 50, "ramp_steps": 20}, 70),
    ],
)
def test_the_ramp_is_over_when_it_stays_at_its_height(objective: dict[str, Any], over: int) -> None:
    model = small_model(objective)
    reached = []
    for step in range(over + 3):
        model.training_steps.assign(step)
        reached.append(ramp_is_over(model))
    assert reached.index(True) == over
    assert all(reached[over:])
    assert float(model.ramp) == pytest.approx(1.0)


def test_a_ramp_that_waits_for_convergence_keeps_the_alarm_silent_until_it_has_risen() -> None:
    model = small_model({"ramp_after_convergence": True, "ramp_steps": 20})
    model.training_steps.assign(10**6)
    assert not ramp_is_over(model)
    model.ramp_start.assign(10**6 - 30)
    model.ramp_steps.assign(40)
    assert not ramp_is_over(model)
    model.training_steps.assign(10**6 + 10)
    assert ramp_is_over(model)


@pytest.mark.parametrize(
    ("objective", "model"),
    [
        ({"beta_max": 0.0}, {}),
        ({"penalty": "constrained", "kl_target": 0.0}, {}),
        (
            {},
            {
                "encoder": "none",
                "latent": "none",
                "auxiliary": False,
                "expander": "repeat",
                "expander_base": 0,
            },
        ),
    ],
    ids=["a code without a price", "a KL of nothing asked for", "a language model"],
)
def test_models_whose_code_need_not_be_used_are_left_in_peace(
    objective: dict[str, Any], model: dict[str, Any]
) -> None:
    said: list[str] = []
    alarm = alarm_of(small_model({"ramp_steps": 0, **objective}, **model), said)
    for step in range(1, 9):
        assert "val_collapsed" not in after(alarm, step, NOTHING)
    assert said == []


def test_an_alarm_without_its_numbers_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match="needs a LatentReport before it"):
        after(alarm_of(small_model(), []), 1, {"val_kl": 0.0})


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("-small")])
def test_every_remedy_fits_the_configuration_it_is_for_and_changes_it(name: str) -> None:
    config = preset(name).with_settings({"model.length": 48, "model.vocabulary_size": 20})
    if config.model.latent == "none":
        return
    offered = [remedies(config.model, config.objective, found) for found in ("unused", "empty")]
    assert all(offered)
    for remedy in chain.from_iterable(offered):
        settings = remedy.settings
        written = dict(
            parse_setting(part.strip()) for part in flags(settings).split("--set ") if part
        )
        changed = config.with_settings(written)
        assert all(
            changed.with_settings({key: value}) == changed for key, value in settings.items()
        )
        assert changed != config
        check_slots(changed.model, changed.objective)


@pytest.mark.parametrize("name", ["lstm-vae-ptb-small", "lvae-3-toy-small", "rnn-map-toy-small"])
def test_the_model_with_every_architectural_remedy_is_built(name: str) -> None:
    config = preset(name).with_settings({"model.length": 16, "model.vocabulary_size": 14})
    changed = config.with_settings(remedies(config.model, config.objective)[0].settings)
    assert changed.model.auxiliary
    TextVAE(changed.model, changed.objective)


def test_what_is_on_already_is_not_suggested() -> None:
    config = preset("hybrid-lstm").with_settings(
        {"objective.input_dropout": 0.4, "objective.alpha": 0.6}
    )
    text = " ".join(flags(each.settings) for each in remedies(config.model, config.objective))
    assert "input_dropout" not in text
    assert "alpha" not in text
    assert "auxiliary" not in text
    assert "objective.ramp_steps=2000" in text


def test_the_report_shares_its_numbers_through_the_logs() -> None:
    model, rows = small_model(), random_tokens(24)
    model.compile("adam", jit_compile=False)
    seen: list[dict[str, Any]] = []
    spy = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs)))
    report = LatentReport(rows)
    model.fit(rows, batch_size=12, epochs=1, verbose=0, callbacks=[report, spy])
    assert seen[0]["val_active_units"] == int((report.collected["shift"].var(axis=0) > 0.01).sum())
    assert seen[0]["val_kl"] == pytest.approx(report.collected["kl"].mean())
    assert 0.0 <= seen[0]["val_mutual_information"] <= 3.18  # ln 24
    assert seen[0]["val_mutual_information_ceiling"] == pytest.approx(np.log(24))


def with_posterior(mean: float, text: float, **model: Any) -> TextVAE:
    """A model whose posterior means are `mean` plus what the text adds, times `text`."""
    made: TextVAE = small_model({"ramp_steps": 0}, **model)
    for level in range(len(made.hierarchy.sizes)):
        layer = made.posterior.get_layer(f"mean_{level}")
        layer.kernel.assign(text * np.array(layer.kernel))
        layer.bias.assign(np.full(layer.bias.shape, mean))
        log_variance = made.posterior.get_layer(f"log_variance_{level}")
        log_variance.kernel.assign(np.zeros(log_variance.kernel.shape))
        log_variance.bias.assign(np.zeros(log_variance.bias.shape))
    return made


@pytest.mark.parametrize(
    ("mean", "text", "found"),
    [(0.0, 0.0, "unused"), (2.0, 0.0, "empty"), (0.0, 20.0, "used"), (2.0, 20.0, "used")],
)
def test_models_made_to_be_collapsed_empty_and_good_are_told_apart(
    mean: float, text: float, found: str
) -> None:
    model, logs = with_posterior(mean, text), {}
    report = LatentReport(random_tokens(200))
    report.set_model(model)
    report.on_epoch_end(0, logs)
    assert state_of_code(logs, top_level(model)) == found
    assert logs["val_kl_level_0"] == pytest.approx(logs["val_kl"], abs=1e-6)


TINY = {
    "training.epochs": 8,
    "training.jit_compile": False,
    "training.batch_size": 16,
    "training.learning_rate": 0.01,
}


def collapsing(settings: dict[str, Any]) -> Config:
    """A strong decoder, and a KL weight of 5 from the first step on."""
    return preset("lstm-vae-ptb-small").with_settings(
        {
            **{
                name: settings[name]
                for name in ("data.source", "model.length", "model.latent_size")
            },
            **TINY,
            "training.steps_per_epoch": 7,
            "data.mode": "lines",
            "model.encoder_units": 8,
            "model.head_units": 32,
            "objective.schedule": "constant",
            "objective.ramp_steps": 0,
            "objective.beta_max": 5.0,
            "objective.input_dropout": 0.0,
        }
    )


def test_a_run_that_collapses_by_construction_is_told_so_and_stopped(
    tmp_path: Path, small_settings: dict[str, Any]
) -> None:
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    said: list[str] = []
    config = collapsing(small_settings).with_settings({"training.on_collapse": "stop"})
    trained, _ = run(config, tmp_path / "run", said.append)
    (alarm,) = (sentence for sentence in said if "the code is unused" in sentence)
    assert "--set model.expander=deconv" in alarm
    assert "--set objective.beta_max=1.0" in alarm
    assert int(trained.model.training_steps) < 56
    events = EventAccumulator(
        str(tmp_path / "run" / "logs" / "validation"), size_guidance={"tensors": 0}
    )
    events.Reload()
    collapsed = [
        float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("collapsed")
    ]
    assert collapsed == [0.0] * (len(collapsed) - 1) + [1.0]
    (note,) = events.Tensors("notes")[-1].tensor_proto.string_val
    assert [line.strip() for line in note.decode().splitlines()] == [
        line.strip() for line in alarm.splitlines()
    ]


@pytest.mark.parametrize(
    ("on_collapse", "stops"), [("warn", [False]), ("stop", [True]), ("ignore", [])]
)
def test_the_configuration_says_whether_there_is_an_alarm_and_whether_it_stops(
    tmp_path: Path,
    small_settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    on_collapse: str,
    stops: list[bool],
) -> None:
    given: list[Any] = []

    def given_to_fit(self: TextVAE, data: Any, callbacks: Any, **others: Any) -> None:
        given.extend(callbacks.callbacks)
        for callback in callbacks.callbacks:
            callback.set_model(self)
        self.stop_training = True

    monkeypatch.setattr(TextVAE, "fit", given_to_fit)
    ready = prepare(
        preset("hybrid-lstm").with_settings(
            {**small_settings, "training.on_collapse": on_collapse}
        ),
    )
    fit(
        TextVAE(ready.config.model, ready.config.objective),
        ready,
        tmp_path,
        None,
        lambda sentence: None,
    )
    assert [callback.stop for callback in given if isinstance(callback, CollapseAlarm)] == stops


@pytest.mark.slow
def test_a_hybrid_on_the_same_texts_hears_nothing(
    tmp_path: Path, small_settings: dict[str, Any]
) -> None:
    said: list[str] = []
    settings = {**small_settings, "training.epochs": 8, "training.on_collapse": "stop"}
    trained, _ = run(preset("hybrid-lstm").with_settings(settings), tmp_path / "run", said.append)
    assert not [sentence for sentence in said if "unused" in sentence]
    assert int(trained.model.training_steps) == 56


BOOK = os.environ.get("KVAE_TEST_TEXT", "")
"""A file of prose, as War and Peace: 60 characters a window."""


@pytest.mark.slow
@pytest.mark.skipif(not BOOK, reason="KVAE_TEST_TEXT names no text")
@pytest.mark.parametrize(
    ("name", "settings", "steps"),
    [
        (
            "lstm-vae-ptb-small",
            {
                "objective.schedule": "constant",
                "objective.ramp_steps": 0,
                "objective.input_dropout": 0.0,
            },
            300,
        ),
        ("hybrid-lstm-ptb-small", {"objective.ramp_steps": 300}, 600),
    ],
)
def test_on_prose_the_lstm_vae_collapses_and_the_hybrid_does_not(
    tmp_path: Path, name: str, settings: dict[str, Any], steps: int
) -> None:
    said: list[str] = []
    config = preset(name).with_settings(
        {
            "data.source": BOOK,
            "data.mode": "windows",
            "model.length": 60,
            "training.epochs": 6,
            "training.steps_per_epoch": 100,
            "training.on_collapse": "stop",
            **settings,
        }
    )
    trained, _ = run(config, tmp_path / "run", said.append)
    assert int(trained.model.training_steps) == steps
    assert len([sentence for sentence in said if "the code is unused" in sentence]) == (
        steps == 300
    )
