"""The process of the gateway, as far as it needs no request."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from types import SimpleNamespace
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


def test_a_second_interrupt_does_not_wait_for_the_balancer() -> None:
    gateway: Any = SimpleNamespace(
        is_draining=False, watches=(), limits=GatewaySettings(drain_notice_s=60)
    )
    ended: Any = SimpleNamespace(should_exit=False, force_exit=False)
    seen: list[tuple[bool, bool]] = []

    async def main() -> None:
        server._drain_on_signals(gateway, ended)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), signum)
            await asyncio.sleep(0.01)
            seen.append((ended.should_exit, ended.force_exit))

    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(main())
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    assert seen == [(False, False), (False, False), (True, True), (True, True)]
