"""Celeriac's lane, fed by many producers that each send one item a message, without gathering."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import redis

from benchmarks.subjects.raw import connection
from benchmarks.subjects.replies import Replies
from celeriac.keys import reply_key
from celeriac.messages import CONTRACT, Envelope, encode_item, realtime_queue
from producer import wire


class Caller:
    """Blocking calls: each thread publishes its own message."""

    def __init__(self, client: redis.Redis, model: str, reply_to: str) -> None:
        self._client = client
        self._model = model
        self._queue = realtime_queue("cpu", model)
        self._reply_to = reply_to
        self.replies = Replies(client, reply_key(reply_to))

    def prepare(self, item: Any) -> Any:
        return encode_item(item)

    def call(self, item: Any) -> Any:
        envelope = Envelope(
            v=CONTRACT, id=wire.new_id(), model=self._model, items=[item],
            reply_to=self._reply_to, deadline_ms=wire.now_ms() + 60_000,
        )
        future = self.replies.expect(envelope.id)
        self._client.lpush(self._queue, wire.envelope_message(envelope, self._queue))
        return future.result(60)["answers"][0]


@contextlib.contextmanager
def connect(model: str) -> Iterator[Caller]:
    """One reply list, so that the client is the raw consumer's."""
    caller = Caller(connection(), model, f"bench-{os.getpid()}")
    yield caller
    caller.replies.close()
