"""The cache of one worker process: what the doors and batch jobs recall and keep.

Apart from the rest because it counts for Prometheus, which the producer half does not need.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from celeriac import metrics
from celeriac.cache import Answerer, Cache, cache_key, open_cache
from celeriac.cache.allowance import Allowance
from celeriac.cache.writer import CacheWriter
from celeriac.logs import get_logger
from celeriac.settings import Settings, get_settings

log = get_logger(__name__)

BLOCK = 512
"""Answers that one exchange asks for, at most: it takes Redis about as many microseconds."""


class WorkerCache:
    """Reads in the caller's thread, writes from its own. Safe with threads; never raises."""

    def __init__(self, cache: Cache, max_entries: int, ttl_s: int) -> None:
        self._cache = cache
        self._failed = False
        allowance = Allowance(max_entries, ttl_s)
        self._writer = CacheWriter(cache, allowance, count=_count_writes)

    @classmethod
    def of(cls, settings: Settings) -> WorkerCache:
        """As the settings have it."""
        chosen = settings.cache
        return cls(open_cache(settings), chosen.max_entries, chosen.ttl_s)

    def recall(self, who: Answerer, items: Sequence[Any]) -> list[dict[str, Any] | None]:
        """What was answered to ``items``, as they are on the wire; None where nothing is known."""
        answers: list[dict[str, Any] | None] = [None] * len(items)
        if not self._cache.is_on:
            return answers
        keys = {}
        for position, item in enumerate(items):
            try:
                keys[position] = cache_key(who, item)
            except ValueError:
                continue
        positions = list(keys)
        for start in range(0, len(positions), BLOCK):
            block = positions[start : start + BLOCK]
            found = self._cache.look_up([keys[position] for position in block])
            self._note(found, len(block))
            for position, answer in zip(block, found or (), strict=False):
                answers[position] = answer
        return answers

    def keep(
        self, who: Answerer, items: Sequence[Any], answers: Sequence[dict[str, Any]]
    ) -> None:
        """Have ``answers`` kept, soon; those with an error are not."""
        if self._cache.is_on and items:
            self._writer.write(who, items, answers)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that is to be kept is kept; False if it takes longer."""
        return self._writer.flush(timeout_s)

    def _note(self, found: Sequence[Any] | None, asked: int) -> None:
        if found is None:
            metrics.CACHE_REQUESTS.labels("error").inc(asked)
            if not self._failed:
                log.warning("cache does not answer; items are computed anew")
        else:
            missing = found.count(None)
            metrics.CACHE_REQUESTS.labels("miss").inc(missing)
            metrics.CACHE_REQUESTS.labels("hit").inc(asked - missing)
        self._failed = found is None


def _count_writes(outcome: str, answers: int) -> None:
    metrics.CACHE_WRITES.labels(outcome).inc(answers)


_cache: tuple[int, WorkerCache] | None = None
_lock = threading.Lock()


def get_worker_cache() -> WorkerCache:
    """The cache of this process, made from the settings at first use; a forked child has its own.
    """
    global _cache
    with _lock:
        if _cache is None or _cache[0] != os.getpid():
            _cache = (os.getpid(), WorkerCache.of(get_settings()))
        return _cache[1]
