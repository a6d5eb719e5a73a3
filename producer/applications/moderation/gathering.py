"""Records of decisions that are made at the same moment, written as one: a write costs more than
all else that a decision needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Gathered(Generic[T, R]):
    """Gathers what the coroutines of one turn of an event loop bring, and has it done as one."""

    def __init__(self, work: Callable[[list[T]], Sequence[R]]) -> None:
        """``work`` takes all and returns as many results, in their order."""
        self._work = work
        self._waiting: dict[
            asyncio.AbstractEventLoop, list[tuple[list[T], asyncio.Future[Sequence[R]]]]
        ] = {}

    async def add(self, some: list[T]) -> Sequence[R]:
        """The results of ``some``. Raises what the work raises."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting.get(loop)
        if waiting is None:
            waiting = self._waiting[loop] = []
            loop.call_soon(self._run, loop)
        future: asyncio.Future[Sequence[R]] = loop.create_future()
        waiting.append((some, future))
        return await future

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = self._waiting.pop(loop)
        try:
            results = self._work([one for some, _ in waiting for one in some])
        except Exception as error:  # noqa: BLE001 - raised where each waits
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        start = 0
        for some, future in waiting:
            stop = start + len(some)
            if not future.done():  # who waited may have been cancelled
                future.set_result(results[start:stop])
            start = stop
