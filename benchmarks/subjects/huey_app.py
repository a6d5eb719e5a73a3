"""huey on Redis: one task for each item, told of its end by ``notify_result``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from huey import RedisHuey
from redis import ConnectionPool

pool = ConnectionPool.from_url(os.environ["BENCH_REDIS_URL"], max_connections=512)
huey = RedisHuey("bench", connection_pool=pool, notify_result=True)


@huey.task()
def predict(item: Any) -> Any:
    """The item itself."""
    return item


class Caller:
    """Blocking calls."""

    def prepare(self, item: Any) -> Any:
        return item

    def call(self, item: Any) -> Any:
        return predict(item).get(blocking=True, timeout=60)


@contextlib.contextmanager
def connect(model: str) -> Iterator[Caller]:  # noqa: ARG001
    """huey connects by itself."""
    yield Caller()
