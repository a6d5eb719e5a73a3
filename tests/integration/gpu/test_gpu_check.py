"""``celeriac gpu``: without a GPU, and with a CPU in its place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from celeriac.settings import Settings
from tests.conftest import ROOT, STAND_INS, Ran
from workers import devices
from workers.child_settings import environment
from workers.gpu_check import PLAYED

pytestmark = pytest.mark.uncounted


@pytest.mark.parametrize("command", ["list", "check"])
def test_without_a_gpu_it_says_so_and_tries_nothing(
    celeriac: Callable[..., Ran], settings: Settings, command: str
) -> None:
    ran = celeriac("gpu", command, env=environment(settings))
    assert ran.returncode == 69
    assert "this machine has no GPU that can be used" in ran.stderr
    assert ran.stdout == ""


def test_gpus_are_listed() -> None:
    gpus = [{"uuid": "GPU-1111", "name": "NVIDIA T4", "memory": 16_000_000_000}]
    ran = subprocess.run(
        [sys.executable, "-c", "from producer.cli.main import main; main()", "gpu", "list"],
        env=os.environ | {"PYTHONPATH": str(STAND_INS / "nvml"), "STAND_IN_GPUS": json.dumps(gpus)},
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )
    assert all(word in ran.stdout for word in ("NVIDIA T4", "16 GB", "GPU-1111"))


def test_all_checks_run_with_a_cpu_in_a_gpus_place(
    celeriac: Callable[..., Ran], settings: Settings
) -> None:
    ran = celeriac("gpu", "check", "--device", "cpu", env=environment(settings))
    lines = {line.split()[2]: line for line in ran.stdout.splitlines() if line.startswith("GPU 0")}
    assert ran.returncode == 0, ran.stdout
    assert "says nothing of a GPU" in ran.stdout
    assert "not run a CPU is not pinned" in lines["pinning"]
    assert "ok      same labels" in lines["parity"]
    assert "ok      bfloat16: " in lines["autocast"]
    assert "1,000 rows answered, 62 at once (played" in lines["memory"]
    assert "512: " in lines["throughput"]
    assert "ended with exit code 71" in lines["loss"]
    (workers,) = [line for line in ran.stdout.splitlines() if line.startswith("all ")]
    assert "ok      batch.gpu-0, realtime.gpu-0: 64 items, a dataset of 1,000 rows" in workers
    assert ran.stdout.splitlines()[-1] == "6 ok, 0 failed, 1 not run"


BROKEN = """
import sys
import torch
from celeriac.runtimes.architectures import MLP
honest = MLP.forward
MLP.forward = lambda self, rows: honest(self, rows) + torch.rand(1)
from workers import gpu_probe
gpu_probe.main(["cpu", "parity", "throughput", "loss"])
"""


def test_a_check_fails_where_answers_differ() -> None:
    """The networks answer at random: the probe says so, goes on, and ends as it should."""
    ran = subprocess.run(
        [sys.executable, "-c", BROKEN], env=os.environ | devices.environment_of(PLAYED), cwd=ROOT,
        capture_output=True, text=True, timeout=120, check=False,
    )
    found = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert [one["outcome"] for one in found] == ["failed", "ok"]
    assert "differ" in found[0]["told"]
    assert ran.returncode == 71
