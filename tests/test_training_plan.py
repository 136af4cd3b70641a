"""A plan from texts and the clock."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.cli import main
from kvae.configuration import Config, dotted_keys, dotted_value
from kvae.misfits import check_slots, check_training
from kvae.presets import preset
from kvae.serving.errors import ConfigError
from kvae.token_patterns import TOKEN_PATTERNS, notation_of
from kvae.training import plan, step_timing
from kvae.training.data.prepare import prepare
from kvae.training.initial_bias import set_biases_to_frequencies
from kvae.training.plan import STEP_SETTINGS, Clock, Wishes, planned, rate, sizes, tokens
from kvae.training.step_callbacks import ProgressLines, TimeLimit, since

from .conftest import SMALL_SETTINGS, small_model

WORDS = [
    *("the", "a", "cat", "dog", "bird", "sees", "likes", "finds"),
    *("fears", "big", "small", "old", "young", "house", "tree", "river"),
]
KINDS = [chr(0x4E00 + number) for number in range(3000)]


def sentences(count: int, longest: int = 9) -> list[str]:
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, generator.integers(3, longest))) for _ in range(count)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*sentences(400), " ".join(WORDS * 12)]))
    return path


@pytest.fixture
def minute_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that take a minute, so that a plan has few of them."""
    monkeypatch.setattr(plan, "step_seconds", lambda prepared: 60.0)


def clock(minutes: float) -> Clock:
    return Clock(minutes, time.monotonic())


def base(file: Path) -> Config:
    return preset("hybrid-lstm").with_settings({"data.source": str(file)})


def test_texts_of_words_get_byte_pairs_and_others_characters() -> None:
    assert tokens(Config(), sentences(500), Wishes()).settings["model.tokenizer"] == "bpe"
    codes = [f"{number:x}" for number in range(1000, 3000)]
    assert tokens(Config(), codes, Wishes()).settings["model.tokenizer"] == "char"


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (["CC(=O)Oc1ccccc1C(=O)O", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "C[C@@H](N)CCl"], "smiles"),
        (["[C][C][=Branch1][C][=O][O]", "[C][=C][C][=C][C][=C][Ring1][=Branch1]"], "selfies"),
        (["C12", "N10", "B7", "F-3"], None),
        (["CONCISE", "SPIN (NOB)", "COB"], None),
        (["2020-01-01", "(030) 12-34"], None),
        (["[info] started", "[error] stopped"], None),
        (["[INFO]", "[ERROR]"], None),
        (["ACGTACGT", "CCCGGG"], None),
        (["CCOC(C)=O", *["plain words"] * 5], None),
    ],
)
def test_molecules_get_the_tokens_of_their_notation(texts: list[str], name: str | None) -> None:
    assert notation_of(texts) == name
    chosen = tokens(Config(), texts, Wishes()).settings
    assert chosen.get("model.token_pattern") == TOKEN_PATTERNS.get(name or "")
    assert (chosen["model.tokenizer"] == "pattern") == (name is not None)


def test_an_alphabet_of_thousands_of_characters_leaves_less_than_one_in_a_hundred_unknown() -> None:
    generator = np.random.default_rng(0)
    shares = 1.0 / np.arange(1, 3001)
    poems = ["".join(generator.choice(KINDS, 20, p=shares / shares.sum())) for _ in range(3000)]
    size = tokens(Config(), poems, Wishes()).settings["data.max_symbols"]
    known = set(sorted(set("".join(poems)), key="".join(poems).count, reverse=True)[:size])
    unknown = sum(symbol not in known for symbol in "".join(poems))
    assert unknown < 0.01 * 20 * 3000
    assert 256 < size < 3000


@pytest.mark.usefixtures("minute_steps")
def test_a_plan_cuts_the_rare_long_text_and_says_each_choice_with_its_setting(file: Path) -> None:
    said: list[str] = []
    prepared = planned(base(file), set(), clock(30), Wishes(), said.append)
    config = prepared.config
    assert config.model.length < 30
    assert config.data.too_long == "cut"
    assert config.training.length_buckets
    assert not config.objective.count_padding
    assert 15 <= (config.training.steps or 0) <= 28
    assert 0 < config.objective.ramp_steps <= 0.6 * (config.training.steps or 0)
    choices = [sentence for sentence in said if sentence.startswith("plan: ")]
    assert any("model.tokenizer=bpe" in sentence for sentence in choices)
    assert any(f"training.steps={config.training.steps}" in sentence for sentence in choices)
    assert any("lines are longer than the model's" in sentence for sentence in said)
    unknown = prepared.alphabet.unknown(prepared.validation_texts)
    assert not unknown


@pytest.mark.usefixtures("minute_steps")
def test_what_the_user_chose_stays(file: Path) -> None:
    given = {"model.tokenizer": "char", "model.length": 64, "objective.alpha": 0.1}
    config = base(file).with_settings({**given, "data.too_long": "cut"})
    found = planned(config, {*given, "data.too_long"}, clock(30), Wishes(), lambda text: None)
    assert found.config.model.tokenizer == "char"
    assert found.config.model.length == 64
    assert found.config.objective.alpha == 0.1


def test_goal_and_rate_give_the_spread_of_the_posterior_means_with_that_kl() -> None:
    def kl(wishes: Wishes) -> float:
        """KL of the posteriors N(m, 1 - g^2), whose means m have variance g^2, from N(0, I)."""
        config = Config()
        for choose in (sizes, rate):
            config = config.with_settings(choose(config, [], wishes).settings)
        spread = np.float64(config.model.posterior_scale)
        variance = 1 - spread**2
        of_a_dimension = 0.5 * (spread**2 + variance - 1 - np.log(variance))
        return float(config.model.latent_size[0] * of_a_dimension)

    assert kl(Wishes("generation")) < kl(Wishes()) < kl(Wishes("reconstruction"))
    assert kl(Wishes("generation", rate=12.5)) == pytest.approx(12.5, rel=1e-3)
    assert kl(Wishes(rate=50)) == pytest.approx(50, rel=1e-3)


OWN: dict[str, dict[str, Any]] = {
    "a KL target": {"objective.penalty": "constrained", "objective.kl_target": 15.0},
    "a pattern": {"model.tokenizer": "pattern", "model.token_pattern": "[a-z]+| "},
    "a ladder": {"model.latent_size": [8, 4]},
    "a mixture": {"model.prior": "mixture"},
    "a map": {"model.latent": "map", "model.latent_size": [2]},
    "words": {"model.tokenizer": "word"},
    "a head without a skip connection": {"model.head": "bytenet"},
    "a head that reads the first position": {
        "model.head_reads": "state",
        "model.expander": "repeat",
        "model.auxiliary": False,
        "objective.alpha": 0.0,
    },
}


@pytest.mark.usefixtures("minute_steps")
@pytest.mark.parametrize("case", OWN)
def test_a_plan_does_not_contradict_what_the_user_chose(case: str, file: Path) -> None:
    config = base(file).with_settings(OWN[case])
    found = planned(config, set(OWN[case]), clock(30), Wishes(), lambda text: None).config
    check_slots(found.model, found.objective)
    check_training(found)
    for key, value in OWN[case].items():
        assert dotted_value(found, key) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.usefixtures("minute_steps")
def test_lines_of_a_fixed_length_keep_their_tokens(tmp_path: Path) -> None:
    path = tmp_path / "fixed.txt"
    path.write_text("\n".join(f"the cat {number:04} is old" for number in range(400)))
    config = base(path).with_settings({"data.mode": "fixed", "model.expander": "repeat"})
    given = {"data.mode", "model.expander"}
    found = planned(config, given, clock(30), Wishes(), lambda text: None).config
    assert found.model.tokenizer == "char"
    assert found.model.length == len("the cat 0000 is old")


@pytest.mark.usefixtures("minute_steps")
def test_jax_compiles_one_step_for_all_batches(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "backend", lambda: "jax")
    found = planned(base(file), set(), clock(30), Wishes(), lambda text: None).config
    assert found.training.jit_compile
    assert not found.training.length_buckets


@pytest.mark.usefixtures("minute_steps")
def test_a_preset_keeps_its_settings_and_gets_a_ramp_that_fits_the_run(file: Path) -> None:
    given = set(dotted_keys()) - STEP_SETTINGS
    config = base(file).with_settings({"data.too_long": "drop", "model.length": 64})
    found = planned(config, given, clock(30), Wishes(), lambda text: None).config
    assert found.model == replace(config.model, vocabulary_size=found.model.vocabulary_size)
    assert 0 < found.objective.ramp_steps <= 0.6 * (found.training.steps or 0)


@pytest.mark.usefixtures("minute_steps")
@pytest.mark.parametrize("name", ["hybrid-lstm", "lstm-lm-ptb-small", "kl-target-lstm"])
def test_the_planned_length_fits_presets_with_and_without_code_and_auxiliary_loss(
    name: str, file: Path
) -> None:
    config = preset(name).with_settings(
        {"data.source": str(file), "data.too_long": "cut", "data.mode": "lines"}
    )
    given = set(dotted_keys()) - STEP_SETTINGS
    found = planned(config, given, clock(30), Wishes(), lambda text: None).config
    check_slots(found.model, found.objective)
    check_training(found)


def test_a_small_file_is_not_read_so_often_that_its_texts_are_learned_by_heart(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "step_seconds", lambda prepared: 0.01)
    said: list[str] = []
    prepared = planned(base(file), set(), clock(30), Wishes(), said.append)
    passes = (prepared.config.training.steps or 0) * 64 / len(prepared.train)
    assert 4 < passes <= plan.MOST_PASSES
    assert not prepared.config.training.length_buckets  # there is time for mixed batches
    assert any("would learn texts by heart" in sentence for sentence in said)


@pytest.mark.parametrize(("goal", "sorts"), [("balanced", True), ("reconstruction", False)])
def test_where_the_time_is_short_a_small_rate_takes_batches_of_similar_length(
    goal: str, sorts: bool, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(prepared: Any) -> float:
        return 10.0 if prepared.config.training.length_buckets else 20.0

    monkeypatch.setattr(plan, "step_seconds", seconds)
    said: list[str] = []
    prepared = planned(base(file), set(), clock(10), Wishes(goal), said.append)
    sorts = sorts and keras.backend.backend() == "tensorflow"
    assert prepared.config.training.length_buckets == sorts
    assert any("a step takes 10000 ms" in line for line in said) == sorts
    assert any("the time is short" in line for line in said) == sorts
    assert prepared.config.model.head_skip


def test_minutes_that_are_too_few_for_mixed_batches_may_be_enough_for_sorted_ones(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(prepared: Any) -> float:
        return 5.0 if prepared.config.training.length_buckets else 60.0

    monkeypatch.setattr(plan, "step_seconds", seconds)
    if keras.backend.backend() == "tensorflow":
        prepared = planned(base(file), set(), clock(5), Wishes(), lambda text: None)
        assert (prepared.config.training.steps or 0) >= plan.EPOCHS
    given = {"training.length_buckets"}
    with pytest.raises(ConfigError, match=r"a step takes 60\.0"):
        planned(base(file), given, clock(5), Wishes(), lambda text: None)


@pytest.mark.usefixtures("minute_steps")
def test_too_few_minutes_are_refused_with_the_seconds_that_are_left(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"a step takes 60\.0; give more minutes"):
        planned(base(file), set(), clock(2), Wishes(), lambda text: None)


def test_a_step_is_timed_as_training_runs_it_and_slow_steps_are_few(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_timing, "SECONDS", 1e-9)
    config = base(file).with_settings({**SMALL_SETTINGS, "data.too_long": "drop"})
    ends = list[int]()
    monkeypatch.setattr(
        step_timing.StepTimes,
        "on_train_end",
        lambda self, logs=None: ends.append(len(self.ends)),
    )
    assert 0 < step_timing.step_seconds(prepare(config)) < 10
    assert ends == [step_timing.WARM_UP + 1]


def test_a_time_limit_ends_training_with_the_step_it_falls_into() -> None:
    stop, said = threading.Event(), list[str]()
    limit = TimeLimit(1e-9, stop, said.append, total_steps=10)
    limit.steps_before_epoch = 0
    limit.on_train_batch_end(2)
    assert stop.is_set()
    assert said == ["the time is over after 3 of 10 steps (training.minutes=1e-09)"]
    stop.clear()
    limit.on_train_batch_end(9)  # the last step: the run has ended by itself
    assert not stop.is_set()


def test_lines_of_progress_have_the_means_since_the_last_line() -> None:
    assert since((2, {"kl": 3.0}), (4, {"kl": 4.0})) == {"kl": 5.0}
    assert since((0, {}), (4, {"kl": 4.0})) == {"kl": 4.0}


def test_a_line_of_progress_says_step_time_and_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()
    lines = ProgressLines(said.append, total_steps=100)
    lines.set_model(small_model())
    lines.on_train_begin()
    lines.on_epoch_begin(0)
    logs = {"elbo": 50.0, "reconstruction": 45.0, "kl": 5.0, "beta": 0.5}
    lines.on_train_batch_end(9, logs)
    assert said == []  # too early for a line
    lines.shown -= 40.0
    lines.on_train_batch_end(19, logs)
    (line,) = said
    assert line.startswith("step 20 of 100, ")
    assert line.endswith("bound 50.00, reconstruction 45.00, KL 5.00, beta 0.50")


@pytest.mark.usefixtures("minute_steps")
def test_output_biases_start_at_the_frequencies_of_the_training_tokens(file: Path) -> None:
    prepared = planned(base(file), set(), clock(30), Wishes(), lambda text: None)
    size, length = len(prepared.alphabet), prepared.config.model.length
    model = small_model(vocabulary_size=size, length=length)
    set_biases_to_frequencies(model, prepared)
    bias = keras.ops.convert_to_numpy(model.head.classify.bias)
    counts = np.bincount(prepared.train.numbers().ravel(), minlength=size)[4:]
    assert np.argmax(bias[4:]) == np.argmax(counts)
    assert np.exp(bias).sum() == pytest.approx(1.0, rel=1e-4)
    other = keras.ops.convert_to_numpy(model.parts.auxiliary.bias)
    np.testing.assert_array_equal(bias, other)


@pytest.mark.usefixtures("minute_steps")
def test_kvae_train_on_a_bare_file_plans_trains_and_judges(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "--data", str(file), "--minutes", "10", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    config = json.loads((out / "config.json").read_text())
    assert config["training"]["steps"] == report_steps(captured.err)
    assert {finding["about"] for finding in report["findings"]} >= {
        "code",
        "reconstruction",
        "rival",
    }
    assert len(report["reconstructed"]) == 5
    assert len(report["shown_samples"]["greedy_samples"]) == 10
    assert report["temperature"] in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    page = (out / "report" / "report.html").read_text()
    assert report["findings"][0]["sentence"].split(" (")[0] in page
    assert "<svg" in page
    assert "http" not in page.replace("http-equiv", "")


def report_steps(messages: str) -> int:
    (line,) = [line for line in messages.splitlines() if line.startswith("training for ")]
    return int(line.split()[2].replace(",", ""))


REFUSED: dict[str, tuple[list[str], str]] = {
    "a goal without a plan": (["--steps", "3", "--goal", "generation"], "need a plan"),
    "no minutes": (["--minutes", "0"], "must be a number above 0"),
    "two wishes": (["--goal", "generation", "--rate", "3"], "not allowed with"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_contradicts_itself_is_refused(
    case: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, reason = REFUSED[case]
    command: list[Any] = ["train", "--data", str(file), "--out", str(tmp_path / "run"), *arguments]
    try:
        code = main(command)
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code in (2, ConfigError.exit_code)
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()
