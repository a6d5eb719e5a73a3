"""One pinned process for each GPU: names, environments, restarts, and no GPU at all."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from torch import nn

from celeriac import release
from celeriac.registry.store import Registry
from celeriac.runtimes.architectures import MLP
from celeriac.settings import Settings
from producer import Client
from tests.conftest import Ran
from tests.integration.gpu.conftest import GPUS, Launcher, add_echo, publish
from tests.waiting import wait_until
from workers.child_settings import environment

pytestmark = pytest.mark.uncounted


def cuda_of(pid: int) -> dict[str, str]:
    """What CUDA would read in a process, from its first instruction on."""
    words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    pairs = (word.partition("=") for word in words)
    return {name: value for name, _, value in pairs if name.startswith("CUDA_")}


def test_one_pinned_worker_on_each_gpu_and_again_after_its_death(
    settings: Settings, redis_client: redis.Redis, launch: Callable[..., Launcher]
) -> None:
    registry = Registry(settings.models.root)
    add_echo(registry, "large", "gpu")
    publish(redis_client, registry)
    launcher = launch("realtime.gpu")
    workers = launcher.wait_ready()

    host = socket.gethostname()
    assert {label: worker["hostname"] for label, worker in workers.items()} == {
        "0": f"realtime.gpu-0@{host}", "1": f"realtime.gpu-1@{host}",
    }
    for label, uuid in zip("01", GPUS, strict=True):
        assert workers[label]["serving"] == {"large": 1}
        assert workers[label]["gpu"]["uuid"] == uuid
        assert cuda_of(workers[label]["pid"]) == {
            "CUDA_VISIBLE_DEVICES": uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        }
    with Client(settings=settings) as client:
        assert [one.value for one in client.predict_many("large", [1, 2, 3])] == [1, 2, 3]

        killed = workers["1"]["pid"]
        os.kill(killed, signal.SIGKILL)
        again = wait_until(lambda: (
            (found := launcher.workers().get("1")) and found["pid"] != killed and found
        ))
        assert again["gpu"]["uuid"] == GPUS[1]
        assert cuda_of(again["pid"])["CUDA_VISIBLE_DEVICES"] == GPUS[1]
        assert launcher.workers()["0"]["pid"] == workers["0"]["pid"]
        assert client.predict("large", 4).value == 4
    assert "realtime.gpu-1 was killed by SIGKILL; it starts again in 1 s" in launcher.text
    assert launcher.imported_torch() == []  # an echo model needs none, and nobody else may
    assert launcher.stop() == 0
    assert launcher.workers() == {}


def test_torch_is_imported_by_pinned_processes_alone(
    settings: Settings, redis_client: redis.Redis, launch: Callable[..., Launcher]
) -> None:
    """Both kinds of worker load a network: each import is seen, and what CUDA would read then."""
    registry = Registry(settings.models.root)
    network: nn.Module = MLP(2, 2, [4])
    release.register(
        "net", network, examples=[[0.0, 1.0], [1.0, 0.0]], labels=["a", "b"], device="gpu",
        registry=registry,
    )
    registry.aliases("net").promote(1, expected=None, who="test", why="")
    for role in ("realtime.gpu", "batch.gpu"):
        launcher = launch(role)
        workers = launcher.wait_ready()
        wait_until(lambda launcher=launcher: len(launcher.imported_torch()) >= len(GPUS))
        seen = launcher.imported_torch()
        assert {one["CUDA_VISIBLE_DEVICES"] for one in seen} == set(GPUS)
        assert all(one["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID" for one in seen)
        importers = {one["pid"] for one in seen}
        parents = {worker["pid"] for worker in workers.values()}
        assert launcher.process.pid not in importers
        # A batch worker's parent starts its pool by fork or spawn: it must not touch CUDA.
        assert importers == parents if role == "realtime.gpu" else not importers & parents
        # Without CUDA the version is refused with the reason, and the worker lives on.
        wait_until(lambda launcher=launcher: "this process has no CUDA device" in launcher.text)
        assert launcher.stop() == 0


@pytest.mark.parametrize(
    ("environ", "pinned"),
    [
        ({"CUDA_VISIBLE_DEVICES": GPUS[1]}, {"1": GPUS[1]}),
        ({"CELERIAC_GPU_DEVICES": "0"}, {"0": GPUS[0]}),
    ],
)
def test_what_is_chosen_outside_is_kept(
    launch: Callable[..., Launcher], redis_client: redis.Redis, environ: dict[str, str],
    pinned: dict[str, str],
) -> None:
    workers = launch("realtime.gpu", **environ).wait_ready(1)
    assert {label: worker["gpu"]["uuid"] for label, worker in workers.items()} == pinned


@pytest.mark.parametrize("role", ["realtime.gpu", "batch.gpu"])
def test_without_a_gpu_it_says_what_to_do(
    celeriac: Callable[..., Ran], settings: Settings, role: str
) -> None:
    ran = celeriac("worker", role, env=environment(settings))
    assert ran.returncode == 69
    assert "this machine has no GPU that can be used" in ran.stderr
    assert "`nvidia-smi` must show one here" in ran.stderr
    assert "run the cpu roles" in ran.stderr


def test_a_worker_that_nobody_pinned_does_not_start_without_a_gpu(
    settings: Settings, redis_client: redis.Redis, start_worker: Callable[..., Any]
) -> None:
    worker = start_worker("realtime.gpu", wait=False)
    assert worker.process.wait(60) == 69
    assert "this machine has no GPU that can be used" in worker.log.read_text()


def test_more_processes_on_a_gpu_are_refused(
    celeriac: Callable[..., Ran], settings: Settings
) -> None:
    ran = celeriac("worker", "batch.gpu", "-c", "2", env=environment(settings))
    assert ran.returncode == 1
    assert "one process for each GPU" in ran.stderr


def test_workers_of_the_cpu_see_no_gpu(
    settings: Settings, redis_client: redis.Redis, start_worker: Callable[..., Any],
    stand_in_gpus: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in_gpus(*GPUS)
    seen = tmp_path / "seen"
    probe = tmp_path / "probe"
    probe.mkdir()
    (probe / "sitecustomize.py").write_text(
        "import atexit, os, pathlib\n"
        f"atexit.register(lambda: pathlib.Path({str(seen)!r}).write_text("
        "os.environ['CUDA_VISIBLE_DEVICES']))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(probe), prepend=os.pathsep)
    worker = start_worker("realtime.cpu")
    assert worker.describe()["gpu"] is None
    assert worker.stop() == 0
    assert seen.read_text() == "-1"
