"""A gateway says in Redis that it is there, so that ``celeriac status`` shows it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time

from redis.asyncio import Redis
from redis.exceptions import RedisError

from celeriac.keys import WORKER_TTL_S, gateway_key
from producer.gateway.ending import end

BEAT_S = 5.0


class Presence:
    """The heartbeat of one gateway."""

    def __init__(self, redis: Redis, url: str) -> None:
        self._redis = redis
        self._key = gateway_key(f"{socket.gethostname()}:{os.getpid()}")
        self._said = json.dumps({"url": url, "pid": os.getpid(), "started_at": time.time()})
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Say no more, and take back what was said."""
        if self._task is not None:
            await end(self._task)
        with contextlib.suppress(RedisError, OSError):
            await self._redis.delete(self._key)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError):  # it is said again soon
                await self._redis.set(self._key, self._said, ex=WORKER_TTL_S)
            await asyncio.sleep(BEAT_S)
