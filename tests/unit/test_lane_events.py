"""Flower sees envelopes truly: a sample of them, every failure, and no payload."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import redis
from celery import Celery

from celeriac.messages import Envelope, Reply
from celeriac.settings import RealtimeSettings, Settings
from workers.lane.events import MAX_WAITING, Allowance, LaneEvents, channel, event_message
from workers.lane.messages import Received
from workers.valkey import EmbeddedServer

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


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(sample: float, *, per_s: int = 1_000, clock: Clock | None = None) -> LaneEvents:
    settings = Settings(realtime=RealtimeSettings(event_sample=sample, max_events_per_s=per_s))
    return LaneEvents(
        settings, "w@h", tick=lambda: 7, chance=lambda: 0.5, clock=clock or Clock()
    )


def shown(events: LaneEvents) -> list[dict[str, Any]]:
    publication = events.take()
    if publication is None:
        return []
    body = json.loads(publication.message)["body"]
    found: list[dict[str, Any]] = json.loads(base64.b64decode(body))
    return found


def test_a_success_has_its_true_times() -> None:
    events = make(1.0)
    events.answered(RECEIVED, GOOD, 0.5)
    received, started, succeeded = shown(events)
    assert (received["timestamp"], started["timestamp"]) == (pytest.approx(99.47), 99.5)
    assert (succeeded["timestamp"], succeeded["runtime"]) == (100.0, 0.5)
    assert {event["uuid"] for event in (received, started, succeeded)} == {"e1"}
    assert "'items': 2" in received["kwargs"]


def test_no_payload_is_shown() -> None:
    events = make(1.0)
    for reply in (GOOD, BAD_ITEM, BAD):
        events.answered(RECEIVED, reply, 0.1)
    assert "secret" not in repr(shown(events))


@pytest.mark.parametrize(("sample", "count"), [(0.0, 0), (0.4, 0), (0.6, 3), (1.0, 3)])
def test_successes_are_sampled(sample: float, count: int) -> None:
    events = make(sample)
    events.answered(RECEIVED, GOOD, 0.1)
    assert len(shown(events)) == count


def test_successes_are_capped_in_each_second() -> None:
    clock = Clock()
    events = make(1.0, per_s=5, clock=clock)
    for _ in range(20):
        events.answered(RECEIVED, GOOD, 0.1)
    assert len(shown(events)) == 3 * 5
    clock.now += 0.4
    for _ in range(20):
        events.answered(RECEIVED, GOOD, 0.1)
    assert len(shown(events)) == 3 * 2


@pytest.mark.parametrize("reply", [BAD_ITEM, BAD])
def test_failures_are_always_shown(reply: Reply) -> None:
    events = make(0.0, per_s=1)
    events.answered(RECEIVED, reply, 0.1)
    assert [event["type"] for event in shown(events)] == [
        "task-received", "task-started", "task-failed",
    ]  # fmt: skip


def test_what_waits_is_bounded() -> None:
    events = make(0.0)
    for _ in range(MAX_WAITING):
        events.answered(RECEIVED, BAD, 0.1)
    assert len(shown(events)) == MAX_WAITING


def test_messages_are_some_time_apart() -> None:
    clock = Clock()
    events = make(1.0, clock=clock)
    events.answered(RECEIVED, GOOD, 0.1)
    assert events.due()
    events.answered(RECEIVED, GOOD, 0.1)
    assert events.due() is None
    clock.now += 0.3
    assert events.due()
    assert events.due() is None


def test_an_allowance_is_full_after_a_quiet_second() -> None:
    allowance = Allowance(3)
    assert [allowance.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(20.0) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("database", ["0", "3"])
def test_the_message_is_the_one_that_celery_publishes(
    server: EmbeddedServer, database: str
) -> None:
    """Golden: channel and message of the installed Celery and kombu."""
    url = server.url.removesuffix("/0") + f"/{database}"
    with redis.Redis.from_url(url) as client, client.pubsub() as listener:
        listener.psubscribe("*")
        assert listener.get_message(timeout=5)
        app = Celery(broker=url, set_as_current=False)
        with app.connection_for_write() as connection:
            dispatcher = app.events.Dispatcher(
                connection, hostname="w@h", buffer_group=frozenset({"task"}), buffer_limit=100,
            )
            dispatcher.send("task-started", uuid="e1", timestamp=99.5)
            dispatcher.flush(errors=False)
        heard = listener.get_message(timeout=5)
        while heard and b"task-started" not in base64.b64decode(json.loads(heard["data"])["body"]):
            heard = listener.get_message(timeout=5)
        app.close()
    assert heard is not None
    golden = json.loads(heard["data"])
    (event,) = json.loads(base64.b64decode(golden["body"]))
    ours = json.loads(event_message([event], "w@h"))
    assert channel(url) == heard["channel"].decode()
    assert json.loads(base64.b64decode(ours["body"])) == [event]
    for message in (golden, ours):
        message["body"] = message["properties"]["delivery_tag"] = ""
    assert ours == golden
    mine = make(1.0)
    mine.answered(RECEIVED, GOOD, 0.5)
    assert set(shown(mine)[1]) == set(event)


def test_a_clock_that_is_set_back_keeps_nothing_from_being_shown() -> None:
    clock = Clock()
    events = make(1.0, clock=clock)
    events.answered(RECEIVED, GOOD, 0.1)
    assert events.due() is not None
    clock.now -= 50
    events.answered(RECEIVED, GOOD, 0.1)
    assert events.due() is not None
