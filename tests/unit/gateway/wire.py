"""A connection without a network, and a client that answers at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from celeriac.messages import Prediction
from producer.calls import Call

PREDICTION = {"model": "reviews", "version": 3, "label": "good", "probability": 0.75}


class FakeClient:
    reply: Any = None

    async def call(self, model: str, item: Any, timeout_s: float, request: str) -> Call:
        call = Call(model, "queue", b"", 0, request)
        call.outcome = Prediction(**{**PREDICTION, "model": model})
        call.reply = self.reply
        return call

    async def job_statuses(self, ids: Any) -> list[Any]:
        return []


class Wire(asyncio.Transport):
    """What a connection sends, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False
        self.was_closed = False
        """By us, before the other end went."""
        self.was_aborted = False
        self.unsent = 0
        """Bytes that the other end has not taken."""

    @property
    def sent(self) -> bytes:
        return b"".join(self.writes)

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.was_aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def parsed(data: bytes) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of one answer."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    named = dict(line.split(": ", 1) for line in lines)
    assert len(named) == len(lines)
    assert int(named["content-length"]) == len(body)
    return int(first.split()[1]), named, json.loads(body)
