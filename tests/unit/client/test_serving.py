"""What the workers say of themselves, read as which of them serves which version."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from celeriac.keys import worker_key
from producer.serving import read_serving, wait_served


def says(client: redis.Redis, hostname: str, **what: Any) -> None:
    said = {"hostname": hostname, "role": "realtime.cpu", "device": "cpu", **what}
    client.set(worker_key(hostname), json.dumps(said), ex=10)


@pytest.fixture
def workers(redis_client: redis.Redis) -> redis.Redis:
    says(redis_client, "a@one", serving={"m": 2})
    says(redis_client, "b@one", serving={"m": 1})
    says(redis_client, "c@gpu", device="gpu", serving={"big": 1})
    says(redis_client, "batch@one", role="batch.cpu", device=None, serving={})
    return redis_client


def test_those_that_answer_items_of_the_device_count(workers: redis.Redis) -> None:
    found = read_serving(workers, "m", "cpu")
    assert [(one.hostname, one.version) for one in found] == [("a@one", 2), ("b@one", 1)]
    assert [one.version for one in read_serving(workers, "new", "cpu")] == [None, None]
    assert [one.hostname for one in read_serving(workers, "big", "cpu")] == [
        "a@one", "b@one", "c@gpu",
    ]


def test_the_wait_ends_when_all_serve_it(workers: redis.Redis) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 1.15:
            says(workers, "b@one", serving={"m": 2})

    spread = wait_served(workers, "m", 2, "cpu", 10, clock=lambda: now[0], sleep=sleep)
    assert spread.is_complete
    assert spread.told() == "served by 2 of 2 workers after 1.2 s"


def test_another_version_that_had_the_number_before_is_not_the_one(workers: redis.Redis) -> None:
    old, new = "2026-11-01T00:00:00+00:00", "2026-11-26T00:00:00+00:00"
    says(workers, "a@one", serving={"m": 2}, registered={"m": old})
    says(workers, "b@one", serving={"m": 2}, registered={"m": new})
    spread = wait_served(workers, "m", 2, "cpu", 0, created_at=new)
    assert spread.told().startswith("served by 1 of 2 workers after")
    assert spread.told().endswith("; a@one serves the 2 that was registered before")
    says(workers, "a@one", serving={"m": 2})  # a worker of an older release does not say it
    assert wait_served(workers, "m", 2, "cpu", 0, created_at=new).is_complete


def test_the_wait_is_bounded_and_names_who_is_late(workers: redis.Redis) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    spread = wait_served(workers, "m", 2, "cpu", 5, clock=lambda: now[0], sleep=sleep)
    assert not spread.is_complete
    assert spread.told() == f"served by 1 of 2 workers after {spread.seconds:.1f} s; b@one serves 1"
    assert 5 <= spread.seconds < 5.2


def test_the_wait_is_over_when_a_worker_says_why_it_keeps_the_old_one(
    workers: redis.Redis
) -> None:
    says(workers, "b@one", serving={"m": 1}, kept_back={"m": [2, "too little memory"]})
    spread = wait_served(workers, "m", 2, "cpu", 5)
    assert spread.told().endswith("; b@one serves 1: too little memory")


def test_an_older_failure_neither_ends_the_wait_nor_explains_it(workers: redis.Redis) -> None:
    says(workers, "b@one", serving={"m": 1}, kept_back={"m": [2, "too little memory"]})
    says(workers, "a@one", serving={"m": 3})
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    spread = wait_served(workers, "m", 3, "cpu", 1, clock=lambda: now[0], sleep=sleep)
    assert now[0] >= 1
    assert spread.told().endswith("; b@one serves 1")


def test_without_a_worker(redis_client: redis.Redis) -> None:
    spread = wait_served(redis_client, "m", 2, "cpu", 0)
    assert not spread.is_complete
    assert spread.told().startswith("no worker that could serve it is up")
