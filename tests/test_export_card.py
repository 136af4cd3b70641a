"""The card of a bundle says what the model is, and its owner may change it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from kvae.export.card import card_of, code
from kvae.serving import Sampler
from kvae.serving.alphabet import Alphabet


@pytest.fixture
def manifest(bundle_folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle_folder / "manifest.json").read_text("utf-8"))
    return content


def test_an_export_writes_a_card(bundle_folder: Path, manifest: dict[str, Any]) -> None:
    card = (bundle_folder / "README.md").read_text("utf-8")
    assert card == card_of(manifest)
    assert re.findall(r"^## (.+)", card, re.MULTILINE) == [
        *("The model", "Numbers", "Use", "Limits", "Licence")
    ]
    assert card.startswith("---\nlicense: unknown")
    assert f"| `elbo` | {manifest['training']['elbo']:,.3f} | nats a text" in card
    assert "at most 15 characters" in card
    assert "10 characters: `AEIKMNORTU`" in card
    assert "names.txt" in card


def test_the_python_of_a_card_runs(
    bundle_folder: Path, manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", card_of(manifest), re.DOTALL)
    monkeypatch.chdir(bundle_folder.parent)
    exec(program, {})


def test_a_bundle_is_whole_with_another_card_and_without_one(
    kvae: Any, bundle_folder: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    expected = Sampler.load(bundle_folder).sample(2, seed=0)
    assert "README.md" in kvae("info", bundle)[1]
    (bundle / "README.md").write_bytes(b"my own words \xff")
    assert Sampler.load(bundle).sample(2, seed=0) == expected
    assert kvae("verify", bundle)[0] == 0
    (bundle / "README.md").unlink()
    assert kvae("verify", bundle)[0] == 0
    assert "README.md" not in kvae("info", bundle)[1]


def test_a_card_tells_what_is_special(manifest: dict[str, Any]) -> None:
    effect = {"bound": 21.5, "bound_in_float32": 21.25}
    labelled = {**manifest["latent"], "attributes": ["old", "new"]}
    card = card_of({**manifest, "latent": labelled, "quantization": effect, "map": {}})
    assert "`old`, `new`" in card
    assert "| bound in eight bits | 21.50 | nats a text |" in card
    assert "`map.json` holds held-out texts" in card

    alone = {**manifest["latent"], "kind": "none", "size": 0}
    vocabulary = Alphabet.of_bytes().to_dict()
    card = card_of(
        {
            **manifest,
            "latent": alone,
            "mode": "windows",
            "vocabulary": vocabulary,
            "training": {"source": "x"},
        }
    )
    assert "language model" in card
    assert "exactly 16 bytes" in card
    assert "was not evaluated" in card
    assert "encode" not in card.split("## Limits")[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), (" a", "`  a `"), ("a\nb", "`a\\nb`")],
)
def test_any_text_is_code_on_one_line(text: str, shown: str) -> None:
    assert code(text) == shown
