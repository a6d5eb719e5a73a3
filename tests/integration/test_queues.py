"""What waits in a queue and what workers have in hand, whoever sent it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from celeriac.settings import Settings
from producer import queues, wire
from producer.broker import Broker


def message(number: int) -> bytes:
    return wire.task_message("t", wire.new_id(), "q", {}, shown={}, extra={"number": number})


def test_headers_are_read_in_pages_and_strangers_messages_have_none(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "PAGE", 3)
    odd: list[Any] = [b"{", b"[]", b'{"headers": null}', b'{"headers": 1}', b"\xff"]
    redis_client.rpush("q", *(message(number) for number in range(7)), *odd)
    redis_client.hset("unacked.w", "a", b"[" + message(7) + b', "", "q"]')
    redis_client.hset("unacked.w", "b", json.dumps(["{", "", "q"]))
    with Broker(settings) as broker:
        found = queues.headers_in(broker, "q", "w")
        assert found is not None
        numbers = [one["number"] for one in found if "number" in one]
        assert (numbers, len(found)) == (list(range(8)), 14)
        monkeypatch.setattr(queues, "MOST_MESSAGES", 13)
        assert queues.headers_in(broker, "q", "w") is None
