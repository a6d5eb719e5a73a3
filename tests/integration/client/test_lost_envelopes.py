"""Messages that a worker took and lost, against a real server; the test is the worker."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import redis

from celeriac import errors
from celeriac.keys import reply_key
from celeriac.registry.store import Registry
from celeriac.settings import RealtimeSettings, Settings
from producer import calls, realtime
from producer.client import Client
from producer.statistics import ClientStatistics
from workers.lane.lane import Lane

QUEUE = "realtime.cpu.echo"


def in_thread(work: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*args, **options))
        except errors.CeleriacError as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def test_lost_work_is_sent_once_more(client: Client, hand: Any) -> None:
    waiting = in_thread(client.predict, "echo", "lost", timeout_s=3)
    first = hand.take()
    started = time.monotonic()

    second = hand.take()

    assert second == first
    assert time.monotonic() - started > 0.8
    hand.answer(second)
    hand.answer(first)  # the worker was only slow: its answer comes, too
    assert waiting.result(5).value == "lost"
    counts = client.statistics()
    assert (counts.items_sent, counts.envelopes_sent, counts.envelopes_resent) == (1, 1, 1)
    assert (counts.answered, counts.open_items) == (1, 0)


def test_it_is_sent_once_more_only_once(
    client: Client, redis_client: redis.Redis, hand: Any
) -> None:
    waiting = in_thread(client.predict, "echo", "lost", timeout_s=2.5)
    hand.take()
    hand.take()

    with pytest.raises(errors.DeadlineExceeded):
        waiting.result(10)

    assert redis_client.llen(QUEUE) == 0
    assert client.statistics().envelopes_resent == 1
    assert client.statistics().expired == 1


def test_a_queue_without_a_consumer_gets_nothing_twice(
    client: Client, redis_client: redis.Redis
) -> None:
    waiting = [in_thread(client.predict, "echo", number, timeout_s=1.5) for number in range(3)]
    for one in waiting:
        with pytest.raises(errors.DeadlineExceeded):
            one.result(5)

    assert redis_client.llen(QUEUE) == client.statistics().envelopes_sent
    assert client.statistics().envelopes_resent == 0


def test_a_slow_consumer_gets_nothing_twice(
    client: Client, redis_client: redis.Redis, hand: Any
) -> None:
    waiting = []
    for number in range(8):
        waiting.append(in_thread(client.predict, "echo", number, timeout_s=4))
        time.sleep(0.02)  # each in an envelope of its own
    while redis_client.llen(QUEUE) or not all(one.done() for one in waiting):
        time.sleep(0.3)  # the last one waits for 2.4 of its 4 s
        hand.answer(hand.take())
        if not redis_client.llen(QUEUE):
            break

    assert [one.result(5).value for one in waiting] == list(range(8))
    assert client.statistics().envelopes_resent == 0


def test_many_lost_envelopes(client: Client, hand: Any) -> None:
    waiting = in_thread(client.predict_many, "echo", range(1_000), timeout_s=6)
    lost = 0
    while lost < 1_000:
        lost += len(hand.envelope(hand.take())["items"])
    answered = 0
    while answered < 1_000:
        answered += hand.answer(hand.take())

    assert [answer.value for answer in waiting.result(10)] == list(range(1_000))
    assert client.statistics().envelopes_resent == client.statistics().envelopes_sent


def test_connections_that_are_killed_are_made_anew(
    client: Client, redis_client: redis.Redis, hand: Any
) -> None:
    for number in range(3):
        waiting = in_thread(client.predict, "echo", number, timeout_s=10)
        message = hand.take()
        redis_client.client_kill_filter(_type="normal", skipme=True)
        hand.answer(message)
        assert waiting.result(15).value == number


def test_a_connection_that_is_lost_before_the_item_is_sent(
    client: Client, lane: Lane, redis_client: redis.Redis
) -> None:
    assert client.predict("echo", 0).value == 0
    for number in range(1, 4):
        redis_client.client_kill_filter(_type="normal", skipme=True)
        assert client.predict("echo", number, timeout_s=10).value == number


def test_the_reply_list_is_bounded_by_the_open_items(
    client: Client, lane: Lane, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads no more gets no more answers than it may have open items."""
    client.predict("echo", 0)
    exchange = client.realtime._exchange
    assert exchange is not None
    exchange._reader.stop()
    exchange._reader._thread.join(5)
    monkeypatch.setattr(calls, "MAX_OPEN_ITEMS", 100)

    open_calls = []
    for _ in range(30):
        route = client.realtime.routes.find("echo", 5)
        open_calls += client.realtime.start(route, range(10), 30)

    assert client.statistics().open_items == 100
    assert client.statistics().refused == 200
    refused = open_calls[-1].outcome
    assert isinstance(refused, errors.Overloaded)
    assert "have no answer yet" in refused.message
    key = reply_key(exchange.client_id)
    deadline = time.monotonic() + 10
    while replied_items(redis_client, key) < 100 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert replied_items(redis_client, key) == 100
    assert 0 < redis_client.ttl(key) <= 60
    realtime.abandon(open_calls)


def replied_items(client: redis.Redis, key: str) -> int:
    replies: Any = client.lrange(key, 0, -1)
    return sum(len(json.loads(reply)["answers"]) for reply in replies)


@contextlib.contextmanager
def busy(turn: Any) -> Iterator[None]:
    """Another thread has the turn."""
    held, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with turn:
            held.set()
            ended.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    yield
    ended.set()
    thread.join(5)


def test_an_item_whose_time_is_over_is_not_sent(
    client: Client, lane: Lane, redis_client: redis.Redis
) -> None:
    client.predict("echo", 0)
    exchange = client.realtime._exchange
    assert exchange is not None
    sent = client.statistics().items_sent
    with busy(exchange.coalescer._turn):  # as if an exchange with Redis took long
        with pytest.raises(errors.DeadlineExceeded):
            client.predict("echo", 1, timeout_s=0.05)
        route = client.realtime.routes.find("echo", 5)
        (late,) = client.realtime.start(route, [2], 0.05)
        time.sleep(0.1)
    assert isinstance(late.wait(5), errors.DeadlineExceeded)
    assert client.predict("echo", 3).value == 3
    assert client.statistics() == ClientStatistics(
        items_sent=sent + 1, envelopes_sent=sent + 1, answered=sent + 1, expired=2
    )


def refuse(hand: Any, retry_after_s: float) -> None:
    error = errors.Overloaded("too much waits", retry_after_s).to_wire()
    hand.reply(hand.take(), {"error": error})


def test_an_overloaded_model_is_left_alone_for_the_time_that_it_asks_for(
    client: Client, redis_client: redis.Redis, hand: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = in_thread(client.predict, "echo", 1)
    refuse(hand, 5.0)
    with pytest.raises(errors.Overloaded, match="too much waits"):
        waiting.result(5)

    with pytest.raises(errors.Overloaded, match="'echo'") as refused:
        client.predict("echo", 2)
    assert 0 < refused.value.retry_after_s <= 6.0
    assert redis_client.llen(QUEUE) == 0
    assert client.statistics().refused == 1
    assert client.statistics().failed == {"overloaded": 1}

    monkeypatch.setattr(
        client.realtime._desk.refusals, "_clock", lambda: time.monotonic() + 6.1
    )
    waiting = in_thread(client.predict, "echo", 3)
    hand.answer(hand.take())
    assert waiting.result(5).value == 3


def test_items_that_fail_by_their_own_fault_show_that_there_is_room_again(
    client: Client, hand: Any
) -> None:
    waiting = in_thread(client.predict, "echo", 1)
    refuse(hand, 0.2)
    with pytest.raises(errors.Overloaded):
        waiting.result(5)
    time.sleep(0.4)
    route = client.realtime.routes.find("echo", 5)
    first = client.realtime.start(route, range(8), 10)
    assert [call.outcome for call in first] == [None] * 8
    hand.reply(hand.take(), {"answers": [{"error": errors.InvalidItem("bad").to_wire()}] * 8})
    assert all(isinstance(call.wait(5), errors.InvalidItem) for call in first)

    second = client.realtime.start(route, range(8), 10)

    assert [call.outcome for call in second] == [None] * 8
    realtime.abandon(second)


def test_many_items_go_on_more_slowly(client: Client, redis_client: redis.Redis, hand: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.predict_many, "echo", range(200), timeout_s=20)
        refuse(hand, 0.1)
        refuse(hand, 0.1)
        while not waiting.done():
            popped: Any = redis_client.brpop([QUEUE], timeout=1)
            if popped:
                hand.answer(popped[1])

        assert [answer.value for answer in waiting.result(20)] == list(range(200))


def test_a_queue_that_nobody_consumes_takes_no_more(
    settings: Settings, registry: Registry, redis_client: redis.Redis
) -> None:
    short = settings.model_copy(update={"realtime": RealtimeSettings(max_queue_items=5)})
    with Client(settings=short) as client:
        route = client.realtime.routes.find("echo", 5)
        outcomes: list[Any] = []
        for number in range(30):
            outcomes += client.realtime.start(route, [number], 30)
            time.sleep(0.02)
        waiting: Any = redis_client.llen(QUEUE)
        refused = outcomes[-1].outcome
        realtime.abandon(outcomes)

    assert 5 <= waiting <= 10
    assert isinstance(refused, errors.Overloaded)
    assert "max_queue_items" in refused.message
