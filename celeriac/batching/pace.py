"""The pace at which a queue moves while more waits than one batch."""

from __future__ import annotations

TRUSTED_S = 0.2
"""Less than this much observed time says nothing: one hiccup could be all of it."""
_MEMORY_S = 1.0
_MOST_SLOWER = 4.0
"""A pause of the process is no pace: one batch counts as at most this many times slower."""


class Pace:
    """Seconds from one item's turn to the next one's, of the last few seconds of backlog.

    It is measured from batch to batch, so the share of all other models is in it, and all that the
    worker does besides.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._items = 0.0

    @property
    def item_s(self) -> float:
        """Seconds for each item; 0 as long as too little was observed."""
        return self._seconds / self._items if self._seconds >= TRUSTED_S else 0.0

    def observe(self, items: int, seconds: float) -> None:
        """Note that a batch of ``items`` ended ``seconds`` after the one before."""
        items = max(1, items)
        known_s = self.item_s
        if known_s:
            seconds = min(seconds, _MOST_SLOWER * known_s * items)
        self._seconds += seconds
        self._items += items
        if self._seconds > _MEMORY_S + TRUSTED_S:
            share = _MEMORY_S / self._seconds
            self._seconds *= share
            self._items *= share
