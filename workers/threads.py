"""How many compute threads a process may have: its share of the cores.

Libraries read it once, when they are imported; so the share is decided from the command line,
before. What the operator has set already is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from celery.utils.sysinfo import cpu_budget

from celeriac import compute_threads
from celeriac.messages import MAINTENANCE_QUEUE
from workers.roles import Role


def cores() -> int:
    """Those that this program may use, at least 1."""
    return max(1, int(cpu_budget().count))


def share(role: Role, *, processes: int, cores: int, realtime: int) -> int:
    """Threads of one process of ``role``, at least 1.

    ``processes`` are those of its pool. A batch worker's share the cores; a real-time worker has
    ``realtime`` (``[realtime] threads``; 0: all cores), because clients, gateway and Redis need
    cores too; the maintenance worker computes nothing that hurries.
    """
    if role.name == MAINTENANCE_QUEUE:
        return 1
    if role.name.startswith("batch."):
        return max(1, cores // max(1, processes))
    return min(realtime or cores, cores)


def processes(role: Role, asked: str, pool: str, cores: int) -> int:
    """Processes of the worker's pool. ``asked`` is ``-c``, "" if it is not given."""
    if pool != "prefork":
        return 1
    given = asked.strip().lower() or str(role.concurrency)
    return cores if given == "auto" else int(given) if given.isdecimal() and int(given) else cores


def limit(environment: MutableMapping[str, str], threads: int) -> None:
    """Set what the libraries read, where nobody has set it."""
    for variable, value in compute_threads.environment(threads).items():
        environment.setdefault(variable, value)


def limited(environment: Mapping[str, str]) -> int:
    """What this process was given: 1 unless its environment says more."""
    words = environment.get(compute_threads.COUNTS[0], "1").partition(",")[0]
    return max(1, int(words)) if words.isdecimal() else 1
