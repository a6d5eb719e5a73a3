"""What is remembered of a sensor between two readings: its newest readings, and its alarm.

The readings that are kept are the newest ``window`` by their own time. So what is kept does not
depend on the order in which they came: a reading that was dropped can never belong to the newest
again. A state says how many channels it has, and its length how many readings: as many as the
window at most.
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
    ("token", f"V{TOKEN_BYTES}"), ("format", "u1"), ("channels", "u1"), ("spare", "V2"),
    ("indexed_s", "<u4"),
    ("accepted", "<i8"), ("anomalies", "<i8"),
    ("is_open", "u1"), ("calm", "u1"), ("spare_too", "V6"),
    ("seen_at_s", "<f8"), ("opened_at_s", "<f8"), ("opened_with", "<f8"), ("threshold", "<f8"),
    ("peak", "<f8"), ("peak_at_s", "<f8"),
]  # fmt: skip
_HEAD_BYTES = np.dtype(_HEAD).itemsize


@lru_cache(maxsize=64)
def dtype(window: int, channels: int) -> np.dtype[Any]:
    """The layout of one state."""
    return np.dtype([
        *_HEAD, ("times", "<i8", (window,)), ("values", "<f8", (window, channels)),
    ])  # fmt: skip


def new(count: int, window: int, channels: int) -> Array:
    """States of sensors of which nothing is known."""
    states = np.zeros(count, dtype(window, channels))
    states["format"], states["channels"] = FORMAT, channels
    states["times"], states["seen_at_s"] = EMPTY, -1.0
    return states


def channels_of(data: bytes | None) -> int:
    """How many numbers a reading of this sensor has; 0 if nothing (that we can read) is known."""
    if data is None or len(data) < _HEAD_BYTES or data[TOKEN_BYTES] != FORMAT:
        return 0
    return data[TOKEN_BYTES + 1]


def places_of(data: bytes) -> int:
    """For how many readings a state as it was written has places."""
    return (len(data) - _HEAD_BYTES) // (8 + 8 * channels_of(data))


def written(states: Array) -> list[bytes]:
    """Each state as it is kept: without the places that nothing has come for yet."""
    window, channels = states["values"].shape[1:]
    values_at, size = _HEAD_BYTES + 8 * window, states.dtype.itemsize
    raw = states.tobytes()
    empty = (states["times"] == EMPTY).sum(axis=1).tolist()
    return [
        raw[at : at + _HEAD_BYTES]
        + raw[at + _HEAD_BYTES + 8 * lacks : at + values_at]
        + raw[at + values_at + 8 * channels * lacks : at + size]
        if lacks else raw[at : at + size]
        for at, lacks in zip(range(0, len(raw), size), empty, strict=True)
    ]  # fmt: skip


def read(data: list[bytes | None], window: int, channels: int) -> Array:
    """States as they were written, each for ``channels``; new ones where there is none."""
    empty = new(1, window, channels).tobytes()
    size = len(empty)
    fitting = [
        empty if one is None or channels_of(one) != channels
        else one if len(one) == size
        else _resized(one, empty, window, channels)
        for one in data
    ]  # fmt: skip
    return np.frombuffer(bytearray(b"".join(fitting)), dtype(window, channels))


def _resized(data: bytes, empty: bytes, window: int, channels: int) -> bytes:
    """A state with ``window`` places: the newest of its readings, behind empty places if it has
    fewer; ``empty`` itself if it is of no size that a state has."""
    values_at = _HEAD_BYTES + 8 * places_of(data)
    if len(data) != values_at + 8 * channels * places_of(data):
        return empty
    times = empty[_HEAD_BYTES : _HEAD_BYTES + 8 * window] + data[_HEAD_BYTES:values_at]
    values = bytes(8 * channels * window) + data[values_at:]
    return data[:_HEAD_BYTES] + times[-8 * window :] + values[-8 * channels * window :]
