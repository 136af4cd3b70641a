"""docs/graphs.md says what the graphs of a bundle take and give, and a client can follow it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kvae.serving import Sampler
from kvae.serving.choices import choices
from kvae.serving.manifest import ENDPOINTS

PAGE = (Path(__file__).parents[1] / "docs" / "graphs.md").read_text(encoding="utf-8")
ORT_TYPES = {"int64": "tensor(int64)", "int32": "tensor(int32)", "float32": "tensor(float)"}


def section(heading: str) -> str:
    """The part of the page below a heading."""
    (found,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def session_of(bundle: Path, name: str) -> Any:
    return onnxruntime.InferenceSession(bundle / f"{name}.onnx")


def test_the_minimal_client_writes_the_texts_of_the_sampler(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(bundle_folder.parent)
    exec(program, {})
    assert capsys.readouterr().out.splitlines() == Sampler.load(bundle_folder).sample(5, seed=0)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_the_page_names_every_input_and_output_with_its_type(
    bundle_folder: Path, name: str
) -> None:
    graph = session_of(bundle_folder, name)
    text = section("expand and step" if name in ("expand", "step") else name)
    for value in [*graph.get_inputs(), *graph.get_outputs()]:
        assert f"`{value.name}`" in text or value.name.endswith("_1"), value.name
    rows = re.findall(r"^\|(?:[^|]*\|)?? ((?:`\w+`,? ?)+) \| (\w+)[, ]", text, re.MULTILINE)
    declared = {value.name: value.type for value in [*graph.get_inputs(), *graph.get_outputs()]}
    for names, kind in rows:
        for each in re.findall(r"`(\w+)`", names):
            if each in declared and kind in ORT_TYPES:
                assert declared[each] == ORT_TYPES[kind], each


def test_the_order_of_calls_gives_the_texts_of_the_sampler(
    bundle_folder: Path, sampler: Sampler
) -> None:
    """As the page says it, for rows 0 to 4 of a seed."""
    prior, expand, step = (session_of(bundle_folder, name) for name in ("prior", "expand", "step"))
    options = choices(sampler.manifest)
    longest = int(options.pop("max_length"))
    symbols = sampler.manifest["vocabulary"]["symbols"]
    for row, expected in enumerate(sampler.sample(5, seed=11)):
        place = {"seed": np.array([11]), "row": np.array([row])}
        (z,) = prior.run(["z"], place)
        projected, *states = expand.run(None, {"z": z})
        assert len(states) == len(expand.get_outputs()) - 1 == 2
        previous, text = np.array([1]), ""
        for position in range(longest):
            memory = {f"state_{number}": state for number, state in enumerate(states)}
            here = {"projected": projected[:, position], "position": np.int64(position)}
            given = {**here, **memory, **place, **options, "previous": previous}
            previous, _, *states = step.run(None, {k: np.asarray(v) for k, v in given.items()})
            if previous[0] == 2:
                break
            text += symbols[previous[0] - 4]
        assert text == expected
