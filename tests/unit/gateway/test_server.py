"""The process of the gateway, as far as it needs no request."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from celeriac.settings import GatewaySettings, Settings
from producer.gateway import server


def test_it_takes_as_many_connections_as_the_system_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    found: list[tuple[int, int]] = []

    async def run(*_: Any) -> None:
        found.append(resource.getrlimit(resource.RLIMIT_NOFILE))

    monkeypatch.setattr(server, "run", run)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
    try:
        server.serve(Settings(gateway=GatewaySettings(port=0, admin_port=0)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found == [(before[1], before[1])]
