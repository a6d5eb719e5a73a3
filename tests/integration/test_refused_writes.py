"""A Redis that refuses writes costs a worker time: it stays, loses nothing, doubles nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from celeriac.messages import MAINTENANCE_QUEUE, predict_queue
from producer import wire
from tests.waiting import wait_until
from workers.valkey import EmbeddedServer, free_port

pytestmark = pytest.mark.uncounted

ROLES = {"maintenance": MAINTENANCE_QUEUE, "realtime.cpu": predict_queue("cpu")}
SAID, OVER = "redis refuses writes", "refused_s="


@pytest.fixture
def server(own_server: EmbeddedServer) -> EmbeddedServer:
    """A server of this file's own, which can be reconfigured."""
    return own_server


@contextmanager
def full(client: redis.Redis, _: EmbeddedServer) -> Iterator[None]:
    client.config_set("maxmemory", 1)
    yield
    client.config_set("maxmemory", 0)


@contextmanager
def replica(client: redis.Redis, _: EmbeddedServer) -> Iterator[None]:
    client.replicaof("127.0.0.1", free_port())
    yield
    client.replicaof("NO", "ONE")


@contextmanager
def unsaved(client: redis.Redis, server: EmbeddedServer) -> Iterator[None]:
    shutil.rmtree(server.folder, ignore_errors=True)
    client.config_set("save", "3600 1000000")
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    client.config_set("save", "")


WAYS = (full, replica, unsaved)


def test_a_worker_stays_and_goes_on(
    server: EmbeddedServer, redis_client: redis.Redis, start_worker: Callable[..., Any],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    with full(redis_client, server):  # also from its start
        workers = {
            role: start_worker(role, "-I", "slow_tasks", *extra, wait=False)
            for role, extra in (("maintenance", ("-c", "1")), ("realtime.cpu", ()))
        }
        wait_until(lambda: all(SAID in one.log.read_text() for one in workers.values()))
    for worker in workers.values():
        worker.wait_ready()
    begun = {role: len(worker.log.read_text()) for role, worker in workers.items()}

    for times, way in enumerate(WAYS, start=2):
        folders = []
        for role, queue in ROLES.items():
            running, waiting = (tmp_path / f"{way.__name__}-{role}-{n}" for n in range(2))
            send(redis_client, queue, running, 2.0)
            wait_until(lambda: bool(list(running.iterdir())))  # noqa: B023 - asked at once
            send(redis_client, queue, waiting, 0.0)
            folders += [running, waiting]
        with way(redis_client, server):
            for worker in workers.values():
                wait_until(lambda: worker.log.read_text().count(SAID) == times)  # noqa: B023
            for folder in folders[::2]:  # ended, and cannot be acknowledged
                wait_until((folder / "ended").exists)
        for folder in folders:
            wait_until((folder / "ended").exists)
            assert len(list(folder.glob("run-*"))) == 1, way.__name__
        for role, worker in workers.items():
            wait_until(lambda: not redis_client.hlen(f"unacked.{role}"))  # noqa: B023
            assert worker.process.poll() is None
            assert worker.log.read_text().count(OVER) == times
            assert "Traceback" not in worker.log.read_text()[begun[role]:]


def send(client: redis.Redis, queue: str, folder: Path, seconds: float) -> None:
    folder.mkdir()
    said = {"folder": str(folder), "seconds": seconds}
    client.lpush(queue, wire.task_message(
        "test.slow", wire.new_id(), queue, said, shown={}, ignore_result=True
    ))
