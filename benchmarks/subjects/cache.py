"""An answer from Celeriac's cache, or one bare GET of the same key."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from producer import Client

TIMEOUT_S = 60.0


class Caller:
    """Asks for one item again and again; ``get`` is the bare GET of its kept answer."""

    def __init__(self, client: Client, model: str, *, bare: bool) -> None:
        self._client = client
        self._model = model
        self.call = self._get if bare else self._predict
        self._redis = client.broker.redis
        self._key = ""

    def prepare(self, item: Any) -> Any:
        """Have the answer kept, and find its key."""
        self._client.predict(self._model, item)
        for _ in range(200):
            self._key = next(self._redis.scan_iter("celeriac:cache:*"), "")
            if self._key:
                return item
            time.sleep(0.02)
        raise RuntimeError("the answer was not kept")

    def _predict(self, item: Any) -> Any:
        return self._client.predict(self._model, item)

    def _get(self, item: Any) -> Any:
        return self._redis.get(self._key)


@contextlib.contextmanager
def connect(model: str) -> Iterator[Caller]:
    """``cached`` asks the client, ``cached:get`` Redis alone."""
    name, _, bare = model.partition(":")
    with Client(timeout_s=TIMEOUT_S) as client:
        yield Caller(client, name, bare=bool(bare))
