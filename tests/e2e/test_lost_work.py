"""A worker that is killed under load costs its callers time, never an answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from celeriac import errors
from celeriac.registry import catalogue
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer.client import Client

pytestmark = pytest.mark.uncounted

TIMEOUT_S = 12.0
CALLERS = 16


class Load:
    """Callers that ask one item after the other, and what became of each."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stopping = threading.Event()
        self.answered = [0] * CALLERS
        self.longest_s = 0.0
        self.failed: list[errors.CeleriacError] = []
        self._threads = [
            threading.Thread(target=self._call, args=(n,), daemon=True) for n in range(CALLERS)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()  # whatever the test found, its callers end

    def stop(self) -> None:
        """Wait for the callers, which must not hang."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S + 5)
        assert not any(thread.is_alive() for thread in self._threads)

    def _call(self, number: int) -> None:
        while not self._stopping.is_set():
            item = f"{number}-{self.answered[number]}"
            started = time.monotonic()
            try:
                answer = self._client.predict("echo", item, timeout_s=TIMEOUT_S)
            except errors.CeleriacError as error:
                self.failed.append(error)
            else:
                assert answer.value == item
                self.answered[number] += 1
            self.longest_s = max(self.longest_s, time.monotonic() - started)
            time.sleep(0.005)


def test_a_killed_worker(
    settings: Settings, redis_client: redis.Redis, start_worker: Callable[..., Any]
) -> None:
    registry = Registry(settings.models.root)
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    registry.add("echo", lambda folder: draft)
    registry.aliases("echo").promote(1, expected=None, who="test", why="")
    catalogue.publish(redis_client, registry.infos())
    worker = start_worker("realtime.cpu")
    with Client(settings=settings) as client:
        calls = stop_while_it_waits(worker, client, redis_client)
        with Load(client) as load:
            time.sleep(0.3)  # the lane takes some to its grave
            worker.kill()
            start_worker("realtime.cpu")
            check_served_again(load)
            assert client.statistics().envelopes_resent > 0
            load.stop()

        assert not load.failed
        assert load.longest_s < TIMEOUT_S
        counts = client.statistics()
        assert counts.answered == counts.items_sent == sum(load.answered) + calls
        assert counts.open_items == 0
        assert redis_client.llen("realtime.cpu.echo") <= counts.envelopes_resent


def stop_while_it_waits(worker: Any, client: Client, redis_client: redis.Redis) -> int:
    """Freeze a worker while its lane waits in Redis for messages: what comes next is lost.

    The wait has just begun, since the lane has just answered: it does not end by itself meanwhile.
    Returns the number of calls that it took.
    """
    for call in range(1, 201):
        client.predict("echo", "warm", timeout_s=TIMEOUT_S)
        os.killpg(worker.process.pid, signal.SIGSTOP)
        waiting = [one for one in redis_client.client_list() if one["cmd"] == "blmpop"]
        if any("b" in one["flags"] for one in waiting):
            return call
        os.killpg(worker.process.pid, signal.SIGCONT)
        time.sleep(0.02)
    raise AssertionError("the lane never waits in Redis")


def check_served_again(load: Load) -> None:
    """Every caller goes on: none waits any more for what was lost."""
    deadline = time.monotonic() + TIMEOUT_S
    before = list(load.answered)
    while time.monotonic() < deadline:
        if all(now > then + 1 for now, then in zip(load.answered, before, strict=True)):
            return
        time.sleep(0.05)
    raise AssertionError(f"answers then {before}, now {load.answered}")
