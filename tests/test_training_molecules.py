"""Molecules are checked and measured as MOSES does: against values by hand and closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest

from kvae.cli import main
from kvae.serving.errors import ConfigError, DataError
from kvae.training import moses
from kvae.training.messages import quiet
from kvae.training.molecules import (
    CHUNK,
    canonical,
    chemistry,
    decoded_selfies,
    on_all_cores,
    properties,
    selfies,
    smiles,
    to_selfies,
)
from kvae.training.moses import (
    Gaussian,
    cosine,
    described,
    frechet_distance,
    internal_diversity,
    measures,
    nearest_similarity,
    passes_filters,
    profile,
    similarities,
    wasserstein,
)
from kvae.training.selfies_files import write_selfies

ASPIRIN, CAFFEINE = "CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O"


def test_a_smiles_string_has_a_canonical_form_or_is_invalid() -> None:
    assert smiles("OCC") == smiles("C(C)O") == "CCO"
    for text in ("", "C1CC", "CC(", "C(C)(C)(C)(C)C", "word"):
        assert smiles(text) is None
    assert canonical(["OCC", "x"]) == ["CCO", None]


def test_a_selfies_string_is_read_as_the_molecule_it_means() -> None:
    text = to_selfies(ASPIRIN)
    assert text is not None
    assert selfies(text) == smiles(ASPIRIN)
    assert to_selfies("C(C)(C)(C)(C)C") is None
    assert decoded_selfies("[nonsense]") == ""
    assert selfies("") is None
    # Every sequence of SELFIES symbols is a molecule, or none of any atom.
    assert selfies("[C][Branch1][Ring2][=O][N]") is not None


def test_properties_are_those_of_published_molecules() -> None:
    # The weight of aspirin is 180.16 g/mol; Ertl and Schuffenhauer 2009 score from 1, easy, to 10.
    molecule = chemistry().MolFromSmiles(ASPIRIN)
    values = {name: function(molecule) for name, function in properties().items()}
    assert list(values) == ["logP", "QED", "SA", "weight"]
    assert values["weight"] == pytest.approx(180.16, abs=0.01)
    assert 1 < values["SA"] < 2
    assert 0 < values["QED"] < 1


def test_many_texts_are_worked_on_in_order() -> None:
    numbers = list(range(3 * CHUNK))
    assert list(on_all_cores(math.sqrt, numbers)) == [math.sqrt(number) for number in numbers]


def packed(*rows: list[int]) -> np.ndarray:
    """Fingerprints whose given bits are set."""
    table = np.zeros((len(rows), moses.BITS), np.uint8)
    for row, bits in zip(table, rows, strict=True):
        row[bits] = 1
    return np.packbits(table, axis=1)


def test_similarities_are_tanimoto_coefficients() -> None:
    first, second = packed([0, 1, 2], []), packed([1, 2, 3, 4], [9], [])
    assert similarities(first, second) == pytest.approx(np.array([[2 / 5, 0, 0], [0, 0, 1]]))
    assert nearest_similarity(first, second) == pytest.approx((2 / 5 + 1) / 2)
    pair = packed([0, 1], [1, 2])
    # Each is itself and, by a third, the other.
    assert internal_diversity(pair) == pytest.approx(1 - (1 + 1 / 3) / 2)
    assert internal_diversity(pair, 2) == pytest.approx(1 - math.sqrt((1 + 1 / 9) / 2))


def test_blocks_do_not_change_a_similarity(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    rows = np.packbits(generator.random((23, moses.BITS)) < 0.05, axis=1)
    others = np.packbits(generator.random((31, moses.BITS)) < 0.05, axis=1)
    whole = nearest_similarity(rows, others), internal_diversity(rows, 2)
    monkeypatch.setattr(moses, "BLOCK", 7)
    assert (nearest_similarity(rows, others), internal_diversity(rows, 2)) == pytest.approx(whole)


def test_the_wasserstein_distance_is_that_of_scipy() -> None:
    from scipy.stats import wasserstein_distance

    generator = np.random.default_rng(1)
    first, second = generator.normal(size=200), generator.normal(1.0, 2.0, size=333)
    assert wasserstein(first, second) == pytest.approx(wasserstein_distance(first, second))
    assert wasserstein(first, first) == 0
    assert wasserstein(first, first + 2.5) == pytest.approx(2.5)


def test_the_frechet_distance_has_its_closed_form_where_covariances_commute() -> None:
    means, deviations = np.array([[0.0, 1.0], [3.0, 1.0]]), np.array([[1.0, 2.0], [2.0, 5.0]])
    first, second = (
        Gaussian(mean, np.diag(sizes**2)) for mean, sizes in zip(means, deviations, strict=True)
    )
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_any_covariances_is_that_of_a_matrix_root() -> None:
    from scipy.linalg import sqrtm

    generator = np.random.default_rng(2)
    factors = generator.normal(size=(2, 6, 6))
    first, second = (Gaussian(generator.normal(size=6), each @ each.T) for each in factors)
    root = sqrtm(first.covariance @ second.covariance).real
    expected = ((first.mean - second.mean) ** 2).sum() + np.trace(
        first.covariance + second.covariance - 2 * root
    )
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_counts_are_compared_by_their_cosine() -> None:
    assert cosine({"a": 3, "b": 4}, {"a": 3, "b": 4}) == pytest.approx(1)
    assert cosine({"a": 3, "b": 4}, {"b": 2}) == pytest.approx(4 / 5)
    assert math.isnan(cosine({}, {"a": 1}))


def test_a_molecule_is_described_by_its_fragments_and_its_scaffold() -> None:
    two_rings = described("O=C(Nc1ccccc1)c1ccccc1")
    assert two_rings.scaffold == smiles("O=C(Nc1ccccc1)c1ccccc1")
    assert sorted(two_rings.fragments) == [
        "[1*]C([6*])=O",
        "[16*]c1ccccc1",
        "[16*]c1ccccc1",
        "[5*]N[5*]",
    ]
    assert described(ASPIRIN).scaffold == ""  # it has one ring
    assert np.unpackbits(two_rings.fingerprint).shape == (moses.BITS,)


@pytest.fixture
def filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of unwanted substructures: a nitrile, and three bonded sulphur atoms."""
    monkeypatch.setenv("KVAE_DATA", str(tmp_path))
    (tmp_path / "moses.mcf.csv").write_text("names,smarts\nA,C#N\n")
    (tmp_path / "moses.pains.csv").write_text('SSS,"<regId=b>"\n')
    moses.unwanted.cache_clear()


@pytest.mark.usefixtures("filters")
def test_filters_leave_out_charges_elements_large_rings_and_substructures() -> None:
    assert passes_filters(ASPIRIN)
    for text in ("CC#N", "CSSSC", "C[N+](C)(C)C", "C[Si](C)C", "C1CCCCCCC1", "CCI"):
        assert not passes_filters(text)
    assert passes_filters("C1CCCCCC1")


@pytest.mark.usefixtures("filters")
def test_samples_are_measured_beside_references() -> None:
    reference = profile([ASPIRIN, CAFFEINE])
    found = measures(
        [smiles(ASPIRIN), smiles(ASPIRIN), smiles("CC#N"), None],
        {"Test": reference},
        frozenset([str(smiles(ASPIRIN))]),
    )
    assert found["valid"] == 3 / 4
    assert found["unique@1000"] == found["unique@10000"] == pytest.approx(2 / 3)
    assert found["novel"] == 1 / 2
    assert found["filters"] == pytest.approx(2 / 3)
    assert found["SNN/Test"] > 2 / 3
    assert found["weight"] > 0
    assert "FCD/Test" not in found
    assert measures([None], {"Test": reference}, frozenset()) == {"valid": 0.0}
    same = measures([smiles(ASPIRIN), smiles(CAFFEINE)], {"Test": reference}, frozenset())
    assert (same["SNN/Test"], same["fragments/Test"]) == pytest.approx((1, 1))
    assert same["logP"] == same["QED"] == 0


@pytest.mark.usefixtures("filters")
def test_a_profile_is_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "moses.test.csv").write_text(f"SMILES\n{ASPIRIN}\n{CAFFEINE}\n")
    first = moses.kept_profile("test", quiet)
    monkeypatch.setattr(moses, "part_profile", None)  # it is not computed again
    again = moses.kept_profile("test", quiet)
    assert (again.fingerprints == first.fingerprints).all()
    assert (again.fragments, again.scaffolds) == (dict(first.fragments), dict(first.scaffolds))
    assert again.properties.keys() == first.properties.keys()


def test_published_statistics_are_read_only_if_they_are_the_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVAE_DATA", str(tmp_path))
    np.savez(tmp_path / "moses.test.npz", stats=np.zeros(1))
    with pytest.raises(DataError, match="is not the file of MOSES; move it away"):
        moses.published_chemnet("test")


def test_without_fcd_the_error_says_how_to_get_it() -> None:
    if moses.has_fcd():
        pytest.skip("fcd is installed")
    with pytest.raises(ConfigError, match=r"pip install 'kvae-text\[molecules\]'"):
        moses.chemnet([ASPIRIN])


def test_smiles_are_written_as_selfies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "molecules.csv", tmp_path / "molecules.selfies.txt"
    table.write_text(f"SMILES,id\n{ASPIRIN},1\nC(C)(C)(C)(C)C,2\n{CAFFEINE},3\n")
    arguments = ["data", "selfies", str(table), "--column", "SMILES", "--out", str(out)]
    assert main(arguments) == 0
    assert "1 strings without a SELFIES string left out" in capsys.readouterr().err
    written = [selfies(line) for line in out.read_text().splitlines()]
    assert written == [smiles(ASPIRIN), smiles(CAFFEINE)]
    assert main(arguments) == 2
    assert "exists; move it away" in capsys.readouterr().err
    with pytest.raises(DataError, match="none of 1 strings"):
        write_selfies(["C(C)(C)(C)(C)C"], tmp_path / "none.txt", quiet)
    assert not (tmp_path / "none.txt").exists()
