"""The map of a bundle: the plane of a principal component analysis, with held-out texts."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kvae.components import main_components
from kvae.export.bundle import write_bundle
from kvae.export.latent_map import informative_dimensions, latent_map
from kvae.runs import load_run
from kvae.serving import Sampler
from kvae.serving.bundle import read_bundle
from kvae.serving.latent_map import MAX_DIMENSIONS, MAX_POINTS, MAX_TEXT, check_map
from kvae.serving.manifest import ALL_ENDPOINTS, MAP
from kvae.serving.verification import verify

from .conftest import random_tokens


def test_the_plane_is_that_of_the_largest_eigenvalues_of_the_covariance() -> None:
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(300, 5)) * [1.0, 4.0, 0.5, 2.0, 0.1] + 3.0
    mean, components, shares = main_components(codes)
    values, vectors = np.linalg.eigh(np.cov(codes.T))
    np.testing.assert_allclose(mean, codes.mean(axis=0))
    np.testing.assert_allclose(components @ components.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(shares, values[:-3:-1] / values.sum())
    np.testing.assert_allclose(np.abs((components * vectors[:, :-3:-1].T).sum(axis=1)), 1.0)
    assert (components[[0, 1], np.abs(components).argmax(axis=1)] > 0).all()


def test_equal_codes_have_a_plane_that_explains_nothing() -> None:
    _, components, shares = main_components(np.ones((4, 3)))
    assert np.isfinite(components).all()
    assert shares.tolist() == [0.0, 0.0]


def test_a_dimension_says_the_kl_from_its_standard_normal_prior() -> None:
    mean = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 2.0]])
    variance = np.array([[0.5, 1.0, 0.25], [0.5, 1.0, 0.25]])
    found = informative_dimensions(mean, np.log(variance), standard_prior=True)
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance)).mean(axis=0)
    assert found["index"] == [2, 0, 1]
    np.testing.assert_allclose(found["kl"], kl[[2, 0, 1]], rtol=1e-5)
    # Dimension 2 has codes of mean 1 and variance 1 + 0.25.
    np.testing.assert_allclose(
        [found["low"][0], found["high"][0]], [1 - 3 * 1.25**0.5, 1 + 3 * 1.25**0.5], rtol=1e-5
    )


def test_with_a_learned_prior_a_dimension_that_is_equal_for_all_texts_says_nothing() -> None:
    mean = np.array([[5.0, 1.0], [5.0, -1.0]])
    variance = np.full((2, 2), 0.01)
    found = informative_dimensions(mean, np.log(variance), standard_prior=False)
    assert found["index"] == [1, 0]
    assert found["kl"] == [pytest.approx(0.5 * np.log(1.01 / 0.01), rel=1e-5), 0.0]


@pytest.fixture(scope="module")
def held_out(sampler: Sampler) -> Any:
    return random_tokens(600, vocabulary_size=len(sampler.alphabet))


@pytest.fixture(scope="module")
def content(sampler: Sampler, held_out: Any) -> dict[str, Any]:
    found = latent_map(sampler, held_out)
    assert found
    return found


def test_points_are_the_codes_of_held_out_texts(
    sampler: Sampler, held_out: Any, content: dict[str, Any]
) -> None:
    points = content["points"]
    texts = sampler.alphabet.decode(held_out)
    assert len(points["x"]) == MAX_POINTS < len(texts)
    assert set(points["text"]) <= set(texts)
    assert points["text"][0] == texts[0]
    assert points["text"][-1] == texts[-1]
    assert points["tokens"] == [len(text) for text in points["text"]]
    codes = sampler.encode(points["text"][:50]) - np.array(content["mean"])
    found = codes @ np.array(content["components"]).T
    np.testing.assert_allclose(found[:, 0], points["x"][:50], atol=1e-4)
    np.testing.assert_allclose(found[:, 1], points["y"][:50], atol=1e-4)


def test_the_file_is_small_and_obeys_its_own_description(
    sampler: Sampler, content: dict[str, Any]
) -> None:
    check_map(content, sampler.manifest)
    assert len(content["dimensions"]["index"]) == min(MAX_DIMENSIONS, sampler.latent_size)
    assert len(json.dumps(content)) < 40_000
    assert "label" not in content["points"]


class Fixed:
    """A sampler whose posteriors are given."""

    def __init__(self, mean: Any, labels: list[str], text: str = "a") -> None:
        self.mean, self.latent_size = np.asarray(mean, np.float32), len(mean[0])
        latent = {"attributes": labels, "prior": "standard", "levels": 1, "size": self.latent_size}
        self.manifest = {"latent": latent}
        self.alphabet = SimpleNamespace(decode=lambda tokens: [text] * len(tokens))

    def posterior_of_tokens(self, tokens: Any) -> tuple[np.ndarray, np.ndarray]:
        return self.mean[: len(tokens)], np.zeros_like(self.mean[: len(tokens)])


def test_a_label_is_no_direction_of_the_plane_but_a_fact_of_a_point() -> None:
    """It is that of the corpus, whatever the classifier sees; without one there are lengths."""
    codes = [[0.0, 1.0, 0.9, 0.1], [1.0, 0.0, 0.2, 0.8], [3.0, 3.0, 0.6, 0.4]]
    model: Any = Fixed(codes, ["old", "new"], text="x" * 1000)
    found = latent_map(model, random_tokens(3), np.array([1, -1, 1]))
    assert found
    assert found["points"]["label"] == ["new", "", "new"]
    assert [len(found["mean"]), *map(len, found["components"])] == [2, 2, 2]
    assert set(found["dimensions"]["index"]) == {0, 1}
    assert found["points"]["text"] == ["x" * MAX_TEXT] * 3
    check_map(found, model.manifest)
    for attribute in (None, np.array([-1, -1, -1])):
        plain = latent_map(model, random_tokens(3), attribute)
        assert plain
        assert "label" not in plain["points"]
        check_map(plain, model.manifest)


@pytest.mark.parametrize(
    ("codes", "texts"), [([[]], 5), ([[1.0]] * 5, 5), ([[1.0, 2.0]] * 2, 2), ([[1.0, 2.0]], 0)]
)
def test_where_there_is_no_plane_there_is_no_map(codes: list[list[float]], texts: int) -> None:
    model: Any = Fixed(codes, [])
    assert latent_map(model, random_tokens(texts) if texts else None) is None


@pytest.mark.slow
def test_an_export_has_the_map_unless_it_is_left_out(run_folder: Path, tmp_path: Path) -> None:
    trained = load_run(run_folder)
    held_out = random_tokens(20, vocabulary_size=len(trained.alphabet))
    for with_map in (True, False):
        path = tmp_path / str(with_map)
        write_bundle(
            trained.model,
            trained.alphabet,
            trained.config,
            path,
            held_out=held_out,
            with_map=with_map,
        )
        files = {f"{name}.onnx" for name in ALL_ENDPOINTS} | {"manifest.json", "README.md"}
        assert {file.name for file in path.iterdir()} == (files | {MAP} if with_map else files)
        found = Sampler.load(path).latent_map
        assert ("map" in read_bundle(path).manifest) == (found is not None) == with_map
        assert verify(path)["map_texts"] == (20 if with_map else 0)
