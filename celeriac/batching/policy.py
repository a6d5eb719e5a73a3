"""Which batch next: a pure choice among what waits, with the clock passed in.

Models take turns, least recently served first, so that an overloaded one starves no other. One
whose tightest deadline would be missed if all others went first may go ahead of its turn. Within
one line messages stay in their order.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from celeriac.batching.cost import CostLine

FULL = "full"
"""As many items as one forward pass may or usefully can take."""
DRAINED = "drained"
"""All that waits."""
DEADLINE = "deadline"
"""More would have passed the tightest deadline."""
WAIT = "wait"
"""The time that a batch may wait for more was over."""

_PATIENCE = 2
"""No line is passed over more often than this many times the number of lines."""

_REMEMBERED = 10_000

K = TypeVar("K", bound=Hashable)


class Waiting(Protocol):
    """A message that waits: its items stay together."""

    @property
    def count(self) -> int:
        """Its items."""
    @property
    def deadline_ms(self) -> float:
        """After it nobody waits for the answer any more."""
    @property
    def arrived_ms(self) -> float:
        """When this process took it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What waits for one version, in order of arrival; never empty."""

    waiting: Sequence[Waiting]
    cost: CostLine
    max_items: int
    """Items of one batch, at most."""
    max_wait_ms: float = 0.0
    more: bool = False
    """More of it waits elsewhere: there is no point in waiting for it to fill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A batch at the front of a line."""

    messages: int
    items: int
    seconds: float
    """What it should take."""
    closed: str
    tightest_ms: float
    """The earliest deadline that it can still meet; infinite if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Generic[K]):
    """The batch to run now."""

    key: K
    cut: Cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Nothing is to run before ``until_ms``, unless more arrives."""

    until_ms: float


@dataclass(slots=True)
class _Turn:
    last: int = 0
    passed: int = 0
    """How often others went first since."""


class Turns(Generic[K]):
    """Who was served when: the only memory of the policy. Bounded."""

    def __init__(self) -> None:
        self._number = 0
        self._turns: dict[K, _Turn] = {}

    def served(self, key: K, waiting: Iterable[K]) -> None:
        """Note that ``key`` was served while all of ``waiting`` waited (itself among them)."""
        self._number += 1
        if len(self._turns) > _REMEMBERED:
            self._turns.clear()  # versions come and go; a turn out of order does no harm
        for other in waiting:
            self._turns.setdefault(other, _Turn()).passed += 1
        turn = self._turns.setdefault(key, _Turn())
        turn.last, turn.passed = self._number, 0

    def last(self, key: K) -> int:
        """The number of its last turn; 0 if it had none."""
        turn = self._turns.get(key)
        return turn.last if turn else 0

    def passed(self, key: K) -> int:
        """How often others went first since its last turn."""
        turn = self._turns.get(key)
        return turn.passed if turn else 0


def choose(lines: Mapping[K, Line], turns: Turns[K], now_ms: float) -> Choice[K] | Pause | None:
    """The next batch; a pause if all lines may wait for more; None if nothing waits."""
    cuts = {key: cut_batch(line, now_ms) for key, line in lines.items()}
    ready = {key: ready_ms(lines[key], cut) for key, cut in cuts.items()}
    # Nobody has longer to wait than was said, unless the clock was set back since.
    due = [
        key for key, until_ms in ready.items()
        if not now_ms < until_ms <= now_ms + lines[key].max_wait_ms
    ]
    if not due:
        return Pause(until_ms=min(ready.values())) if ready else None
    key = _next(due, cuts, turns, now_ms) if len(due) > 1 else due[0]
    cut = cuts[key]
    if cut.closed == WAIT and now_ms < patience_ms(lines[key]):
        cut = replace(cut, closed=DEADLINE)
    return Choice(key=key, cut=cut)


def cut_batch(line: Line, now_ms: float) -> Cut:
    """How much of a line's front makes one batch.

    At least one message, however large. A deadline bounds the batch only if its message could
    meet it alone.
    """
    messages = items = 0
    tightest_ms = float("inf")
    closed = WAIT if line.max_wait_ms and not line.more else DRAINED
    for message in line.waiting:
        total = items + message.count
        if messages and total > line.max_items:
            closed = FULL
            break
        if now_ms + 1000 * line.cost.predicted(message.count) <= message.deadline_ms:
            bound_ms = min(tightest_ms, message.deadline_ms)
        else:
            bound_ms = tightest_ms  # this one cannot be met any more
        if messages and now_ms + 1000 * line.cost.predicted(total) > bound_ms:
            closed = DEADLINE
            break
        messages, items, tightest_ms = messages + 1, total, bound_ms
    if items >= line.max_items:
        closed = FULL
    return Cut(
        messages=messages, items=items, closed=closed, tightest_ms=tightest_ms,
        seconds=_seconds(line, items),
    )


def ready_ms(line: Line, cut: Cut) -> float:
    """From when on a batch may run: at once, unless it may wait for more."""
    if cut.closed != WAIT:
        return 0.0
    # With room for one item more; beyond that, whoever waits would wait in vain.
    latest_ms = cut.tightest_ms - 1000 * line.cost.predicted(cut.items + 1)
    return min(patience_ms(line), latest_ms)


def patience_ms(line: Line) -> float:
    """Until when a line's first message may wait for others."""
    return line.waiting[0].arrived_ms + line.max_wait_ms


def _seconds(line: Line, items: int) -> float:
    passes, rest = divmod(items, line.max_items)
    seconds = passes * line.cost.predicted(line.max_items)
    return seconds + (line.cost.predicted(rest) if rest else 0.0)


def _next(due: Sequence[K], cuts: Mapping[K, Cut], turns: Turns[K], now_ms: float) -> K:
    longest = max(due, key=turns.passed)
    if turns.passed(longest) >= _PATIENCE * len(cuts):
        return longest
    round_ms = 1000 * sum(cuts[key].seconds for key in due)
    urgent = [key for key in due if cuts[key].tightest_ms < now_ms + round_ms]
    if urgent:
        return min(urgent, key=lambda key: cuts[key].tightest_ms)
    return min(due, key=turns.last)
