"""A local stack over one registry, for a benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.child_environment import child_environment
from celeriac.settings import ModelsSettings, Settings, StackSettings
from workers.stack import Stack
from workers.valkey import free_port

PROCESSES = 2
"""Of the batch worker, and of what it is compared with."""


@dataclass(frozen=True)
class Site:
    """What runs."""

    settings: Settings
    """For a client."""
    env: Mapping[str, str]
    """The environment of any process that is to find it."""
    server_pid: int
    """Of the embedded Valkey."""


@contextmanager
def site(home: Path, root: Path, *roles: str) -> Iterator[Site]:
    """Workers of ``roles``, over the registry ``root``, while the block runs."""
    stack = StackSettings(state_dir=home / "state", metrics_port=0, redis_port=free_port(),
                          batch_processes=PROCESSES)
    settings = Settings(stack=stack, models=ModelsSettings(root=root))
    with Stack(settings, roles=roles, flower=False, gateway=False) as running:
        env = child_environment(running.settings)
        valkey = running.status()["valkey"].pid
        assert valkey is not None
        yield Site(running.settings, env, valkey)
