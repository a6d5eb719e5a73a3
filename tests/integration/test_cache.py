"""The cache on a real server."""

from __future__ import annotations

import threading
from typing import Any

from celeriac.cache import open_cache
from celeriac.settings import Settings

ANSWER = {"model": "m", "version": 1, "label": "great", "probability": 0.1 + 0.2}


def test_redis_keeps_answers_with_an_expiry(redis_client: Any, settings: Settings) -> None:
    cache = open_cache(settings)
    assert cache.put_many([("celeriac:cache:m:1:a", ANSWER), ("celeriac:cache:m:1:b", ANSWER)]) == 2
    assert cache.get_many(["celeriac:cache:m:1:b", "x"]) == [ANSWER, None]
    assert cache.get("celeriac:cache:m:1:a") == ANSWER
    assert 3_500 < redis_client.ttl("celeriac:cache:m:1:a") <= 3_600


def test_it_goes_on_when_its_connection_was_cut(redis_client: Any, settings: Settings) -> None:
    cache = open_cache(settings)
    cache.put_many([("k", ANSWER)])
    redis_client.client_kill_filter(_type="normal", skipme=True)
    assert cache.get("k") == ANSWER


def test_a_server_that_was_restarted_is_written_to(redis_client: Any, settings: Settings) -> None:
    cache = open_cache(settings)
    assert cache.put_many([("a", ANSWER)]) == 1
    redis_client.script_flush()  # what a restart forgets
    assert cache.put_many([("b", ANSWER)]) == 1
    assert cache.get_many(["a", "b"]) == [ANSWER, ANSWER]


def test_threads_share_a_cache(settings: Settings, redis_client: Any) -> None:
    cache = open_cache(settings)
    cache.put_many([(f"k{number}", {**ANSWER, "label": number}) for number in range(50)])
    wrong: list[Any] = []

    def ask() -> None:
        for number in range(50):
            found = cache.get(f"k{number}")
            if found is None or found["label"] != number:
                wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
