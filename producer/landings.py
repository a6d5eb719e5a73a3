"""How coroutines send and wait for calls: together.

Calls of one turn of the event loop are handed over at once, and those that land together wake it
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable

from celeriac import errors
from producer.calls import Call, Outcome
from producer.routes import Route

SendCalls = Callable[[Route, list[Call]], None]


class Landing:
    """The calls that coroutines of one event loop send and wait for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: SendCalls) -> None:
        self._loop = loop
        self._send = send
        self._leaving: dict[Route, list[Call]] = {}
        self._landed: deque[Call] = deque()
        self._waiting: dict[Call, tuple[asyncio.Future[None], float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf
        self._woken = False

    def depart(self, route: Route, call: Call) -> None:
        """Have ``call`` sent in this turn of the loop, with the others of its route."""
        if not self._leaving:
            self._loop.call_soon(self._depart)
        self._leaving.setdefault(route, []).append(call)

    def _depart(self) -> None:
        leaving, self._leaving = self._leaving, {}
        for route, calls in leaving.items():
            try:
                self._send(route, calls)
            except errors.CeleriacError as error:
                for call in calls:  # one for each: a traceback belongs to one caller
                    call.settle(errors.from_wire(error.to_wire()))

    async def wait(self, call: Call, end_s: float) -> Outcome | None:
        """The outcome; None if there is none at the monotonic time ``end_s``.

        If the coroutine is cancelled, the call is left as it is.
        """
        future = self._loop.create_future()
        self._waiting[call] = future, end_s
        if not call.told(self):
            del self._waiting[call]
            return call.outcome
        if end_s < self._timer_s:
            self._set_timer(end_s)
        try:
            await future
        finally:
            self._waiting.pop(call, None)
        return call.outcome

    def _set_timer(self, end_s: float) -> None:
        """One timer for all that wait: the next end of a time, or earlier."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = end_s
        self._timer = self._loop.call_later(max(0.0, end_s - time.monotonic()), self._look)

    def _look(self) -> None:
        """Let those go whose time is over."""
        self._timer, self._timer_s = None, math.inf
        now_s = time.monotonic()
        next_s = math.inf
        for future, end_s in self._waiting.values():
            if end_s <= now_s:
                _let_go(future)
            else:
                next_s = min(next_s, end_s)
        if next_s < math.inf:
            self._set_timer(next_s)

    def landed(self, call: Call) -> None:
        self._landed.append(call)

    def wake(self) -> None:
        """Wake the event loop, unless it is being woken already."""
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        self._woken = False
        while self._landed:
            waiting = self._waiting.get(self._landed.popleft())
            if waiting is not None:
                _let_go(waiting[0])


def _let_go(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
