"""What a task does while Redis is away or refuses writes: it waits, within bounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import redis

from celeriac.logs import get_logger
from celeriac.refused_writes import is_refused_write

log = get_logger(__name__)

REDIS_PATIENCE_S = 30.0
"""How long work waits for such a Redis; then its lease lapses and it is sent again."""
T = TypeVar("T")


def patiently(exchange: Callable[[], T]) -> T:
    """Have an exchange with Redis, again and again while Redis is away or refuses writes."""
    end_s = time.monotonic() + REDIS_PATIENCE_S
    pause_s = 0.1
    while True:
        try:
            return exchange()
        except redis.RedisError as error:
            if not _may_pass(error) or time.monotonic() + pause_s > end_s:
                raise
            log.warning("no exchange with redis", reason=str(error))
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 2.0)


def _may_pass(error: redis.RedisError) -> bool:
    is_away = isinstance(error, (redis.ConnectionError, redis.TimeoutError))
    return is_away or is_refused_write(error)
