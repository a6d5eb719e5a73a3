"""Shared fixtures: a real server on a free port, settings that touch nothing outside."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import hypothesis
import pytest
import redis

from celeriac.keys import worker_key
from celeriac.settings import (
    BrokerSettings,
    ModelsSettings,
    Settings,
    StackSettings,
    get_settings,
)
from producer.cli.main import main
from workers.child_settings import environment
from workers.commands import CELERY
from workers.valkey import EmbeddedServer, free_port

ROOT = Path(__file__).parents[1]

for _name in [name for name in os.environ if name.startswith("CELERIAC_")]:
    del os.environ[_name]  # a developer's own environment must not colour the tests

hypothesis.settings.register_profile(  # how fast a busy machine is, is no property of ours
    "celeriac", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("celeriac")

LONG = (
    "test_demo.py", "test_optimize.py", "test_batch_kills.py", "test_bad_versions.py",
    "test_moderation.py", "test_adaptation.py", "test_lane_worker.py", "test_beat.py",
    "test_submission_kills.py", "test_device_loss.py", "test_stack.py", "test_gpu_workers.py",
    "test_build_your_application.py", "test_gpu_check.py", "test_schema.py",
)
"""Uncounted files that take half a minute and more on an idle machine."""


COUNTED: dict[str, str] = {}
"""What a process finds in its environment if it is counted for coverage."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is not counted for coverage runs last; of both parts the long files run first, so that
    several processes end at about the same time. Otherwise the order stays random.

    Called in each process that runs tests. What it starts is counted where it is given COUNTED.
    """
    if value := os.environ.pop(_COVERAGE_OF_CHILDREN, ""):
        COUNTED[_COVERAGE_OF_CHILDREN] = value
    items.sort(key=lambda item: (_is_uncounted(item), _shortness(item)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _is_uncounted(item):
        _end_coverage()


def _is_uncounted(item: pytest.Item) -> bool:
    return item.get_closest_marker("uncounted") is not None


def _shortness(item: pytest.Item) -> int:
    folders = item.path.parts
    return [item.path.name in LONG, "e2e" in folders, "integration" in folders, True].index(True)


def _end_coverage() -> None:
    """From now on neither this process nor one that it starts pays for being traced."""
    current = coverage.Coverage.current()
    if current is not None:
        current.stop()
    COUNTED.clear()


_COVERAGE_OF_CHILDREN = "COVERAGE_PROCESS_CONFIG"
"""How coverage reaches into new processes."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One Valkey for the session."""
    embedded = EmbeddedServer(tmp_path_factory.mktemp("valkey"), free_port())
    embedded.start()
    yield embedded
    embedded.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """One of a test's own, to be killed or reconfigured. A file that has all else ask it returns it
    from a ``server`` of its own."""
    embedded = EmbeddedServer(tmp_path / "valkey", free_port())
    embedded.start()
    yield embedded
    embedded.stop()


@pytest.fixture
def redis_client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client of an emptied server."""
    client = redis.Redis.from_url(server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def settings(server: EmbeddedServer, tmp_path: Path) -> Iterator[Settings]:
    """Settings of one test: its own registry and state folder, the session's server."""
    get_settings.cache_clear()
    yield Settings(
        broker=BrokerSettings(url=server.url),
        stack=StackSettings(state_dir=tmp_path / "state"),
        models=ModelsSettings(root=tmp_path / "models"),
    )
    get_settings.cache_clear()


class Worker:
    """A real worker process of one role, in a process group of its own."""

    def __init__(
        self, settings: Settings, role: str, log: Path, *options: str, counted: bool = False
    ) -> None:
        """``counted`` for coverage: it and what it starts, which makes them a third slower."""
        self.role = role
        self.log = log
        self.hostname = f"{role}-{os.urandom(3).hex()}@test"
        command = [
            *CELERY, "worker", "-Q", role, "-n", self.hostname,
            "--without-mingle", "--without-gossip", *options,
        ]  # fmt: skip
        self._client = redis.Redis.from_url(settings.broker_url)
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT,
                env=os.environ | environment(settings) | (COUNTED if counted else {}),
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def wait_ready(self, timeout_s: float = 40.0) -> Worker:
        deadline = time.monotonic() + timeout_s
        while not self._client.exists(worker_key(self.hostname)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.role} did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)
        return self

    def describe(self) -> dict[str, Any]:
        """What the worker's heartbeat says."""
        found: dict[str, Any] = json.loads(self._client.get(worker_key(self.hostname)) or "{}")
        return found

    def kill(self) -> None:
        """SIGKILL to the whole group: the power cut."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def ask_to_stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()

    def stop(self, timeout_s: float = 30.0) -> int:
        """TERM, then wait; KILL if it does not leave."""
        self.ask_to_stop()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self.kill()
            self._client.close()


STAND_INS = Path(__file__).parent / "standins"


@pytest.fixture
def stand_in_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``stand_in_gpus("GPU-1", "GPU-2")``: NVML shows these to the processes that a test starts."""

    def show(*uuids: str) -> None:
        gpus = [{"uuid": uuid, "name": "NVIDIA Stand-in"} for uuid in uuids]
        monkeypatch.setenv("STAND_IN_GPUS", json.dumps(gpus))
        paths = [str(STAND_INS / "nvml"), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    return show


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers of this test's settings; they are stopped after it."""
    started: list[Worker] = []

    def start(role: str, *options: str, wait: bool = True) -> Worker:
        worker = Worker(settings, role, tmp_path / f"{role}-{len(started)}.log", *options)
        started.append(worker)
        return worker.wait_ready() if wait else worker

    yield start
    for worker in started:  # all at once, since each takes its time
        worker.ask_to_stop()
    for worker in started:
        worker.stop()


class Ran(NamedTuple):
    """What a command has said, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def celeriac(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs the ``celeriac`` command, but in this process: a start costs more than what it does.

    ``celeriac("models", "list", env=environment(settings))``; ``env`` joins this process's.
    """

    def run(*words: str, env: Mapping[str, str], cwd: Path = ROOT, stdin: str = "") -> Ran:
        get_settings.cache_clear()
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            patch.chdir(cwd)
            patch.setattr(sys, "path", [*sys.path])
            patch.setattr(sys, "argv", ["celeriac", *words])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
        get_settings.cache_clear()
        said = capsys.readouterr()
        return Ran(int(ended.value.code or 0), said.out, said.err)

    return run
