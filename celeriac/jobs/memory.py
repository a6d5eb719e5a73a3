"""Memory that chunks leave behind, and whether the kernel has killed for want of it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from celeriac.memory import keep_freed, trim

VMSTAT = Path("/proc/vmstat")
BOOT = Path("/proc/sys/kernel/random/boot_id")
IDLE_S = 0.2
"""So long after a chunk its process keeps the memory for another."""
_MUCH_BYTES = 250_000
_KILLS = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


class KeptMemory:
    """What chunks have used and freed: kept while one chunk follows another, then given back.

    Safe with threads.
    """

    def __init__(self, give_back: Callable[[], None], idle_s: float = IDLE_S) -> None:
        """``give_back`` is called once no chunk has run for ``idle_s``."""
        self._give_back, self._idle_s = give_back, idle_s
        self._lock = threading.Lock()
        self._running = 0
        self._ended_s = 0.0
        self._watch: threading.Thread | None = None

    @contextmanager
    def used(self) -> Iterator[None]:
        """While a chunk runs."""
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                self._ended_s = time.monotonic()
                self._begin_to_watch()

    def _begin_to_watch(self) -> None:
        """Where there is no room for a thread, after a later chunk: that costs no chunk."""
        if self._watch is None:
            watch = threading.Thread(target=self._run, name="memory", daemon=True)
            with suppress(RuntimeError):
                watch.start()
                self._watch = watch

    def _run(self) -> None:
        while not self._is_idle():
            time.sleep(self._idle_s)
        self._give_back()

    def _is_idle(self) -> bool:
        with self._lock:
            if self._running or time.monotonic() - self._ended_s < self._idle_s:
                return False
            self._watch = None
            return True


@lru_cache(maxsize=1)
def kept_memory() -> KeptMemory:
    """That of this process."""
    keep_freed()
    return KeptMemory(_let_go)


def _let_go() -> None:
    """What a process keeps from chunk to chunk."""
    from celeriac.datasets import parquet  # late: Celery's main process asks for marks only

    parquet.forget()
    give_back(_MUCH_BYTES)


def give_back(used_bytes: int) -> None:
    """Have Arrow and the C library return what they keep for later, if much was used."""
    if used_bytes >= _MUCH_BYTES:
        import pyarrow as pa

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
