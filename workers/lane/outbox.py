"""What leaves with the next exchange, and is kept until it succeeds: replies, above all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import redis

from celeriac import metrics
from celeriac.keys import REPLY_TTL_S, reply_key
from celeriac.logs import get_logger
from celeriac.messages import Reply
from celeriac.refused_writes import is_refused_write
from producer.channel import Command

log = get_logger(__name__)

_encode = msgspec.json.Encoder().encode


class Outbox:
    """Encoded replies by client. Bounded: the lane scores nothing more before they are pushed."""

    def __init__(self) -> None:
        self._replies: dict[str, list[bytes]] = {}
        self._passed_on: list[Command] = []
        self.is_refused = False
        """True while Redis refuses all writes: what is here is pushed later."""

    def __bool__(self) -> bool:
        return bool(self._replies or self._passed_on)

    def add(self, client_id: str, reply: Reply) -> bytes:
        """Add a reply; returns it encoded."""
        encoded = _encode(reply)
        self.add_encoded(client_id, encoded)
        return encoded

    def add_encoded(self, client_id: str, reply: bytes) -> None:
        """Add a reply that is encoded already."""
        self._replies.setdefault(client_id, []).append(reply)

    def pass_on(self, queue: str, message: bytes) -> None:
        """Add a message that belongs on another queue."""
        self._passed_on.append(("LPUSH", queue, message))

    def commands(self) -> list[Command]:
        """What pushes it all."""
        commands = list(self._passed_on)
        for client_id, replies in self._replies.items():
            key = reply_key(client_id)
            commands += (("RPUSH", key, *replies), ("EXPIRE", key, REPLY_TTL_S))
        return commands

    def sent(self, results: Sequence[Any]) -> redis.RedisError | None:
        """Forget what was pushed. What Redis refused is not pushed again: it would refuse again.

        Unless it refuses all writes for now: then everything is kept, and the refusal returned.
        """
        failure = next((one for one in results if isinstance(one, redis.RedisError)), None)
        self.is_refused = failure is not None and is_refused_write(failure)
        if self.is_refused:
            return failure
        self._replies.clear()
        self._passed_on.clear()
        if failure is not None:
            metrics.LANE_ERRORS.labels("redis").inc()
            log.warning("not pushed", reason=str(failure))
        return None
