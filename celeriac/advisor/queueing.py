"""What callers wait for, when random arrivals meet processes that take all that waits at once.

The real-time lane takes whatever waits when it is free, up to a limit, and answers it as one batch.
Textbook formulas for such bulk service (M/D[1,B]/c) give means; callers ask for the 99th
percentile. So the queue is played through, with the same random numbers each time.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass

from celeriac.registry.manifest import Profile

ARRIVALS = 20_000
"""Of one play: 200 of them lie beyond its 99th percentile."""
_SEED = 20_251_125
_WARM_UP = 0.1
"""Share of the arrivals that fill the queue before anything is counted."""
WORKER_BATCH_S, WORKER_ITEM_S, WAY_S = 0.35e-3, 20e-6, 0.3e-3
"""What the echo model costs a worker for a batch and for an item, and the way there and back: CPU
of the worker and p50 of ``scripts/bench realtime``, rounded up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a batch of ``n`` items keeps a process busy for: ``fixed_s + item_s * n`` seconds."""

    fixed_s: float
    item_s: float
    max_batch_size: int
    way_s: float = 0.0
    """What an answer takes beside all waiting and the process: to Redis and back."""

    @classmethod
    def of(cls, profile: Profile, max_batch_size: int) -> Service:
        """A real-time worker's: what the model was measured to cost, and the worker around it."""
        return cls(
            fixed_s=profile.fixed_s + WORKER_BATCH_S, item_s=profile.item_s + WORKER_ITEM_S,
            max_batch_size=max_batch_size, way_s=WAY_S,
        )

    def seconds(self, items: int) -> float:
        """What a batch of ``items`` takes."""
        return self.fixed_s + self.item_s * items

    @property
    def capacity_per_s(self) -> float:
        """Items a second that one process can do, in full batches."""
        return self.max_batch_size / self.seconds(self.max_batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """What one play gave."""

    p50_ms: float
    p99_ms: float
    mean_batch_size: float
    utilisation: float
    """Share of the time that the processes are busy, 0 to 1."""


def play(
    per_s: float, service: Service, processes: int, *, max_wait_ms: float = 0.0,
    arrivals: int = ARRIVALS,
) -> Waits:
    """Play ``arrivals`` random arrivals (Poisson, ``per_s`` items a second) through ``processes``.

    A free process takes what waits, at most ``max_batch_size``; if that is less, it waits for more
    until the first of them is ``max_wait_ms`` old.
    """
    come = _arrivals(per_s, arrivals)
    free = [0.0] * processes  # a heap: when each process is free
    waits_s: list[float] = []
    batches = counted = 0
    busy_s, first = 0.0, 0
    while first < len(come):
        start_s = max(heapq.heappop(free), come[first])
        start_s, after = _fill(come, first, start_s, service.max_batch_size, max_wait_ms / 1_000)
        took_s = service.seconds(after - first)
        end_s = start_s + took_s
        heapq.heappush(free, end_s)
        busy_s += took_s
        if first >= _WARM_UP * len(come):
            waits_s += [end_s - come[item] + service.way_s for item in range(first, after)]
            batches, counted = batches + 1, counted + after - first
        first = after
    waits_s.sort()
    return Waits(
        p50_ms=1_000 * _quantile(waits_s, 0.5), p99_ms=1_000 * _quantile(waits_s, 0.99),
        mean_batch_size=counted / max(1, batches),
        utilisation=min(1.0, busy_s / (processes * max(free))),
    )


def _arrivals(per_s: float, count: int) -> list[float]:
    chance = random.Random(_SEED)  # noqa: S311 - nothing secret
    now_s, come = 0.0, []
    for _ in range(count):
        now_s += chance.expovariate(per_s)
        come.append(now_s)
    return come


def _fill(
    come: Sequence[float], first: int, start_s: float, most: int, max_wait_s: float
) -> tuple[float, int]:
    """When a batch starts that is taken from ``start_s`` on, and the first item after it."""
    until_s = max(start_s, come[first] + max_wait_s)
    after = first + 1
    while after < len(come) and after - first < most and come[after] <= until_s:
        after += 1
    if after - first == most:
        return max(start_s, come[after - 1]), after
    return until_s, after


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
