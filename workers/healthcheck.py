"""``python -m workers.healthcheck``: exit code 0 if a worker beats here, or Redis lets none say so.

Reads the heartbeat instead of sending ``celery inspect ping``: a worker that is busy with a long
task does not answer pings, and a check every 15 s must not cost an import of the whole app. While
Redis refuses writes nobody's heartbeat is there, and a worker that is replaced gains nothing. One
that does not answer says nothing of any worker: exit code 1.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import Any

import redis

from celeriac import errors
from celeriac.keys import worker_key
from celeriac.refused_writes import PROBE, is_refused_write
from celeriac.settings import Settings, load_settings
from producer.broker import connect
from workers.roles import ROLES


def beating(settings: Settings, host: str) -> list[str]:
    """Names of the workers on ``host`` whose heartbeat has not expired.

    Those that have a name of their own are looked for, among all keys, only if none has its role's.
    Raises redis.RedisError if Redis does not answer.
    """
    usual = [worker_key(f"{role.name}@{host}").encode() for role in ROLES]
    with contextlib.closing(connect(settings)) as client:
        said: Any = client.mget(usual)
        keys: Any = [key for key, text in zip(usual, said, strict=True) if text]
        keys = keys or client.scan_iter(match=worker_key(f"*@{host}"), count=1_000)
        prefix = worker_key("")
        return sorted(key.decode().removeprefix(prefix) for key in keys)


def refusal(settings: Settings) -> str:
    """Why Redis refuses writes now; empty if it accepts them. Raises redis.RedisError."""
    with contextlib.closing(connect(settings)) as client:
        try:
            client.lpushx(PROBE, "")
        except redis.RedisError as error:
            if is_refused_write(error):
                return str(error)
            raise
    return ""


def main() -> None:
    """Print what beats here; leave with exit code 1 if nothing does, though it could."""
    try:
        settings = load_settings()
        workers = beating(settings, socket.gethostname())
        reason = "" if workers else refusal(settings)
    except (redis.RedisError, errors.CeleriacError) as error:
        sys.exit(f"no answer: {error}")
    if reason:
        sys.stdout.write(f"redis refuses writes, so no worker can say that it lives: {reason}\n")
        return
    if not workers:
        sys.exit("no worker of this host has a heartbeat")
    sys.stdout.write(f"beating: {', '.join(workers)}\n")


if __name__ == "__main__":
    main()
