"""Celery events of the lane's envelopes, so that Flower shows them like any task.

They are sent after the reply, a few times in a second, many in one message. A share of the envelopes is shown, and every
one with a failure; payloads never are.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from celeriac.logs import get_logger
from celeriac.messages import PREDICT_ENVELOPE, Reply
from workers.lane_messages import Received

log = get_logger(__name__)

FLUSH_EVERY_S = 0.2
"""Time between two messages of events: to send one costs as much as to answer a small batch."""
FLUSH_AT = 3_000
"""Events that are sent before that time is over."""
MAX_WAITING = 1_000
"""Events that wait for a lost connection, at most; then the oldest are forgotten."""


class NoEvents:
    """Shows nothing."""

    def answered(self, received: Received, reply: Reply, seconds: float) -> None: ...

    def flush_when_due(self) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class LaneEvents:
    """Sends events through a dispatcher with a connection of its own."""

    def __init__(
        self,
        connect: Callable[[], Any],
        sample: float,
        *,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connect = connect
        self._sample = sample
        self._chance = chance
        self._clock = clock
        self._dispatcher: Any = None
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._flushed = 0.0

    @classmethod
    def for_worker(cls, worker: Any, sample: float) -> LaneEvents:
        """Events in the name of ``worker``."""

        def connect() -> Any:
            return worker.app.events.Dispatcher(
                worker.app.connection_for_write(),
                hostname=worker.hostname,
                buffer_group=frozenset({"task"}),
                buffer_limit=10**9,  # flushed by us, once for each batch
                buffer_while_offline=False,
            )

        return cls(connect, sample)

    def answered(self, received: Received, reply: Reply, seconds: float) -> None:
        """Note what became of one envelope; ``seconds`` is the time of its forward pass."""
        error = _first_error(reply)
        if error is None and self._chance() >= self._sample:
            return
        now = self._clock()
        envelope = received.envelope
        uuid = envelope.id
        summary = {
            "model": envelope.model,
            "items": len(envelope.items),
            "batch_items": reply.batch_items,
        }
        begun = now - seconds
        self._note(
            "task-received", uuid, begun - received.queue_ms / 1000,
            name=PREDICT_ENVELOPE, args="()", kwargs=repr(summary), retries=0,
        )
        self._note("task-started", uuid, begun)
        if error is None:
            self._note("task-succeeded", uuid, now, result="'answered'", runtime=seconds)
        else:
            self._note("task-failed", uuid, now, exception=error, traceback="")

    def flush_when_due(self) -> None:
        """As :meth:`flush`, unless that was done a moment ago and little waits."""
        if self._clock() - self._flushed >= FLUSH_EVERY_S or len(self._waiting) >= FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Send what was noted, in one message. A lost connection costs events, never answers."""
        if not self._waiting:
            return
        self._flushed = self._clock()
        try:
            if self._dispatcher is None:
                self._dispatcher = self._connect()
            for type_, fields in self._waiting:
                self._dispatcher.send(type_, **fields)
            self._dispatcher.flush(errors=False)
            self._waiting.clear()
        except Exception as error:  # noqa: BLE001 - whatever it is, the lane must go on
            log.warning("events not sent", events=len(self._waiting), reason=str(error))
            del self._waiting[:-MAX_WAITING]
            self.close()

    def close(self) -> None:
        """Close the connection; the next flush makes another."""
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is None:
            return
        try:
            dispatcher.close()
            dispatcher.connection.release()
        except Exception as error:  # noqa: BLE001 - it is being thrown away
            log.debug("event connection not closed", reason=str(error))

    def _note(self, type_: str, uuid: str, timestamp: float, **fields: Any) -> None:
        self._waiting.append((type_, {"uuid": uuid, "timestamp": timestamp, **fields}))


def _first_error(reply: Reply) -> str | None:
    if reply.error is not None:
        return f"{reply.error['code']}: {reply.error['message']}"
    failed = [answer["error"] for answer in reply.answers or () if "error" in answer]
    if not failed:
        return None
    return f"{len(failed)} of {len(reply.answers or ())} items failed, first: {failed[0]['code']}"
