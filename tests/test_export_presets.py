"""Every preset is trained in one process, and evaluated and exported in another.

So all that a run needs is in its folder.
"""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from kvae.configuration import Config
from kvae.misfits import dependent_settings
from kvae.presets import PRESETS, SMALL, capped_width

from .conftest import SYLLABLES

WIDTHS = {
    "encoder_units": 8,
    "encoder_embedding": 5,
    "latent_size": 3,
    "prior_components": 3,
    "expander_base": 6,
    "expander_filters": 6,
    "head_units": 8,
    "head_embedding": 8,
}
"""Small widths for the presets, which attention divides among its heads.

All else is as the presets have it: the number of layers, their kernels and their schedules.
"""

OPEN_ALL = """
import sys
import keras
from kvae.cli import main
failed = []
for folder in sys.argv[1:]:
    for command in (["evaluate", folder, "--texts", "8", "--samples", "8"], ["export", folder]):
        print("::", *command, flush=True)
        if main(command):
            failed.append(command[:2])
    keras.backend.clear_session()
sys.exit(f"failed: {failed}" if failed else 0)
"""


def cut(name: str, data: Path, labels: Path) -> Config:
    """A preset with narrow layers, for two steps on a file."""
    item = PRESETS[name]
    model = item.config.model
    unread = {
        name
        for _, name, _, is_read in dependent_settings(model, item.config.objective)
        if not is_read
    }
    widths = {
        key: capped_width(getattr(model, key), most)
        for key, most in WIDTHS.items()
        if key not in unread
    }
    return item.config.with_settings(
        {
            **{
                f"model.{key}": list(value) if isinstance(value, tuple) else value
                for key, value in widths.items()
            },
            "model.length": item.shape[0],
            "model.tokenizer": "char",
            "model.token_pattern": "",
            "data.source": str(data),
            "data.validation": None,
            **({"data.labels": str(labels)} if item.config.data.labels else {}),
            "training.steps": 2,
            "training.batch_size": 16,
            "training.jit_compile": False,
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", ["published", "small"])
def test_every_preset_is_opened_by_another_process_than_trained_it(
    tmp_path: Path, size: str
) -> None:
    from kvae.training.experiment import run

    texts = [
        "".join(each) + " " + "".join(each[::-1]) for each in itertools.product(SYLLABLES, repeat=3)
    ]
    data, labels = tmp_path / "texts.txt", tmp_path / "labels.txt"
    data.write_text("\n".join(texts * 2) + "\n", encoding="utf-8")
    labels.write_text(
        "\n".join("vowel" if text[1] in "AE" else "other" for text in texts * 2) + "\n",
        encoding="utf-8",
    )
    folders = []
    for name in PRESETS:
        if name.endswith(SMALL) == (size == "small"):
            run(cut(name, data, labels), tmp_path / name, lambda sentence: None)
            folders.append(str(tmp_path / name))
    with (tmp_path / "opened.log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", OPEN_ALL, *folders], stdout=log, stderr=log, check=False
        )
    assert done.returncode == 0, (tmp_path / "opened.log").read_text()[-3000:]
