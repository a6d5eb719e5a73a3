"""The cache itself: expiry, bounds, and that nothing it does is an error."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from celeriac.cache import Cache, MemoryStore, RedisStore, open_cache
from celeriac.settings import CacheSettings, Settings

ANSWER = {"model": "m", "version": 1, "label": "great", "probability": 0.1 + 0.2}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FailingStore:
    def __init__(self) -> None:
        self.calls = 0
        self.is_broken = True
        self.error: Exception = OSError("no")

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        return self._answer([None] * len(keys))

    def set_many(self, values: Mapping[str, bytes], ttl_s: int) -> None:
        self._answer(None)

    def _answer(self, result: Any) -> Any:
        self.calls += 1
        if self.is_broken:
            raise self.error
        return result


def test_an_answer_comes_back_as_it_was_until_it_expires() -> None:
    clock = Clock()
    cache = Cache(MemoryStore(clock=clock), ttl_s=60, clock=clock)
    assert cache.put_many([("k", ANSWER)]) == 1
    assert cache.get_many(["k", "other", "k"]) == [ANSWER, None, ANSWER]
    clock.now += 59.9
    assert cache.get("k") == ANSWER
    clock.now += 0.1
    assert cache.get("k") is None


def test_errors_and_large_answers_are_not_kept() -> None:
    store = MemoryStore()
    cache = Cache(store, max_value_bytes=100)
    large = {**ANSWER, "label": "x" * 100}
    failed: dict[str, Any] = {"error": {"code": "item_invalid", "message": "no"}}
    odd = {**ANSWER, "label": "\ud800"}
    assert cache.put_many([("a", large), ("b", failed), ("c", ANSWER), ("d", odd)]) == 1
    assert cache.get_many(["a", "b", "c"]) == [None, None, ANSWER]


@pytest.mark.parametrize("value", [b"\xff", b"[1]", b"{", b'{"label": 1}', b""])
def test_what_is_no_answer_is_a_miss(value: bytes) -> None:
    store = MemoryStore()
    store.set_many({"k": value}, 60)
    cache = Cache(store)
    assert cache.look_up(["k"]) == [None]


def test_a_time_limit_of_the_task_that_asks_is_no_failure() -> None:
    store = FailingStore()
    store.error = SoftTimeLimitExceeded()
    cache = Cache(store)
    with pytest.raises(SoftTimeLimitExceeded):
        cache.look_up(["a"])
    store.is_broken = False
    assert cache.look_up(["a"]) == [None]


def test_a_failure_is_a_miss_and_then_a_pause() -> None:
    clock, store = Clock(), FailingStore()
    cache = Cache(store, clock=clock)
    assert cache.get_many(["a", "b"]) == [None, None]
    assert cache.look_up(["a"]) is None
    assert cache.put_many([("a", ANSWER)]) is None
    assert store.calls == 1
    clock.now += 1.0
    store.is_broken = False
    assert cache.look_up(["a"]) == [None]
    assert store.calls == 2


def test_a_cache_that_is_off_asks_nobody() -> None:
    cache = open_cache(Settings(cache=CacheSettings(enabled=False, url="redis://127.0.0.1:1/0")))
    assert not cache.is_on
    assert cache.look_up(["a"]) == [None]
    assert cache.put_many([("a", ANSWER)]) == 0


def test_memory_is_bounded_by_entries_and_bytes_and_keeps_what_is_used() -> None:
    store = MemoryStore(max_entries=3)
    for name in "abc":
        store.set_many({name: b"1"}, 60)
    store.get_many(["a"])
    store.set_many({"d": b"1"}, 60)
    assert store.get_many(list("abcd")) == [b"1", None, b"1", b"1"]

    store = MemoryStore(max_bytes=1_000)
    for number in range(100):
        store.set_many({f"{number:02}": b"x" * 98}, 60)
    assert len(store) == 10
    store.set_many({"99": b"x"}, 60)  # written anew: not counted twice
    store.set_many({"aa": b"x" * 98}, 60)
    assert len(store) == 10


def test_a_server_that_is_gone_or_silent_costs_one_short_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (1, silent.getsockname()[1]):
            cache = Cache(RedisStore(f"redis://127.0.0.1:{port}/0", 0.2))
            started = time.monotonic()
            for _ in range(50):
                assert cache.look_up(["a"]) is None
            assert time.monotonic() - started < 3.0
