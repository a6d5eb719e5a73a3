"""Lookups in the result cache: in the caller's thread, or for coroutines in a thread of their own.

A lookup that fails is a miss.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from celeriac import errors
from celeriac.cache import Cache
from celeriac.messages import Prediction
from producer.calls import Call, settle_all
from producer.statistics import Counts

log = logging.getLogger(__name__)

LOOKUP_ITEMS = 512
"""Items of one exchange with the cache, at most; but those that were asked for together."""


class Lookups:
    """The lookups of one client in one process."""

    def __init__(self, cache: Cache, counts: Counts) -> None:
        self._cache = cache
        self._counts = counts

    @property
    def is_on(self) -> bool:
        return self._cache.is_on

    def find(self, calls: Sequence[Call]) -> list[Call]:
        """Settle the calls whose answers are known; returns the others. One exchange."""
        keyed = [call for call in calls if call.key is not None]
        if not keyed:
            return list(calls)
        found = self._cache.look_up([call.key for call in keyed if call.key is not None])
        if found is None:
            self._counts.add("cache_errors", len(keyed))
            return list(calls)
        answers = [_prediction(answer) for answer in found]
        hits = [
            (call, answer) for call, answer in zip(keyed, answers, strict=True)
            if answer is not None
        ]  # fmt: skip
        if hits:
            self._counts.add("cache_hits", len(hits))
            for call, _ in hits:
                call.found = True
            settle_all(hits)
        if len(hits) < len(keyed):
            self._counts.add("cache_misses", len(keyed) - len(hits))
        return [call for call in calls if call.outcome is None]


class LookupThread:
    """Looks up what coroutines ask for: all that ask at the same time in one exchange."""

    def __init__(self, lookups: Lookups, send: Callable[[list[Call]], None]) -> None:
        self._lookups = lookups
        self._send = send
        self._waiting: queue.SimpleQueue[Sequence[Call] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="celeriac-cache", daemon=True)
        self._thread.start()

    def ask(self, calls: Sequence[Call]) -> None:
        """Look ``calls`` up and have the unknown ones sent. Never waits."""
        self._waiting.put(calls)

    def stop(self) -> None:
        """End after what was asked. Does not wait."""
        self._waiting.put(None)

    def join(self, timeout_s: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        block = self._waiting.get()
        while block is not None:
            calls = list(block)
            block = ()
            try:
                while len(calls) < LOOKUP_ITEMS and block is not None:
                    block = self._waiting.get_nowait()
                    calls += block or ()
            except queue.Empty:
                pass
            self._handle(calls)
            if block is not None:
                block = self._waiting.get()

    def _handle(self, calls: list[Call]) -> None:
        try:
            self._send(self._lookups.find(calls))
        except Exception as error:  # the thread must outlive any one lookup
            log.exception("items could not be looked up")
            settle_all(
                (call, errors.CeleriacError(f"the items could not be sent: {error}"))
                for call in calls
            )


def _prediction(answer: dict[str, Any] | None) -> Prediction | None:
    if answer is None:
        return None
    try:
        return Prediction.from_wire(answer)
    except msgspec.ValidationError:
        return None
