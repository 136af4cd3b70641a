"""Thread counts that a container's share of the processor pays for."""

import math
from pathlib import Path

import pytest

from kvae.commands import heavy_imports
from kvae.serving import cores

VERSION_2 = {"proc/self/cgroup": "0::/app/worker\n"}
VERSION_1 = {
    "proc/self/cgroup": (
        "5:memory:/app\n4:cpuset:/\n3:cpu,cpuacct:/docker/0123\n1:name=systemd:/app\n"
    )
}
CPU = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, math.inf),
        (VERSION_2 | {"sys/fs/cgroup/app/worker/cpu.max": "max 100000\n"}, math.inf),
        (VERSION_2 | {"sys/fs/cgroup/app/worker/cpu.max": "200000 100000\n"}, 2.0),
        (VERSION_2 | {"sys/fs/cgroup/app/cpu.max": "50000 100000\n"}, 0.5),
        (
            VERSION_2
            | {
                "sys/fs/cgroup/app/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/app/worker/cpu.max": "400000 100000\n",
            },
            1.5,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3.0),
        (
            {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"},
            3.0,
        ),
        (
            VERSION_1
            | {
                f"{CPU}/docker/0123/cpu.cfs_quota_us": "250000\n",
                f"{CPU}/docker/0123/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            VERSION_1
            | {f"{CPU}/cpu.cfs_quota_us": "100000\n", f"{CPU}/cpu.cfs_period_us": "100000\n"},
            1.0,
        ),
        (
            VERSION_1 | {f"{CPU}/cpu.cfs_quota_us": "-1\n", f"{CPU}/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
        ({"proc/self/cgroup": "what this may be\n\n::\n"}, math.inf),
    ],
)
def test_the_quota_is_the_least_limit_of_a_process_control_groups(
    tmp_path: Path, files: dict[str, str], quota: float
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cores.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("quota", "threads"), [(math.inf, 32), (2.0, 2), (1.5, 2), (0.1, 1), (64.0, 32)]
)
def test_threads_follow_the_affinity_and_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float, threads: int
) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(32)), raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert cores.usable_cores() == threads


def test_training_starts_no_more_threads_than_the_quota_pays_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(32)), raising=False)
    monkeypatch.setattr(heavy_imports.os, "environ", environment := {"PJRT_NPROC": "7"})
    monkeypatch.setattr(cores, "cpu_quota", lambda: math.inf)
    heavy_imports.follow_cpu_quota()
    assert environment == {"PJRT_NPROC": "7"}
    monkeypatch.setattr(cores, "cpu_quota", lambda: 2.0)
    heavy_imports.follow_cpu_quota()
    assert environment == {
        "PJRT_NPROC": "7",
        "TF_NUM_INTRAOP_THREADS": "2",
        "TF_NUM_INTEROP_THREADS": "2",
    }
