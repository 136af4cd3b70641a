"""The hardware of this process, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from kvae.steps import backend_steps


def hardware() -> str:
    """The devices that training uses: accelerators, or else CPU cores."""
    accelerators = backend_steps().accelerators()
    if accelerators:
        kinds = dict.fromkeys(accelerators)
        return ", ".join(f"{accelerators.count(name)} {name}" for name in kinds)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU core(s), {processor()}"


def processor() -> str:
    """The name of the CPU model, or of the architecture if the system does not tell the model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
