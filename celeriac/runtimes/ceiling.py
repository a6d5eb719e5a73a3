"""How many rows fit into a device's memory, as far as that is known."""

from __future__ import annotations

HOLD_S = 60.0
"""A ceiling is raised after so long: what took the memory may have gone."""


class Ceiling:
    """Rows of one forward pass, at most. Halved where memory was short, doubled after a while."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows = most
        self._until_s = 0.0

    def rows(self, now_s: float) -> int:
        """What fits, at a monotonic time."""
        while self._rows < self._most and now_s >= self._until_s:
            self._rows = min(2 * self._rows, self._most)
            self._until_s += HOLD_S
        return self._rows

    def lower(self, tried: int, now_s: float) -> bool:
        """``tried`` rows did not fit; False if fewer cannot be tried.

        A row that does not fit alone says nothing of the others.
        """
        if tried <= 1:
            self._rows = self._most
            return False
        self._rows = min(self._rows, tried // 2)
        self._until_s = now_s + HOLD_S
        return True
