"""Requests that take longer than most: bodies that do not come, callers that go away.

Nearly all requests are over before their watch begins, and cost one timer. After that the body must
come within the request's time; and once it is here, ``receive`` tells when the caller disconnects:
then the handler is cancelled, and its items leave their queue if no worker has begun them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from producer.gateway.failures import BodyTimeout

WATCH_AFTER_S = 0.1
BODY_LOOK_S = 0.1


class Disconnected(Exception):
    """The caller went away before it was answered."""


class Watched(Protocol):
    """What a watch must know of a request."""

    is_hot: bool
    needs_redis: bool
    body_is_read: bool
    timeout_s: float
    end_s: float
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]]


class Watch:
    """The watch over one request; made by its task. :meth:`end` must be called."""

    __slots__ = ("_context", "_listener", "_loop", "_task", "_timer", "cause")

    def __init__(self, context: Watched) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._listener: asyncio.Task[None] | None = None
        self.cause: Exception | None = None
        """Why the handler was cancelled."""
        self._timer = self._loop.call_later(WATCH_AFTER_S, self._look)

    @property
    def needs_redis(self) -> bool:
        """True if its handler waits for what cannot come while Redis is gone."""
        return self._context.needs_redis

    def abort(self, cause: Exception) -> None:
        """Cancel the handler, once; the guard answers with ``cause``."""
        if self.cause is None and self._task is not None:
            self.cause = cause
            self._task.cancel()

    def end(self) -> None:
        """The handler is done: nothing may cancel its task any more."""
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()

    def _look(self) -> None:
        context = self._context
        if context.body_is_read:
            if context.is_hot:  # a cold handler may want to hear of it by itself
                self._listener = self._loop.create_task(self._listen())
            return
        left_s = context.end_s - time.monotonic()
        if left_s <= 0:
            self.abort(BodyTimeout(f"the body did not come within {context.timeout_s:g} s"))
        else:
            self._timer = self._loop.call_later(min(BODY_LOOK_S, left_s), self._look)

    async def _listen(self) -> None:
        message = await self._context.receive()
        if message["type"] == "http.disconnect":
            self.abort(Disconnected())
