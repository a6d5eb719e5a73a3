"""Requests that take longer than most: bodies that do not come, callers that go away.

Nearly all requests are over before anybody looks at them, and cost next to nothing. After that the
body must come within the request's time; and once it is here, ``receive`` tells when the caller
disconnects: then the handler is cancelled, and its items leave their queue if no worker has begun
them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Protocol

from producer.gateway.failures import BodyTimeout

WATCH_AFTER_S = 0.1
LOOK_S = 0.05
"""How often all are looked at; a body whose time is over is given up so much late."""


class Disconnected(Exception):
    """The caller went away before it was answered."""


class Watched(Protocol):
    """What a watch must know of a request."""

    is_hot: bool
    needs_redis: bool
    body_is_read: bool
    started_s: float
    timeout_s: float
    end_s: float
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]]


class Watch:
    """The watch over one request; made by its task."""

    __slots__ = ("_context", "_due_s", "_listener", "_task", "cause")

    def __init__(self, context: Watched) -> None:
        self._context = context
        self._due_s = context.started_s + WATCH_AFTER_S
        self._task = asyncio.current_task()
        self._listener: asyncio.Task[None] | None = None
        self.cause: Exception | None = None
        """Why the handler was cancelled."""

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
        if self._listener is not None:
            self._listener.cancel()

    def look(self, now_s: float) -> None:
        """Begin to listen once the body is here; until then, see whether there is time for it."""
        if now_s < self._due_s:
            return
        context = self._context
        if context.body_is_read:
            self._due_s = math.inf
            if context.is_hot:  # a cold handler may want to hear of it by itself
                self._listener = asyncio.get_running_loop().create_task(self._listen())
        elif now_s >= context.end_s:
            self._due_s = math.inf
            self.abort(BodyTimeout(f"the body did not come within {context.timeout_s:g} s"))

    async def _listen(self) -> None:
        message = await self._context.receive()
        if message["type"] == "http.disconnect":
            self.abort(Disconnected())


class Watches:
    """The watches over all requests that have no answer yet, with one timer for all of them.

    A timer for each, set and cancelled, costs a twentieth of a small request.
    """

    def __init__(self) -> None:
        self._open: set[Watch] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        """That of the timer; None while there is none."""

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Watch]:
        return iter(tuple(self._open))

    def begin(self, context: Watched) -> Watch:
        """The watch over a request, by its task. :meth:`end` must follow."""
        watch = Watch(context)
        self._open.add(watch)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(LOOK_S, self._look, loop)
        return watch

    def end(self, watch: Watch) -> None:
        """The request's handler is done."""
        watch.end()
        self._open.discard(watch)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:  # another one has taken over
            return
        now_s = time.monotonic()
        for watch in self:
            watch.look(now_s)
        if self._open:
            loop.call_later(LOOK_S, self._look, loop)
        else:
            self._loop = None
