"""Flower sees envelopes truly: a sample of them, every failure, and no payload."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.messages import Envelope, Reply
from workers.lane_events import MAX_WAITING, LaneEvents
from workers.lane_messages import Received

RECEIVED = Received(
    Envelope(
        v=1, id="e1", model="reviews", items=["secret text", "more"], reply_to="c",
        deadline_ms=0,
    ),
    queue_ms=30.0,
)  # fmt: skip
GOOD = Reply(v=1, id="e1", answers=[{"label": "a"}, {"label": "b"}], batch_items=7)
BAD_ITEM = Reply(v=1, id="e1", answers=[{"label": "a"}, {"error": {"code": "item_invalid"}}])
BAD = Reply(v=1, id="e1", error={"code": "model_not_found", "message": "no model"})


class Dispatcher:
    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.flushes = 0
        self.broken = False
        self.connection = self

    def send(self, type: str, **fields: Any) -> None:
        if self.broken:
            raise OSError("gone")
        self.sent.append({"type": type, **fields})

    def flush(self, **_: Any) -> None:
        self.flushes += 1

    def close(self) -> None: ...

    def release(self) -> None: ...


def make(sample: float, chance: float = 0.5) -> tuple[LaneEvents, Dispatcher]:
    dispatcher = Dispatcher()
    events = LaneEvents(lambda: dispatcher, sample, chance=lambda: chance, clock=lambda: 100.0)
    return events, dispatcher


def test_a_success_has_its_true_times() -> None:
    events, dispatcher = make(1.0)
    events.answered(RECEIVED, GOOD, 0.5)
    events.flush()
    received, started, succeeded = dispatcher.sent
    assert (received["timestamp"], started["timestamp"]) == (pytest.approx(99.47), 99.5)
    assert (succeeded["timestamp"], succeeded["runtime"]) == (100.0, 0.5)
    assert {event["uuid"] for event in dispatcher.sent} == {"e1"}
    assert "'items': 2" in received["kwargs"]
    assert dispatcher.flushes == 1


def test_no_payload_is_shown() -> None:
    events, dispatcher = make(1.0)
    for reply in (GOOD, BAD_ITEM, BAD):
        events.answered(RECEIVED, reply, 0.1)
    events.flush()
    assert "secret" not in repr(dispatcher.sent)


@pytest.mark.parametrize(("sample", "shown"), [(0.0, 0), (0.4, 0), (0.6, 3), (1.0, 3)])
def test_successes_are_sampled(sample: float, shown: int) -> None:
    events, dispatcher = make(sample)
    events.answered(RECEIVED, GOOD, 0.1)
    events.flush()
    assert len(dispatcher.sent) == shown


@pytest.mark.parametrize("reply", [BAD_ITEM, BAD])
def test_failures_are_always_shown(reply: Reply) -> None:
    events, dispatcher = make(0.0)
    events.answered(RECEIVED, reply, 0.1)
    events.flush()
    assert [event["type"] for event in dispatcher.sent] == [
        "task-received", "task-started", "task-failed",
    ]  # fmt: skip


def test_a_lost_connection_keeps_a_bounded_number() -> None:
    events, dispatcher = make(1.0)
    dispatcher.broken = True
    for _ in range(MAX_WAITING):
        events.answered(RECEIVED, GOOD, 0.1)
        events.flush()
    dispatcher.broken = False
    events.flush()
    assert len(dispatcher.sent) == MAX_WAITING
