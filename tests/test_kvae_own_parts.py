"""Parts that a program registers, or that a package brings by an entry point."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import kvae
from kvae import choices, heads, own_parts
from kvae.configuration import Config, ModelConfig, ObjectiveConfig
from kvae.expanders import LAYERS as EXPANDERS
from kvae.model import TextVAE
from kvae.presets import preset
from kvae.priors import StandardPrior
from kvae.runs import load_run
from kvae.serving.errors import ConfigError, KvaeError
from kvae.training import evaluate_run, fit_run, prepare
from kvae.training.evaluation import collect
from kvae.training.remedies import remedies_of_kl

from .conftest import COMPILED, SMALL_SETTINGS, random_tokens, small_config, small_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Whatever a test registers is unknown again after it."""
    tables: list[Any] = [*choices.ROWS.values(), *choices.OWN.values()]
    tables += [kind.table for kind in own_parts.KINDS.values()]
    before = [table.copy() for table in tables]
    yield
    for table, old in zip(tables, before, strict=True):
        table.clear()
        (table.extend if isinstance(table, list) else table.update)(old)


def test_the_example_of_contributing_runs_as_written() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    found: dict[str, Any] = {}
    exec(example, found)
    settings = {"model.length": 36, "model.vocabulary_size": 9, "model.encoder_units": [8, 4]}
    config = found["config"].with_settings(settings)
    assert config.model.encoder_stride == 9
    model = TextVAE(config.model, config.objective)
    model.compile("adam", **COMPILED)
    model.fit(random_tokens(8, length=36), verbose=0)


class WidePrior(StandardPrior):
    """N(0, I), under another name."""


def flat(config: ModelConfig, code: Any) -> Any:
    """An expander that repeats."""
    return EXPANDERS["repeat"](config, code)


def head_of_lstm(config: ModelConfig, objective: ObjectiveConfig) -> Any:
    return heads.LAYERS["lstm"](config, objective)


def test_priors_expanders_and_heads_are_choices_with_their_properties() -> None:
    kvae.register("prior", "wide", WidePrior, standard_normal=True, kl_of_dimensions=True)
    kvae.register("expander", "flat", flat, repeats=True, reads=("expander_base",))
    kvae.register("head", "mine", head_of_lstm, reads=("head_units", "head_reads"))
    model = small_model(
        {"penalty": "free_bits"},
        prior="wide",
        expander="flat",
        expander_filters=(128, 64),
        head="mine",
        head_reads="state",
    )
    assert isinstance(model.hierarchy.prior, WidePrior)
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert restored.model_config == model.model_config
    with pytest.raises(ConfigError, match=r"model\.head_layers is 2, but nothing reads it"):
        small_model(head="mine", head_layers=2)


def test_schedules_and_penalties_train_and_may_read_every_setting_of_the_objective() -> None:
    kvae.register("schedule", "jump", lambda config, progress: ops.round(progress))
    kvae.register(
        "penalty",
        "hinge",
        lambda config, kl, per_dimension, ramp: ramp * ops.relu(kl - config.kl_target),
    )
    found = []
    for target in (0.0, 1e6):
        settings = {"schedule": "jump", "penalty": "hinge", "kl_target": target, "cycles": 2}
        model = small_model(settings)
        model.training_steps.assign(501)
        assert float(model.ramp) == 1.0
        found.append(collect(model, random_tokens(4)))
    free, never = found
    np.testing.assert_allclose(free["loss"] - never["loss"], free["kl"], rtol=1e-4, atol=1e-4)
    assert free["kl"].max() > 0.01


def test_an_own_penalty_goes_with_every_prior_and_gets_no_free_bits() -> None:
    kvae.register("penalty", "half", lambda config, kl, per_dimension, ramp: 0.5 * kl)
    model = small_model({"penalty": "half"}, prior="mixture", posterior="iaf")
    assert np.isfinite(collect(model, random_tokens(4))["loss"]).all()
    remedies = remedies_of_kl(model.objective_config)
    assert "free-bits" not in {each.name for each in remedies if each.applies}
    with pytest.raises(ConfigError, match=r"prior 'mixture' has no KL of each dimension"):
        small_model({"penalty": "free_bits"}, prior="mixture")


def syllables(text: str) -> list[str]:
    return re.findall("..?", text)


@pytest.mark.slow
def test_a_tokenizer_trains_opens_again_and_is_refused_at_export(tmp_path: Path) -> None:
    from kvae.export.bundle import write_bundle

    kvae.register("tokenizer", "pairs", syllables, tokens="pairs")
    texts = [one + other for one in ("KA", "MI", "TO", "RU") for other in ("KA", "NE", "MI", "TO")]
    settings = {**SMALL_SETTINGS, "model.tokenizer": "pairs", "training.epochs": 1}
    config = preset("hybrid-lstm").with_settings({**settings, "model.length": 8})
    ready = prepare(config, texts=texts * 4)
    assert set(ready.alphabet.symbols) == {"KA", "MI", "TO", "RU", "NE"}
    fit_run(ready, tmp_path / "run", say=lambda sentence: None)
    run = load_run(tmp_path / "run")
    assert run.alphabet.decode(run.alphabet.encode(["KANE"], 8)) == ["KANE"]
    assert evaluate_run(run, texts=["KAMI", "RUNE"])["positions"] == 6
    with pytest.raises(ConfigError, match="a function of your program, which samplers do not have"):
        write_bundle(run.model, run.alphabet, run.config, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("encodr", "mine", flat), "kind must be 'encoder', 'prior', 'expander', 'head', 'sche"),
        (("encoder", "conv", flat), "encoder 'conv' exists already"),
        (("schedule", "linear", flat), "schedule 'linear' exists already"),
        (("tokenizer", "char", flat), "tokenizer 'char' exists already"),
        (("prior", "my prior", flat), "consists of letters, digits and _, got 'my prior'"),
        (("head", "mine", 3), "head 'mine' must be a function, got 3"),
    ],
)
def test_what_cannot_be_registered_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        kvae.register(*arguments)


@pytest.mark.parametrize(
    ("kind", "properties", "message"),
    [
        ("encoder", {"strid": 3}, "encoder: no property 'strid'; its properties are 'reads'"),
        ("penalty", {"reed": ()}, "penalty: no property 'reed'; its properties are 'reads'"),
        ("tokenizer", {"units": str}, "tokenizer: no property 'units'; its properties are"),
    ],
)
def test_properties_that_a_kind_does_not_have_are_refused_and_nothing_is_registered(
    kind: str, properties: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kvae.register(kind, "mine", flat, **properties)
    assert "mine" not in choices.names_of(kind)
    kvae.register(kind, "mine", flat)
    with pytest.raises(ConfigError, match="exists already"):
        kvae.register(kind, "mine", flat)


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder on the path with a package that has entry points; returns where its module is."""
    information = tmp_path / "own_kvae_parts-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: own-kvae-parts\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[kvae.parts]\nstill = own_kvae_parts\nbroken = no_such_module\nidle = json\n"
    )
    (tmp_path / "own_kvae_parts.py").write_text(
        "import kvae\nfrom keras import ops\n"
        "kvae.register('schedule', 'still', lambda config, progress: ops.zeros_like(progress))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_kvae_parts", raising=False)
    return tmp_path


@pytest.mark.usefixtures("entry_points")
def test_an_entry_point_is_loaded_when_a_configuration_names_its_choice() -> None:
    ObjectiveConfig(schedule="linear")
    assert "own_kvae_parts" not in sys.modules
    config = Config.from_dict({"objective": {"schedule": "still"}})
    assert config.objective.schedule == "still"
    assert "own_kvae_parts" in sys.modules
    model = TextVAE(small_config(), config.objective)
    model.training_steps.assign(5000)
    assert float(model.ramp) == 0.0


@pytest.mark.usefixtures("entry_points")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "broken"}, "(no_such_module) cannot be loaded: ModuleNotFoundError: No"),
        ({"schedule": "idle"}, "(json) has not registered the schedule 'idle'"),
        ({"schedule": "lineal"}, "objective.schedule is 'lineal'; did you mean 'linear'?"),
    ],
)
def test_entry_points_that_bring_nothing_are_errors_with_their_module(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(KvaeError, match=re.escape(message)):
        ObjectiveConfig(**settings)


def test_the_kinds_are_settings_of_a_configuration() -> None:
    assert set(choices.OWN) == set(own_parts.KINDS) == {*choices.ROWS} - {"latent", "posterior"}


def test_no_entry_point_is_looked_up_for_choices_that_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**asked: str) -> Any:
        raise AssertionError(asked)

    monkeypatch.setattr(choices, "entry_points", refuse)
    Config()
    preset("hybrid-lstm").with_settings({"objective.penalty": "free_bits"})
