"""A lane of this process that serves ``echo`` to the clients under test."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis

from celeriac.host import ModelHost
from celeriac.registry import catalogue
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.settings import Settings
from producer.client import Client
from workers.lane import Lane
from workers.lane_events import NoEvents


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
