"""Where answers are kept: bytes under keys, each with an expiry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

MAX_CONNECTIONS = 256
FAILURES = (redis.RedisError, OSError)
"""What a store that fails raises. Others pass: the time limit of a task that asks, say."""

# One command for many keys: to write and read as many commands costs a process nine times as much.
_SET_MANY = """
for place, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[place + 1], 'EX', ARGV[1])
end
"""


class Store(Protocol):
    """What a cache needs. Any method may raise one of :data:`FAILURES`."""

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """The values of ``keys``, in their order; None where there is none."""
        ...

    def set_many(self, values: Mapping[str, bytes], ttl_s: int) -> None:
        """Keep ``values`` for ``ttl_s`` seconds."""
        ...


class RedisStore:
    """A Redis or Valkey. Safe with threads and forks; raises redis.RedisError."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_connect_timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_keepalive=True,
            max_connections=MAX_CONNECTIONS,
            # A connection that went stale is made anew, once; a server that is slow is not waited
            # for twice.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._set_many = self._client.register_script(_SET_MANY)

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        try:
            values: Any = self._client.mget(keys) if len(keys) > 1 else [self._client.get(keys[0])]
        except redis.RedisError:
            raise
        except BaseException:  # an interrupt may leave an answer behind: to the next key, it seems
            self._client.connection_pool.disconnect(inuse_connections=False)  # not other threads'
            raise
        found: list[bytes | None] = values
        return found

    def set_many(self, values: Mapping[str, bytes], ttl_s: int) -> None:
        self._set_many(keys=list(values), args=[ttl_s, *values.values()])
