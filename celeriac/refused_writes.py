"""A Redis that answers and takes no writes: it is full, cannot save, or is a replica now."""

from __future__ import annotations

import redis

_KINDS = (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError)
_WORDS = ("MISCONF ", "NOREPLICAS ", "UNBLOCKED ")
"""redis-py has no classes for these; the last ends a wait in a server that becomes a replica."""
PROBE = "celeriac:probe"
"""A key that is never there: LPUSHX on it changes nothing, and is a write all the same."""


def is_refused_write(error: BaseException) -> bool:
    """True if Redis refuses all writes for now, and not this command for what it is.

    >>> is_refused_write(redis.ResponseError("MISCONF Errors writing to the AOF file"))
    True
    >>> is_refused_write(redis.ResponseError("WRONGTYPE Operation against a key"))
    False
    """
    if isinstance(error, _KINDS):
        return True
    return isinstance(error, redis.ResponseError) and any(one in str(error) for one in _WORDS)
