"""What is in a queue: the messages that wait, and those in workers' hands."""

from __future__ import annotations

import json
from typing import Any

from producer.broker import Broker

MOST_MESSAGES = 20_000
"""Messages of one queue that one look goes through, at most; beyond, nothing is known."""


def headers_in(broker: Broker, queue: str, held: str) -> list[dict[str, Any]] | None:
    """The headers of each message that waits in ``queue`` or is in a worker's hands.

    ``held`` is the role whose workers take them. None if there are too many to look through.
    Raises redis.RedisError.
    """
    client = broker.redis
    taken_key = f"unacked.{held}"  # kombu's hash of what was taken and not acknowledged
    if int(client.llen(queue)) + int(client.hlen(taken_key)) > MOST_MESSAGES:
        return None
    waiting: Any = client.lrange(queue, 0, -1)
    taken: Any = client.hvals(taken_key)  # read last: a message moves from the queue to here
    messages = [json.loads(raw) for raw in waiting] + [json.loads(raw)[0] for raw in taken]
    return [message.get("headers", {}) for message in messages]
