"""Clocks of two machines side by side: deadlines are points in time, so they have to agree."""

from __future__ import annotations

TOLERANCE_S = 1.0
"""A clock that is off by less is as good as that of another machine can be."""


def clock_ahead_s(before_s: float, server_s: float, after_s: float) -> float:
    """Seconds, at least, by which the clock that was read before and after asking a server for its
    time is ahead of the server's; negative if it is behind, 0 if less than :data:`TOLERANCE_S`.

    >>> clock_ahead_s(103.0, 100.0, 103.5), clock_ahead_s(97.0, 100.0, 97.5)
    (3.0, -2.5)
    >>> clock_ahead_s(99.0, 100.0, 105.0), clock_ahead_s(100.3, 100.0, 100.4)
    (0.0, 0.0)
    """
    if server_s < before_s - TOLERANCE_S:
        return before_s - server_s
    return after_s - server_s if server_s > after_s + TOLERANCE_S else 0.0
