"""What one gateway process has answered over ``/v2``, in the form of the statistics extension."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from celeriac.registry.catalogue import ModelInfo


class Answered(NamedTuple):
    """What a request that was answered took."""

    items: int
    """That were computed: those of the cache are not counted."""
    seconds: float
    passes: float
    """Forward passes for it, or its shares of them."""
    queue_s: float
    """Of its slowest item, from its publishing until a worker took it; 0 from the cache."""
    compute_s: float
    """Of its slowest batch."""
    cache: str
    """``hit`` if all of it was there, ``miss`` if not; empty if the model keeps no answers."""


@dataclass
class Counts:
    """Requests for one version."""

    last_ms: int = 0
    """When the last one was answered, Unix milliseconds."""
    items: int = 0
    """That were computed."""
    successes: int = 0
    success_ns: int = 0
    passes: float = 0.0
    queue_ns: int = 0
    compute_ns: int = 0
    hits: int = 0
    """Of the successes, those from the cache alone."""
    hit_ns: int = 0
    misses: int = 0
    failures: int = 0
    failure_ns: int = 0

    def to_wire(self, name: str, version: int) -> dict[str, Any]:
        computed = self.successes - self.hits
        return {
            "name": name,
            "version": str(version),
            "last_inference": self.last_ms,
            "inference_count": self.items,
            "execution_count": round(self.passes),
            "inference_stats": {
                "success": _spent(self.successes, self.success_ns),
                "fail": _spent(self.failures, self.failure_ns),
                "queue": _spent(self.successes, self.queue_ns),
                "compute_input": _spent(computed, 0),  # its time is a part of what follows
                "compute_infer": _spent(computed, self.compute_ns),
                "compute_output": _spent(computed, 0),
                "cache_hit": _spent(self.hits, self.hit_ns),
                "cache_miss": _spent(self.misses, 0),
            },
            "batch_stats": [],
        }


def _spent(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


class Statistics:
    """Counts since the process began. For one event loop."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], Counts] = {}

    def succeeded(self, model: str, version: int, answered: Answered) -> None:
        """Count a request that was answered."""
        counts = self._of(model, version)
        counts.last_ms = time.time_ns() // 1_000_000
        counts.items += answered.items
        counts.successes += 1
        counts.success_ns += round(answered.seconds * 1e9)
        counts.passes += answered.passes
        counts.misses += answered.cache == "miss"
        if answered.cache == "hit":
            counts.hits += 1
            counts.hit_ns += round(answered.seconds * 1e9)
        counts.queue_ns += round(answered.queue_s * 1e9)
        counts.compute_ns += round(answered.compute_s * 1e9)

    def failed(self, model: str, version: int, seconds: float) -> None:
        """Count a request that was refused or failed."""
        counts = self._of(model, version)
        counts.failures += 1
        counts.failure_ns += round(seconds * 1e9)

    def to_wire(self, wanted: Iterable[tuple[str, int]]) -> dict[str, Any]:
        """Of the ``(name, version)`` that are wanted; zeros for one that was never asked."""
        none = Counts()
        return {
            "model_stats": [self._counts.get(key, none).to_wire(*key) for key in wanted]
        }

    def _of(self, model: str, version: int) -> Counts:
        return self._counts.setdefault((model, version), Counts())


def every_version(models: Mapping[str, ModelInfo]) -> Iterable[tuple[str, int]]:
    """``(name, version)`` of all."""
    return ((name, number) for name, model in models.items() for number in sorted(model.versions))
