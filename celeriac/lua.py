"""Lua scripts that a Redis server runs: one that it has seen is named by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from redis.exceptions import NoScriptError

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


def run(client: Any, script: str, keys: Sequence[str], *arguments: Any) -> Any:
    """What ``script`` returns, through a redis-py client. Raises redis.RedisError."""
    given = (len(keys), *keys, *arguments)
    try:
        return client.evalsha(_digest(script), *given)
    except NoScriptError:  # a server that has just started
        return client.eval(script, *given)


def release(client: Any, key: str, owner: str) -> None:
    """Delete ``key`` if ``owner`` is what it holds: who has taken it since keeps it. Raises
    redis.RedisError."""
    run(client, _RELEASE, (key,), owner)


@lru_cache(maxsize=64)
def _digest(script: str) -> str:
    """By which a server knows a script that it has seen: a fiftieth of its text."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
