"""A raw Redis consumer of its own format: pops up to 32 items at once, no safety of any kind."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import redis

from benchmarks.subjects.models import bare
from benchmarks.subjects.replies import Replies

QUEUE = "raw:items"
POP_ITEMS = 32


def connection() -> redis.Redis:
    """A connection to the benchmark's server."""
    return redis.Redis.from_url(os.environ["BENCH_REDIS_URL"], max_connections=512)


class Caller:
    """Blocking calls: each thread pushes its own item."""

    def __init__(self, client: redis.Redis, replies: Replies, reply_to: str) -> None:
        self._client = client
        self._replies = replies
        self._reply_to = reply_to
        self._ids = itertools.count()

    def prepare(self, item: Any) -> Any:
        return item

    def call(self, item: Any) -> Any:
        number = str(next(self._ids))
        future = self._replies.expect(number)
        self._client.lpush(
            QUEUE, json.dumps({"id": number, "reply_to": self._reply_to, "item": item})
        )
        return future.result(60)["answer"]


@contextlib.contextmanager
def connect(model: str) -> Iterator[Caller]:  # noqa: ARG001 - the worker knows it
    """A client with a reply list."""
    client = connection()
    key = f"raw:replies:{os.getpid()}"
    replies = Replies(client, key)
    yield Caller(client, replies, key)
    replies.close()


def work() -> None:
    """The consumer."""
    going_on = True

    def stop(*_: Any) -> None:
        nonlocal going_on
        going_on = False

    signal.signal(signal.SIGTERM, stop)
    client, answers = connection(), bare(os.environ["BENCH_MODEL"])
    while going_on:
        popped: Any = client.blmpop(0.5, 1, QUEUE, direction="RIGHT", count=POP_ITEMS)
        if not popped:
            continue
        requests = [json.loads(raw) for raw in popped[1]]
        found = answers([request["item"] for request in requests])
        with client.pipeline(transaction=False) as pipe:
            for request, answer in zip(requests, found, strict=True):
                pipe.rpush(request["reply_to"], json.dumps({"id": request["id"], "answer": answer}))
            pipe.execute()


if __name__ == "__main__":
    work()
