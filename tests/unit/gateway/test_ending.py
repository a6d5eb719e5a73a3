"""A task of the gateway ends, also if a cancellation was lost on its way."""

from __future__ import annotations

import asyncio

import pytest

from producer.gateway.ending import end
from producer.gateway.pulse import Pulse


def test_a_pulse_ends_whose_question_swallows_the_cancellation() -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if asked == 2:  # not the first one, which is asked before it starts
                return
            raise

    async def run() -> None:
        pulse = Pulse(ask, lambda: None)
        await pulse.start()
        while asked < 2:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await pulse.stop()

    asyncio.run(run())


def test_a_task_that_has_ended_is_left_as_it_is() -> None:
    async def fail() -> None:
        raise ValueError("a defect")

    async def run() -> None:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        await end(task)
        with pytest.raises(ValueError, match="defect"):
            task.result()

    asyncio.run(run())
