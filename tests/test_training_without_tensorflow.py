"""On JAX everything works where TensorFlow is not installed, except what writes its formats."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from pathlib import Path

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras_nlp", "keras_hub", "matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])

sys.meta_path.insert(0, Refuse())

from kvae.cli import main
from kvae.configuration import Config
from kvae.model import TextVAE
from kvae.training import evaluate_run, fit, fit_run, prepare, training_batches, validation_batches

folder = Path(sys.argv[1])
lines = ["abc"[: 1 + number % 3] * (1 + number % 2) for number in range(100)]
names = ["xy"[number % 2] for number in range(100)]
for name, content in (("lines", lines), ("names", names)):
    (folder / name).write_text("\\n".join(content) + "\\n")
VAE = {
    "data.source": str(folder / "lines"), "data.labels": str(folder / "names"),
    "data.validation_fraction": 0.2, "model.encoder": "lstm",
    "model.encoder_units": 4, "model.encoder_embedding": 3, "model.latent_size": 2,
    "model.expander": "repeat", "model.expander_base": 0, "model.auxiliary": False,
    "model.head": "none", "objective.alpha": 0.0,
    "objective.count_padding": False, "training.batch_size": 16, "training.steps": 4,
    "training.steps_per_epoch": 2, "training.length_buckets": True, "training.early_stopping": 3,
}

def losses(run):
    metrics = run / "metrics.jsonl"
    epochs = map(json.loads, metrics.read_text().splitlines() if metrics.exists() else [])
    return [{**epoch, "seconds": 0} for epoch in epochs]

said = []
def trained(name, resumes=False, **more):
    data = prepare(Config().with_settings({**VAE, **more}))
    return fit_run(data, folder / name, said.append, resumes=resumes)

whole = trained("whole")
class Stop(fit.Checkpoints):
    def on_train_batch_end(self, batch, logs=None):
        self.stop.set()
        super().on_train_batch_end(batch, logs)

Whole, fit.Checkpoints = fit.Checkpoints, Stop
trained("parts", **{"data.storage": "disk"})
assert not losses(folder / "parts")  # stopped after the first step
fit.Checkpoints = Whole
resumed = trained("parts", resumes=True, **{"data.storage": "disk"})
assert losses(folder / "parts") == losses(folder / "whole"), losses(folder / "parts")
assert resumed.evaluation == whole.evaluation
assert evaluate_run(whole, lines[:30], names[:30])["texts"] == 30
assert any("matplotlib is not installed" in sentence for sentence in said)
assert any((folder / "whole" / "logs").rglob("events.*"))

rows = {"data.labels": None, "training.length_buckets": False, "training.steps": 2}
trained("stream", **rows, **{"data.mode": "windows", "model.length": 8})
assert len(losses(folder / "stream")) == 1

data = prepare(whole.config, texts=lines, labels=names)
batches, held_out = training_batches(data), validation_batches(data)
whole.model.compile("adam")
whole.model.fit(batches, validation_data=held_out, epochs=2, shuffle=False, verbose=0)
assert len(whole.model.history.history["val_elbo"]) == 2

assert main(["export", str(folder / "whole"), str(folder / "bundle")]) == 2
assert "tensorflow" not in sys.modules
"""


@pytest.mark.slow
def test_training_needs_no_tensorflow_on_jax(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "KVAE_DATA": str(tmp_path),
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == (
        "kvae export: this command needs tensorflow, which is not installed: "
        "pip install 'kvae-text[export]'"
    )
