"""A reply list that one thread drains, as a careful engineer would write it by hand."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from typing import Any

import redis


class Replies:
    """Futures by id, resolved by ``(id, answer)`` pairs or by one function of a raw reply."""

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._client = client
        self._key = key
        self._waiting: dict[str, Future[Any]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def expect(self, id: str) -> Future[Any]:
        """The future of one reply."""
        future: Future[Any] = Future()
        self._waiting[id] = future
        return future

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            popped: Any = self._client.blmpop(1, 1, self._key, direction="LEFT", count=100)
            for raw in popped[1] if popped else ():
                reply = json.loads(raw)
                self._waiting.pop(reply["id"]).set_result(reply)
