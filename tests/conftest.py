"""Shared fixtures: a real server on a free port, settings that touch nothing outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from celeriac.settings import (
    BrokerSettings,
    ModelsSettings,
    Settings,
    StackSettings,
    get_settings,
)
from workers.valkey import EmbeddedServer, free_port

for _name in [name for name in os.environ if name.startswith("CELERIAC_")]:
    del os.environ[_name]  # a developer's own environment must not colour the tests


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One Valkey for the session."""
    embedded = EmbeddedServer(tmp_path_factory.mktemp("valkey"), free_port())
    embedded.start()
    yield embedded
    embedded.stop()


@pytest.fixture
def redis_client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client of an emptied server."""
    client = redis.Redis.from_url(server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def settings(server: EmbeddedServer, tmp_path: Path) -> Iterator[Settings]:
    """Settings of one test: its own registry and state folder, the session's server."""
    get_settings.cache_clear()
    yield Settings(
        broker=BrokerSettings(url=server.url),
        stack=StackSettings(state_dir=tmp_path / "state"),
        models=ModelsSettings(root=tmp_path / "models"),
    )
    get_settings.cache_clear()
