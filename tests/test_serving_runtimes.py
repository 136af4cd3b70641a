"""A bundle in another runtime samples the same texts, or says in one line that it does not."""

import copy
import json
import pickle
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.configuration import Config
from kvae.export.bundle import write_bundle
from kvae.serving import (
    BundleError,
    Cancellation,
    Cancelled,
    CheckFailed,
    ConfigError,
    Sampler,
    openvino_sessions,
)
from kvae.serving.alphabet import Alphabet
from kvae.serving.choices import choices
from kvae.serving.runtime import OWN, RUNTIMES, Runtime, session
from kvae.serving.verification import verify

from .conftest import small_model
from .test_export_systems import SYSTEMS


class Foreign:
    """A runtime that computes what onnxruntime computes, and then spoils it."""

    def __init__(self, spoil: Callable[[list[np.ndarray]], list[np.ndarray]]) -> None:
        self.spoil, self.loaded = spoil, 0

    def __call__(self, graph: Any, threads: int) -> Any:
        own, spoil = session(graph, threads), self.spoil
        self.loaded += 1

        class Session:
            def run(self, names: None, inputs: Any, options: Any = None) -> Any:
                return spoil(own.run(None, inputs, options))

        return Session()


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Foreign]:
    """Make a foreign runtime a choice, which runs some endpoints."""

    def make(spoil: Callable[[Any], Any], *endpoints: str) -> Foreign:
        made = Foreign(spoil)
        monkeypatch.setitem(RUNTIMES, "foreign", Runtime(made, lambda: "1.2", endpoints))
        return made

    return make


def test_texts_of_another_runtime_that_differ_are_refused_in_one_line(
    bundle_folder: Path, foreign: Callable[..., Foreign]
) -> None:
    foreign(lambda outputs: [np.roll(outputs[0], 1, axis=1), *outputs[1:]], "sampler")
    for endpoints in (("sampler",), ()):
        with pytest.raises(CheckFailed) as caught:
            Sampler.load(bundle_folder, endpoints=endpoints, runtime="foreign")
        message = str(caught.value)
        assert "in foreign 1.2 seed 7 gives" in message
        assert "load the bundle with runtime 'onnxruntime'" in message
        assert "\n" not in message
    with pytest.raises(CheckFailed, match="at export it gave"):
        verify(bundle_folder, "foreign")


def test_texts_of_the_plain_sampler_are_verified_too(
    bundle_folder: Path, foreign: Callable[..., Foreign]
) -> None:
    foreign(lambda outputs: [np.roll(outputs[0], 1, axis=1), *outputs[1:]], "sampler_plain")
    assert Sampler.load(bundle_folder, runtime="foreign").sample(2, seed=0)
    for refused in (
        lambda: verify(bundle_folder, "foreign"),
        lambda: Sampler.load(bundle_folder, runtime="foreign", plain=True),
    ):
        with pytest.raises(CheckFailed, match=r"in foreign 1\.2 seed 7 .* of the sampler_plain"):
            refused()


@pytest.mark.parametrize("endpoint", ["encoder", "scorer", "expand"])
def test_numbers_of_another_runtime_that_differ_are_refused_when_the_graph_is_loaded(
    bundle_folder: Path, foreign: Callable[..., Foreign], endpoint: str
) -> None:
    def last_row(outputs: list[np.ndarray]) -> list[np.ndarray]:
        outputs[0][-1] += 0.01 * (1 + np.abs(outputs[0][-1]))
        return outputs

    foreign(last_row, endpoint)
    sampler = Sampler.load(bundle_folder, runtime="foreign")
    with pytest.raises(CheckFailed, match=f"the {endpoint} gives other numbers in foreign than"):
        sampler._session(endpoint)


def test_outputs_that_are_no_numbers_or_have_another_shape_are_refused(
    bundle_folder: Path, foreign: Callable[..., Foreign]
) -> None:
    for spoil in (
        lambda outputs: [outputs[0] * np.nan, *outputs[1:]],
        lambda outputs: [outputs[0][1:], *outputs[1:]],
    ):
        foreign(spoil, "encoder")
        with pytest.raises(CheckFailed, match="the encoder gives other numbers"):
            Sampler.load(bundle_folder, endpoints=("encoder",), runtime="foreign")


def test_a_runtime_runs_its_endpoints_and_onnxruntime_the_others(
    bundle_folder: Path, foreign: Callable[..., Foreign], sampler: Sampler
) -> None:
    made = foreign(lambda outputs: outputs, "sampler", "encoder")
    other = Sampler.load(bundle_folder, runtime="foreign")
    assert other.sample(5, seed=1) == sampler.sample(5, seed=1)
    assert "".join(other.stream(seed=1)) == sampler.sample(1, seed=1)[0]
    assert made.loaded == 1
    np.testing.assert_array_equal(other.encode(["KAMITO"]), sampler.encode(["KAMITO"]))
    assert made.loaded == 2
    for copied in (copy.copy(other), pickle.loads(pickle.dumps(other))):
        assert copied.runtime == "foreign"
        assert copied.sample(5, seed=1) == sampler.sample(5, seed=1)


def test_a_runtime_that_cannot_load_or_run_a_graph_says_which_in_one_line(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, foreign: Callable[..., Foreign]
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no Loop\nand more")

    foreign(fail, "encoder")
    with pytest.raises(CheckFailed, match=r"foreign cannot run the encoder \(no Loop\); load the"):
        Sampler.load(bundle_folder, endpoints=("encoder",), runtime="foreign")
    monkeypatch.setitem(RUNTIMES, "foreign", Runtime(fail, lambda: "1.2"))
    with pytest.raises(BundleError, match=r"foreign 1\.2 cannot load the sampler \(no Loop\)"):
        Sampler.load(bundle_folder, runtime="foreign")


def test_an_unknown_runtime_is_refused_with_those_that_are_known(bundle_folder: Path) -> None:
    with pytest.raises(ConfigError, match="runtime must be 'onnxruntime' or 'openvino', got 'ov'"):
        Sampler.load(bundle_folder, runtime="ov")


def test_a_runtime_that_is_not_installed_names_its_extra(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install 'kvae-text\[openvino\]'"):
        Sampler.load(bundle_folder, runtime="openvino")


def test_onnxruntime_is_verified_as_ever(bundle_folder: Path) -> None:
    assert verify(bundle_folder)["runtime"] == f"{OWN} {RUNTIMES[OWN].version()}"


# --- OpenVINO, where it is installed --------------------------------------------------------------


@pytest.fixture(scope="module")
def openvino_sampler(bundle_folder: Path) -> Sampler:
    pytest.importorskip("openvino")
    return Sampler.load(bundle_folder, runtime="openvino")


def test_openvino_samples_reads_and_scores_as_onnxruntime_does(
    sampler: Sampler, openvino_sampler: Sampler
) -> None:
    for options in ({"greedy": True}, {"temperature": 1.3}, {"top_k": 3, "top_p": 0.9}):
        for seed, row in ((0, 0), (2**31, 2**31 - 20), (2**32 - 1, 2**32 - 41)):
            found = openvino_sampler.generate(40, seed, first_row=row, **options)
            expected = sampler.generate(40, seed, first_row=row, **options)
            assert [item.text for item in found] == [item.text for item in expected]
    texts = ["KAMITO", "RU", "NE"]
    codes = openvino_sampler.encode(texts)
    np.testing.assert_allclose(codes, sampler.encode(texts), atol=1e-4)
    assert openvino_sampler.decode(codes) == sampler.decode(sampler.encode(texts))
    assert "".join(openvino_sampler.stream(seed=3)) == sampler.sample(1, seed=3)[0]
    bounds = [[score.bound for score in each.score(texts)] for each in (openvino_sampler, sampler)]
    np.testing.assert_allclose(*bounds, rtol=1e-4)


def test_a_seed_that_openvino_would_take_for_another_is_refused(openvino_sampler: Sampler) -> None:
    for call in (openvino_sampler.sample, openvino_sampler.generate):
        with pytest.raises(ConfigError, match="seed must be at most 4294967295 in OpenVINO, got"):
            call(3, seed=2**32)
    with pytest.raises(ConfigError, match="seed must be at most"):
        openvino_sampler.score(["KAMITO"], seed=2**32)


def test_a_call_in_openvino_is_cancelled(openvino_sampler: Sampler) -> None:
    expected = openvino_sampler.sample(3, seed=0)
    for delay in (0.1, 0.2, 0.3):
        cancel = Cancellation()
        threading.Timer(delay, cancel.cancel).start()
        begun = time.monotonic()
        with pytest.raises(Cancelled):
            openvino_sampler.sample(10**6, seed=0, cancel=cancel)
        assert time.monotonic() - begun < 60
        assert openvino_sampler.sample(3, seed=0) == expected


def test_texts_of_a_bundle_of_format_2_differ_in_openvino_and_are_refused(old_bundle: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(CheckFailed, match=r"in openvino [\d.]+ seed 7 gives .*export it again"):
        Sampler.load(old_bundle, runtime="openvino")


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_openvino_samples_the_texts_of_a_system(system: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = small_model(**SYSTEMS[system])
    config = Config(model=model.model_config, objective=model.objective_config)
    write_bundle(model, Alphabet(tuple("abcde")), config, tmp_path / "bundle")
    texts = Sampler.load(tmp_path / "bundle").sample(100, seed=0)
    other = Sampler.load(tmp_path / "bundle", runtime="openvino")
    assert other.sample(100, seed=0) == texts
    assert verify(tmp_path / "bundle", "openvino")["seed_test_texts"] == 3


@pytest.mark.slow
def test_all_graphs_of_a_bundle_for_openvino_are_right_in_openvino(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = small_model()
    config = Config(model=model.model_config, objective=model.objective_config)
    bundle = tmp_path / "bundle"
    write_bundle(model, Alphabet(tuple("abcde")), config, bundle, signed_words=True)
    sampler = Sampler.load(bundle)
    rows = np.arange(40)
    compiled = openvino.compile_model(
        bundle / "prior.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    (z,) = compiled({"seed": np.full(40, 3), "row": rows}).values()
    np.testing.assert_allclose(z, sampler.draw_codes(40, seed=3), atol=1e-5)
    step = openvino_sessions.OpenVinoSession(bundle / "step.onnx", 1)
    chosen = choices(sampler.manifest, temperature=1.0)
    expected = np.stack(list(sampler.write_steps(z, np.full(40, 3), rows, chosen)))
    sampler._sessions["step"] = step
    found = np.stack(list(sampler.write_steps(z, np.full(40, 3), rows, chosen)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_kvae_verify_takes_a_runtime(bundle_folder: Path, kvae: Any) -> None:
    pytest.importorskip("openvino")
    code, out, err = kvae("verify", bundle_folder, "--runtime", "openvino", "--json")
    assert code == 0, err
    assert json.loads(out)["runtime"].startswith("openvino ")
    assert kvae("verify", bundle_folder, "--runtime", "tflite")[0] == 2
