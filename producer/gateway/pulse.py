"""Is Redis there? Asked all the time, so that no request must find out by waiting.

Redis counts as gone when two questions in a row, the second over a fresh connection, have no
answer. Then readiness is red, requests are refused at once, and those that wait are let go; with
the first answer everything goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

from celeriac.logs import get_logger
from producer.gateway import metrics
from producer.gateway.ending import end
from producer.gateway.failures import broker_gone

log = get_logger(__name__)

LOOK_S = 0.15
ANSWER_S = 0.4
"""Longest wait for an answer; twice that and a look make less than a second."""

Ask = Callable[[], Awaitable[object]]


class Pulse:
    """Whether Redis answers. ``ask`` raises if it does not; ``gone`` is called when it stops."""

    def __init__(self, ask: Ask, gone: Callable[[], None]) -> None:
        self._ask = ask
        self._gone = gone
        self.is_up = False
        """False before the first answer."""
        self._task: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Raises BrokerError unless Redis answers."""
        if not self.is_up:
            raise broker_gone()

    async def start(self) -> None:
        """Ask once, then go on asking in the background."""
        fault = await self._fault()
        self._set(fault)
        if fault is not None:
            _tell(fault)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            await end(self._task)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._set(await self._fault() and await self._fault())

    async def _fault(self) -> Exception | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._ask()
        except (RedisError, OSError, TimeoutError) as error:
            return error
        return None

    def _set(self, fault: Exception | None) -> None:
        is_up = fault is None
        metrics.BROKER_UP.set(is_up)
        if is_up == self.is_up:
            return
        self.is_up = is_up
        if fault is None:
            log.info("Redis answers")
        else:
            _tell(fault)
            self._gone()


def _tell(fault: Exception) -> None:
    reason = str(fault) or type(fault).__name__
    log.warning("Redis does not answer: requests are refused until it does", reason=reason)
