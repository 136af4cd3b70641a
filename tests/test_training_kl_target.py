"""A KL that is asked for is the KL that comes."""

from pathlib import Path

import pytest

from kvae.presets import preset
from kvae.training.experiment import run


@pytest.mark.slow
@pytest.mark.parametrize("target", [3.0, 15.0, 60.0])
def test_the_final_kl_is_within_five_percent_of_its_target(target: float, tmp_path: Path) -> None:
    """Prokhorov et al. 2019, on unicode-names, after 500 steps."""
    settings = {
        "objective.kl_target": target,
        "objective.ramp_steps": 200,
        "training.steps": 500,
        "training.steps_per_epoch": 250,
        "training.batch_size": 64,
    }
    trained, _ = run(
        preset("kl-target-lstm-small").with_settings(settings),
        tmp_path / "run",
        lambda sentence: None,
    )
    assert trained.evaluation["kl"] == pytest.approx(target, rel=0.05)
