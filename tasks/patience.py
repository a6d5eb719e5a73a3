"""What a task does while Redis is away: it waits, within bounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import redis

from celeriac.logs import get_logger

log = get_logger(__name__)

REDIS_PATIENCE_S = 30.0
"""How long work waits for a Redis that is away; then its lease lapses and it is sent again."""
T = TypeVar("T")


def patiently(exchange: Callable[[], T]) -> T:
    """Have an exchange with Redis, again and again while Redis is away, within bounds."""
    end_s = time.monotonic() + REDIS_PATIENCE_S
    pause_s = 0.1
    while True:
        try:
            return exchange()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if time.monotonic() + pause_s > end_s:
                raise
            log.warning("redis is away", reason=str(error))
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 2.0)
