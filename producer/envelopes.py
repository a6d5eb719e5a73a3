"""Envelopes: which calls travel together, and what is kept of them until they are answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from celeriac.messages import CONTRACT, MAX_ENVELOPE_ITEMS, Envelope
from producer import wire
from producer.calls import Call

MAX_ENVELOPE_BYTES = 512_000
"""Items of one envelope together, unless a single item is larger."""


class SentEnvelope:
    """A published envelope: its calls, in the order of its items, and its message."""

    __slots__ = (
        "calls", "deadline_ms", "gone_ms", "id", "look_ms", "message", "queue", "resent", "sent_ms",
        "time_ms",
    )  # fmt: skip

    def __init__(self, calls: list[Call], reply_to: str, now_ms: int) -> None:
        self.calls = calls
        self.queue = calls[0].queue
        self.id = wire.new_id()
        self.sent_ms = now_ms
        self.deadline_ms = max(call.deadline_ms for call in calls)
        self.time_ms = max(1, min(call.deadline_ms for call in calls) - now_ms)
        """The shortest time that one of its callers had left."""
        self.look_ms = 0
        """When to look for it, Unix milliseconds; 0 if that is not planned yet."""
        self.gone_ms = 0
        """Since when it is known to wait no more, Unix milliseconds; 0 if it may still wait."""
        self.resent = False
        self.message = wire.envelope_message(
            Envelope(
                v=CONTRACT,
                id=self.id,
                model=calls[0].model,
                items=[msgspec.Raw(call.item) for call in calls],
                reply_to=reply_to,
                deadline_ms=self.deadline_ms,
                requests=_requests(calls),
            ),
            self.queue,
            now_ms,
        )
        """Kept for a re-send. The calls' own copies of their items go."""
        for call in calls:
            call.item = b""

    def settled(self) -> bool:
        """True when nobody waits for it any more."""
        return all(call.outcome is not None for call in self.calls)


def _requests(calls: list[Call]) -> list[str]:
    requests = [call.request for call in calls]
    return requests if any(requests) else []


def pack(calls: Iterable[Call], now_ms: int) -> Iterator[list[Call]]:
    """Put calls into envelopes: of one model each, in order, within the limits.

    An envelope is worth computing until its latest deadline, so calls travel together only if the
    times that they have left are within a factor of two.
    """
    filling: dict[tuple[str, str, int], tuple[list[Call], int]] = {}
    for call in calls:
        key = (call.queue, call.model, (call.deadline_ms - now_ms).bit_length())
        members, size = filling.get(key, ([], 0))
        full = len(members) == MAX_ENVELOPE_ITEMS or size + call.size > MAX_ENVELOPE_BYTES
        if members and full:
            yield members
            members, size = [], 0
        members.append(call)
        filling[key] = members, size + call.size
    for members, _ in filling.values():
        yield members
