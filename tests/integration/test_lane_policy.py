"""What the lane does with its policy, against a real server: order, bounds, and second chances."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
import redis

from celeriac import metrics
from celeriac.host import ModelHost
from celeriac.keys import reply_key
from celeriac.messages import CONTRACT, PREDICT_ENVELOPE, Reply, realtime_queue
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema, Serving
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.settings import RealtimeSettings, Settings
from workers.lane.events import NoEvents
from workers.lane.lane import Lane
from workers.lane.messages import Received

QUEUE = realtime_queue("cpu", "echo")


def add(registry: Registry, name: str, serving: Serving | None = None) -> None:
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any"),
        serving=serving or Serving(),
    )
    registry.add(name, lambda folder: draft)
    registry.aliases(name).promote(1, expected=None, who="test", why="")


@pytest.fixture
def clock() -> list[float]:
    """The lane's idea of how far time has jumped, in seconds."""
    return [0.0]


@pytest.fixture
def make_lane(
    settings: Settings, redis_client: redis.Redis, clock: list[float]
) -> Callable[..., Lane]:
    def make(serving: Serving | None = None, **options: Any) -> Lane:
        registry = Registry(settings.models.root)
        add(registry, "echo", serving)
        host = ModelHost(registry, LoadOptions())
        host.refresh()
        changed = settings.model_copy(update={"realtime": RealtimeSettings(**options)})
        return Lane(
            host, redis_client, changed, NoEvents(), clock=lambda: time.time() + clock[0]
        )

    return make


def push(
    client: redis.Redis, id: str, items: Sequence[Any], *, timeout_s: float = 600.0,
    ahead_s: float = 0.0, reply_to: str = "me", queue: str = QUEUE,
) -> None:  # fmt: skip
    now_ms = (time.time() + ahead_s) * 1000
    kwargs = {
        "v": CONTRACT, "id": id, "model": queue.rpartition(".")[2], "items": list(items),
        "reply_to": reply_to, "deadline_ms": int(now_ms + 1000 * timeout_s),
    }  # fmt: skip
    headers = {"task": PREDICT_ENVELOPE, "id": id, "sent_ms": now_ms}
    body = json.dumps([[], kwargs, {}])
    client.lpush(queue, json.dumps({"body": body, "headers": headers, "properties": {}}))


def replies(client: redis.Redis, reply_to: str = "me") -> list[Reply]:
    raws = client.lrange(reply_key(reply_to), 0, -1)
    return [msgspec.json.decode(raw, type=Reply) for raw in raws]


def waiting(client: redis.Redis) -> list[str]:
    """Ids that wait in the queue, oldest first."""
    return [json.loads(raw)["headers"]["id"] for raw in client.lrange(QUEUE, 0, -1)][::-1]


def value(counter: Any) -> float:
    found: float = counter._value.get()
    return found


class Shown(NoEvents):
    """Keeps the refusals that Flower would see."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def answered(self, received: Received, reply: Reply, seconds: float) -> None:
        if reply.error:
            self.refused.append(reply.id)


def watch(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the forward passes from now on."""
    scorer = lane.host.scorer("echo", 1)
    sizes: list[int] = []
    score = scorer.score

    def noted(items: Sequence[Any]) -> list[dict[str, Any]]:
        sizes.append(len(items))
        return score(items)

    monkeypatch.setattr(scorer, "score", noted)
    return sizes


def test_the_cap_of_a_version_holds_for_every_pass(
    make_lane: Callable[..., Lane], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = make_lane(Serving(max_batch_size=8))
    sizes = watch(lane, monkeypatch)
    push(redis_client, "large", range(32))
    for number in range(12):
        push(redis_client, f"e{number}", [number])
    while redis_client.llen(QUEUE) or len(replies(redis_client)) < 13:
        lane.step()
    assert max(sizes) == 8
    assert sum(sizes) == 44
    found = {reply.id: reply for reply in replies(redis_client)}
    assert [answer["value"] for answer in found["large"].answers or ()] == list(range(32))
    assert (found["large"].closed, found["large"].batch_items) == ("full", 8)
    assert found["e11"].closed == "drained"


def test_a_version_may_wait_for_more(
    make_lane: Callable[..., Lane], redis_client: redis.Redis
) -> None:
    lane = make_lane(Serving(max_wait_ms=400))
    thread = threading.Thread(target=lane.run)
    thread.start()
    try:
        push(redis_client, "first", [1])
        time.sleep(0.1)
        push(redis_client, "second", [2])
        end_s = time.monotonic() + 10
        while len(found := replies(redis_client)) < 2 and time.monotonic() < end_s:
            time.sleep(0.01)
    finally:
        lane.stop()
        thread.join(5)
    assert [(reply.id, reply.batch_items, reply.closed) for reply in found] == [
        ("first", 2, "wait"), ("second", 2, "wait"),
    ]


def test_a_short_wait_is_short_though_nobody_else_comes(
    make_lane: Callable[..., Lane], redis_client: redis.Redis
) -> None:
    """Redis ends a blocking pop by its own clock, which ticks ten times in a second."""
    lane = make_lane(Serving(max_wait_ms=2))
    thread = threading.Thread(target=lane.run)
    thread.start()
    took_s = []
    try:
        for number in range(10):
            began_s = time.monotonic()
            push(redis_client, f"e{number}", [number])
            assert redis_client.blpop([reply_key("me")], timeout=5)
            took_s.append(time.monotonic() - began_s)
    finally:
        lane.stop()
        thread.join(5)
    assert 0.002 <= sorted(took_s)[2] < 0.05


def test_what_expires_while_it_is_buffered_never_reaches_the_model(
    make_lane: Callable[..., Lane], redis_client: redis.Redis, clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lane = make_lane(Serving(max_wait_ms=1_000))
    sizes = watch(lane, monkeypatch)
    before = value(metrics.EXPIRED.labels("forming"))
    push(redis_client, "short", [1, 2], timeout_s=5.0)
    push(redis_client, "long", [3])
    lane.step()
    clock[0] = 10.0
    while not replies(redis_client):
        lane.step()
    assert [reply.id for reply in replies(redis_client)] == ["long"]
    assert sizes == [1]
    assert value(metrics.EXPIRED.labels("forming")) == before + 2


def test_a_message_that_comes_twice_is_scored_once(
    make_lane: Callable[..., Lane], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = make_lane()
    sizes = watch(lane, monkeypatch)
    before = value(metrics.DUPLICATES)
    push(redis_client, "e", [1])
    push(redis_client, "e", [1])  # the first one is still buffered
    lane.step()
    push(redis_client, "e", [1])  # it was answered
    push(redis_client, "e", [2], reply_to="another client")
    lane.step()
    lane.step()
    assert [reply.id for reply in replies(redis_client)] == ["e", "e"]
    assert len(replies(redis_client, "another client")) == 1
    assert sum(sizes) == 2
    assert value(metrics.DUPLICATES) == before + 2


def test_a_queue_that_is_too_long_loses_its_newest(
    make_lane: Callable[..., Lane], redis_client: redis.Redis
) -> None:
    lane = make_lane(max_queue_items=100, max_batch_items=4)
    shown = Shown()
    lane._events = shown
    before = value(metrics.REFUSED.labels("echo", "lane"))
    for number in range(300):
        push(redis_client, f"e{number}", [number])
    while len(found := replies(redis_client)) < 300:
        lane.step()
    refused = {int(reply.id[1:]) for reply in found if reply.error}
    answered = {int(reply.id[1:]) for reply in found if reply.answers}
    assert refused | answered == set(range(300))
    assert 100 <= len(answered) <= 200
    assert max(answered) < min(refused)
    assert value(metrics.REFUSED.labels("echo", "lane")) == before + len(refused)
    error = next(reply.error for reply in found if reply.error)
    assert error["code"] == "overloaded"
    assert error["retry_after_s"] > 0
    assert 1 <= len(shown.refused) <= len(refused) / 20  # a sample of them
    push(redis_client, "after", [1])
    lane.step()
    assert replies(redis_client)[-1].answers


def test_what_cannot_be_answered_in_time_goes_back_in_its_order(
    make_lane: Callable[..., Lane], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = make_lane(drain_timeout_s=0.5, max_batch_items=8)
    scorer = lane.host.scorer("echo", 1)
    score = scorer.score

    def slow(items: Sequence[Any]) -> list[dict[str, Any]]:
        time.sleep(0.4)
        return score(items)

    monkeypatch.setattr(scorer, "score", slow)
    for number in range(60):
        push(redis_client, f"e{number}", [number])
    thread = threading.Thread(target=lane.run)
    thread.start()
    while not redis_client.exists(reply_key("me")):
        time.sleep(0.01)
    lane.stop()
    thread.join(10)
    assert not thread.is_alive()
    answered = [reply.id for reply in replies(redis_client)]
    left = waiting(redis_client)
    assert answered + left == [f"e{number}" for number in range(60)]
    assert 8 <= len(answered) <= 40


def test_a_pass_that_outlasts_the_drain_is_given_back_too(
    make_lane: Callable[..., Lane], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = make_lane()
    started, may_end = threading.Event(), threading.Event()
    scorer = lane.host.scorer("echo", 1)

    def stuck(items: Sequence[Any]) -> list[dict[str, Any]]:
        started.set()
        may_end.wait(20)
        return [{} for _ in items]

    monkeypatch.setattr(scorer, "score", stuck)
    for number in range(3):
        push(redis_client, f"e{number}", [number])
    thread = threading.Thread(target=lane.run)
    thread.start()
    assert started.wait(5)
    lane.stop()
    given = lane.give_back()
    left = waiting(redis_client)
    may_end.set()
    thread.join(5)
    assert given == len(left)
    assert left[0] == "e0"


def test_replies_survive_a_lost_connection(
    make_lane: Callable[..., Lane], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = make_lane()
    exchange = lane._link.once
    lost = []

    def broken(*commands: Any) -> list[Any]:
        if not lost and commands[0][0] == "RPUSH":
            lost.append(commands)
            raise redis.ConnectionError("gone")
        return exchange(*commands)

    monkeypatch.setattr(lane._link, "once", broken)
    push(redis_client, "e", [1])
    with pytest.raises(redis.ConnectionError):
        lane.step()
    assert not replies(redis_client)
    lane.step()
    assert [reply.id for reply in replies(redis_client)] == ["e"]


def test_a_clock_that_is_ahead_is_counted(
    make_lane: Callable[..., Lane], redis_client: redis.Redis
) -> None:
    lane = make_lane()
    before = value(metrics.CLOCK_SKEW)
    push(redis_client, "near", [1], ahead_s=0.2)
    push(redis_client, "far", [1], ahead_s=5.0)
    lane.step()
    assert len(replies(redis_client)) == 2
    assert value(metrics.CLOCK_SKEW) == before + 1


def test_a_busy_model_holds_up_no_other(
    make_lane: Callable[..., Lane], redis_client: redis.Redis, settings: Settings
) -> None:
    lane = make_lane(max_batch_items=32)
    add(lane.host.registry, "calm")
    lane.host.refresh()
    for number in range(640):
        push(redis_client, f"e{number}", [number])
    lane.step()
    push(redis_client, "calm", [1], reply_to="calm", queue=realtime_queue("cpu", "calm"))
    turns = 0
    while not replies(redis_client, "calm"):
        lane.step()
        turns += 1
    assert turns <= 3
    assert redis_client.llen(QUEUE) > 300


def test_a_queue_that_redis_refuses_to_pop_is_not_asked_without_pause(
    make_lane: Callable[..., Lane], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = make_lane()
    exchange = lane._link.once
    asked: list[float] = []

    def noted(*commands: Any) -> list[Any]:
        asked.append(time.monotonic())
        return exchange(*commands)

    monkeypatch.setattr(lane._link, "once", noted)
    redis_client.set(QUEUE, "no list")
    thread = threading.Thread(target=lane.run)
    thread.start()
    try:
        time.sleep(1.0)
        tries = len(asked)
        redis_client.delete(QUEUE)
        push(redis_client, "e", [1])
        assert redis_client.blpop([reply_key("me")], timeout=10)
    finally:
        lane.stop()
        thread.join(5)
    assert 1 <= tries < 10


def test_what_is_answered_does_not_wait_for_a_batch_to_fill(
    make_lane: Callable[..., Lane], redis_client: redis.Redis
) -> None:
    lane = make_lane(Serving(max_wait_ms=1_000))
    push(redis_client, "patient", [1])
    lane.step()
    lane._outbox.add("me", Reply(v=CONTRACT, id="done", answers=[]))
    began_s = time.monotonic()
    lane.step()
    assert [reply.id for reply in replies(redis_client)] == ["done"]
    assert time.monotonic() - began_s < 0.9  # of the second that the batch may wait


@pytest.mark.parametrize("error", [MemoryError(), OSError("no disk"), SystemExit(3)])
def test_a_version_that_fails_in_an_unknown_way_fails_its_requests_only(
    make_lane: Callable[..., Lane], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    lane = make_lane()

    def broken(name: str, version: int) -> Any:
        raise error

    push(redis_client, "first", [1])
    with monkeypatch.context() as patch:
        patch.setattr(lane.host, "scorer", broken)
        lane.step()
    push(redis_client, "second", [1])
    lane.step()
    first, second = replies(redis_client)
    assert first.error is not None
    assert first.error["code"] == "worker_failed"
    assert "no disk" not in first.error["message"]
    assert second.answers


def test_one_message_that_cannot_be_handled_takes_no_other_with_it(
    make_lane: Callable[..., Lane], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = make_lane()
    resolve = lane.host.resolve

    def broken(text: str) -> tuple[str, int]:
        if text == "echo@7":
            raise OSError("no disk")
        return resolve(text)

    monkeypatch.setattr(lane.host, "resolve", broken)
    push(redis_client, "bad", [1])
    raw = redis_client.rpop(QUEUE)
    push(redis_client, "before", [1])
    redis_client.lpush(QUEUE, raw.replace(b'"echo\\"', b'"echo@7\\"'))  # type: ignore[union-attr]
    push(redis_client, "after", [1])
    lane.step()
    assert {reply.id for reply in replies(redis_client)} == {"before", "after"}


def test_a_copy_of_what_is_buffered_is_not_refused(
    make_lane: Callable[..., Lane], redis_client: redis.Redis
) -> None:
    lane = make_lane(Serving(max_wait_ms=200))
    push(redis_client, "e", [1])
    raw = redis_client.lindex(QUEUE, 0)
    lane.step()
    queue = lane._queues.get("echo")
    assert isinstance(raw, bytes)
    assert queue is not None
    lane._turn_away([raw], queue, time.time() * 1000)
    while not replies(redis_client):
        lane.step()
    (reply,) = replies(redis_client)
    assert reply.answers
