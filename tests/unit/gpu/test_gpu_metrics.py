"""What /metrics says of a worker's GPU."""

from __future__ import annotations

import sys

import pytest

from tests.unit.gpu.conftest import Inject, lose
from workers import devices
from workers.devices import Gpu
from workers.gpu_metrics import gpu_registry, render_gpu

A100 = {"uuid": "GPU-1", "name": "NVIDIA A100", "used": 12_000_000_000, "busy": 75}
DIVIDED = {"uuid": "GPU-2", "name": "NVIDIA A30", "mig": ["MIG-1"], "used": 5}


def shown(uuid: str, label: str, name: str) -> str:
    gpu = Gpu(label=label, uuid=uuid, name=name, memory_bytes=1)
    return render_gpu(gpu_registry(devices.environment_of(gpu))).decode()


def test_memory_and_use(inject: Inject) -> None:
    inject(A100)
    text = shown("GPU-1", "0", "NVIDIA A100")
    labels = '{gpu="0",name="NVIDIA A100"}'
    assert f"celeriac_gpu_memory_used_bytes{labels} 1.2e+10" in text
    assert f"celeriac_gpu_memory_bytes{labels} 4e+10" in text
    assert f"celeriac_gpu_busy_ratio{labels} 0.75" in text


def test_a_part_of_a_gpu_does_not_tell_how_busy_it_is(inject: Inject) -> None:
    inject(DIVIDED)
    text = shown("MIG-1", "0.0", "NVIDIA A30 MIG")
    assert 'celeriac_gpu_memory_used_bytes{gpu="0.0"' in text
    assert "busy_ratio" not in text


def test_without_nvml_or_gpu_the_other_metrics_remain(
    inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown("GPU-9", "0", "gone") == ""  # no driver
    inject(A100)
    assert shown("GPU-9", "0", "gone") == ""  # no such GPU
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert shown("GPU-1", "0", "NVIDIA A100") == ""
    assert render_gpu(gpu_registry({})) == b""


def test_a_gpu_that_is_lost_takes_no_other_metrics_away(
    inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(A100, {"uuid": "GPU-2", "name": "NVIDIA A100"})
    lose(monkeypatch, "GPU-1")
    assert shown("GPU-1", "0", "NVIDIA A100") == ""
    assert "memory_used_bytes" in shown("GPU-2", "1", "NVIDIA A100")
