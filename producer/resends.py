"""Lost work: when to look for an envelope that has no reply, and when to send it once more.

Redis hands a message to a worker and forgets it, so a killed worker takes its messages with it.
An envelope that is not the youngest message of its queue, nor waiting behind an older one, is in a
worker's hands or lost: inference is pure, so it is sent once more, and workers drop an id that they
know. While it still waits it is left alone, however late: a queue that is too long is not made
longer.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from producer.envelopes import SentEnvelope

FIRST_LOOK = 0.4
"""Share of an envelope's time after which it is looked for ..."""
NEXT_LOOK = 0.1
"""... and again, while it still waits."""


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
            envelope.look_ms = envelope.sent_ms + int(envelope.time_ms * FIRST_LOOK)
        if now_ms >= envelope.look_ms:
            envelope.look_ms = now_ms + max(1, int(envelope.time_ms * NEXT_LOOK))
            found.append(envelope)
    return found


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
