"""The command line of a worker, and how long it may take to stop."""

from __future__ import annotations

import sys
from pathlib import Path

from celeriac.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
CELERY = (sys.executable, "-m", "workers.celery_command", "-A", "workers.app")
DRAIN_S = 30.0
"""How long a worker may take to finish what it has begun, at least."""
# Workers talk to Redis, not to each other: a second less at each start, no traffic between them.
_QUIET = ("--without-mingle", "--without-gossip")


def worker_command(role: str, concurrency: int = 0, name: str = "") -> list[str]:
    """The ``celery worker`` of a role; ``concurrency`` 0 leaves the role's own.

    ``name``: of the worker, if there are several of the role on one machine.
    """
    argv = [*CELERY, "worker", "-Q", role, "-n", f"{name or role}@%h", *_QUIET]
    return [*argv, "-c", str(concurrency)] if concurrency else argv


def drain_s(settings: Settings) -> float:
    """How long a worker may take to stop before it is killed."""
    return max(
        DRAIN_S, settings.realtime.drain_timeout_s + 10, 2 * settings.worker.exit_timeout_s + 10
    )
