"""Refusals: queues that take no more for now, honoured here without asking Redis or a worker.

A worker that refuses says after what time there should be room. Until then items for that queue
are refused at once; afterwards a few are let through, and more with every answer (a slow start), so
that not all clients flood the queue at the same moment.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from celeriac import errors

JITTER = 0.2
"""The pause is spread by this share, so that clients do not return together."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 60.0
FULL_PAUSE_S = 1.0
"""Pause after a queue was found too long: nobody consumes it, or too slowly."""
FIRST_ITEMS = 8
"""Items that are let through after a pause, and in addition to each one that is answered."""
RECOVERED_ITEMS = 256
"""So many answers after a pause end the slow start ..."""
RECOVERED_S = 5.0
"""... and so much time does, too."""


class _Pause:
    """The pause of one queue, and the slow start after it."""

    __slots__ = ("answered", "let_through", "reason", "until_s")

    def __init__(self, until_s: float, reason: str) -> None:
        self.until_s = until_s
        self.reason = reason
        self.let_through = 0
        self.answered = 0


class Refusals:
    """The queues of one client that are paused. Bounded by the number of queues."""

    def __init__(
        self, max_queue_items: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_queue_items = max_queue_items
        self._clock = clock
        self._lock = threading.Lock()
        self._pauses: dict[str, _Pause] = {}

    @property
    def any(self) -> bool:
        """False while no queue is paused: then everything is admitted."""
        return bool(self._pauses)

    def admit(self, queue: str, items: int) -> int:
        """How many of ``items`` may be sent now; :meth:`refusal` says why not all."""
        if not self._pauses:
            return items
        with self._lock:
            pause = self._pauses.get(queue)
            now_s = self._clock()
            if pause is None or now_s > pause.until_s + RECOVERED_S:
                self._pauses.pop(queue, None)
                return items
            if now_s < pause.until_s:
                return 0
            room = FIRST_ITEMS + 2 * pause.answered - pause.let_through
            admitted = max(0, min(items, room))
            pause.let_through += admitted
            return admitted

    def refusal(self, queue: str, model: str) -> errors.Overloaded:
        """The error of an item that was not admitted."""
        pause = self._pauses.get(queue)
        left_s = max(SHORTEST_PAUSE_S, pause.until_s - self._clock() if pause else 0.0)
        reason = pause.reason if pause else "it has just been overloaded"
        return errors.Overloaded(
            f"model {model!r} takes no more items for {left_s:.2g} s: {reason}", left_s
        )

    def overloaded(self, queue: str, error: errors.Overloaded) -> None:
        """A worker refused items of this queue."""
        if error.retry_after_s > 0:
            self._pause(queue, error.retry_after_s, "its workers are overloaded")

    def queue_length(self, queue: str, messages: int) -> None:
        """What an LPUSH said of a queue."""
        if messages > self._max_queue_items:
            self._pause(queue, FULL_PAUSE_S, (
                f"{messages:,} messages wait in its queue, at most {self._max_queue_items:,} may "
                "([realtime] max_queue_items); `celeriac status` shows whether a worker serves it"
            ))

    def answered(self, queue: str, items: int) -> None:
        """Items of this queue were answered."""
        if not self._pauses:
            return
        with self._lock:
            pause = self._pauses.get(queue)
            if pause is None or self._clock() < pause.until_s:
                return
            pause.answered += items
            if pause.answered >= RECOVERED_ITEMS:
                del self._pauses[queue]

    def _pause(self, queue: str, pause_s: float, reason: str) -> None:
        spread = 1 + random.uniform(-JITTER, JITTER)  # noqa: S311 - no secret
        pause_s = min(max(pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S) * spread
        until_s = self._clock() + pause_s
        with self._lock:
            known = self._pauses.get(queue)
            if known is None or known.until_s < until_s:
                self._pauses[queue] = _Pause(until_s, reason)
