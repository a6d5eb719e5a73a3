"""What a batch costs: a line ``a + b * n`` in seconds, learnt from the batches that ran."""

from __future__ import annotations

MEMORY = 64
"""Batches that the line remembers, about: older ones fade."""
_OUTLIER = 8.0
"""One batch counts as at most this many times of what was expected."""
_SPREAD = 0.1
"""Batch sizes that spread less than this share of their mean say little about the slope."""
_GUESS = 0.2
"""Weight of each of two batches that stand for a first guess."""
_MOST = 1 << 20


class CostLine:
    """Learns ``a`` (fixed) and ``b`` (for each item), neither ever negative.

    While all batches have one size, nothing tells ``a`` from ``b``: the time is then split evenly
    between them. As sizes begin to differ, the measured slope takes over.
    """

    def __init__(self) -> None:
        self.fixed_s = 0.0
        self.item_s = 0.0
        self._weight = 0.0
        self._n = self._s = self._nn = self._ns = 0.0

    @classmethod
    def of(cls, fixed_s: float, item_s: float) -> CostLine:
        """A first guess, measured elsewhere: it counts for less than one batch that runs here."""
        line = cls()
        for items in (1, 32):
            line.observe(items, fixed_s + item_s * items)
        line._weight *= _GUESS
        line._n, line._s = line._n * _GUESS, line._s * _GUESS
        line._nn, line._ns = line._nn * _GUESS, line._ns * _GUESS
        return line

    @property
    def known(self) -> bool:
        """False until a batch has been observed."""
        return self._weight > 0

    def observe(self, items: int, seconds: float) -> None:
        """Learn from a batch of ``items`` (at least 1) that took ``seconds``."""
        if self._weight >= 4:
            seconds = min(seconds, _OUTLIER * self.predicted(items))
        seconds = max(seconds, 1e-7)
        keep = 1 - 1 / MEMORY
        self._weight = self._weight * keep + 1
        self._n = self._n * keep + items
        self._s = self._s * keep + seconds
        self._nn = self._nn * keep + items * items
        self._ns = self._ns * keep + items * seconds
        self._fit()

    def predicted(self, items: int) -> float:
        """Seconds that a batch of ``items`` should take; 0 as long as nothing is known."""
        return self.fixed_s + self.item_s * items

    def largest(self, budget_s: float) -> int:
        """Items of the largest batch that should end within ``budget_s``; 0 if none would."""
        left_s = budget_s - self.fixed_s
        if left_s < 0:
            return 0
        return int(min(left_s / self.item_s, _MOST)) if self.item_s > 0 else _MOST

    def useful(self, share: float) -> int:
        """Items from which on what is fixed is at most ``share`` of a batch's time.

        A larger batch would gain little throughput, and everybody in it would wait longer.
        """
        if not self.known or self.item_s <= 0:
            return _MOST
        return max(1, int(min(self.fixed_s * (1 - share) / (share * self.item_s), _MOST)))

    def _fit(self) -> None:
        mean_n, mean_s = self._n / self._weight, self._s / self._weight
        variance = max(0.0, self._nn / self._weight - mean_n * mean_n)
        covariance = self._ns / self._weight - mean_n * mean_s
        # The even split counts as an observation of a small spread, so the two go over smoothly.
        prior = (_SPREAD * mean_n) ** 2
        even = mean_s / (2 * mean_n)
        slope = (covariance + prior * even) / (variance + prior)
        self.item_s = min(max(slope, 0.0), mean_s / mean_n)
        self.fixed_s = max(0.0, mean_s - self.item_s * mean_n)
