"""A lane of this process that serves ``echo`` to the clients under test."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from celeriac.host import ModelHost
from celeriac.keys import reply_key
from celeriac.registry import catalogue
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.settings import Settings
from producer.client import Client
from workers.lane.events import NoEvents
from workers.lane.lane import Lane


@pytest.fixture
def registry(settings: Settings, redis_client: redis.Redis) -> Registry:
    """A registry with ``echo`` (any item) and ``texts`` (text only), published."""
    registry = Registry(settings.models.root)
    for name, kind in (("echo", "any"), ("texts", "text")):
        draft = ModelDraft(
            format="echo", input=InputSchema(kind=kind), output=OutputSchema(kind="any")
        )
        registry.add(name, lambda folder, draft=draft: draft)
        registry.aliases(name).promote(1, expected=None, who="test", why="")
    catalogue.publish(redis_client, registry.infos())
    return registry


@pytest.fixture
def lane(registry: Registry, redis_client: redis.Redis, settings: Settings) -> Iterator[Lane]:
    host = ModelHost(registry, LoadOptions())
    host.refresh()
    lane = Lane(host, redis_client, settings, NoEvents())
    thread = threading.Thread(target=lane.run)
    thread.start()
    yield lane
    lane.stop()
    thread.join(10)


@pytest.fixture
def client(settings: Settings, registry: Registry) -> Iterator[Client]:
    with Client(settings=settings) as client:
        yield client


class HandWorker:
    """A worker whose every move a test makes."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def take(self, model: str = "echo", timeout_s: float = 10) -> bytes:
        """The oldest message of a model's queue."""
        popped: Any = self.client.brpop([f"realtime.cpu.{model}"], timeout=timeout_s)
        assert popped is not None
        message: bytes = popped[1]
        return message

    def answer(self, message: bytes) -> int:
        """Answer each item with itself; returns how many they are."""
        envelope = self.envelope(message)
        name = envelope["model"].partition("@")[0]
        answers = [{"model": name, "version": 1, "value": item} for item in envelope["items"]]
        self.reply(message, {"answers": answers})
        return len(answers)

    def reply(self, message: bytes, content: dict[str, Any]) -> None:
        envelope = self.envelope(message)
        body = {"v": 1, "id": envelope["id"], **content}
        self.client.rpush(reply_key(envelope["reply_to"]), json.dumps(body))

    def envelope(self, message: bytes) -> dict[str, Any]:
        kwargs: dict[str, Any] = json.loads(json.loads(message)["body"])[1]
        return kwargs


@pytest.fixture
def hand(redis_client: redis.Redis) -> HandWorker:
    return HandWorker(redis_client)
