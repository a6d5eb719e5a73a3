"""Many small reads at the same time where each of them waits: in S3, not on a disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")

THREADS = 16
_AHEAD = 2 * THREADS
"""So many are read, or wait to be taken, at most: memory does not grow with the dataset."""


def in_order(
    work: Callable[[Item], Found], items: Iterable[Item], *, waits: bool
) -> Iterator[Found]:
    """What ``work`` makes of each item, in order. ``waits``: in threads, some items ahead.

    Raises what ``work`` raises, at that item's turn.
    """
    if not waits:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(THREADS, "ahead") as threads:
        begun: deque[Future[Found]] = deque()
        for item in items:
            begun.append(threads.submit(work, item))
            if len(begun) == _AHEAD:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
