"""What NVML says of the GPU that this worker has, for ``/metrics``."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from celeriac import errors
from celeriac.logs import get_logger
from workers.devices import Gpu, load_nvml, pinned

log = get_logger(__name__)


class GpuCollector(Collector):
    """Memory and use of one GPU, by all processes on it. Asks NVML, which needs no CUDA."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._nvml: Any = None
        self._silent = False
        self._lock = threading.Lock()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What can be told; a part of a divided GPU does not tell how busy it is."""
        with self._lock:
            handle = self._handle()
        if handle is None:
            return
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        except self._nvml.NVMLError as error:  # it has fallen off the bus, say
            self._be_silent(str(error))
            return
        yield self._gauge("memory_used_bytes", "Memory of the GPU in use", memory.used)
        yield self._gauge("memory_bytes", "Memory of the GPU", memory.total)
        try:
            busy = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except self._nvml.NVMLError:
            return
        yield self._gauge("busy_ratio", "Share of the last moment in which the GPU computed", busy)

    def _handle(self) -> Any:
        if self._silent:
            return None
        try:
            if self._nvml is None:
                self._nvml = load_nvml()
            return self._nvml.nvmlDeviceGetHandleByUUID(self._gpu.uuid)
        except errors.NoGpu as error:
            reason = error.message
        except self._nvml.NVMLError as error:
            reason = str(error)
        self._be_silent(reason)
        return None

    def _be_silent(self, reason: str) -> None:
        self._silent = True
        log.warning("no metrics of the GPU", gpu=self._gpu.label, reason=reason)

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"celeriac_gpu_{name}", text, labels=["gpu", "name"])
        family.add_metric([self._gpu.label, self._gpu.name], value)
        return family


def gpu_registry(environ: Mapping[str, str]) -> CollectorRegistry | None:
    """The metrics of the GPU that a process of this environment has; None if it has none."""
    gpu = pinned(environ)
    if gpu is None:
        return None
    registry = CollectorRegistry()
    registry.register(GpuCollector(gpu))
    return registry


def render_gpu(registry: CollectorRegistry | None) -> bytes:
    """As text, to follow the worker's own metrics."""
    return generate_latest(registry) if registry is not None else b""
