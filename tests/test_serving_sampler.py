"""The Sampler: same seed, same text, and plain words for what it cannot do."""

import asyncio
import copy
import inspect
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from kvae.serving import AsyncSampler, BundleError, ConfigError, DataError, KvaeError, Sampler
from kvae.serving.alphabet import Alphabet
from kvae.serving.choices import CHOICES, DRAWING, choices
from kvae.serving.sampler import CHUNK, reopened


def test_sampling_twice_at_a_seed_gives_the_same_texts(sampler: Sampler) -> None:
    assert sampler.sample(20, seed=7) == sampler.sample(20, seed=7)
    assert sampler.sample(20, seed=7) != sampler.sample(20, seed=8)


@pytest.mark.parametrize(
    "options", [{}, {"greedy": True}, {"temperature": 0.7, "top_k": 3, "top_p": 0.9}]
)
def test_rows_are_the_same_one_by_one(sampler: Sampler, options: dict[str, Any]) -> None:
    together = sampler.generate(40, seed=7, **options)
    alone = [sampler.generate(1, seed=7, first_row=row, **options)[0] for row in range(40)]
    assert alone == together


def test_the_bundle_has_the_temperature_of_samples_without_one(bundle_folder: Path) -> None:
    plain, cool = (Sampler.load(bundle_folder) for _ in range(2))
    cool.manifest = {**cool.manifest, "defaults": {**cool.manifest["defaults"], "temperature": 0.5}}
    codes = cool.draw_codes(9, seed=7)
    for ways in (
        lambda it, **options: it.sample(9, 7, **options),
        lambda it, **options: [sample.text for sample in it.iterate(9, 7, **options)],
        lambda it, **options: [sample.text for sample in it.generate_rows([7], [1], **options)],
        lambda it, **options: "".join(it.stream(7, 1, **options)),
        lambda it, **options: it.decode(codes, 7, greedy=False, **options),
    ):
        assert ways(cool) == ways(plain, temperature=0.5) != ways(plain)
        assert ways(cool, temperature=1.0) == ways(plain)
    assert "temperature 0.5" in repr(cool)


def test_a_bundle_that_folds_case_reads_a_text_in_any_case(sampler: Sampler) -> None:
    """Its symbols have the order of those in capitals, so the ids are the same."""
    folding = copy.copy(sampler)
    symbols = tuple(map(str.lower, sampler.alphabet.symbols))
    folding.alphabet = Alphabet(symbols, fold_case=True)
    for text in ("KAMITO", "kamito", "KaMiTo"):
        np.testing.assert_array_equal(folding.encode([text]), sampler.encode(["KAMITO"]))
        assert folding.reconstruct([text]) == [sampler.reconstruct(["KAMITO"])[0].lower()]
        score = folding.score([text], unknown="refuse")[0]
        assert (score.text, score.bound) == (text, sampler.score(["KAMITO"])[0].bound)
    with pytest.raises(DataError, match="never saw: 'x'"):
        folding.encode(["X"])


def test_texts_do_not_depend_on_the_number_of_threads(bundle_folder: Path) -> None:
    one, two = (
        Sampler.load(bundle_folder, threads=threads).generate(50, seed=7) for threads in (1, 2)
    )
    assert one == two


def test_texts_do_not_depend_on_the_process(bundle_folder: Path, sampler: Sampler) -> None:
    code = (
        "from kvae.serving import Sampler; "
        f"print(Sampler.load({str(bundle_folder)!r}).sample(5, seed=7))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sampler.sample(5, seed=7))


def test_graphs_are_found_after_a_change_of_the_working_folder(
    bundle_folder: Path, sampler: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle_folder.parent)
    relative = Sampler.load(bundle_folder.name, endpoints=())
    monkeypatch.chdir(tmp_path)
    assert relative.sample(5, seed=7) == sampler.sample(5, seed=7)


def test_many_rows_are_decoded_in_pieces_that_do_not_show(sampler: Sampler) -> None:
    many = sampler.generate(2 * CHUNK + 3, seed=1)
    assert [sample.row for sample in many] == list(range(2 * CHUNK + 3))
    assert many[CHUNK - 1 : CHUNK + 2] == sampler.generate(3, seed=1, first_row=CHUNK - 1)


def test_many_callers_share_a_sampler(sampler: Sampler) -> None:
    expected = [sampler.sample(5, seed=seed) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda seed: sampler.sample(5, seed=seed), range(16))) == expected


def test_without_a_seed_one_is_drawn_and_told(sampler: Sampler) -> None:
    first, second = sampler.generate(3), sampler.generate(3)
    assert first[0].seed != second[0].seed
    assert [sample.text for sample in first] == sampler.sample(3, seed=first[0].seed)


def test_texts_are_of_the_alphabet_and_no_longer_than_the_model(sampler: Sampler) -> None:
    texts = sampler.sample(200, seed=0, temperature=2.0)
    assert set("".join(texts)) <= set(sampler.alphabet.symbols)
    assert max(map(len, texts)) <= 16


def test_a_text_is_finished_when_the_model_ended_it(sampler: Sampler) -> None:
    for sample in sampler.generate(100, seed=0, max_length=6, temperature=1.5):
        assert sample.finished == (len(sample.text) < 6)
        assert sample.log_probability < 0


def test_no_texts_are_no_texts(sampler: Sampler) -> None:
    assert (
        sampler.sample(0, seed=0)
        == sampler.reconstruct([])
        == sampler.decode(np.zeros((0, 4)))
        == []
    )
    assert sampler.encode([]).shape == (0, 4)


def test_codes_are_the_posterior_of_keras(sampler: Sampler, run_folder: Path) -> None:
    from kvae.runs import load_run

    trained, texts = load_run(run_folder), ["KAMITO", "RUNEKA", "MI"]
    expected = trained.model.encode(trained.alphabet.encode(texts, 16))
    for found, name in zip(sampler.posterior(texts), ("mean", "log_variance"), strict=True):
        np.testing.assert_allclose(found, expected[name], atol=1e-5)
    np.testing.assert_array_equal(sampler.encode("KAMITO"), sampler.encode(["KAMITO"]))


def test_decoding_a_code_is_keras_greedy_decoding(sampler: Sampler, run_folder: Path) -> None:
    from kvae.decoding import decode
    from kvae.runs import load_run

    trained = load_run(run_folder)
    codes = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    assert sampler.decode(codes) == trained.alphabet.decode(np.array(decode(trained.model, codes)))


def test_codes_can_be_decoded_by_drawing_too(sampler: Sampler) -> None:
    codes = np.zeros((200, 4), np.float32)
    assert len(set(sampler.decode(codes))) == 1
    assert len(set(sampler.decode(codes, seed=1, top_k=3))) > 1


def test_reconstruction_is_decoding_the_code(sampler: Sampler) -> None:
    texts = ["KAMITO", "RUNEKA"]
    assert sampler.reconstruct(texts) == sampler.decode(sampler.encode(texts))


def test_interpolation_goes_straight_from_one_reconstruction_to_the_other(sampler: Sampler) -> None:
    first, last = "KAMITO", "NENENE"
    texts = sampler.interpolate(first, last, steps=5)
    assert len(texts) == 5
    assert [texts[0], texts[-1]] == sampler.reconstruct([first, last])
    assert texts[2] == sampler.decode(sampler.encode([first, last]).mean(axis=0, keepdims=True))[0]


def test_info_is_the_manifest(sampler: Sampler) -> None:
    assert sampler.info()["latent"] == {
        "kind": "dense",
        "size": 4,
        "levels": 1,
        "prior": "standard",
        "attributes": [],
    }
    assert sampler.info()["training"]["source"] == "names.txt"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.sample(-1), ConfigError, "n must be a whole number"),
        (lambda s: s.sample(2.5), ConfigError, "n must be a whole number"),
        (lambda s: s.sample(1, seed=-1), ConfigError, "seed must be a whole number"),
        (lambda s: s.sample(1, seed="7"), ConfigError, "got '7'"),
        (lambda s: s.sample(1, first_row=-1), ConfigError, "first_row must be"),
        (lambda s: s.sample(1, temperature=0), ConfigError, "temperature must be from 0.001"),
        (
            lambda s: s.sample(1, temperature=float("nan")),
            ConfigError,
            "temperature must be from 0.001",
        ),
        (
            lambda s: s.sample(1, temperature="0.5"),
            ConfigError,
            "temperature must be a number, got '0.5'",
        ),
        (lambda s: s.sample(1, temperature=1e-39), ConfigError, "temperature must be from 0.001"),
        (lambda s: s.sample(1, top_p=None), ConfigError, "top_p must be a number"),
        (
            lambda s: s.encode(None),
            DataError,
            "texts must be one str or a sequence of str, got None",
        ),
        (lambda s: s.encode([1]), DataError, "texts must be one str"),
        (lambda s: s.decode("abc"), DataError, "codes must be numbers"),
        (lambda s: s.sample(0, temperature=-1), ConfigError, "temperature must be from 0.001"),
        (lambda s: s.draw_codes(2, seed=-5), ConfigError, "seed must be a whole number"),
        (
            lambda s: s.posterior_of_tokens(np.full((1, 16), 999)),
            DataError,
            "ids from 0 to 13, got 999 to 999",
        ),
        (lambda s: s.posterior_of_tokens(np.zeros((1, 3))), DataError, "shape (n, 16)"),
        (lambda s: s.sample(1, top_p=0.0), ConfigError, "top_p must be above 0"),
        (lambda s: s.sample(1, top_k=-3), ConfigError, "top_k must be a whole number"),
        (
            lambda s: s.sample(1, max_length=17),
            ConfigError,
            "max_length must be a whole number from 1 to 16",
        ),
        (
            lambda s: s.sample(1, greedy=True, temperature=0.5),
            ConfigError,
            "greedy takes the most probable token",
        ),
        (lambda s: s.encode(["KAMI", "KÄMI"]), DataError, "characters the model never saw: 'Ä' 1"),
        (lambda s: s.encode(["KAMI"], unknown="ignore"), ConfigError, "unknown must be"),
        (
            lambda s: s.encode(["K" * 16]),
            DataError,
            "text 0 has 16 characters, the model takes at most 15",
        ),
        (lambda s: s.decode(np.zeros((2, 3))), DataError, "shape (n, 4), got shape (2, 3)"),
        (lambda s: s.decode(np.full((1, 4), np.nan)), DataError, "finite"),
        (lambda s: s.interpolate("KA", "MI", steps=1), ConfigError, "steps must be"),
    ],
)
def test_what_it_cannot_do_it_says(
    sampler: Sampler, call: Any, error: type[KvaeError], message: str
) -> None:
    with pytest.raises(error) as caught:
        call(sampler)
    assert message in str(caught.value)


def test_unknown_characters_are_replaced_when_asked(sampler: Sampler) -> None:
    assert sampler.encode(["KÄMI"], unknown="replace").shape == (1, 4)


def test_every_error_is_a_kvae_error_with_an_exit_code() -> None:
    assert [error.exit_code for error in (KvaeError, ConfigError, BundleError, DataError)] == [
        1,
        2,
        3,
        4,
    ]
    assert all(issubclass(error, KvaeError) for error in (ConfigError, BundleError, DataError))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.sample(1, temprature=1.0), "sample: has no argument 'temprature'; did you"),
        (lambda s: s.stream(sed=1), "stream: has no argument 'sed'; did you mean 'seed'?"),
        (lambda s: s.iterate(1, top=1), "iterate: has no argument 'top'; did you mean 'top_p'?"),
        (lambda s: s.encode("KA", unkown="replace"), "did you mean 'unknown'?"),
        (lambda s: s.score("KA", x=1), "score: has no argument 'x'; it takes texts, samples, seed"),
        (lambda s: s.decode([[0.0]], gredy=True), "did you mean 'greedy'?"),
        (lambda s: Sampler.load(s.bundle.path, thread=1), "load: has no argument 'thread'; did"),
        (lambda s: asyncio.run(AsyncSampler(s).sample(1, topk=1)), "did you mean 'top_k'?"),
    ],
)
def test_a_misspelt_argument_is_an_error_with_the_nearest_name(
    sampler: Sampler, call: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        call(sampler)
    assert message in str(caught.value)


DRAWN_BY = ("sample", "generate", "iterate", "generate_rows", "stream")


@pytest.mark.parametrize("name", DRAWN_BY)
@pytest.mark.parametrize("kind", [Sampler, AsyncSampler])
def test_methods_have_every_sampling_option_with_its_default(kind: type, name: str) -> None:
    if not hasattr(kind, name):
        pytest.skip("iterate is not asynchronous")
    parameters = inspect.signature(getattr(kind, name)).parameters
    assert {option: parameters[option].default for option in CHOICES} == {
        option: choice.default for option, choice in CHOICES.items()
    }
    assert all(it.kind is not inspect.Parameter.VAR_KEYWORD for it in parameters.values())


def test_decoding_and_inputs_of_graphs_have_the_defaults_of_the_options_too() -> None:
    names = CHOICES.keys() - {"attribute"}
    inputs = inspect.signature(choices).parameters
    assert {name: inputs[name].default for name in names} == {
        name: CHOICES[name].default for name in names
    }
    decoding = inspect.signature(Sampler.decode).parameters
    assert {decoding[name].default for name in (*DRAWING, "greedy")} == {None}
    assert all(decoding[name].default == CHOICES[name].default for name in ("min_length",))


def test_every_method_shows_its_limits() -> None:
    methods = ("encode", "posterior", "score", "decode", "reconstruct", "interpolate", "variations")
    for name in (*methods, "neighbours", "arithmetic", "sample", "draw_codes", "stream"):
        assert {"deadline", "cancel"} <= inspect.signature(getattr(Sampler, name)).parameters.keys()


def test_a_sampler_says_what_it_is(sampler: Sampler) -> None:
    assert repr(sampler).startswith(f"<Sampler {str(sampler.bundle.path)!r}: trained on ")
    assert "15 characters a text" in repr(sampler)
    assert f"{sampler.latent_size} dimensions, standard prior; temperature 1>" in repr(sampler)
    assert repr(AsyncSampler(sampler)) == f"<Async{repr(sampler)[1:]}"


def test_neighbours_take_text_and_texts_in_either_order(sampler: Sampler) -> None:
    texts = ["KAMI", "TORU", "KAMITO"]
    assert sampler.neighbours(texts, "KAMI") == sampler.neighbours("KAMI", texts)
    assert sampler.neighbours("KAMI", texts)[0] == ("KAMI", 0.0)
    with pytest.raises(DataError, match="text must be one str, got"):
        sampler.neighbours(texts, texts)  # type: ignore[arg-type]


COPIES: dict[str, Any] = {
    "pickle": lambda s: pickle.loads(pickle.dumps(s)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "cloudpickle": lambda s: cloudpickle.loads(
        cloudpickle.dumps(lambda: s)
    )(),  # what Dask, Ray and Spark send
}


@pytest.mark.parametrize("how", COPIES)
def test_a_sampler_travels(sampler: Sampler, how: str) -> None:
    again = COPIES[how](sampler)
    assert again is not sampler
    assert again.threads == sampler.threads
    assert again.sample(5, seed=7) == sampler.sample(5, seed=7)


def test_an_asynchronous_sampler_travels(sampler: Sampler) -> None:
    again = pickle.loads(pickle.dumps(AsyncSampler(sampler)))
    assert asyncio.run(again.sample(5, seed=7)) == sampler.sample(5, seed=7)


def test_a_pool_that_spawns_its_processes_takes_a_sampler(sampler: Sampler) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(sampler.sample, 5, 7).result() == sampler.sample(5, 7)


def test_a_sampler_that_travels_keeps_its_threads(bundle_folder: Path) -> None:
    assert pickle.loads(pickle.dumps(Sampler.load(bundle_folder, threads=1))).threads == 1


def test_what_arrives_is_the_model_that_left(
    bundle_folder: Path, sampler: Sampler, tmp_path: Path
) -> None:
    path = shutil.copytree(bundle_folder, tmp_path / "bundle")
    sent = pickle.dumps(Sampler.load(path, endpoints=()))
    shutil.rmtree(path)
    with pytest.raises(BundleError, match="no such bundle"):
        pickle.loads(sent)
    kind, path, threads, model_id, *_ = sampler.__reduce__()[1]
    with pytest.raises(
        BundleError,
        match=f"holds the model {model_id} now, the pickled sampler had fedcba9876543210",
    ):
        reopened(kind, path, threads, "fedcba9876543210")


def test_no_text_is_empty_unless_that_is_asked_for(bundle_folder: Path) -> None:
    manifest = Sampler.load(bundle_folder, endpoints=()).manifest
    assert choices(manifest)["min_length"] == 1
    assert choices(manifest, min_length=0)["min_length"] == 0
