"""``python -m workers.healthcheck``: exit code 0 if this container's worker beats.

Reads the heartbeat instead of sending ``celery inspect ping``: a worker that is busy with a long
task does not answer pings, and a check every 15 s must not cost an import of the whole app.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import Any

import redis

from celeriac import errors
from celeriac.keys import worker_key
from celeriac.settings import Settings, load_settings
from producer.broker import connect


def beating(settings: Settings, host: str) -> list[str]:
    """Names of the workers on ``host`` whose heartbeat has not expired.

    Raises redis.RedisError if Redis does not answer.
    """
    with contextlib.closing(connect(settings)) as client:
        keys: Any = client.scan_iter(match=worker_key(f"*@{host}"), count=1_000)
        prefix = worker_key("")
        return sorted(key.decode().removeprefix(prefix) for key in keys)


def main() -> None:
    """Print what beats here; leave with exit code 1 if nothing does."""
    try:
        workers = beating(load_settings(), socket.gethostname())
    except (redis.RedisError, errors.CeleriacError) as error:
        sys.exit(f"no answer: {error}")
    if not workers:
        sys.exit("no worker of this host has a heartbeat")
    sys.stdout.write(f"beating: {', '.join(workers)}\n")


if __name__ == "__main__":
    main()
