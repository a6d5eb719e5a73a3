"""Which measured cost line is the best first guess for a process."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from functools import lru_cache

from celeriac.registry.manifest import Profile


def fitting(
    profiles: Sequence[Profile], *, device: str, threads: int, machine: str
) -> Profile | None:
    """The profile of this device that was measured most alike: on the same machine first, then
    with the nearest number of threads. None: nothing was measured on such a device."""
    some = [profile for profile in profiles if profile.device == device]
    return min(
        some, key=lambda one: (one.machine != machine, abs(one.threads - threads)), default=None
    )


@lru_cache(maxsize=1)
def this_machine() -> str:
    """The processor and how many of its cores can be used, as in ``AMD EPYC 7763, 4 cores``."""
    return f"{_processor()}, {usable_cores()} cores"


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - no file of ours
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
