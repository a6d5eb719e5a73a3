"""Which form wins, and what a batch of it costs. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

WORTH = 1.1
"""A form is registered if it is faster by this factor, in the mean over the batch sizes."""
SLOWER = 0.9
"""At no batch size may it fall below this share of the original's speed: less is noise."""

DOUBTFUL = 0.5
"""What falls below ``SLOWER``, but not below this, at its worst size and gains in the mean is
measured once more."""

Verdict = Literal["original", "default", "winner", "faster", "no gain", "slower", "differs",
                  "failed", "threads", "skipped"]
"""``default``: it is not the original, and the version is run so unasked."""


@dataclass(frozen=True)
class Gain:
    """How much faster a form is."""

    by_size: Mapping[int, float]
    """Original's seconds over its own."""

    @property
    def mean(self) -> float:
        """Geometric, over the batch sizes."""
        return math.exp(sum(map(math.log, self.by_size.values())) / len(self.by_size))

    @property
    def slowest(self) -> int:
        """The batch size at which it gains least."""
        return min(self.by_size, key=lambda size: self.by_size[size])


def gain(original_s: Mapping[int, float], other_s: Mapping[int, float]) -> Gain:
    """Over the sizes that both were measured at."""
    return Gain({size: original_s[size] / other_s[size] for size in original_s if size in other_s})


def verdict(found: Gain, of: str = "") -> tuple[Verdict, str]:
    """What the times alone say of a form that answers alike, and why. ``of`` names the form that
    the gain is over, if it is not the original."""
    of = of and f" of {of}"
    worst = found.by_size[found.slowest]
    if worst < SLOWER:
        return "slower", f"{worst:.2f} x{of} at batches of {found.slowest}"
    if found.mean < WORTH:
        return "no gain", f"{found.mean:.2f} x{of} in the mean"
    return "faster", ""


def is_doubtful(found: Gain) -> bool:
    """True if it is refused for a size at which it may have had bad luck."""
    return DOUBTFUL <= found.by_size[found.slowest] < SLOWER and found.mean >= WORTH


def winner(gains: Mapping[str, Gain]) -> str | None:
    """The name of the fastest of those that may be registered; None: there is none."""
    fit = {name: one.mean for name, one in gains.items() if verdict(one)[0] == "faster"}
    return max(fit, key=lambda name: fit[name], default=None)


def cost_line(seconds: Mapping[int, float]) -> tuple[float, float]:
    """``(fixed_s, item_s)`` of the line through seconds by batch size, neither negative.

    Every size counts alike by the share that the line is off, so that small batches, which most
    callers see, are not lost beside large ones.
    """
    sizes: Sequence[int] = sorted(seconds)
    if len(sizes) == 1:
        half = seconds[sizes[0]] / 2
        return half, half / sizes[0]
    # Least squares of (a + b n) / t - 1: weights 1 / t.
    rows = [(1 / seconds[n], n / seconds[n]) for n in sizes]
    aa, ab, bb = (sum(x * x for x, _ in rows), sum(x * y for x, y in rows),
                  sum(y * y for _, y in rows))
    a1, b1 = sum(x for x, _ in rows), sum(y for _, y in rows)
    determinant = aa * bb - ab * ab
    fixed = (a1 * bb - b1 * ab) / determinant
    item = (b1 * aa - a1 * ab) / determinant
    if fixed < 0:
        return 0.0, b1 / bb
    if item < 0:
        return a1 / aa, 0.0
    return fixed, item
