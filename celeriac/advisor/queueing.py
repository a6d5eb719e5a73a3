"""What callers wait for, when random arrivals meet processes that take all that waits at once.

The real-time lane takes whatever waits when it is free, up to a limit, and answers it as one batch.
Textbook formulas for such bulk service (M/D[1,B]/c) give means; callers ask for the 99th
percentile. So the queue is played through, with the same random numbers each time.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import random
from dataclasses import dataclass
from functools import lru_cache

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


@lru_cache(maxsize=256)
def play(
    per_s: float, service: Service, processes: int, *, max_wait_ms: float = 0.0,
    arrivals: int = ARRIVALS,
) -> Waits:
    """Play ``arrivals`` random arrivals (Poisson, ``per_s`` items a second) through ``processes``.

    A free process takes what waits, at most ``max_batch_size``; if that is less, it waits for more
    until the first of them is ``max_wait_ms`` old. The newest plays are remembered.
    """
    come = [at / per_s for at in _arrivals(arrivals)]
    free = [0.0] * processes  # a heap: when each process is free
    sizes: list[int] = []
    ends_s: list[float] = []
    first = 0
    while first < len(come):
        start_s = max(free[0], come[first])
        start_s, after = _fill(come, first, start_s, service.max_batch_size, max_wait_ms / 1_000)
        end_s = start_s + service.seconds(after - first)
        heapq.heapreplace(free, end_s)
        sizes.append(after - first)
        ends_s.append(end_s)
        first = after
    busy_s = service.fixed_s * len(sizes) + service.item_s * len(come)
    p50_s, p99_s, mean_size = _counted(come, sizes, ends_s)
    return Waits(
        p50_ms=1_000 * (p50_s + service.way_s), p99_ms=1_000 * (p99_s + service.way_s),
        mean_batch_size=mean_size, utilisation=min(1.0, busy_s / (processes * max(free))),
    )


def _counted(
    come: list[float], sizes: list[int], ends_s: list[float]
) -> tuple[float, float, float]:
    """The median wait and the 99th percentile, in seconds, and the mean size of a batch, of those
    batches that begin after the warm-up."""
    import numpy as np

    many = np.array(sizes)
    begins = np.cumsum(many) - many
    skipped = int(np.searchsorted(begins, _WARM_UP * len(come)))
    many = many[skipped:]
    if not len(many):
        return 0.0, 0.0, 0.0
    waits_s = np.repeat(ends_s[skipped:], many) - come[begins[skipped] :]
    waits_s.sort()
    p50_s, p99_s = (float(waits_s[int(share * len(waits_s))]) for share in (0.5, 0.99))
    return p50_s, p99_s, float(many.mean())


@lru_cache(maxsize=4)
def _arrivals(count: int) -> tuple[float, ...]:
    """Random moments, one a second in the mean."""
    chance = random.Random(_SEED)  # noqa: S311 - nothing secret
    return tuple(itertools.accumulate(chance.expovariate(1.0) for _ in range(count)))


def _fill(
    come: list[float], first: int, start_s: float, most: int, max_wait_s: float
) -> tuple[float, int]:
    """When a batch starts that is taken from ``start_s`` on, and the first item after it."""
    until_s = max(start_s, come[first] + max_wait_s)
    after = bisect.bisect_right(come, until_s, first + 1, min(first + most, len(come)))
    if after - first == most:
        return max(start_s, come[after - 1]), after
    return until_s, after
