"""Whether Redis answers, and what is told if it does not."""

from __future__ import annotations

import asyncio

import redis
from structlog.testing import capture_logs

from producer.gateway.pulse import LOOK_S, Pulse


def test_why_redis_does_not_answer_is_told_once() -> None:
    async def ask() -> None:
        raise redis.AuthenticationError("invalid username-password pair")

    async def run() -> None:
        pulse = Pulse(ask, lambda: None)
        await pulse.start()
        await asyncio.sleep(3 * LOOK_S)
        await pulse.stop()

    with capture_logs() as said:
        asyncio.run(run())
    (line,) = said
    assert line["reason"] == "invalid username-password pair"
