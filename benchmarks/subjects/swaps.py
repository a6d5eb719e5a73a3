"""How soon a promotion is everywhere: a torch model of 100 MB on two real-time workers, which
are asked all the time.

``python -m benchmarks.subjects.swaps`` prints JSON. Each round has ``command_s``, from the command
to the flip of the alias (digests, load, golden examples, latency), ``spread_s`` from there until
every worker serves the version, and ``rollback_s`` from the command until every worker is back.
Over all: how many requests were made and failed, the slowest one, and the memory of a worker after
each round.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.processes import Child, resident_bytes
from celeriac import errors, release
from celeriac.registry import catalogue
from celeriac.registry.store import Registry
from celeriac.runtimes.architectures import MLP
from celeriac.settings import (
    BrokerSettings,
    ModelsSettings,
    Settings,
    StackSettings,
    get_settings,
)
from producer import Client
from producer.serving import Spread, wait_served
from workers.child_settings import environment
from workers.valkey import EmbeddedServer, free_port

NAME = "large"
SERVED_S = 60.0
_BYTES_PER_WEIGHT = 4


def measure(megabytes: int, workers: int, rounds: int) -> dict[str, Any]:
    """Promote version after version; each round ends with a rollback to the one before."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        settings = _settings(Path(folder), stack)
        registry = Registry(settings.models.root)
        _register(registry, megabytes, rounds + 1)
        registry.aliases(NAME).promote(1, expected=None, who="bench", why="")
        client = stack.enter_context(Client(settings=settings))
        catalogue.publish(client.broker.redis, registry.infos())
        children = _start(settings, Path(folder), workers, stack)
        _served(client, 1, workers)
        asked = stack.enter_context(_asking(settings))
        found: list[dict[str, float]] = []
        memory: list[int] = []
        for version in range(2, rounds + 2):
            found.append(_round(client, registry, version, workers))
            memory.append(resident_bytes(str(children[0].process.pid)))
        size = sum(record.size for record in registry.get(NAME, 1).files)
        return {
            "megabytes": round(size / 1e6), "workers": workers, "rounds": found,
            "requests": len(asked["seconds"]), "failed": asked["failed"],
            "slowest_request_s": max(asked["seconds"], default=0.0),
            "memory_mb": [round(value / 1e6) for value in memory],
        }


def _round(client: Client, registry: Registry, version: int, workers: int) -> dict[str, float]:
    began_s = time.time()
    client.promote(f"{NAME}@{version}", force=True, timeout_s=120)
    moves = [move for move in registry.aliases(NAME).history() if move.alias == "champion"]
    flipped_s = datetime.fromisoformat(moves[-1].time).timestamp()
    _served(client, version, workers)
    served_s = time.time()
    client.rollback(NAME)
    _served(client, version - 1, workers)
    back_s = time.time()
    client.promote(f"{NAME}@{version}", force=True, timeout_s=120)
    _served(client, version, workers)
    return {
        "command_s": flipped_s - began_s, "spread_s": served_s - flipped_s,
        "rollback_s": back_s - served_s,
    }


def _served(client: Client, version: int, workers: int) -> Spread:
    deadline_s = time.monotonic() + SERVED_S
    while True:
        spread = wait_served(client.broker.redis, NAME, version, "cpu", SERVED_S)
        if spread.is_complete and len(spread.workers) == workers:
            return spread
        if time.monotonic() > deadline_s:
            raise RuntimeError(spread.told())
        time.sleep(0.05)  # workers that have only been started are not there yet


def _settings(folder: Path, stack: ExitStack) -> Settings:
    (folder / "valkey").mkdir()
    server = EmbeddedServer(folder / "valkey", free_port())
    server.start()
    stack.callback(server.stop)
    settings = Settings(
        broker=BrokerSettings(url=server.url),
        stack=StackSettings(state_dir=folder / "state", metrics_port=0),
        models=ModelsSettings(root=folder / "models"),
    )
    os.environ.update(environment(settings))
    get_settings.cache_clear()
    return settings


def _register(registry: Registry, megabytes: int, versions: int) -> None:
    width = int((megabytes * 1e6 / _BYTES_PER_WEIGHT) ** 0.5)
    rows = np.random.default_rng(1).random((8, 16), dtype=np.float32)
    for _ in range(versions):
        release.register(NAME, MLP(16, 1, [width, width]), examples=rows, registry=registry)


def _start(settings: Settings, folder: Path, workers: int, stack: ExitStack) -> list[Child]:
    env = {**os.environ, **environment(settings), "OMP_NUM_THREADS": "1"}
    children = []
    for number, role in enumerate(["realtime.cpu"] * workers + ["maintenance"]):
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", role,
                   "-n", f"{role}-{number}@bench", "--without-mingle", "--without-gossip"]
        children.append(stack.enter_context(Child(command, folder / f"{number}.log", env)))
    return children


@contextmanager
def _asking(settings: Settings) -> Iterator[dict[str, Any]]:
    """One caller, all the time."""
    asked: dict[str, Any] = {"seconds": [], "failed": 0}
    stopping = threading.Event()

    def run() -> None:
        with Client(settings=settings) as client:
            while not stopping.is_set():
                began_s = time.perf_counter()
                try:
                    client.predict(NAME, [0.5] * 16, timeout_s=30)
                except errors.CeleriacError:
                    asked["failed"] += 1
                asked["seconds"].append(time.perf_counter() - began_s)
                time.sleep(0.02)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield asked
    finally:
        stopping.set()
        thread.join(60)


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = measure(options.megabytes, options.workers, options.rounds)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
