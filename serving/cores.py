"""How many cores this process may use: those it may run on, and no more than its container is granted."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores() -> int:
    """Cores for the threads of a graph, at least 1."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, math.ceil(min(cores, cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """CPU seconds that Linux control groups (versions 1 and 2) grant this process in each second: the least of all its
    groups, infinite where none has a limit.

    The affinity does not show such a limit: threads beyond it are stopped in the middle of their work until the next period.
    """
    return min(group_limits(root), default=math.inf)


def group_limits(root: Path) -> Iterator[float]:
    """The limits of the groups that /proc/self/cgroup names, and of those above them."""
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = Path(path)
        mount = root / "sys/fs/cgroup" / controllers
        # The path may be the host's, where the container sees its own group as the mount itself: its parents end there.
        for folder in (
            mount / parent.relative_to(parent.anchor) for parent in (group, *group.parents)
        ):
            limit = read(folder / "cpu.max").split()
            if controllers:
                limit = [
                    read(folder / name).strip()
                    for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                ]
            if len(limit) == 2 and all(
                map(str.isdigit, limit)
            ):  # not "max" and not -1, which are no limit
                quota, period = map(int, limit)
                yield quota / max(period, 1)


def read(file: Path) -> str:
    """What a file of the kernel says; nothing where there is none."""
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
