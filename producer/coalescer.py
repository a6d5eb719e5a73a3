"""Many concurrent items, few messages: group commit.

Callers hand over their items and go on. One thread publishes what waits; what arrives meanwhile is
gathered for its next turn. So a lone item leaves at once, without a timer, and the busier the
process is, the fuller are its envelopes. A thread that is alone publishes by itself, without
waking another; nobody ever waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Sequence

import redis

from celeriac import errors
from producer import wire
from producer.calls import Call, OpenItems, settle_all
from producer.publisher import Publisher
from producer.statistics import Counts

log = logging.getLogger(__name__)

TURN_ITEMS = 1_024
"""Items of one exchange with Redis, at most ..."""
TURN_BYTES = 8_000_000
"""... and bytes, but for one call's items, which stay together."""
LONE_BYTES = 8_000
"""A caller publishes by itself only what a socket takes at once."""
TICK_S = 0.05
"""How often envelopes without a reply are looked at."""


class Coalescer:
    """The calls of one client in one process, and the thread that publishes them."""

    def __init__(self, publisher: Publisher, counts: Counts, open_items: OpenItems) -> None:
        self._publisher = publisher
        self._counts = counts
        self._open_items = open_items
        self._waiting: queue.SimpleQueue[Sequence[Call] | None] = queue.SimpleQueue()
        self._turn = threading.RLock()  # of the sender, or of a caller that is alone
        self._resting = False
        self._looked_s = 0.0
        self._thread = threading.Thread(target=self._run, name="celeriac-send", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, calls: Sequence[Call], *, alone: bool = False) -> None:
        """Have ``calls`` sent. Never waits.

        ``alone``: it is the only open item of the client, and its thread may publish it by itself.
        So may an event loop's: what waits unconfirmed is far less than a socket takes at once.
        """
        if not (alone and len(calls) == 1 and self._publish_alone(calls[0])):
            self._waiting.put(calls)

    def stop(self) -> None:
        """Publish what waits, and end. Does not wait for it."""
        self._waiting.put(None)

    def join(self, timeout_s: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def fail_all(self, reason: str) -> None:
        """Fail every call that is still open, at the end."""
        while calls := self._take_all():  # what followed one of them goes by itself now
            settle_all((call, errors.Cancelled(reason)) for call in calls)
        self.stop()  # the word to end may have been taken, too

    def _take_all(self) -> list[Call]:
        calls = self._publisher.take_all()
        with contextlib.suppress(queue.Empty):  # the sender may be taking from it, too
            while True:
                calls.extend(self._waiting.get_nowait() or ())
        return calls

    def _publish_alone(self, call: Call) -> bool:
        """Publish in the caller's thread, unless that could wait for anything."""
        if call.size > LONE_BYTES:
            return False
        try:
            if not (self._turn.acquire(blocking=False) and self._publisher.can_send_at_once()):
                return False
            self._publisher.send_at_once(call)
        finally:  # an interrupt may come right after the turn was got: it knows whose it is
            try:  # noqa: SIM105 - another call before this one could be interrupted, too
                self._turn.release()
            except RuntimeError:  # another thread's
                pass
        if self._resting:
            self._waiting.put(())  # from now on there is something to look at
        return True

    def _run(self) -> None:
        going_on = True
        while going_on:
            calls, going_on = self._gather()
            try:
                with self._turn:
                    self._publisher.confirm()
                    self._publish(calls)
                    self._look()
            except redis.RedisError as error:
                log.debug("no look at the queues: %s", error)
            except Exception as error:  # the thread must outlive any one turn
                log.exception("items could not be sent")
                settle_all(
                    (call, errors.CeleriacError(f"the items could not be sent: {error}"))
                    for call in calls
                )
        self._publisher.close()

    def _gather(self) -> tuple[list[Call], bool]:
        """What waits, at most one turn's worth; and False if no more is to come."""
        calls: list[Call] = []
        size = 0
        block = self._next_block()
        if block and self._open_items.items > len(block):
            time.sleep(0)  # threads that one reply has woken hand over their items first
        while block is not None:
            calls += [call for call in block if call.outcome is None]
            size += sum(call.size for call in block)
            if len(calls) >= TURN_ITEMS or size >= TURN_BYTES:
                return calls, True
            try:
                block = self._waiting.get_nowait()
            except queue.Empty:
                return calls, True
        return calls, False

    def _next_block(self) -> Sequence[Call] | None:
        """What comes next; nothing after a tick, if envelopes are to be looked at."""
        self._resting = True
        if self._publisher.busy:  # if it is not, who publishes alone sees that the sender rests
            self._resting = False
        try:
            return self._waiting.get(timeout=None if self._resting else TICK_S)
        except queue.Empty:
            return ()
        finally:
            self._resting = False

    def _publish(self, calls: list[Call]) -> None:
        now_ms = wire.now_ms()
        late = [call for call in calls if call.deadline_ms <= now_ms]
        if late:
            outcomes = [(call, _too_late(call)) for call in late]
            self._counts.add("expired", settle_all(outcomes))
            calls = [call for call in calls if call.deadline_ms > now_ms]
        if calls:
            self._publisher.publish(calls)

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s >= TICK_S:
            self._looked_s = now_s
            self._publisher.look(wire.now_ms())


def _too_late(call: Call) -> errors.DeadlineExceeded:
    return errors.DeadlineExceeded(
        f"the time for model {call.model!r} was over before the item could be sent"
    )
