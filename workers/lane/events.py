"""Celery events of the lane's envelopes, so that Flower shows them like any task.

They leave with an exchange that the lane makes anyway, many in one message, a few times in a
second. A share of the envelopes is shown, and every one with a failure; payloads never are. The
message is built here: Celery's own dispatcher needs ten times as long, which callers would feel.
A test compares the two.
"""

from __future__ import annotations

import base64
import os
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from celery.utils.time import utcoffset

from celeriac.messages import PREDICT_ENVELOPE, Reply
from celeriac.settings import Settings
from producer.wire import new_id
from workers.lane.messages import Received

EVERY_S = 0.2
"""Time between two messages of events."""
MAX_WAITING = 3_000
"""Events that wait for the next message, at most; then the oldest are forgotten."""

_ROUTING_KEY = "task.multi"
_encode = msgspec.json.Encoder().encode


class Publication(msgspec.Struct, frozen=True):
    """One message to all who listen to events."""

    channel: str
    message: bytes


class NoEvents:
    """Shows nothing."""

    def answered(self, received: Received, reply: Reply, seconds: float) -> None: ...

    def due(self) -> Publication | None: ...

    def take(self) -> Publication | None: ...


class LaneEvents:
    """Notes what became of envelopes, and puts it into messages for the lane to publish."""

    def __init__(
        self,
        settings: Settings,
        hostname: str,
        *,
        tick: Callable[[], int],
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sample = settings.realtime.event_sample
        self._allowance = Allowance(settings.realtime.max_events_per_s)
        self._hostname = hostname
        self._channel = channel(settings.broker_url)
        self._tick = tick
        self._chance = chance
        self._clock = clock
        self._sent = 0.0
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MAX_WAITING)

    def answered(self, received: Received, reply: Reply, seconds: float) -> None:
        """Note what became of one envelope; ``seconds`` is the time of its forward pass."""
        error = _first_error(reply)
        now = self._clock()
        if error is None and not (self._chance() < self._sample and self._allowance.take(now)):
            return
        envelope = received.envelope
        summary = {
            "model": envelope.model,
            "items": len(envelope.items),
            "batch_items": reply.batch_items,
        }
        begun = now - seconds
        self._note(
            "task-received", envelope.id, begun - received.queue_ms / 1000,
            name=PREDICT_ENVELOPE, args="()", kwargs=repr(summary), retries=0,
        )
        self._note("task-started", envelope.id, begun)
        if error is None:
            self._note("task-succeeded", envelope.id, now, result="'answered'", runtime=seconds)
        else:
            self._note("task-failed", envelope.id, now, exception=error, traceback="")

    def due(self) -> Publication | None:
        """What waits, if the last message is old enough."""
        is_soon = 0 <= self._clock() - self._sent < EVERY_S  # below 0: the clock was set back
        return None if is_soon else self.take()

    def take(self) -> Publication | None:
        """What waits, now; None if nothing does. A message that gets lost is not made again."""
        if not self._waiting:
            return None
        self._sent = self._clock()
        message = event_message(list(self._waiting), self._hostname)
        self._waiting.clear()
        return Publication(self._channel, message)

    def _note(self, type_: str, uuid: str, timestamp: float, **fields: Any) -> None:
        self._waiting.append({
            "hostname": self._hostname, "utcoffset": utcoffset(), "pid": os.getpid(),
            "clock": self._tick(), "uuid": uuid, "timestamp": timestamp, **fields, "type": type_,
        })


class Allowance:
    """So many in a second, and as many at once after a quiet one."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left = per_s
        self._filled_s = 0.0

    def take(self, now_s: float) -> bool:
        """Take one; False if none is left."""
        passed_s = max(0.0, now_s - self._filled_s)
        self._left = min(self._per_s, self._left + passed_s * self._per_s)
        self._filled_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


def channel(broker_url: str) -> str:
    """Where kombu publishes and hears events on this broker."""
    database = urlsplit(broker_url).path.strip("/") or "0"
    return f"/{database}.celeryev/{_ROUTING_KEY}"


def event_message(events: list[dict[str, Any]], hostname: str) -> bytes:
    """A group of events as kombu publishes it."""
    return _encode({
        "body": base64.b64encode(_encode(events)).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"hostname": hostname},
        "properties": {
            "delivery_mode": 1,
            "delivery_info": {"exchange": "celeryev", "routing_key": _ROUTING_KEY},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": new_id(),
        },
    })


def _first_error(reply: Reply) -> str | None:
    if reply.error is not None:
        return f"{reply.error['code']}: {reply.error['message']}"
    failed = [answer["error"] for answer in reply.answers or () if "error" in answer]
    if not failed:
        return None
    return f"{len(failed)} of {len(reply.answers or ())} items failed, first: {failed[0]['code']}"
