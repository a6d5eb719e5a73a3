"""What is remembered of a sensor between two readings: its newest readings, and its alarm.

The readings that are kept are the newest ``window`` by their own time. So what is kept does not
depend on the order in which they came: a reading that was dropped can never belong to the newest
again. A state has a fixed size and says itself by which window and how many channels it was made.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FORMAT = 1
TOKEN_BYTES = 8
"""First bytes of a state: new with each change, so that nobody writes over what he has not read."""
EMPTY = np.iinfo(np.int64).min
"""Time of a place in the window that nothing has come for yet; such places come first."""
_HEAD: list[Any] = [
    ("token", f"V{TOKEN_BYTES}"), ("format", "u1"), ("channels", "u1"), ("window", "<u2"),
    ("indexed_s", "<u4"),
    ("accepted", "<i8"), ("anomalies", "<i8"),
    ("is_open", "u1"), ("calm", "u1"), ("spare", "V6"),
    ("seen_at_s", "<f8"), ("opened_at_s", "<f8"), ("opened_with", "<f8"), ("threshold", "<f8"),
    ("peak", "<f8"), ("peak_at_s", "<f8"),
]  # fmt: skip
_START = np.dtype(_HEAD)


@lru_cache(maxsize=64)
def dtype(window: int, channels: int) -> np.dtype[Any]:
    """The layout of one state."""
    return np.dtype([
        *_HEAD, ("times", "<i8", (window,)), ("values", "<f8", (window, channels)),
    ])  # fmt: skip


def new(count: int, window: int, channels: int) -> Array:
    """States of sensors of which nothing is known."""
    states = np.zeros(count, dtype(window, channels))
    states["format"], states["channels"], states["window"] = FORMAT, channels, window
    states["times"], states["seen_at_s"] = EMPTY, -1.0
    return states


def channels_of(data: bytes | None) -> int:
    """How many numbers a reading of this sensor has; 0 if nothing (that we can read) is known."""
    if data is None or len(data) < _START.itemsize or data[TOKEN_BYTES] != FORMAT:
        return 0
    return data[TOKEN_BYTES + 1]


def window_of(data: bytes) -> int:
    """For how many readings a state has places."""
    return int(np.frombuffer(data, _START, count=1)["window"][0])


def read(data: list[bytes | None], window: int, channels: int) -> Array:
    """States as they were written, each for ``channels``; new ones where there is none."""
    states = new(len(data), window, channels)
    layout = dtype(window, channels)
    fitting = []
    for place, one in enumerate(data):
        if one is None or channels_of(one) != channels:
            continue
        if len(one) == layout.itemsize:
            fitting.append(place)
        else:
            _resize(states[place : place + 1], one, channels)
    if fitting:
        joined = b"".join([data[place] or b"" for place in fitting])
        states[fitting] = np.frombuffer(joined, layout)
    return states


def _resize(state: Array, data: bytes, channels: int) -> None:
    """Take over a state that was written with another ``[sensors] window``."""
    old = window_of(data)
    if len(data) != dtype(old, channels).itemsize:
        return
    found = np.frombuffer(data, dtype(old, channels))
    window = state["times"].shape[1]
    for name in _START.names or ():
        if name != "window":
            state[name] = found[name]
    keep = min(old, window)
    state["times"][:, window - keep :] = found["times"][:, old - keep :]
    state["values"][:, window - keep :] = found["values"][:, old - keep :]
