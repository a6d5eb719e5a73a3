"""Work on rows in slices; where memory is short, in smaller ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

CALM_SLICES = 8
"""After so many slices that fit, a larger one is tried."""
MOST_ALONE = 16
"""So many rows one after the other that do not fit even alone: it is not the rows."""


def in_slices(
    rows: int, at_once: int, work: Callable[[int, int], T], alone: Callable[[int], T]
) -> list[T]:
    """What ``work(start, count)`` makes of all rows, in order; of no rows, ``work(0, 0)``.

    A slice that raises MemoryError is halved; ``alone(start)`` stands for a row that does not fit
    by itself. Raises MemoryError if many such rows follow each other.
    """
    found: list[T] = []
    size, start, calm, refused = at_once, 0, 0, 0
    while start < rows or not found:
        count = min(size, rows - start)
        done = _tried(work, start, count)
        if done:
            calm, refused = calm + 1, 0
        elif count > 1:
            size, calm = count // 2, 0
            continue
        else:
            refused += 1
            if refused > MOST_ALONE or not count:
                raise MemoryError(f"not enough memory for {max(refused, 1)} rows, one by one")
            done = [alone(start)]
        found += done
        start += count
        if calm == CALM_SLICES:
            size, calm = min(size * 2, at_once), 0
    return found


def _tried(work: Callable[[int, int], T], start: int, count: int) -> list[T]:
    """One result, or none for want of memory; the error, and what it holds on to, is gone then."""
    try:
        return [work(start, count)]
    except MemoryError:
        return []
