"""A store in this process's memory: for tests, and for programs without Redis."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence


class MemoryStore:
    """Keeps the entries used last, at most ``max_entries`` and ``max_bytes``. Safe with threads."""

    def __init__(
        self,
        max_entries: int = 10_000,
        max_bytes: int = 16_000_000,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        with self._lock:
            now = self._clock()
            return [self._get(key, now) for key in keys]

    def set_many(self, values: Mapping[str, bytes], ttl_s: int) -> None:
        with self._lock:
            ends = self._clock() + ttl_s
            for key, value in values.items():
                self._drop(key)
                self._entries[key] = (value, ends)
                self._bytes += len(key) + len(value)
            while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def _get(self, key: str, now: float) -> bytes | None:
        value, ends = self._entries.get(key, (None, 0.0))
        if value is None:
            return None
        if ends <= now:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    def _drop(self, key: str) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self._bytes -= len(key) + len(found[0])
