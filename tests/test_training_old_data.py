"""Corpora become the same tokens, batches and losses as before data had a room of its own.

`old_data.json` has what the version of November 2026 made of the texts below, on TensorFlow: for
each case the length, the numbers of symbols and rows, a digest of alphabet, rows, held-out texts,
attributes and batches, and the fingerprint in checkpoints; for some runs losses and evaluation.
"""

import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.configuration import Config
from kvae.presets import preset
from kvae.runs import METRICS
from kvae.training.data.pipeline import training_stream
from kvae.training.data.prepare import Prepared, held_out, prepare
from kvae.training.experiment import run
from kvae.training.identity import fingerprint

from .conftest import everyday, ids_of

OLD = json.loads(Path(__file__).with_name("old_data.json").read_text(encoding="utf-8"))

SENTENCE = "the quick brown fox jumps over a lazy dog naïve café 東京 über straße 😀 1 22 333"
WORDS = SENTENCE.split()


def lines(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(1, 9))) for _ in range(count)]
    texts[10::50] = [""] * len(texts[10::50])
    texts[11::90] = ["the same line"] * len(texts[11::90])
    texts[12] = "x" * 30 + " " + "é" * 40
    return texts


def labels(count: int) -> list[str]:
    return ["" if number % 7 == 0 else "abc"[number * number % 3] for number in range(count)]


FILES = {
    "lines": lines(600, 5),
    "other": lines(90, 6),
    "digits": [f"{number**3 % 10**8:08}" for number in range(120)],
    "labels": labels(600),
    "other labels": labels(90),
}

WORD = {"model.tokenizer": "word"}
WORDPIECE = {"model.tokenizer": "wordpiece", "data.max_symbols": 60}
WINDOWS = {"data.mode": "windows"}
CUT, DROP = {"data.too_long": "cut"}, {"data.too_long": "drop"}
LABELS = {"data.labels": "labels", "objective.semi_supervised": True}
CASES: dict[str, dict[str, Any]] = {
    "lines": DROP,
    "long enough": {},
    "cut": {"model.length": 16, **CUT},
    "cut characters": {"model.length": 80, **CUT},
    "bytes": {"model.tokenizer": "byte", "model.length": 15, **CUT},
    "words": {**WORD, "data.max_symbols": 12},
    "words cut": {**WORD, "model.length": 5, "data.min_count": 2, **CUT},
    "words dropped": {**WORD, "model.length": 6, **DROP},
    "symbols": {"data.max_symbols": 9, "model.length": 40, **DROP},
    "split seed": {"data.split_seed": 3, "data.validation_fraction": 0.3},
    "split by texts": {"data.split": "texts"},
    "windows": {**WINDOWS, "model.length": 24},
    "windows of words": {**WINDOWS, **WORD, "model.length": 8, "data.max_symbols": 15},
    "windows of bytes": {**WINDOWS, "model.length": 24, "model.tokenizer": "byte"},
    "validation file": {"data.validation": "other", "model.length": 32, **DROP},
    "windows and validation file": {**WINDOWS, "data.validation": "other"},
    "wordpieces": WORDPIECE,
    "wordpieces cut": {**WORDPIECE, "model.length": 7, **CUT},
    "windows of wordpieces": {**WINDOWS, **WORDPIECE, "model.length": 12},
    "fixed": {"data.mode": "fixed", "data.source": "digits"},
    "labels": LABELS,
    "half the labels": {**LABELS, "data.labelled_fraction": 0.5, "model.length": 32, **DROP},
    "labelled validation file": {
        **LABELS,
        "data.validation": "other",
        "data.validation_labels": "other labels",
    },
    "names": {
        "data.source": "unicode-names",
        "data.labels": "corpus",
        "model.length": 48,
        **DROP,
    },
}
RUNS = {name: CASES[name] for name in ("lines", "windows", "labels", "wordpieces")}
STEPS = {"training.steps": 6, "training.steps_per_epoch": 3, "training.checkpoint_steps": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    for name, texts in FILES.items():
        (folder / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder


def config_of(folder: Path, settings: dict[str, Any]) -> Config:
    defaults = {"data.source": "lines", "model.length": 0, "training.batch_size": 16}
    return preset("cnn-small").with_settings(
        {
            key: str(folder / value)
            if value in FILES and key.startswith("data.") and key != "data.mode"
            else value
            for key, value in {**defaults, **settings}.items()
        }
    )


def digest(*values: Any) -> str:
    """As the old version's numbers were made."""
    hashed = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            value = np.ascontiguousarray(value).astype(np.int32)
            hashed.update(repr(value.shape).encode() + value.tobytes())
        else:
            hashed.update(repr(value).encode())
    return hashed.hexdigest()[:16]


def batches_of(prepared: Prepared) -> Iterator[np.ndarray]:
    for batch in islice(training_stream(prepared, 3), 40):
        for part in batch.values() if isinstance(batch, dict) else [batch]:
            yield np.asarray(part)


def summary(config: Config) -> dict[str, Any]:
    prepared = prepare(config)
    found = held_out(prepared.config, prepared.alphabet)
    bucketed = None
    if config.data.mode == "lines":
        bucketed = prepare(config.with_settings({"training.length_buckets": True}))
    parts = [
        digest(prepared.alphabet.to_dict()),
        digest(ids_of(prepared.train)),
        digest(prepared.validation),
        digest(list(prepared.validation_texts)),
        list(prepared.config.model.attributes),
        digest(prepared.train_attribute),
        digest(prepared.validation_attribute),
        digest(found.rows, list(found.texts), found.attribute),
        digest(*batches_of(prepared)),
        bucketed and digest(*batches_of(bucketed)),
    ]
    return {
        "length": prepared.config.model.length,
        "symbols": len(prepared.alphabet),
        "rows": len(prepared.train),
        "digest": hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16],
        "fingerprint": fingerprint(prepared),
    }


@pytest.mark.parametrize(
    ("case", "storage"),
    everyday(
        itertools.product(CASES, ("memory", "disk")),
        *((case, ("memory", "disk")[place % 2]) for place, case in enumerate(CASES)),
    ),
)
def test_a_corpus_becomes_the_same_tokens_and_batches(
    folder: Path, case: str, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVAE_DATA", str(tmp_path))
    config = config_of(folder, {**CASES[case], "data.storage": storage})
    assert summary(config) == OLD["cases"][case]


@pytest.mark.parametrize(
    "name",
    everyday(RUNS),
)
def test_a_run_has_the_same_losses(folder: Path, name: str, tmp_path: Path) -> None:
    config = config_of(folder, {**RUNS[name], **STEPS})
    finished, _ = run(config, tmp_path / "run", lambda message: None)
    epochs = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    for epoch, old in zip(epochs, OLD["runs"][name]["metrics"], strict=True):
        assert {key: epoch[key] for key in old} == pytest.approx(old, rel=1e-3)
    old = OLD["runs"][name]["evaluation"]
    assert {key: finished.evaluation[key] for key in old} == pytest.approx(old, rel=1e-3)
