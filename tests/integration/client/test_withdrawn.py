"""Work that nobody waits for any more leaves its queue, if no worker has begun it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import redis

from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer.aio import AsyncClient
from tests.integration.client.conftest import HandWorker

QUEUE = "realtime.cpu.echo"


def waits(client: redis.Redis, number: int) -> bool:
    """True once ``number`` messages wait in the queue."""
    deadline = time.monotonic() + 20
    while client.llen(QUEUE) != number:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


async def until(number: int, client: redis.Redis) -> None:
    assert await asyncio.to_thread(waits, client, number), client.llen(QUEUE)


def test_a_cancelled_prediction_is_taken_out_of_its_queue(
    settings: Settings, registry: Registry, redis_client: redis.Redis
) -> None:
    async def work() -> Any:
        async with AsyncClient(settings=settings, timeout_s=30) as client:
            given_up = asyncio.create_task(client.predict("echo", "nobody"))
            await until(1, redis_client)
            waiting = asyncio.create_task(client.predict("echo", "somebody"))
            await until(2, redis_client)
            given_up.cancel()
            await until(1, redis_client)
            (left,) = redis_client.lrange(QUEUE, 0, -1)
            assert b"somebody" in left
            HandWorker(redis_client).answer(HandWorker(redis_client).take())
            assert (await waiting).value == "somebody"
            return client.statistics()

    counts = asyncio.run(asyncio.wait_for(work(), 30))
    assert counts.envelopes_withdrawn == 1


def test_an_envelope_stays_while_one_of_its_callers_waits(
    settings: Settings, registry: Registry, redis_client: redis.Redis
) -> None:
    async def work() -> Any:
        async with AsyncClient(settings=settings, timeout_s=30) as client:
            await client.models()
            tasks = [asyncio.create_task(client.predict("echo", n)) for n in range(3)]
            await until(1, redis_client)  # of one turn of the loop, so in one envelope
            tasks[0].cancel()
            await asyncio.sleep(0.3)
            assert redis_client.llen(QUEUE) == 1
            HandWorker(redis_client).answer(HandWorker(redis_client).take())
            return [(await task).value for task in tasks[1:]]

    assert asyncio.run(asyncio.wait_for(work(), 30)) == [1, 2]
