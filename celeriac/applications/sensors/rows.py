"""A reading as it waits for its analysis: time, score and numbers, one after the other."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

UNJUDGED, CALM, ANOMALY = 0, 1, 2
_MOST_SCORE = float(np.finfo(np.float32).max)


@lru_cache(maxsize=32)
def dtype(channels: int) -> np.dtype[Any]:
    """The layout of one row; ``verdict`` is UNJUDGED, CALM or ANOMALY."""
    return np.dtype([
        ("at_ms", "<i8"), ("score", "<f4"), ("verdict", "<u4"), ("values", "<f8", (channels,)),
    ])  # fmt: skip


def width(channels: int) -> int:
    """Bytes of one row."""
    return dtype(channels).itemsize


def of(at_ms: Array, score: Array, threshold: float, values: Array) -> Array:
    """Rows of columns; ``score`` is NaN where nothing was judged, ``values`` is
    ``(readings, channels)``."""
    made = np.zeros(len(at_ms), dtype(values.shape[1]))
    is_judged = ~np.isnan(score)
    with np.errstate(invalid="ignore"):
        is_anomaly = score > threshold
    made["at_ms"], made["values"] = at_ms, values
    made["score"] = np.clip(np.where(is_judged, score, 0.0), -_MOST_SCORE, _MOST_SCORE)
    made["verdict"] = np.where(is_anomaly, ANOMALY, np.where(is_judged, CALM, UNJUDGED))
    return made


def read(data: bytes, channels: int) -> Array:
    """Rows that were written as bytes."""
    return np.frombuffer(data, dtype(channels))

