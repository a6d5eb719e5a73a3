"""Where the counts of all workers meet: one hash for each version, in Redis.

A process writes what it has counted so far in the present stretch of time into a field of its own,
again and again. So a write that is repeated counts nothing twice, and one that fails is made good
by the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from celeriac import lua
from celeriac.keys import DRIFT_COUNTED_KEY, DRIFT_KEPT_S, drift_counts_key, drift_times_key

MOST_FIELDS = 4_096
"""Of one version: the oldest go."""
BLOCK = 64
"""Fields that one exchange reads, at most."""

_WRITE = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
local surplus = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[4])
if surplus > 0 then
  local old = redis.call('ZPOPMIN', KEYS[2], surplus)
  for i = 1, #old, 2 do redis.call('HDEL', KEYS[1], old[i]) end
end
redis.call('ZADD', KEYS[3], ARGV[5], ARGV[6])
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], ARGV[7]) end
"""


class Stretch(NamedTuple):
    """What one process counted in one stretch of time."""

    start_s: float
    data: bytes


def start_of(now_s: float, bucket_s: float) -> float:
    """Beginning of the stretch that ``now_s`` lies in, the same for all workers."""
    return math.floor(now_s / bucket_s) * bucket_s


def write(  # noqa: PLR0913 - whose counts, and of when
    client: Any, model: str, version: int, *, process: str, start_s: float, data: bytes,
    now_s: float,
) -> None:
    """Put ``data`` in the place of what ``process`` wrote of the same stretch before. Raises
    redis.RedisError."""
    keys = (drift_counts_key(model, version), drift_times_key(model, version), DRIFT_COUNTED_KEY)
    lua.run(
        client, _WRITE, keys, f"{start_s:.3f}:{process}", data, start_s, MOST_FIELDS, now_s,
        f"{model}@{version}", DRIFT_KEPT_S,
    )


def newest(
    client: Any, model: str, version: int, *, from_s: float, until_s: float
) -> Iterable[Stretch]:
    """The stretches that began in that time, the newest first: as many as are taken are read, and
    few more. Raises redis.RedisError."""
    counts, times = drift_counts_key(model, version), drift_times_key(model, version)
    known: set[bytes] = set()
    for offset in range(0, MOST_FIELDS, BLOCK):
        fields = client.zrange(
            times, until_s, from_s, desc=True, byscore=True, withscores=True, offset=offset,
            num=BLOCK,
        )
        # One that has come meanwhile moves those that we have to the next block.
        some = [(name, start_s) for name, start_s in fields if name not in known]
        known.update(name for name, _ in some)
        found = client.hmget(counts, [name for name, _ in some]) if some else []
        for (_, start_s), data in zip(some, found, strict=True):
            if data is not None:
                yield Stretch(start_s, data)
        if len(fields) < BLOCK:
            return


def versions(client: Any, *, from_s: float) -> list[tuple[str, float]]:
    """``NAME@VERSION`` of those that have been counted since, each with the Unix time of the last
    item; older ones are forgotten. Raises redis.RedisError."""
    client.zremrangebyscore(DRIFT_COUNTED_KEY, "-inf", f"({from_s}")
    found = client.zrange(DRIFT_COUNTED_KEY, 0, -1, withscores=True)
    return [(ref.decode(), at_s) for ref, at_s in found]


def forget(client: Any, model: str, version: int) -> None:
    """Drop all counts of a version. Raises redis.RedisError."""
    with client.pipeline(transaction=False) as pipe:
        pipe.unlink(drift_counts_key(model, version), drift_times_key(model, version))
        pipe.zrem(DRIFT_COUNTED_KEY, f"{model}@{version}")
        pipe.execute()
