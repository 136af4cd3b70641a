"""The search in a latent space of molecules, with a sampler whose codes are known."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).parents[1] / "examples" / "molecules" / "search.py"


@pytest.fixture(scope="module")
def search() -> Any:
    """The program as a module."""
    spec = importlib.util.spec_from_file_location("search_of_molecules", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Alkanes:
    """A sampler of chains of carbon with a code of two numbers: the length, and a number that says
    nothing."""

    alphabet = SimpleNamespace(count=len)
    length = 13

    def encode(self, texts: list[str], unknown: str = "refuse") -> np.ndarray:
        return np.array([[text.count("C"), len(text) % 2] for text in texts], np.float32)

    def decode(self, codes: np.ndarray) -> list[str]:
        return ["C" * max(round(float(length)), 1) for length in codes[:, 0]]

    def neighbours(
        self, text: str, among: list[str], n: int, unknown: str
    ) -> list[tuple[str, float]]:
        return [(other, 1.0) for other in among[:n]]

    def interpolate(self, first: str, last: str, **_: Any) -> list[str]:
        return [first, "C(", last]


def test_a_ridge_regression_finds_a_linear_property(search: Any) -> None:
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(500, 3))
    values = 2.0 + codes @ [1.0, -2.0, 0.0]
    predicted = search.standardised(codes, codes) @ search.ridge(codes, values)
    assert search.r_squared(values, predicted) > 0.999
    assert search.r_squared(values, np.full(500, values.mean())) == pytest.approx(0)


def test_the_program_finds_molecules_with_a_higher_value_and_draws_them(
    search: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = tmp_path / "alkanes.csv"
    chains = ["C" * (1 + n % 12) for n in range(60)]
    table.write_text("\n".join(["SMILES", *chains, "C1", "C" * 13]))
    monkeypatch.setattr(search.Sampler, "load", lambda bundle: Alkanes())
    arguments = ["bundle", str(table), "--property", "weight", "--count", "40", "--out"]
    monkeypatch.setattr(sys, "argv", ["search.py", *arguments, str(tmp_path / "pictures")])
    search.main()
    out = capsys.readouterr().out
    line = out.split("weight: R2 ")[1].splitlines()[0]
    found = [float(part.split()[0]) for part in line.split(", ")]
    assert min(found) > 0.99
    assert line.endswith("from the counts of characters")
    assert "interpolation: 2 of 3 valid" in out
    best = float(out.split("best weight of 40 molecules: ")[1].split()[0])
    assert float(out.split("molecules on the way: ")[1].split()[0]) > best
    pictures = sorted(file.name for file in (tmp_path / "pictures").iterdir())
    assert pictures == ["interpolation.png", "neighbours.png", "search.png"]
