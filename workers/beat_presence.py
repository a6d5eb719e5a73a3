"""Beat says in Redis that it is there, so that ``celeriac status`` shows it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time

import redis

from celeriac.keys import WORKER_TTL_S, beat_key

SAID_EVERY_S = 4.0


class BeatPresence:
    """The heartbeat of one beat."""

    def __init__(self, client: redis.Redis) -> None:
        host, pid = socket.gethostname(), os.getpid()
        self._client = client
        self._key = beat_key(f"{host}:{pid}")
        self._said = json.dumps({"host": host, "pid": pid, "started_at": time.time()})
        self._said_s = -math.inf

    def say(self) -> None:
        """Say it, if that was some seconds ago; to be called often."""
        now_s = time.monotonic()
        if now_s - self._said_s < SAID_EVERY_S:
            return
        self._said_s = now_s
        with contextlib.suppress(redis.RedisError):  # it is said again soon
            self._client.set(self._key, self._said, ex=WORKER_TTL_S)

    def leave(self) -> None:
        """Take back what was said."""
        with contextlib.suppress(redis.RedisError):  # it expires
            self._client.delete(self._key)
