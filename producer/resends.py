"""Lost work: when to look for an envelope that has no reply, and when to send it once more.

Redis hands a message to a worker and forgets it, so a killed worker takes its messages with it.
An envelope that does not wait in its queue any more is in a worker's hands or lost. A worker that
lives answers it within a few turns; after that it is sent once more: inference is pure, and workers
drop an id that they know. While it still waits it is left alone, however late: a queue that is too
long is not made longer.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from producer.envelopes import SentEnvelope

FIRST_LOOK = 0.4
"""Share of an envelope's time after which it is looked for ..."""
NEXT_LOOK = 0.1
"""... and again, while it still waits. It counts as lost when it has been gone for so long ..."""
HELD_TURNS = 3
"""... and for so many turns of the worker: it is buffered behind a batch, and then in one ..."""
LONGEST_HELD = 0.3
"""... but no longer than this share of its time: what is sent once more needs some, too."""
LATEST_LOOK_S = 30.0
"""Who has hours is not kept waiting for a share of them: the first look comes after so long ..."""
LONGEST_PAUSE_S = 10.0
"""... and the next ones after so long, at the latest."""
_FADING = 0.95


class _Headers(msgspec.Struct):
    sent_ms: float | None = None


class _Message(msgspec.Struct):
    headers: _Headers = msgspec.field(default_factory=_Headers)


_decode = msgspec.json.Decoder(_Message).decode


def due(envelopes: Iterable[SentEnvelope], now_ms: int) -> list[SentEnvelope]:
    """Those that are to be looked for now; plans the next look of each."""
    found = []
    for envelope in envelopes:
        if envelope.resent:
            continue
        if not envelope.look_ms:
            first_ms = min(envelope.time_ms * FIRST_LOOK, 1_000 * LATEST_LOOK_S)
            envelope.look_ms = envelope.sent_ms + int(first_ms)
        if now_ms >= envelope.look_ms:
            envelope.look_ms = now_ms + max(1, int(_pause_ms(envelope)))
            found.append(envelope)
    return found


def has_waited(envelope: SentEnvelope, now_ms: int) -> bool:
    """True once the share of its time is over after which no worker is expected any more: who has
    hours may outlast the start of one."""
    return now_ms - envelope.sent_ms >= int(envelope.time_ms * FIRST_LOOK)


def is_lost(envelope: SentEnvelope, now_ms: int, turn_ms: float) -> bool:
    """True if an envelope that does not wait any more has been gone for longer than a worker takes.

    Otherwise plans its next look. ``turn_ms``: how long turns of its worker take.
    """
    held_ms = max(_pause_ms(envelope), HELD_TURNS * turn_ms)
    held_ms = max(1, int(min(held_ms, LONGEST_HELD * envelope.time_ms)))
    if not envelope.gone_ms:
        envelope.gone_ms = now_ms
    if now_ms - envelope.gone_ms >= held_ms:
        return True
    envelope.look_ms = envelope.gone_ms + held_ms
    return False


def _pause_ms(envelope: SentEnvelope) -> float:
    return min(envelope.time_ms * NEXT_LOOK, 1_000 * LONGEST_PAUSE_S)


class TurnTimes:
    """How long the turns of workers take, by queue: the longest of late. Bounded by the queues."""

    def __init__(self) -> None:
        self._turns_ms: dict[str, float] = {}

    def observe(self, queue: str, turn_ms: float) -> None:
        """Note that a reply says so. For one thread."""
        self._turns_ms[queue] = max(turn_ms, _FADING * self.longest_ms(queue))

    def longest_ms(self, queue: str) -> float:
        """0 as long as nothing is known. For any thread."""
        return self._turns_ms.get(queue, 0.0)


def still_waits(sent_ms: float, oldest: bytes | None) -> bool:
    """True if a message of ``sent_ms`` may still be in its queue, whose oldest is ``oldest``.

    A message that does not say when it was sent tells nothing: then it may.
    """
    if oldest is None:
        return False
    try:
        oldest_ms = _decode(oldest).headers.sent_ms
    except (msgspec.MsgspecError, RecursionError):
        return True
    return oldest_ms is None or oldest_ms <= sent_ms
