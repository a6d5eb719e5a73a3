"""Streams of right and wrong answers, and when the test of errors alarms on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from celeriac.drift.concept import Usual

Array = np.ndarray[Any, Any]


def first_alarms(usuals: Sequence[Usual], wrong: Array) -> Array:
    """Labels until the first alarm of each stream; -1: none.

    ``wrong``: ``(streams, labels)``; each stream has the test of its own reference.
    """
    up = np.array([one.up for one in usuals])
    down = np.array([one.down for one in usuals])
    limit = np.array([one.limit for one in usuals])
    sums, first = np.zeros(len(wrong), dtype=np.int64), np.full(len(wrong), -1)
    for label in range(wrong.shape[1]):
        sums = np.where(wrong[:, label], sums + up, np.maximum(sums - down, 0))
        first[(first < 0) & (sums > limit)] = label + 1
    return first


def in_20_000(first: Array, labels: int) -> float:
    """Alarms in 20,000 labels, from the share of streams of ``labels`` that have one."""
    share = float((first >= 0).mean())
    return float(-np.log(max(1 - share, 1e-3)) / labels * 20_000)


def median_delay(first: Array) -> float:
    """Of streams in which something has changed; infinite if half of them never alarm."""
    delays = first.astype(float)
    delays[delays < 0] = np.inf
    return float(np.quantile(delays, 0.5, method="higher"))
