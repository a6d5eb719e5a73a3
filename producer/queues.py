"""What is in a queue: the messages that wait, and those in workers' hands."""

from __future__ import annotations

from typing import Any

import msgspec

from producer.broker import Broker

MOST_MESSAGES = 20_000
"""Messages of one queue that one look goes through, at most; beyond, nothing is known."""
PAGE = 100
"""Messages that are read at a time: some hold megabytes of items."""


class _Message(msgspec.Struct):
    headers: dict[str, Any] | None = None


_waiting = msgspec.json.Decoder(_Message)
_taken = msgspec.json.Decoder(tuple[_Message, Any, Any])
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)


def headers_in(broker: Broker, queue: str, held: str) -> list[dict[str, Any]] | None:
    """The headers of each message that waits in ``queue`` or is in a worker's hands.

    ``held`` is the role whose workers take them. None if there are too many to look through.
    Raises redis.RedisError.
    """
    client = broker.redis
    taken_key = f"unacked.{held}"  # kombu's hash of what was taken and not acknowledged
    if int(client.llen(queue)) + int(client.hlen(taken_key)) > MOST_MESSAGES:
        return None
    found = []
    for start in range(0, MOST_MESSAGES, PAGE):
        page: Any = client.lrange(queue, start, start + PAGE - 1)
        found += [_waiting_headers(raw) for raw in page]
        if len(page) < PAGE:
            break
    taken: Any = client.hvals(taken_key)  # read last: a message moves from the queue to here
    return found + [_taken_headers(raw) for raw in taken]


def _waiting_headers(raw: bytes) -> dict[str, Any]:
    """None of what is no message: the worker that takes it drops it."""
    try:
        return _waiting.decode(raw).headers or {}
    except _UNREADABLE:
        return {}


def _taken_headers(raw: bytes) -> dict[str, Any]:
    try:
        return _taken.decode(raw)[0].headers or {}
    except _UNREADABLE:
        return {}
