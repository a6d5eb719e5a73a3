"""A reading as it waits for its analysis: time, score and numbers, one after the other."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@lru_cache(maxsize=32)
def dtype(channels: int) -> np.dtype[Any]:
    """The layout of one row: ``at_ms``, ``score`` (NaN: not judged), ``values``."""
    return np.dtype([("at_ms", "<i8"), ("score", "<f8"), ("values", "<f8", (channels,))])


def width(channels: int) -> int:
    """Bytes of one row."""
    return dtype(channels).itemsize


def of(at_ms: Array, score: Array, values: Array) -> Array:
    """Rows of columns; ``values`` is ``(readings, channels)``."""
    made = np.empty(len(at_ms), dtype(values.shape[1]))
    made["at_ms"], made["score"], made["values"] = at_ms, score, values
    return made


def read(data: bytes, channels: int) -> Array:
    """Rows that were written as bytes."""
    return np.frombuffer(data, dtype(channels))
