"""The result cache as clients see it, with a lane that writes it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from celeriac import errors
from celeriac.cache import RedisStore, worker as of_worker
from celeriac.cache.worker import WorkerCache
from celeriac.registry import catalogue
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema, Serving
from celeriac.registry.store import Registry
from celeriac.settings import CacheSettings, Settings
from producer.aio import AsyncClient
from producer.client import Client
from tests.waiting import wait_until
from workers.lane.lane import Lane
from workers.valkey import free_port


@pytest.fixture
def registry(settings: Settings, redis_client: redis.Redis) -> Registry:
    """``echo`` without and ``kept`` with the cache, which has two versions."""
    registry = Registry(settings.models.root)
    for name, cached in (("echo", False), ("kept", True), ("kept", True)):
        draft = ModelDraft(
            format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any"),
            serving=Serving(cache=cached),
        )  # fmt: skip
        registry.add(name, lambda folder, draft=draft: draft)
    for name in ("echo", "kept"):
        registry.aliases(name).promote(1, expected=None, who="test", why="")
    catalogue.publish(redis_client, registry.infos())
    return registry


@pytest.fixture(autouse=True)
def worker_cache(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane's own cache: on the server of the test."""
    monkeypatch.setattr(of_worker, "_cache", (os.getpid(), WorkerCache.of(settings)))


def wait_kept(client: redis.Redis, number: int) -> None:
    """Workers keep answers soon after they have replied."""
    wait_until(lambda: len(client.keys("celeriac:cache:*")) >= number)


def test_an_answer_is_given_again(
    client: Client, lane: Lane, redis_client: redis.Redis
) -> None:
    first = [client.predict("kept", item) for item in ("a", {"x": 1, "y": 2})]
    wait_kept(redis_client, 2)

    again = [client.predict("kept@1", item) for item in ("a", {"y": 2, "x": 1})]

    assert again == first
    counts = client.statistics()
    assert (counts.items_sent, counts.answered) == (2, 2)
    assert (counts.cache_hits, counts.cache_misses, counts.cache_errors) == (2, 2, 0)
    assert counts.open_items == 0
    client.predict("kept@2", "a")  # another version is asked itself
    client.predict("echo", "a")
    client.predict("echo", "a")  # and a model without the cache each time
    counts = client.statistics()
    assert (counts.items_sent, counts.cache_hits, counts.cache_misses) == (5, 2, 3)


def test_many_items_are_looked_up_in_blocks(
    client: Client, lane: Lane, redis_client: redis.Redis
) -> None:
    client.predict_many("kept", range(0, 1_000, 2))
    wait_kept(redis_client, 500)
    before: Any = redis_client.info("commandstats")

    answers = client.predict_many("kept", range(1_000))

    after: Any = redis_client.info("commandstats")
    assert [answer.value for answer in answers] == list(range(1_000))
    assert client.statistics().cache_hits == 500
    calls = [stats.get("cmdstat_mget", {"calls": 0})["calls"] for stats in (before, after)]
    assert calls[1] - calls[0] <= 6  # and the catalogue's


def test_coroutines_look_up_together(
    settings: Settings, lane: Lane, redis_client: redis.Redis
) -> None:
    before = set(threading.enumerate())

    async def work() -> Any:
        async with AsyncClient(settings=settings) as client:
            first = await asyncio.gather(*(client.predict("kept", i) for i in range(200)))
            wait_kept(redis_client, 200)
            again = await asyncio.gather(*(client.predict("kept", i) for i in range(200)))
            many = await client.predict_many("kept", range(300))
            counts = client.statistics()
            exchange = client._client.realtime._exchange
            assert exchange is not None
            while exchange._flights._flights:  # callers are woken before their flight is over
                await asyncio.sleep(0.001)
        left = set(threading.enumerate()) - before
        assert not [one for one in left if one.name.startswith("celeriac-")]
        return first, again, many, counts

    first, again, many, counts = asyncio.run(asyncio.wait_for(work(), 30))
    assert first == again == many[:200]
    assert [answer.value for answer in many] == list(range(300))
    assert (counts.cache_hits, counts.items_sent, counts.open_items) == (400, 300, 0)


def test_equal_items_that_are_under_way_go_once(
    client: Client, registry: Registry, redis_client: redis.Redis, hand: Any
) -> None:
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(client.predict, "kept", "same", timeout_s=20) for _ in range(20)]
        deadline = time.monotonic() + 10
        while client.statistics().shared < 19 and time.monotonic() < deadline:
            time.sleep(0.01)
        hand.answer(hand.take("kept"))
        answers = [one.result(20) for one in waiting]

    assert {one.value for one in answers} == {"same"}
    counts = client.statistics()
    assert (counts.items_sent, counts.shared, counts.cache_misses) == (1, 19, 20)
    assert redis_client.llen("realtime.cpu.kept") == 0


def test_followers_outlive_their_leader(
    client: Client, registry: Registry, hand: Any
) -> None:
    with ThreadPoolExecutor(4) as pool:
        leading = pool.submit(client.predict, "kept", "same", timeout_s=0.5)
        hand.take("kept")
        following = [pool.submit(client.predict, "kept", "same", timeout_s=20) for _ in range(2)]
        hasty = pool.submit(client.predict, "kept", "same", timeout_s=0.1)
        with pytest.raises(errors.DeadlineExceeded, match=r"0\.1 s"):
            hasty.result(5)
        with pytest.raises(errors.DeadlineExceeded, match=r"0\.5 s"):
            leading.result(5)
        answered = 0
        while answered < 2:
            answered += hand.answer(hand.take("kept"))
        assert {one.result(5).value for one in following} == {"same"}


def test_a_broken_cache_is_a_miss(settings: Settings, lane: Lane) -> None:
    broken = settings.model_copy(
        update={"cache": CacheSettings(url=f"redis://127.0.0.1:{free_port()}/0")}
    )
    with Client(settings=broken) as client:
        assert [client.predict("kept", i).value for i in range(20)] == list(range(20))
        assert client.statistics().cache_errors == 20


def test_a_cache_that_is_switched_off(settings: Settings, lane: Lane) -> None:
    off = settings.model_copy(update={"cache": CacheSettings(enabled=False)})
    with Client(settings=off) as client:
        assert [client.predict("kept", "a").value for _ in range(3)] == ["a"] * 3
        counts = client.statistics()
        assert (counts.items_sent, counts.cache_misses, counts.cache_errors) == (3, 0, 0)


def test_what_is_in_the_cache_is_checked(
    client: Client, lane: Lane, redis_client: redis.Redis
) -> None:
    client.predict("kept", "a")
    wait_kept(redis_client, 1)
    (key,) = redis_client.keys("celeriac:cache:kept:1:*")
    for value in (b"", b"\xff", b"[]", b'{"model": "kept", "version": "one"}'):
        redis_client.set(key, value)
        assert client.predict("kept", "a").value == "a"


def test_a_call_that_is_interrupted_as_it_is_sent_leads_nobody_astray(
    client: Client, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.predict("echo", 1)
    exchange = client.realtime._exchange
    assert exchange is not None

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(exchange.coalescer, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.predict("kept", "a")
    assert client.statistics().open_items == 0
    assert client.predict("kept", "a", timeout_s=2).value == "a"


@pytest.mark.parametrize("error", [KeyboardInterrupt, redis.ConnectionError])
def test_a_lookup_that_is_interrupted_leaves_no_answer_to_the_next(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    """It was taken for that to the next key. Then lookups of other threads were ended with it."""
    store = RedisStore(settings.broker_url, 1.0)
    store.get_many(["a"])
    pool: Any = store._client.connection_pool
    own, other = pool.get_connection(), pool.get_connection()  # one is another thread's
    pool.release(own)

    def interrupted(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store._client, "parse_response", interrupted)
        with pytest.raises(error):
            store.get_many(["a"])
    assert (own.is_connected, other.is_connected) == (False, True)
    store.set_many({"b": b"1"}, 60)
    assert store.get_many(["b"]) == [b"1"]
