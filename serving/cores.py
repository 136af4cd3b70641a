"""The number of cores that this process may use: its affinity, limited by the quota of its
container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores() -> int:
    """The number of cores for the threads of a graph, at least 1."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, math.ceil(min(cores, cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """CPU seconds per second that Linux control groups (versions 1 and 2) grant this process: the
    minimum over all its groups, infinite without a limit.

    The affinity does not show this limit. Threads beyond it are stopped while they work, until the
    next period.
    """
    return min(group_limits(root), default=math.inf)


def group_limits(root: Path) -> Iterator[float]:
    """The limits of the groups in /proc/self/cgroup and of their parent groups."""
    for line in text_or_empty(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = Path(path)
        mount = root / "sys/fs/cgroup" / controllers
        # In a container the path may be the host's while the mount is the container's own group.
        # The parents of the path end at that mount.
        for folder in (
            mount / parent.relative_to(parent.anchor) for parent in (group, *group.parents)
        ):
            limit = text_or_empty(folder / "cpu.max").split()
            if controllers:
                limit = [
                    text_or_empty(folder / name).strip()
                    for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                ]
            if len(limit) == 2 and all(map(str.isdigit, limit)):  # "max" and -1 mean no limit
                quota, period = map(int, limit)
                yield quota / max(period, 1)


def text_or_empty(file: Path) -> str:
    """The text of a kernel file; empty if the file does not exist."""
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
