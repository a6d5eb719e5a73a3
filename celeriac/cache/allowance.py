"""How many entries a process may still write, so that what is alive stays below a bound."""

from __future__ import annotations


class Allowance:
    """A token bucket. Entries live ``ttl_s``; at most ``max_entries`` of them at the same time.

    Half of them may be written at once, the other half grows back within ``ttl_s``. The clock is
    passed in, in seconds, and never goes back. For one thread.
    """

    def __init__(self, max_entries: int, ttl_s: float) -> None:
        self._capacity = max_entries / 2
        self._per_second = self._capacity / ttl_s
        self._left = self._capacity
        self._at = 0.0

    def take(self, wanted: int, now: float) -> int:
        """How many of ``wanted`` entries may be written now."""
        grown = self._left + max(0.0, now - self._at) * self._per_second
        self._left = min(self._capacity, grown)
        self._at = now
        granted = min(wanted, int(self._left))
        self._left -= granted
        return granted
