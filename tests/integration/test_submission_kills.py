"""Processes that are killed while submissions wait and run: each one ends, once, and rightly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from celeriac import errors
from celeriac.messages import predict_queue
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import (
    BrokerSettings,
    ModelsSettings,
    Settings,
    StackSettings,
    SubmissionSettings,
)
from celeriac.submissions.ledger import SubmissionLedger
from producer import lost_submissions
from producer.broker import Broker
from producer.client import Client
from producer.handles import PredictionHandle
from tests.conftest import ROOT, Worker
from tests.frozen import freeze
from workers.valkey import EmbeddedServer, free_port

pytestmark = pytest.mark.uncounted

CRASHES = Path(__file__).parent / "crashes"
POINTS = (
    "submission-claim", "submission-claimed", "submission-predicted", "submission-committed",
)  # fmt: skip
SUBMITTER = """
import os, signal, sys
from producer import Client
client = Client(os.environ["CELERIAC_BROKER_URL"])
for number in range(5):
    client.submit("echo", number, id=f"killed-{number}")
print("accepted", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


class Stack:
    """A server that can be killed, and a worker that is started again whenever it has died."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.crashes = folder / "crashes"
        self.crashes.mkdir()
        self.server = EmbeddedServer(folder / "valkey", free_port())
        self.server.start()
        self.settings = Settings(
            broker=BrokerSettings(url=self.server.url),
            stack=StackSettings(state_dir=folder / "state", metrics_port=0),
            models=ModelsSettings(root=folder / "models"),
            submissions=SubmissionSettings(lease_s=2, max_attempts=3),
        )
        registry = Registry(folder / "models")
        draft = ModelDraft(
            format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
        )
        registry.add("echo", lambda _: draft)
        registry.aliases("echo").promote(1, expected=None, who="test", why="")
        self.broker = Broker(self.settings)
        publish(self.broker.redis, registry.infos())
        self.client = Client(settings=self.settings)
        self.ledger = SubmissionLedger(self.broker.redis)
        self.deaths = 0
        self.worker: Worker | None = None
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> None:
        self._keeper.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._keeper.is_alive():
            self._keeper.join(20)
        if self.worker is not None:
            self.worker.kill()
        self.client.close()
        self.broker.close()
        self.server.stop()

    def wish(self, point: str) -> None:
        (self.crashes / f"{point}.done").unlink(missing_ok=True)
        (self.crashes / point).write_text("process")

    def kill_worker(self) -> None:
        assert self.worker is not None
        os.kill(self.worker.process.pid, signal.SIGKILL)

    def finish(self, handles: list[PredictionHandle], timeout_s: float = 60) -> None:
        """Until all have ended; the reconciler runs as beat would have it."""
        deadline = time.monotonic() + timeout_s
        while not all(handle.done() for handle in handles):
            assert time.monotonic() < deadline, [h.status() for h in handles if not h.done()][:3]
            lost_submissions.reconcile(self.broker, self.ledger, queued_s=1)
            time.sleep(0.2)

    def until(self, condition: Callable[[], bool], timeout_s: float = 30) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _keep(self) -> None:
        while not self._stopping.wait(0.05):
            if self.worker is None or self.worker.process.poll() is not None:
                self.deaths += self.worker is not None
                log = self.folder / f"worker-{self.deaths}.log"
                self.worker = Worker(self.settings, "realtime.cpu", log, "-I", "crash_points")


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    monkeypatch.setenv("PYTHONPATH", str(CRASHES))
    monkeypatch.setenv("CRASH_POINTS", str(tmp_path / "crashes"))
    stack = Stack(tmp_path)
    yield stack
    stack.stop()


@pytest.mark.timeout(300)
def test_whatever_is_killed_no_submission_is_lost(stack: Stack) -> None:
    every_crash_point(stack)
    workers_that_are_killed_at_any_moment(stack)
    one_that_ends_its_process_takes_nobody_with_it(stack)
    a_submitter_that_is_killed(stack)
    messages_that_vanish(stack)
    a_server_that_is_killed(stack)
    assert stack.ledger.overview().open == 0
    assert stack.ledger.overview().open_bytes == 0


def every_crash_point(stack: Stack) -> None:
    for point in POINTS:
        stack.wish(point)
    handles = [stack.client.submit("echo", number) for number in range(100)]
    stack.start()
    stack.finish(handles)
    assert [handle.result().value for handle in handles] == list(range(100))
    stack.until(lambda: stack.deaths >= len(POINTS))  # the last may have committed before it died
    assert all((stack.crashes / f"{point}.done").exists() for point in POINTS)
    assert stack.deaths == len(POINTS)
    assert max(handle.status().attempts for handle in handles) > 1


def workers_that_are_killed_at_any_moment(stack: Stack) -> None:
    handles = []
    for pause_s in (0.05, 0.2, 0.01):
        for number in range(300):
            handles.append(stack.client.submit("echo", number))
            if number == 150:
                time.sleep(pause_s)
                stack.kill_worker()
    stack.finish(handles)
    assert [handle.result().value for handle in handles] == [*range(300)] * 3


def one_that_ends_its_process_takes_nobody_with_it(stack: Stack) -> None:
    before = stack.deaths
    items = [*range(10), "poison", *range(10)]
    handles = [stack.client.submit("echo", item) for item in items]
    stack.finish(handles, 90)
    poisoned = handles.pop(10)
    assert [handle.result().value for handle in handles] == [*range(10)] * 2
    with pytest.raises(errors.WorkerError, match="logs have the reason"):
        poisoned.result()
    assert poisoned.status().attempts == 3
    assert max(handle.status().attempts for handle in handles) <= 2
    assert stack.deaths == before + 3


def a_submitter_that_is_killed(stack: Stack) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SUBMITTER], cwd=ROOT, capture_output=True, text=True, timeout=30,
        env=os.environ | {"CELERIAC_BROKER_URL": stack.server.url}, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (-signal.SIGKILL, "accepted\n"), ran.stderr
    handles = [stack.client.prediction(f"killed-{number}") for number in range(5)]
    stack.finish(handles)
    assert [handle.result().value for handle in handles] == [0, 1, 2, 3, 4]


def messages_that_vanish(stack: Stack) -> None:
    """As those do that a worker has popped when it is killed."""
    assert stack.worker is not None
    freeze(stack.worker.process.pid)
    handles = [stack.client.submit("echo", number) for number in range(100)]
    stack.broker.redis.delete(predict_queue("cpu"))
    os.kill(stack.worker.process.pid, signal.SIGCONT)
    stack.finish(handles)
    assert [handle.result().value for handle in handles] == list(range(100))


def a_server_that_is_killed(stack: Stack) -> None:
    handles = [stack.client.submit("echo", number) for number in range(200)]
    time.sleep(1.1)  # what is on disk each second is on disk
    handles += [stack.client.submit("echo", number) for number in range(200)]
    process = stack.server.process
    assert process is not None
    process.kill()
    process.wait(10)
    with pytest.raises(errors.BrokerError):
        stack.client.submit("echo", 1)
    stack.server.start()
    stack.until(lambda: _answers(stack.broker.redis))
    stack.finish(handles)
    assert [handle.result().value for handle in handles] == [*range(200)] * 2


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
