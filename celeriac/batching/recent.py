"""Envelopes answered lately, with their replies: a re-sent one is answered again, not scored."""

from __future__ import annotations

from collections import OrderedDict

MAX_REPLIES = 8_192
MAX_BYTES = 4_000_000
EACH_BYTES = 400
"""What an entry takes besides its reply, about."""

Key = tuple[str, str]
"""Id of the envelope, id of the client: nobody gets an answer that was another's."""


class Recent:
    """The newest replies, bounded by count and by bytes."""

    def __init__(self, max_replies: int = MAX_REPLIES, max_bytes: int = MAX_BYTES) -> None:
        self.bytes = 0
        self._max_replies = max_replies
        self._max_bytes = max_bytes
        self._replies: OrderedDict[Key, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: Key) -> bytes | None:
        """The encoded reply that was given; None if it is not known (any more)."""
        return self._replies.get(key)

    def put(self, key: Key, reply: bytes) -> None:
        """Remember a reply. One that is larger than all the room is not kept."""
        old = self._replies.pop(key, None)
        if old is not None:
            self.bytes -= len(old) + EACH_BYTES
        if len(reply) + EACH_BYTES > self._max_bytes:
            return
        self._replies[key] = reply
        self.bytes += len(reply) + EACH_BYTES
        while len(self._replies) > self._max_replies or self.bytes > self._max_bytes:
            _, oldest = self._replies.popitem(last=False)
            self.bytes -= len(oldest) + EACH_BYTES
