"""What callers wait for, when random arrivals meet processes that take all that waits at once.

The real-time lane takes whatever waits when it is free, up to a limit, and answers it as one batch.
Textbook formulas for such bulk service (M/G[1,B]/c) give means; callers ask for the 99th
percentile. So the queue is played through, with the same random numbers each time.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from celeriac.registry.manifest import PASS_SHARES, Passes, Profile

ARRIVALS = 20_000
"""Of one play: 200 of them lie beyond its 99th percentile."""
_SEED = 20_251_125
_WARM_UP = 0.1
"""Share of the arrivals that fill the queue before anything is counted."""
WORKER_BATCH_S, WORKER_ITEM_S = 0.35e-3, 20e-6
"""What the echo model costs a worker for a batch and for an item: its CPU time, rounded up."""
WAYS_S = (0.3e-3, 0.37e-3, 0.43e-3, 0.53e-3, 0.65e-3, 0.85e-3, 1.05e-3, 1.55e-3)
"""The way there and back, from call to answer, beside the worker and all waiting: the mean of each
group of PASS_SHARES."""
CORES_ENOUGH = 3
"""A client, Redis and a worker each find a core then."""
_MIDDLES = tuple(
    end - share / 2
    for end, share in zip(itertools.accumulate(PASS_SHARES), PASS_SHARES, strict=True)
)
"""Of the groups: the share of passes that were shorter than the group's mean, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How a worker fares whose cores are those of clients and of Redis, too."""

    slower: float
    """What it works takes so many times as long: others use its caches."""
    stops_per_s: float
    """So often, in a second of work, others have its core ..."""
    stop_s: float
    """... for so long, in the mean."""


SHARED = Sharing(slower=1.2, stops_per_s=50, stop_s=1e-3)
"""On two cores: chosen so that the queue's percentiles are those that were measured (decision
210)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a batch keeps a process busy for.

    Without ``passes``: ``fixed_s + item_s * n`` seconds for ``n`` items, always.
    """

    fixed_s: float
    item_s: float
    max_batch_size: int
    around_s: float = 0.0
    """Of a batch, and ..."""
    around_item_s: float = 0.0
    """... of an item: the worker's own work around ``passes``."""
    passes: tuple[Passes, ...] = ()
    """How the model's passes vary, by size and by the pause before them."""
    ways_s: tuple[float, ...] = ()
    """What an answer takes beside all waiting and the process: to Redis and back."""
    sharing: Sharing | None = None

    @classmethod
    def of(cls, profile: Profile, max_batch_size: int) -> Service:
        """A real-time worker's: what the model was measured to cost, and the worker around it."""
        return cls(
            fixed_s=profile.fixed_s + WORKER_BATCH_S, item_s=profile.item_s + WORKER_ITEM_S,
            max_batch_size=max_batch_size, around_s=WORKER_BATCH_S, around_item_s=WORKER_ITEM_S,
            passes=profile.passes, ways_s=WAYS_S,
            sharing=SHARED if 0 < profile.cores < CORES_ENOUGH else None,
        )

    def seconds(self, items: int) -> float:
        """What a batch of ``items`` takes a process that works all the time."""
        return self.fixed_s + self.item_s * items

    @property
    def capacity_per_s(self) -> float:
        """Items a second that one process can do, in full batches."""
        return self.max_batch_size / self.seconds(self.max_batch_size)

    @property
    def alone_s(self) -> float:
        """What one item takes, in the median, whose caller is the only one."""
        median = _place(0.5)
        return Times(self).seconds(1, math.inf, median) + _between(self.ways_s, median)


class Times:
    """What batches of a service take: by size, by the pause before, and by chance."""

    def __init__(self, service: Service) -> None:
        self._service = service
        pauses = sorted({one.pause_s for one in service.passes})
        self._rested_s = pauses[-1] if pauses else 0.0
        self._busy = _by_size(service, pauses[0]) if pauses else {}
        self._rested = _by_size(service, pauses[-1]) if pauses else {}
        self._known: dict[int, tuple[list[float], list[float]]] = {}

    def seconds(self, items: int, pause_s: float, place: float) -> float:
        """Of a batch of ``items`` after ``pause_s``, at a place among the groups of PASS_SHARES."""
        if not self._busy:
            return self._service.seconds(items)
        if items not in self._known:
            self._known[items] = self._row(self._busy, items), self._row(self._rested, items)
        busy, rested = (_between(row, place) for row in self._known[items])
        share = min(1.0, pause_s / self._rested_s) if self._rested_s else 0.0
        return busy + share * (rested - busy)

    def _row(self, by_size: dict[int, tuple[float, ...]], items: int) -> list[float]:
        """Between two sizes that were measured, on the line; beyond the largest, by the item."""
        around_s = self._service.around_s + self._service.around_item_s * items
        upper = min((size for size in by_size if size >= items), default=max(by_size))
        lower = max((size for size in by_size if size <= items), default=upper)
        model_item_s = self._service.item_s - self._service.around_item_s
        extra_s = around_s + max(0, items - upper) * model_item_s
        share = (items - lower) / (upper - lower) if upper > lower else 0.0
        return [
            extra_s + few + share * (many - few)
            for few, many in zip(by_size[lower], by_size[upper], strict=True)
        ]


MANY_STOPS = 200
"""Of one batch; more are not counted one by one: of a model of 10 s they were a minute's work."""


class Stops:
    """What work takes that others interrupt, by chance."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._chance = random.Random(_SEED + 2)  # noqa: S311 - nothing secret
        self._until_s = self._next_s()

    def _next_s(self) -> float:
        return self._chance.expovariate(self._sharing.stops_per_s)

    def prolonged(self, work_s: float) -> float:
        """How long ``work_s`` of undisturbed work takes."""
        left_s = took_s = work_s * self._sharing.slower
        stops = left_s * self._sharing.stops_per_s
        if stops > MANY_STOPS:  # so many that their sum is normal
            stop_s = self._sharing.stop_s
            return took_s + self._chance.gauss(stops * stop_s, math.sqrt(2 * stops) * stop_s)
        while self._until_s <= left_s:
            left_s -= self._until_s
            took_s += self._chance.expovariate(1 / self._sharing.stop_s)
            self._until_s = self._next_s()
        self._until_s -= left_s
        return took_s


def _between(row: Sequence[float], place: float) -> float:
    """The value of a row at a place that may lie between two; 0 of an empty one."""
    if not row:
        return 0.0
    lower = min(int(place), len(row) - 2)
    return row[lower] + (place - lower) * (row[lower + 1] - row[lower])


def _place(share: float) -> float:
    """Where among the groups of PASS_SHARES that share of all passes ends."""
    upper = bisect.bisect(_MIDDLES, share)
    if upper in {0, len(_MIDDLES)}:
        return float(max(0, upper - 1))
    lower = _MIDDLES[upper - 1]
    return upper - 1 + (share - lower) / (_MIDDLES[upper] - lower)


def _by_size(service: Service, pause_s: float) -> dict[int, tuple[float, ...]]:
    return {one.items: one.seconds for one in service.passes if one.pause_s == pause_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """What one play gave."""

    p50_ms: float
    p95_ms: float
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
    times = Times(service)
    stops = Stops(service.sharing) if service.sharing else None
    come = [at / per_s for at in _arrivals(arrivals)]
    places = iter(_places(2 * arrivals))
    free = [0.0] * processes  # a heap: when each process is free
    sizes: list[int] = []
    ends_s: list[float] = []
    busy_s, first = 0.0, 0
    while first < len(come):
        start_s = max(free[0], come[first])
        start_s, after = _fill(come, first, start_s, service.max_batch_size, max_wait_ms / 1_000)
        took_s = times.seconds(after - first, start_s - free[0], next(places))
        if stops is not None:
            took_s = stops.prolonged(took_s)
        way_s = _between(service.ways_s, next(places))
        heapq.heapreplace(free, start_s + took_s)
        busy_s += took_s
        sizes.append(after - first)
        ends_s.append(start_s + took_s + way_s)
        first = after
    p50_ms, p95_ms, p99_ms, mean_size = _counted(come, sizes, ends_s)
    return Waits(
        p50_ms=p50_ms, p95_ms=p95_ms, p99_ms=p99_ms, mean_batch_size=mean_size,
        utilisation=min(1.0, busy_s / (processes * max(free))),
    )


def _counted(
    come: list[float], sizes: list[int], ends_s: list[float]
) -> tuple[float, float, float, float]:
    """The median wait, the 95th and the 99th percentile, in ms, and the mean size of a batch, of
    those batches that begin after the warm-up."""
    import numpy as np

    many = np.array(sizes)
    begins = np.cumsum(many) - many
    skipped = int(np.searchsorted(begins, _WARM_UP * len(come)))
    many = many[skipped:]
    if not len(many):
        return 0.0, 0.0, 0.0, 0.0
    waits_s = np.repeat(ends_s[skipped:], many) - come[begins[skipped] :]
    waits_s.sort()
    p50, p95, p99 = (
        1_000 * float(waits_s[int(share * len(waits_s))]) for share in (0.5, 0.95, 0.99)
    )
    return p50, p95, p99, float(many.mean())


@lru_cache(maxsize=4)
def _places(count: int) -> tuple[float, ...]:
    """Random places among the groups of PASS_SHARES."""
    chance = random.Random(_SEED + 1)  # noqa: S311 - nothing secret
    return tuple(_place(chance.random()) for _ in range(count))


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
