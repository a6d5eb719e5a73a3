"""The client against a real server and a real lane."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from celeriac import errors
from celeriac.keys import CATALOGUE_KEY, GENERATION_KEY, reply_key
from celeriac.messages import realtime_queue
from celeriac.registry import catalogue
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer import routes
from producer.bulk import BLOCK_ITEMS, WINDOW_ITEMS
from producer.client import Client
from workers.lane.lane import Lane


@pytest.mark.parametrize(
    "item", ["text é \U0001f600", 1, 1.5, None, True, [1, [2]], {"a": {"b": None}}]
)
def test_one_item_comes_back(client: Client, lane: Lane, item: Any) -> None:
    answer = client.predict("echo", item)

    assert (answer.model, answer.version, answer.value) == ("echo", 1, item)


def test_versions_and_aliases(client: Client, lane: Lane) -> None:
    for ref in ("echo", "echo@1", "echo@champion"):
        assert client.predict(ref, ref).value == ref


def test_many_items_in_order(client: Client, lane: Lane) -> None:
    answers = client.predict_many("echo", range(3_000), timeout_s=30)

    assert [answer.value for answer in answers] == list(range(3_000))
    assert client.predict_many("echo", []) == []


def test_concurrent_callers_each_get_their_own_answers(client: Client, lane: Lane) -> None:
    def work(number: int) -> bool:
        items = [f"{number}-{i}" for i in range(50)]
        singly = [client.predict("echo", item).value for item in items]
        return singly == items == [p.value for p in client.predict_many("echo", items)]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def test_a_bad_item_keeps_its_error_and_the_others_their_answers(
    client: Client, lane: Lane
) -> None:
    items = ["a", 7, "b", object(), "c" * 1_000_001, "\ud800"]
    answers = client.predict_many("texts", items, return_errors=True)

    assert [type(answer).__name__ for answer in answers] == [
        "Prediction", "InvalidItem", "Prediction", "InvalidItem", "PayloadTooLarge", "InvalidItem",
    ]  # fmt: skip
    assert answers[2].value == "b"
    with pytest.raises(errors.InvalidItem):
        client.predict_many("texts", items)
    with pytest.raises(errors.PayloadTooLarge, match="submit_dataset"):
        client.predict("echo", "c" * 1_000_001)


def test_unknown_models_are_refused_at_once(client: Client, lane: Lane) -> None:
    client.predict("echo", 1)
    started = time.monotonic()
    with pytest.raises(errors.ModelNotFound, match="registered models: echo, texts"):
        client.predict("nothing", 1)
    with pytest.raises(errors.VersionNotFound, match="it has: 1"):
        client.predict("echo@9", 1)
    with pytest.raises(errors.VersionNotFound):
        client.predict("echo@canary", 1)
    for name in ("../echo", "", "Echo", None, ["echo"]):
        with pytest.raises(errors.RequestError):
            client.predict(name, 1)  # type: ignore[arg-type]
    assert time.monotonic() - started < 2


def test_a_model_that_is_registered_later_is_found(
    client: Client, registry: Registry, redis_client: redis.Redis
) -> None:
    with pytest.raises(errors.ModelNotFound):
        client.submit("later", 1)
    infos = registry.infos()
    infos["later"] = infos["echo"].model_copy(update={"name": "later"})
    catalogue.publish(redis_client, infos)

    assert client.submit("later", 1).model == "later"
    assert set(client.models()) == {"echo", "texts", "later"}


def test_a_changed_catalogue_is_followed_in_the_background(
    client: Client, lane: Lane, registry: Registry, redis_client: redis.Redis
) -> None:
    client.predict("echo", 1)
    infos = registry.infos()
    del infos["echo"]
    catalogue.publish(redis_client, infos)

    def refused() -> bool:
        time.sleep(0.05)
        try:
            client.predict("echo", 1)
        except errors.ModelNotFound:
            return True
        return False

    assert any(refused() for _ in range(100))


def test_where_no_thread_can_be_started_the_next_call_tries_again(
    client: Client, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError):
            client.models()
    assert set(client.models()) == {"echo", "texts"}


def test_a_redis_that_has_lost_the_catalogue_keeps_nobody_from_asking(
    client: Client, lane: Lane, registry: Registry, redis_client: redis.Redis
) -> None:
    client.predict("echo", 1)
    redis_client.delete(CATALOGUE_KEY, GENERATION_KEY)
    assert set(client.models()) == {"echo", "texts"}  # looked at anew
    assert client.predict("echo", 2).value == 2
    redis_client.set(GENERATION_KEY, 1)  # of the two, one alone is no catalogue
    assert set(client.models()) == {"echo", "texts"}
    infos = registry.infos()
    del infos["texts"]
    catalogue.publish(redis_client, infos)
    assert set(client.models()) == {"echo"}


def test_nobody_answers(client: Client, registry: Registry) -> None:
    started = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded, match=r"'echo' within 0\.3 s"):
        client.predict("echo", 1, timeout_s=0.3)
    with pytest.raises(errors.DeadlineExceeded):
        client.predict_many("echo", range(500), timeout_s=0.3)
    answers = client.predict_many("echo", range(50), timeout_s=0.3, return_errors=True)
    assert {type(answer) for answer in answers} == {errors.DeadlineExceeded}
    assert time.monotonic() - started < 3
    assert client.statistics().expired == 1 + 1 + 50  # predict_many gives up at its first error
    exchange = client.realtime._exchange
    assert exchange is not None
    deadline = time.monotonic() + 20
    while exchange.coalescer._publisher.busy and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not exchange.coalescer._publisher.busy  # nothing is kept for callers that have gone


def test_any_number_of_items_is_taken_as_answers_come(
    client: Client, registry: Registry
) -> None:
    """A generator is never read further ahead than the window of items on their way."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1_000_000):
            taken += 1
            yield number

    with pytest.raises(errors.DeadlineExceeded):
        client.predict_many("echo", items(), timeout_s=0.3)

    assert taken <= WINDOW_ITEMS + 2 * BLOCK_ITEMS
    assert client.statistics().open_items == 0


def test_calls_whose_callers_went_without_a_word_are_forgotten(
    client: Client, registry: Registry
) -> None:
    route = client.realtime.routes.find("echo", 5)
    calls = client.realtime.start(route, range(50), 0.2)
    assert client.statistics().open_items == 50

    assert all(isinstance(call.wait(10), errors.DeadlineExceeded) for call in calls)

    assert client.statistics().open_items == 0
    assert client.statistics().expired == 50


def test_late_answers_are_dropped_and_the_next_ones_are_right(
    client: Client, lane: Lane, redis_client: redis.Redis
) -> None:
    redis_client.client_pause(300, all=True)
    with pytest.raises(errors.DeadlineExceeded):
        client.predict("echo", "late", timeout_s=0.1)
    for number in range(20):
        assert client.predict("echo", number).value == number


def test_unreadable_replies_do_no_harm(
    client: Client, lane: Lane, redis_client: redis.Redis
) -> None:
    client.predict("echo", 1)
    exchange = client.realtime._exchange
    assert exchange is not None
    key = reply_key(exchange.client_id)
    redis_client.rpush(key, b"", b"\xff", b"{}", b'{"v": 1, "id": "unknown", "answers": []}')

    assert client.predict("echo", 2).value == 2


def test_the_client_leaves_nothing_in_redis(
    settings: Settings, lane: Lane, redis_client: redis.Redis
) -> None:
    before = set(redis_client.keys())
    with Client(settings=settings) as client:
        client.predict_many("echo", range(100))

    assert set(redis_client.keys()) == before


def test_closing_is_quick_and_ends_the_threads(settings: Settings, lane: Lane) -> None:
    before = set(threading.enumerate())
    client = Client(settings=settings)
    client.predict("echo", 1)
    assert set(threading.enumerate()) > before
    started = time.monotonic()
    client.close()
    client.close()

    assert time.monotonic() - started < 1
    left = set(threading.enumerate()) - before
    assert not [one for one in left if one.name.startswith("celeriac-")]
    with pytest.raises(errors.RequestError, match="closed"):
        client.predict("echo", 1)


def test_a_call_that_waits_while_the_client_is_closed(
    settings: Settings, registry: Registry
) -> None:
    client = Client(settings=settings)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.predict, "echo", 1, timeout_s=20)
        while not client.broker.redis.llen(realtime_queue("cpu", "echo")):
            time.sleep(0.01)
        client.close()
        with pytest.raises(errors.Cancelled, match="closed"):
            waiting.result(5)


def test_a_text_is_no_list_of_items(client: Client, lane: Lane) -> None:
    with pytest.raises(errors.RequestError, match="takes a list of items, not str"):
        client.predict_many("echo", "text")


def test_timeouts_that_make_no_sense(client: Client, settings: Settings) -> None:
    for odd in (0, float("nan"), float("inf"), 10**400, "5"):
        with pytest.raises(errors.RequestError, match="timeout_s"):
            client.predict("echo", 1, timeout_s=odd)  # type: ignore[arg-type]
        with pytest.raises(errors.RequestError, match="expires_s"):
            client.submit("echo", 1, expires_s=odd)  # type: ignore[arg-type]
    with pytest.raises(errors.RequestError, match="timeout_s"):
        Client(settings=settings, timeout_s=-1)
    with pytest.raises(errors.RequestError, match="expires_s"):
        client.submit("echo", 1, expires_s=10**9)


def test_who_gets_no_answer_hears_of_a_clock_that_is_behind(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.DeadlineExceeded, match="`celeriac status` shows its queue"):
        client.predict("echo", 1, timeout_s=0.1)
    clock = SimpleNamespace(time=lambda: time.time() - 3_600, monotonic=time.monotonic)
    monkeypatch.setattr(routes, "time", clock)
    client.models()  # asks Redis
    with pytest.raises(errors.DeadlineExceeded, match=r"is 3,[56]\d\d s behind that of Redis"):
        client.predict("echo", 1, timeout_s=0.1)


class InterruptedTurn:
    """An interrupt comes right after a caller has got it."""

    def __init__(self, turn: Any) -> None:
        self.turn = turn

    def acquire(self, *, blocking: bool) -> bool:
        while not self.turn.acquire(blocking=blocking):
            time.sleep(0.001)
        raise KeyboardInterrupt

    def release(self) -> None:
        self.turn.release()

    def __enter__(self) -> None:
        self.turn.acquire()

    def __exit__(self, *_: object) -> None:
        self.turn.release()


@pytest.mark.parametrize("place", ["turn", "send"])
def test_an_interrupt_as_an_item_is_sent_harms_no_later_call(
    client: Client, lane: Lane, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The turn was never given back, or an answer waited for that could not come."""
    client.predict("echo", 1)
    exchange = client.realtime._exchange
    assert exchange is not None
    coalescer = exchange.coalescer
    send = coalescer._publisher._channel.send

    def interrupted(*commands: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        send(*commands)

    with monkeypatch.context() as patch:
        if place == "turn":
            patch.setattr(coalescer, "_turn", InterruptedTurn(coalescer._turn))
        else:
            patch.setattr(coalescer._publisher._channel, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.predict("echo", 2)
    answers = client.predict_many("echo", [3, 4], timeout_s=2)  # by the sender
    assert [answer.value for answer in answers] == [3, 4]
