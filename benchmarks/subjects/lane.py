"""Celeriac: one client, as a service uses it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from producer import AsyncClient, Client

TIMEOUT_S = 60.0


def prepare(model: str, item: Any) -> Any:
    """Images travel as arrays, the rest as it is."""
    if model != "digits":
        return item
    import numpy as np

    return np.asarray(item, dtype=np.float32)


class Caller:
    """Blocking calls."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model

    def prepare(self, item: Any) -> Any:
        return prepare(self._model, item)

    def call(self, item: Any) -> Any:
        return self._client.predict(self._model, item)

    def many(self, items: Iterable[Any]) -> int:
        """How many items were answered."""
        return len(self._client.predict_many(self._model, items, timeout_s=600))


class AsyncCaller:
    """Awaitable calls."""

    def __init__(self, client: AsyncClient, model: str) -> None:
        self._client = client
        self._model = model

    def prepare(self, item: Any) -> Any:
        return prepare(self._model, item)

    async def call(self, item: Any) -> Any:
        return await self._client.predict(self._model, item)


@contextlib.contextmanager
def connect(model: str) -> Iterator[Caller]:
    """A client of the configured broker."""
    with Client(timeout_s=TIMEOUT_S) as client:
        yield Caller(client, model)


@contextlib.asynccontextmanager
async def connect_async(model: str) -> AsyncIterator[AsyncCaller]:
    """As :func:`connect`, for asyncio."""
    async with AsyncClient(timeout_s=TIMEOUT_S) as client:
        yield AsyncCaller(client, model)
