"""A worker that is stopped: what it has begun ends, once, and then the worker does."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from celeriac.messages import MAINTENANCE_QUEUE
from celeriac.settings import Settings, WorkerSettings
from producer import wire
from tests.conftest import Worker
from tests.waiting import wait_until

pytestmark = pytest.mark.uncounted

COMMAND = (MAINTENANCE_QUEUE, "-c", "2", "-I", "slow_tasks")
UNACKED = f"unacked.{MAINTENANCE_QUEUE}"
MORE_THAN_A_PIPE = 300_000
HANGS_VARIABLE = "SLOW_TASKS_HANG"


@pytest.fixture(autouse=True)
def slow_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@contextlib.contextmanager
def held_up(pids: list[int]) -> Iterator[None]:
    """Processes of a pool that do not get to run, as under load."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_task_that_a_process_has_and_has_not_begun_runs_once(
    redis_client: redis.Redis, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    stopped = start_worker(*COMMAND)
    folders = [tmp_path / name for name in ("first", "second", "small", "large")]
    for folder in folders:
        folder.mkdir()
    for folder in folders[:2]:  # each process gets tasks only once it has told the worker it is up
        send(redis_client, folder, seconds=1)
    wait_until(lambda: stopped.log.read_text().count("succeeded") == 2)
    processes = children(stopped)
    with held_up(processes):
        wait_until(lambda: filled_pipes(processes[0]) == 0)  # what they have said is read
        send(redis_client, folders[2])
        send(redis_client, folders[3], ballast="-" * MORE_THAN_A_PIPE)
        wait_until(lambda: filled_pipes(processes[0]) == 2)
        stopped.ask_to_stop()
        wait_until(lambda: "Warm shutdown" in stopped.log.read_text())
        time.sleep(2)  # more than a turn of its loop: it is about to stop
    assert stopped.process.wait(40) == 0, stopped.log.read_text()
    for folder in folders:
        assert (folder / "ended").exists()
        assert len(list(folder.glob("run-*"))) == 1
    assert redis_client.llen(MAINTENANCE_QUEUE) == 0  # nothing that would run again
    assert redis_client.hlen(UNACKED) == 0


# redis_client: an empty queue. A worker that has begun a task waits for its end.
@pytest.mark.usefixtures("redis_client")
def test_what_does_not_end_is_ended(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HANGS_VARIABLE, "1")
    hurried = settings.model_copy(update={"worker": WorkerSettings(exit_timeout_s=1)})
    stopped = Worker(hurried, COMMAND[0], tmp_path / "log", *COMMAND[1:])
    try:
        with held_up(children(stopped.wait_ready())):
            stopped.ask_to_stop()
            assert stopped.process.wait(40) == 70, stopped.log.read_text()
    finally:
        stopped.stop()
    said = stopped.log.read_text()
    assert said.count("pool process killed") == 2
    assert "worker had stopped and did not end" in said
    assert "slow_tasks.py" in said  # where it hung


def send(client: redis.Redis, folder: Path, seconds: float = 0.1, ballast: str = "") -> None:
    said = {"folder": str(folder), "seconds": seconds, "ballast": ballast}
    client.lpush(MAINTENANCE_QUEUE, wire.task_message(
        "test.slow", wire.new_id(), MAINTENANCE_QUEUE, said, shown={}, ignore_result=True,
    ))  # fmt: skip


def children(worker: Worker) -> list[int]:
    """The processes of its pool."""
    pid = worker.process.pid
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def filled_pipes(pid: int) -> int:
    """Pipes that a process holds and nobody has read to their end."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        pipe = str(link.readlink())
        if pipe.startswith("pipe:"):
            end = os.open(link, os.O_RDONLY | os.O_NONBLOCK)
            waiting = array.array("i", [0])
            fcntl.ioctl(end, termios.FIONREAD, waiting)
            os.close(end)
            found.update([pipe] if waiting[0] else [])
    return len(found)
