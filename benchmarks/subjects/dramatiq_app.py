"""dramatiq on Redis with its result backend: one message for each item."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

client = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"], max_connections=512)
broker = RedisBroker(client=client)
broker.add_middleware(Results(backend=RedisBackend(client=client)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True, max_retries=0)
def predict(item: Any) -> Any:
    """The item itself."""
    return item


class Caller:
    """Blocking calls."""

    def prepare(self, item: Any) -> Any:
        return item

    def call(self, item: Any) -> Any:
        return predict.send(item).get_result(block=True, timeout=60_000)


@contextlib.contextmanager
def connect(model: str) -> Iterator[Caller]:  # noqa: ARG001
    """dramatiq connects by itself."""
    yield Caller()
