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
from tests.frozen import freeze_group
from tests.waiting import wait_until

pytestmark = pytest.mark.uncounted

TIMEOUT_S = 12.0
CALLERS = 16
QUEUE = "realtime.cpu.echo"


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
        lost = lose_a_call(worker, client, redis_client)
        with Load(client) as load:
            worker.kill()
            start_worker("realtime.cpu")
            check_served_again(load)
            load.stop()
        for call in lost:
            call.join(TIMEOUT_S)
        assert not any(call.is_alive() for call in lost)

        assert not load.failed
        assert load.longest_s < TIMEOUT_S
        counts = client.statistics()
        assert counts.answered == counts.items_sent
        assert counts.answered > sum(load.answered) + len(lost)
        assert counts.open_items == 0
        assert counts.envelopes_resent > 0
        assert redis_client.llen(QUEUE) <= counts.envelopes_resent


def lose_a_call(worker: Any, client: Client, redis_client: redis.Redis) -> list[threading.Thread]:
    """Freeze a worker while its lane waits in Redis, so that it takes what comes next to its grave.

    That a call was lost is seen in Redis: its message has come there, and is there no more. A wait
    may also have ended by itself just then: the message stays, the worker goes on, and another call
    is tried. Returns the calls, each in a thread of its own.
    """
    calls: list[threading.Thread] = []
    for _ in range(20):
        client.predict("echo", "warm", timeout_s=TIMEOUT_S)
        time.sleep(0.01)  # the lane has answered, and waits again
        freeze_group(worker.process.pid)
        before = pushed(redis_client)
        calls.append(threading.Thread(
            target=client.predict, args=("echo", "lost"), kwargs={"timeout_s": TIMEOUT_S},
            daemon=True,
        ))  # fmt: skip
        calls[-1].start()
        wait_for_a_push(redis_client, before)
        if redis_client.llen(QUEUE) == 0:
            return calls
        os.killpg(worker.process.pid, signal.SIGCONT)
    raise AssertionError("the lane never waits in Redis")


def wait_for_a_push(redis_client: redis.Redis, before: int) -> None:
    """Until the client has pushed: who waits for a message has it then, on whatever machine."""
    wait_until(lambda: pushed(redis_client) != before, "the call was not sent", timeout_s=TIMEOUT_S)


def pushed(redis_client: redis.Redis) -> int:
    """How many messages were sent since the server started; only the client sends any here."""
    found: Any = redis_client.info("commandstats")
    return int(found.get("cmdstat_lpush", {"calls": 0})["calls"])


def check_served_again(load: Load) -> None:
    """Every caller goes on: none waits any more for what was lost."""
    deadline = time.monotonic() + TIMEOUT_S
    before = list(load.answered)
    while time.monotonic() < deadline:
        if all(now > then + 1 for now, then in zip(load.answered, before, strict=True)):
            return
        time.sleep(0.05)
    raise AssertionError(f"answers then {before}, now {load.answered}")
