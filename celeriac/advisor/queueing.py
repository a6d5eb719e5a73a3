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

from celeriac.advisor.requirement import Profile

ARRIVALS = 20_000
"""Of one play: 200 of them lie beyond its 99th percentile."""
_SEED = 20_251_125
_WARM_UP = 0.1
"""Share of the arrivals that fill the queue before anything is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """What the way costs beside the model, measured with a model that does nothing.

    ``scripts/bench applications`` measures them, and prints how well the whole predicts.
    """

    batch_s: float = 0.35e-3
    """A worker's exchange with Redis, for each batch."""
    item_s: float = 20e-6
    """A worker's decoding, checking and encoding, for each item."""
    way_s: float = 0.3e-3
    """From the caller to Redis and from Redis back, beside all waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """What one play gave."""

    p50_ms: float
    p99_ms: float
    mean_batch_size: float
    utilisation: float
    """Share of the time that the processes are busy, 0 to 1."""


def capacity_per_s(profile: Profile, overheads: Overheads) -> float:
    """Items a second that one process can do, in full batches."""
    size = profile.max_batch_size
    return size / service_s(profile, overheads, size)


def service_s(profile: Profile, overheads: Overheads, items: int) -> float:
    """Seconds that a process is busy with a batch of ``items``."""
    return profile.seconds(items) + overheads.batch_s + overheads.item_s * items


def play(  # noqa: PLR0913 - three say what is played, three have a default
    per_s: float, profile: Profile, processes: int, *, max_wait_ms: float = 0.0,
    overheads: Overheads | None = None, arrivals: int = ARRIVALS,
) -> Waits:
    """Play ``arrivals`` random arrivals (Poisson, ``per_s`` items a second) through ``processes``.

    A free process takes what waits, at most ``max_batch_size``; if that is less, it waits for more
    until the first of them is ``max_wait_ms`` old.
    """
    overheads = overheads or Overheads()
    come = _arrivals(per_s, arrivals)
    free = [0.0] * processes  # a heap: when each process is free
    waits_s: list[float] = []
    batches = counted = 0
    busy_s, first = 0.0, 0
    while first < len(come):
        start_s = max(heapq.heappop(free), come[first])
        start_s, after = _fill(come, first, start_s, profile.max_batch_size, max_wait_ms / 1_000)
        took_s = service_s(profile, overheads, after - first)
        end_s = start_s + took_s
        heapq.heappush(free, end_s)
        busy_s += took_s
        if first >= _WARM_UP * len(come):
            waits_s += [end_s - come[item] + overheads.way_s for item in range(first, after)]
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
