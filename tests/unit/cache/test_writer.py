"""Answers are written behind the callers' backs, within bounds."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, strategies as st

from celeriac.cache import Answerer, Cache, MemoryStore, cache_key, writer as writing
from celeriac.cache.allowance import Allowance
from celeriac.cache.worker import WorkerCache
from celeriac.cache.writer import CacheWriter

WHO = Answerer("m", 1, "2026-11-26T00:00:00+00:00")


def answers(count: int) -> list[dict[str, Any]]:
    return [{"model": "m", "version": 1, "value": number} for number in range(count)]


class StuckStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def set_many(self, values: Mapping[str, bytes], ttl_s: int) -> None:
        assert self.go_on.wait(30)
        super().set_many(values, ttl_s)


def test_what_was_written_is_found_but_no_errors() -> None:
    cache, counted = Cache(MemoryStore()), Counter[str]()
    writer = CacheWriter(
        cache, Allowance(10_000, 60), count=lambda outcome, n: counted.update({outcome: n})
    )
    items = [f"text {number}" for number in range(700)]
    given = answers(700)
    given[3] = {"error": {"code": "model_failed", "message": "no"}}
    assert writer.write(WHO, items, given)
    assert writer.write(WHO, [math.nan], answers(1))  # has no key
    assert writer.flush(30)
    found = cache.get_many([cache_key(WHO, item) for item in items])
    assert found == [*given[:3], None, *given[4:]]
    assert counted == {"kept": 699}


def test_a_full_writer_drops_and_never_waits() -> None:
    store, counted = StuckStore(), Counter[str]()
    writer = CacheWriter(
        Cache(store), Allowance(10**6, 60), count=lambda outcome, n: counted.update({outcome: n})
    )
    started = time.monotonic()
    accepted = sum(
        writer.write(WHO, [f"{batch} {n}" for n in range(1_000)], answers(1_000))
        for batch in range(50)
    )
    assert time.monotonic() - started < 5
    assert 8 <= accepted <= 2 * writing.MAX_WAITING_ITEMS // 1_000  # written, and waiting
    assert counted == {"dropped": (50 - accepted) * 1_000}
    assert not writer.flush(0.01)
    store.go_on.set()
    assert writer.flush(30)
    assert counted["kept"] == accepted * 1_000


def test_large_items_fill_it_sooner() -> None:
    store = StuckStore()
    writer = CacheWriter(Cache(store), Allowance(100, 60))
    large = "x" * (writing.MAX_WAITING_BYTES // 2 + 1)
    accepted = [writer.write(WHO, [large], answers(1)) for _ in range(6)]
    assert 1 <= accepted.count(True) <= 2  # one is written, one waits
    store.go_on.set()
    assert writer.flush(30)


def test_no_more_is_alive_than_the_allowance() -> None:
    now, alive = 0.0, []
    allowance = Allowance(100, ttl_s=10)
    for _ in range(2_000):
        now += 0.01
        alive = [end for end in alive if end > now]
        alive += [now + 10] * allowance.take(3, now)
        assert len(alive) <= 100
    assert len(alive) >= 49  # what grows back in a TTL is used


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 200)), max_size=50))
def test_the_allowance_holds_however_it_is_asked(asked: list[tuple[float, int]]) -> None:
    now, granted = 0.0, []
    allowance = Allowance(100, ttl_s=10)
    for pause_s, wanted in asked:
        now += pause_s
        got = allowance.take(wanted, now)
        assert 0 <= got <= wanted
        granted.append((now, got))
        assert sum(n for at, n in granted if at > now - 10) <= 100


def test_a_worker_recalls_what_it_kept_and_survives_a_broken_store() -> None:
    class Broken(MemoryStore):
        is_broken = False

        def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
            if self.is_broken:
                raise OSError("no")
            return super().get_many(keys)

    store = Broken()
    cache = WorkerCache(Cache(store), max_entries=10_000, ttl_s=60)
    items = [f"text {number}" for number in range(1_200)]
    cache.keep(WHO, items[:1_000], answers(1_000))
    assert cache.flush(30)
    found = cache.recall(WHO, [math.nan, *items])
    assert found == [None, *answers(1_000), *[None] * 200]
    assert cache.recall(WHO._replace(version=2), items[:1]) == [None]
    assert cache.recall(WHO._replace(created_at=""), items[:1]) == [None]
    store.is_broken = True
    assert cache.recall(WHO, items) == [None] * 1_200
