"""dramatiq on Redis with its result backend: one message for each item."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

URL = os.environ["BENCH_REDIS_URL"]
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
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
