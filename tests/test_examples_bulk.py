"""Bulk generation with two workers on this machine, started as its user would."""

import json
import subprocess
import sys
from pathlib import Path

from kvae.serving import Sampler

SCRIPT = Path(__file__).parents[1] / "examples" / "bulk.py"


def generate(bundle: Path, folder: Path, seed: int) -> subprocess.CompletedProcess[str]:
    """230 texts in shards of 50."""
    options = ["-n", "230", "--size", "50", "--workers", "2", "--seed", str(seed)]
    command = [sys.executable, str(SCRIPT), str(bundle), str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def texts_in(folder: Path) -> list[str]:
    lines = [
        line
        for file in sorted(folder.glob("rows-*.jsonl"))
        for line in file.read_text("utf-8").splitlines()
    ]
    return [json.loads(line)["text"] for line in lines]


def test_shards_of_two_workers_are_the_texts_of_one_call_and_what_is_missing_is_done_again(
    bundle_folder: Path, sampler: Sampler, tmp_path: Path
) -> None:
    folder = tmp_path / "texts"
    done = generate(bundle_folder, folder, seed=3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "230 of 230 texts"
    expected = sampler.sample(230, seed=3)
    assert texts_in(folder) == expected

    first, second, *_ = sorted(folder.glob("rows-*.jsonl"))
    first.unlink()
    kept = second.stat().st_mtime_ns
    assert generate(bundle_folder, folder, seed=3).returncode == 0
    assert texts_in(folder) == expected
    assert second.stat().st_mtime_ns == kept

    other = generate(bundle_folder, folder, seed=4)
    assert other.returncode == 1
    assert "holds another order" in other.stderr
