"""Memory that chunks leave behind, and whether the kernel has killed for want of it."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from celeriac.memory import trim

VMSTAT = Path("/proc/vmstat")
BOOT = Path("/proc/sys/kernel/random/boot_id")
_MUCH_BYTES = 250_000
_KILLS = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


def give_back(used_bytes: int) -> None:
    """Have Arrow and the C library return what they keep for later, if much was used."""
    if used_bytes >= _MUCH_BYTES:
        import pyarrow as pa  # late: Celery's main process asks for marks only

        pa.default_memory_pool().release_unused()
        trim()


def kernel_mark() -> str:
    """Which start of which machine this is, and how many processes its kernel has killed so far:
    it leaves no other word.

    "" where that cannot be known.
    """
    try:
        found = _KILLS.search(VMSTAT.read_bytes())
        return f"{_boot(BOOT)} {int(found[1])}" if found else ""
    except OSError:
        return ""


@lru_cache(maxsize=1)
def _boot(path: Path) -> str:
    return path.read_text().strip()


def has_killed(before: str, now: str) -> bool:
    """True if the kernel has killed between two marks of the same machine.

    >>> has_killed("5f0c 3", "5f0c 4"), has_killed("5f0c 3", "77aa 9"), has_killed("", "5f0c 1")
    (True, False, False)
    """
    boot, _, count = before.partition(" ")
    boot_now, _, count_now = now.partition(" ")
    return bool(boot) and boot == boot_now and int(count_now) > int(count)
