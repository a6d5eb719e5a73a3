"""The items of one ``predict_many``: a window of them is on its way at any time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from celeriac import errors
from producer.calls import Call, Outcome
from producer.realtime import Realtime, abandon
from producer.routes import Route

WINDOW_ITEMS = 2_048
"""Items of one ``predict_many`` that are on their way at the same time, at most ..."""
SMALLEST_WINDOW = 64
"""... and what that shrinks to while the model is overloaded."""
BLOCK_ITEMS = 256
"""Items of one ``predict_many`` that are handed over together."""
SHORTEST_PAUSE_S = 0.05


class Bulk:
    """The part of the items that has been taken and not yet answered, in order.

    An overloaded model is no error of a bulk: it pauses as long as it is told, sends what was
    refused once more, and has fewer items on their way.
    """

    def __init__(
        self, realtime: Realtime, route: Route, end_s: float, *, on_loop: bool = False,
        request: str = "",
    ) -> None:
        self._realtime = realtime
        self._on_loop = on_loop
        self._request = request
        self._route = route
        self._end_s = end_s
        self._window = WINDOW_ITEMS
        self._calls: deque[tuple[Any, Call]] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def full(self) -> bool:
        """True while answers must be taken before more items are added."""
        return len(self._calls) > self._window

    @property
    def head(self) -> Call:
        """The call whose answer comes next."""
        return self._calls[0][1]

    def add(self, items: list[Any]) -> None:
        self._calls.extend(zip(items, self._start(items), strict=True))

    def pause_s(self, outcome: Outcome) -> float | None:
        """How long to wait before :meth:`retry`; None if the outcome of the head is final."""
        if not isinstance(outcome, errors.Overloaded):
            self._window = min(self._window + 1, WINDOW_ITEMS)
            return None
        pause_s = max(outcome.retry_after_s, SHORTEST_PAUSE_S)
        return pause_s if time.monotonic() + pause_s < self._end_s else None

    def retry(self) -> None:
        """Send again what was refused, the head first, as far as the smaller window allows."""
        self._window = max(SMALLEST_WINDOW, self._window // 2)
        refused = [
            place for place, (_, call) in enumerate(self._calls)
            if isinstance(call.outcome, errors.Overloaded)
        ][:self._window]  # fmt: skip
        items = [self._calls[place][0] for place in refused]
        for place, item, call in zip(refused, items, self._start(items), strict=True):
            self._calls[place] = item, call

    def take(self) -> None:
        """The head is done with."""
        self._calls.popleft()

    def abandon(self) -> None:
        """Nobody waits for the rest."""
        abandon(call for _, call in self._calls)

    def _start(self, items: list[Any]) -> list[Call]:
        left_s = max(self._end_s - time.monotonic(), 0.001)
        calls = self._realtime.prepare(self._route, items, left_s, self._request)
        self._realtime.send(self._route, calls, on_loop=self._on_loop)
        return calls


def blocks(items: Iterable[Any]) -> Iterator[list[Any]]:
    """``items`` in lists of at most ``BLOCK_ITEMS``. Raises RequestError for a single item."""
    if isinstance(items, (str, bytes, dict)):
        raise errors.RequestError(
            f"predict_many takes a list of items, not {type(items).__name__}; "
            "predict takes a single one"
        )
    rest = iter(items)
    while block := list(islice(rest, BLOCK_ITEMS)):
        yield block
