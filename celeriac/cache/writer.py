"""CacheWriter: keeps answers from a thread of its own, off the callers' path."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from celeriac.cache.allowance import Allowance
from celeriac.cache.cache import Cache
from celeriac.cache.keys import Answerer, cache_key

GATHER_S = 0.05
"""What comes in this time is written together: fewer exchanges, and fewer turns of this thread
beside the one that runs the model."""
BLOCK = 128
"""Answers of one exchange with the store, at most: it does nothing else meanwhile."""
MAX_WAITING_ITEMS = 8_192
MAX_WAITING_BYTES = 32_000_000
"""What may wait to be written, about, beside as much that is being written; more is dropped."""

Count = Callable[[str, int], None]
"""Told what became of how many answers: ``kept``, ``dropped`` or ``error``."""


class _Batch(NamedTuple):
    who: Answerer
    items: Sequence[Any]
    answers: Sequence[dict[str, Any]]
    weight: int


class CacheWriter:
    """Safe with threads. The thread starts at first use and ends with the process."""

    def __init__(
        self,
        cache: Cache,
        allowance: Allowance,
        *,
        count: Count = lambda _outcome, _answers: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._allowance = allowance
        self._count = count
        self._clock = clock
        self._waiting: list[_Batch] = []
        self._items = 0
        self._bytes = 0
        self._is_writing = False
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    def write(
        self, who: Answerer, items: Sequence[Any], answers: Sequence[dict[str, Any]]
    ) -> bool:
        """Have the answers to ``items`` kept, soon. Never waits; False if they were dropped."""
        batch = _Batch(who, items, answers, sum(map(weight, items)))
        with self._changed:
            is_full = (
                self._items + len(items) > MAX_WAITING_ITEMS
                or self._bytes + batch.weight > MAX_WAITING_BYTES
            )
            if not is_full:
                self._waiting.append(batch)
                self._items += len(items)
                self._bytes += batch.weight
                self._start()
                self._changed.notify_all()
        if is_full:
            self._count("dropped", len(items))
        return not is_full

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is written; False if that took longer than ``timeout_s``."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._is_writing, timeout_s
            )

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="cache-writer", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
            time.sleep(GATHER_S)
            with self._changed:
                batches, self._waiting = self._waiting, []
                self._items = self._bytes = 0
                self._is_writing = True
            try:
                self._write(batches)
            finally:
                with self._changed:
                    self._is_writing = False
                    self._changed.notify_all()

    def _write(self, batches: Iterable[_Batch]) -> None:
        keyed = (pair for batch in batches for pair in _keyed(batch))
        while block := list(islice(keyed, BLOCK)):
            granted = self._allowance.take(len(block), self._clock())
            if granted < len(block):
                self._count("dropped", len(block) - granted)
            if granted:
                kept = self._cache.put_many(block[:granted])
                self._count("error" if kept is None else "kept", granted if kept is None else kept)


def _keyed(batch: _Batch) -> Iterator[tuple[str, dict[str, Any]]]:
    for item, answer in zip(batch.items, batch.answers, strict=True):
        if "error" in answer:
            continue
        try:
            yield cache_key(batch.who, item), answer
        except ValueError:
            continue


def weight(item: Any) -> int:
    """About how many bytes an item holds on to."""
    if isinstance(item, str):
        return len(item)
    if isinstance(item, dict):
        return sum(len(value) if isinstance(value, str) else 100 for value in item.values())
    return 100 * len(item) if isinstance(item, list) else 100
