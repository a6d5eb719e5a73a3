"""What to refuse of a queue that has grown too long: pure."""

from __future__ import annotations

from dataclasses import dataclass

_SOONEST_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long a model's queue may grow."""

    max_queue_s: float
    """Expected wait of the newest message."""
    max_queue_items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The newest messages of a queue that must go."""

    messages: int
    retry_after_s: float
    """Until the queue should be at half its bound."""


def refuse(
    *,
    messages: int,
    items_per_message: float,
    seconds_per_item: float,
    bounds: Bounds,
) -> Refusal | None:
    """How many of the ``messages`` that wait must be refused; None if all may wait.

    ``seconds_per_item`` is 0 as long as it is not known: only the number of items counts then.
    """
    most = float(bounds.max_queue_items)
    if seconds_per_item > 0:
        most = min(most, bounds.max_queue_s / seconds_per_item)
    each = max(1.0, items_per_message)
    kept = max(1, int(most / each))
    surplus = messages - kept
    if surplus <= 0:
        return None
    half_s = kept * each * seconds_per_item / 2
    return Refusal(messages=surplus, retry_after_s=max(_SOONEST_S, half_s))
