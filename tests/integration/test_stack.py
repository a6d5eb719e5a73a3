"""The whole local stack as the command runs it: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celeriac import errors
from celeriac.settings import (
    BrokerSettings,
    GatewaySettings,
    ModelsSettings,
    Settings,
    StackSettings,
)
from tests.conftest import Ran
from tests.waiting import wait_until
from workers.child_settings import environment
from workers.commands import ROOT
from workers.stack import Stack
from workers.valkey import free_port

pytestmark = pytest.mark.uncounted


def local(folder: Path) -> Settings:
    """Settings of a stack with an embedded server and free ports."""
    return Settings(
        stack=StackSettings(
            state_dir=folder / "state", redis_port=free_port(), flower_port=free_port(),
            metrics_port=0, batch_processes=1,
        ),
        gateway=GatewaySettings(port=free_port(), admin_port=free_port(), drain_notice_s=0.1),
        models=ModelsSettings(root=folder / "models"),
    )


def variables(settings: Settings) -> dict[str, str]:
    """The environment in which a user has made these settings; the server stays embedded."""
    chosen = os.environ | environment(settings)
    if settings.broker.url is None:
        del chosen["CELERIAC_BROKER_URL"]
    return chosen


def argv(*words: str) -> list[str]:
    return [sys.executable, "-c", "from producer.cli.main import main; main()", *words]


def command(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv(*words), env=variables(settings), cwd=ROOT,
        capture_output=True, text=True, timeout=60, check=False,
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def session_members(leaders: set[int]) -> set[int]:
    """All processes of the sessions that these processes lead: they and their children."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) in leaders:
                found.add(int(entry.name))
        except (ProcessLookupError, PermissionError):
            continue
    return {pid for pid in found if alive(pid)}


class Up:
    """``celeriac up`` as a process."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.settings = local(folder)
        self.output = folder / "up.txt"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                argv("up", *options),
                env=variables(self.settings) | {"COLUMNS": "200"}, cwd=ROOT,
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def wait_ready(self) -> None:
        wait_until(lambda: "Ready." in self.text or self.process.poll() is not None)
        assert self.process.poll() is None, self.text

    def state(self) -> dict[str, object]:
        path = self.settings.stack.state_dir / "stack.json"
        state: dict[str, object] = json.loads(path.read_text())
        return state

    def children(self) -> set[int]:
        children = self.state()["children"]
        assert isinstance(children, dict)
        return set(children.values())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = Up(tmp_path_factory.mktemp("up"))
    try:
        running.wait_ready()
        yield running
    finally:
        running.process.send_signal(signal.SIGTERM)
        try:
            running.process.wait(60)
        finally:
            running.end()


def test_it_shows_what_runs_where(up: Up) -> None:
    for part in (
        "valkey", "realtime.cpu", "batch.cpu", "maintenance", "beat", "flower", "gateway",
    ):  # fmt: skip
        assert f"│ {part} " in up.text
    assert up.settings.broker_url in up.text
    assert "celeriac models register" in up.text  # the registry is empty
    with urllib.request.urlopen(str(up.state()["flower_url"]), timeout=5) as page:
        assert b"Flower" in page.read()
    with urllib.request.urlopen(f"{up.state()['gateway_url']}/health/ready", timeout=5) as page:
        assert page.read() == b'{"ready":true}'


def test_status_shows_its_workers(up: Up, celeriac: Callable[..., Ran]) -> None:
    shown = celeriac("status", env=environment(up.settings))
    assert shown.returncode == 0, shown.stderr
    assert f"realtime.cpu@{socket.gethostname()}"[:20] in shown.stdout
    assert "predict.cpu" in shown.stdout
    assert "No beat" not in shown.stdout
    assert f"http://127.0.0.1:{up.settings.gateway.port}" in shown.stdout


def test_a_second_start_on_the_folder_is_refused(up: Up) -> None:
    second = command(up.settings, "up")  # its ports are in use, too, which says less
    assert second.returncode == 1
    assert f"already runs on {up.settings.stack.state_dir} (pid {up.process.pid})" in second.stderr
    assert "celeriac down" in second.stderr
    assert up.process.poll() is None
    assert all(alive(pid) for pid in up.children())


@pytest.mark.parametrize(
    ("taken", "setting"),
    [
        ("redis_port", "CELERIAC_STACK_REDIS_PORT"), ("flower_port", "CELERIAC_STACK_FLOWER_PORT"),
        ("port", "CELERIAC_GATEWAY_PORT"),
    ],
)
def test_a_port_in_use_is_named(tmp_path: Path, taken: str, setting: str) -> None:
    settings = local(tmp_path)
    with socket.socket() as other:
        port = getattr(settings.gateway if taken == "port" else settings.stack, taken)
        other.bind(("127.0.0.1", port))
        other.listen()
        refused = command(settings, "up")
    assert refused.returncode == 1
    assert f"port {port}" in refused.stderr
    assert setting in refused.stderr
    assert not (settings.stack.state_dir / "stack.json").exists()


def test_a_broker_that_is_not_there_is_named_and_not_replaced(tmp_path: Path) -> None:
    port = free_port()
    broker = BrokerSettings(url=f"redis://127.0.0.1:{port}/0")
    settings = local(tmp_path).model_copy(update={"broker": broker})
    refused = command(settings, "up")
    assert refused.returncode == 1
    assert f"127.0.0.1:{port}" in refused.stderr
    assert not (settings.stack.state_dir / "valkey").exists()


def test_a_worker_of_an_unknown_role_lists_the_roles(
    settings: Settings, celeriac: Callable[..., Ran]
) -> None:
    refused = celeriac("worker", "realtime.tpu", env=environment(settings))
    assert refused.returncode == 1
    assert "'realtime.tpu'" in refused.stderr
    assert "realtime.cpu, realtime.gpu, batch.cpu" in refused.stderr


def test_down_without_a_stack_says_so(tmp_path: Path, celeriac: Callable[..., Ran]) -> None:
    answer = celeriac("down", env=environment(local(tmp_path)))
    assert (answer.returncode, "No stack runs on" in answer.stdout) == (0, True)


def test_down_drains_and_leaves_nothing(tmp_path: Path) -> None:
    running = Up(tmp_path, "--no-flower", "--no-beat")
    try:
        running.wait_ready()
        children = running.children()
        members = session_members(children)
        assert members > children  # the pools' processes are among them
        answer = command(running.settings, "down")
        assert answer.returncode == 0, answer.stderr
        assert running.process.wait(10) == 0
        assert "Stopped. Nothing is left running." in running.text
        assert "killed" not in running.text
        assert not any(alive(pid) for pid in members)
        assert not (running.settings.stack.state_dir / "stack.json").exists()
    finally:
        running.end()


PROGRAM = """
import time
from celeriac.settings import load_settings
from workers.stack import Stack
with Stack(load_settings(), roles=("batch.cpu",), flower=False, gateway=False, beat=False):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_kill_9_leaves_nothing_and_the_folder_can_be_used_again(
    tmp_path: Path, celeriac: Callable[..., Ran]
) -> None:
    settings = local(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=variables(settings), stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        state = json.loads((settings.stack.state_dir / "stack.json").read_text())
        assert list(state["children"]) == ["valkey", "batch.cpu"]
        members = session_members(set(state["children"].values()))
        assert len(members) > 2  # a process of the pool is among them
        program.kill()
    wait_until(lambda: not any(alive(pid) for pid in members))
    down = celeriac("down", env=environment(settings))
    assert down.stdout.startswith("No stack runs on")


def test_a_program_can_use_a_stack(settings: Settings) -> None:
    said: list[str] = []
    free = settings.stack.model_copy(update={"metrics_port": 0, "batch_processes": 1})
    settings = settings.model_copy(update={"stack": free})
    alone = Stack(
        settings, roles=("maintenance",), flower=False, gateway=False, beat=False, say=said.append
    )
    with alone as stack:
        assert list(stack.status()) == ["maintenance"]  # the broker is one that was there
        assert stack.url == settings.broker_url
        first = stack.status()["maintenance"].pid
        members = session_members({first or 0})
        stack.kill("maintenance", signal.SIGKILL)
        # Its children die by its leash: soon, not at once.
        wait_until(lambda: not session_members({first or 0}) & members)
        stack.wait_ready(timeout_s=60)
        second = stack.status()["maintenance"].pid
        assert second not in (first, None)
        stack.kill("maintenance", signal.SIGKILL)
        with pytest.raises(errors.WorkerError, match=r"was not ready .*ready_timeout_s"):
            stack.wait_ready(timeout_s=0.01)
        assert "maintenance was killed by SIGKILL; it starts again in 1 s" in said[0]
    wait_until(lambda: not session_members({second or 0}))
