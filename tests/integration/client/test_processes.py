"""The client across forks, at the end of the interpreter, and inside somebody else's Celery."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from celeriac.settings import Settings
from producer.client import Client
from workers.lane.lane import Lane

pytestmark = pytest.mark.uncounted


def in_child(work: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Run ``work`` in a forked child; True if it returned True in time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: "may lead to deadlocks"
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return False


def test_parent_and_children_use_one_client(client: Client, lane: Lane) -> None:
    assert client.predict("echo", "before").value == "before"

    def child() -> bool:
        many = [p.value for p in client.predict_many("echo", range(200))]
        handle = client.submit("echo", 1)
        cancelled = handle.cancel()
        client.close()
        return many == list(range(200)) and cancelled

    for _ in range(3):
        assert in_child(child)
        assert client.predict("echo", "after").value == "after"


def test_a_fork_while_threads_are_in_the_middle_of_everything(
    client: Client, lane: Lane
) -> None:
    stopping = threading.Event()

    def busy() -> None:
        while not stopping.is_set():
            client.predict_many("echo", range(20))

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert in_child(lambda: client.predict("echo", "child").value == "child")
    finally:
        stopping.set()
        for thread in threads:
            thread.join(20)


def test_a_fork_while_the_locks_are_held(client: Client, lane: Lane) -> None:
    client.predict("echo", 1)
    exchange = client.realtime._exchange
    assert exchange is not None
    locks = [
        client.broker._lock, client.realtime._lock, client.realtime.routes._lock,
        exchange.coalescer._turn, exchange._lock, exchange._flights._lock,
        client.realtime._desk.open_items._lock, client.realtime._desk.counts._lock,
        client.realtime._desk.refusals._lock,
    ]  # fmt: skip
    for lock in locks:
        lock.acquire()
    try:
        assert in_child(lambda: client.predict("echo", 2).value == 2)
    finally:
        for lock in locks:
            lock.release()


@pytest.mark.parametrize("ending", ["", "client.close()", "raise SystemExit(0)", "del client"])
def test_the_interpreter_ends_quietly_and_soon(
    settings: Settings, lane: Lane, ending: str
) -> None:
    script = f"""
from producer import Client
client = Client({settings.broker_url!r})
print(client.predict("echo", "last").value)
{ending}
"""
    started = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", script],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "last\n")
    assert not ran.stderr
    assert time.monotonic() - started < 10


HOST = """
import os
from celery import Celery, current_app
from producer import Client

app = Celery("host", broker=os.environ["URL"], backend=os.environ["URL"])
client = Client(os.environ["URL"])
client.predict("echo", "warm")  # before the pool forks: gunicorn and prefork do the same

@app.task(name="host.work")
def work(item):
    handle = client.submit("echo", item)
    cancelled = handle.cancel()
    return [client.predict("echo", item).value, cancelled, current_app.main]
"""


def test_inside_the_task_of_another_service(
    settings: Settings, lane: Lane, tmp_path: Path
) -> None:
    from celery import Celery

    (tmp_path / "host.py").write_text(HOST)
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "host", "worker", "-P", "prefork", "-c", "2",
         "--without-gossip", "--without-mingle", "-l", "warning"],
        cwd=tmp_path, env=os.environ | {"URL": settings.broker_url, "PYTHONPATH": "."},
    )  # fmt: skip
    app = Celery("asks", broker=settings.broker_url, backend=settings.broker_url,
                 set_as_current=False)  # fmt: skip
    try:
        results = [app.send_task("host.work", args=[number]) for number in range(8)]
        answers = [result.get(timeout=30) for result in results]
    finally:
        worker.terminate()
        worker.wait(20)
        app.close()

    assert answers == [[number, True, "host"] for number in range(8)]
    assert all(not result.children for result in results)
