"""Is a version slower than the champion? Both are measured in one process, call by call in turns.

Whatever else the machine does hits both alike, and medians leave out what hits one call. A version
that seems too slow is measured once more, and for longer, before it is refused.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from celeriac.reports.charts import number
from celeriac.scoring import Scorer

BATCH_ITEMS = 32
BUDGET_S = 1.0
"""Time for one measurement of both versions, about; a single call of each may take longer."""
_MOST_CALLS = 200
SLACK_MS = 1.0
"""A difference that nobody waits for: models that need microseconds may need twice as many."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Medians of a version in this process."""

    one_ms: float
    """One item."""
    batch_ms: float
    """A batch of ``batch_items``."""
    batch_items: int

    def figures(self) -> dict[str, float]:
        """For a history: ``one_ms``, ``batch_ms``, ``batch_items``."""
        return {name: round(float(value), 4) for name, value in asdict(self).items()}


def measure(scorers: Sequence[Scorer], budget_s: float = BUDGET_S) -> list[Latency]:
    """One for each of ``scorers``, which have golden items to be measured with."""
    sizes = [min(BATCH_ITEMS, one.manifest.serving.max_batch_size or BATCH_ITEMS)
             for one in scorers]
    single = _medians_ms([_call(one, 1) for one in scorers], budget_s)
    batch = _medians_ms(
        [_call(one, size) for one, size in zip(scorers, sizes, strict=True)], budget_s
    )
    return [
        Latency(one_ms=one_ms, batch_ms=batch_ms, batch_items=items)
        for one_ms, batch_ms, items in zip(single, batch, sizes, strict=True)
    ]


def compare(
    new: Scorer, old: Scorer, factor: float, budget_s: float = BUDGET_S
) -> tuple[Latency, Latency]:
    """Of both; measured again before they show a version that is too slow."""
    found = measure([new, old], budget_s)
    if too_slow(found[0], found[1], factor):
        found = measure([new, old], 2 * budget_s)
    return found[0], found[1]


def too_slow(new: Latency, old: Latency, factor: float) -> str:
    """What is more than ``factor`` times slower than before, as a phrase; empty if nothing is.

    >>> fast = Latency(one_ms=1.0, batch_ms=8.0, batch_items=32)
    >>> slow = Latency(one_ms=1.5, batch_ms=40.0, batch_items=32)
    >>> too_slow(slow, fast, 2.0)
    'a batch of 32 takes 40 ms, and 8 ms with the champion'
    """
    per_item = old.batch_ms / old.batch_items * new.batch_items
    cases = (
        ("one item", new.one_ms, old.one_ms),
        (f"a batch of {new.batch_items}", new.batch_ms, per_item),
    )
    return "; ".join(
        f"{what} takes {number(now)} ms, and {number(before)} ms with the champion"
        for what, now, before in cases
        if now > factor * before and now - before > SLACK_MS
    )


def _call(scorer: Scorer, count: int) -> Callable[[], Any]:
    golden = scorer.manifest.golden
    items = [golden[number % len(golden)].item for number in range(count)]
    return lambda: scorer.score(items)


def _medians_ms(calls: Sequence[Callable[[], Any]], budget_s: float) -> list[float]:
    taken: list[list[float]] = [[] for _ in calls]
    end_s = time.perf_counter() + budget_s
    for _ in range(_MOST_CALLS):
        for call, seconds in zip(calls, taken, strict=True):
            began_s = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began_s)
        if time.perf_counter() >= end_s:
            break
    return [1_000 * statistics.median(seconds) for seconds in taken]
