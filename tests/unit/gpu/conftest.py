"""The stand-in of NVML inside the test's own process."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable

import pytest

from tests.conftest import STAND_INS

Inject = Callable[..., None]


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Inject:
    """Puts the stand-in in the place of NVML, with these GPUs; without any it has no driver."""
    spec = importlib.util.spec_from_file_location("pynvml", STAND_INS / "nvml" / "pynvml.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "pynvml", module)

    def gpus(*found: dict[str, object]) -> None:
        monkeypatch.setenv("STAND_IN_GPUS", json.dumps(found))

    return gpus


def lose(monkeypatch: pytest.MonkeyPatch, uuid: str) -> None:
    """A GPU of the stand-in falls off the bus: NVML lists it, and it does not answer."""
    nvml = sys.modules["pynvml"]
    memory = nvml.nvmlDeviceGetMemoryInfo

    def lost(handle: dict[str, object]) -> object:
        if handle["uuid"] == uuid:
            raise nvml.NVMLError("GPU is lost")
        return memory(handle)

    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", lost)
