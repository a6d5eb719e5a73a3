"""Streams of events: how many there may be, and what is in them."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac.settings import GatewaySettings
from producer.gateway import progress as module
from producer.gateway.failures import GatewayBusy
from producer.gateway.jobs import share_of_tenant
from producer.gateway.progress import Progress


async def _nothing(ids: list[str]) -> list[Any]:
    return [None for _ in ids]


def test_every_blank_line_ends_an_event_with_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0)
    status: Any = SimpleNamespace(id="a", tenant="shop", state=SimpleNamespace(is_final=False))

    async def main() -> list[bytes]:
        stream = Progress(_nothing, lambda: False).events(status, lambda _: {"status": "x"})
        return [await anext(stream) for _ in range(4)]

    sent = asyncio.run(main())
    assert sent[2] == sent[3] == b": nothing new\n"
    *events, rest = b"".join(sent).split(b"\n\n")
    assert [event.count(b"\ndata: ") for event in events] == [1]
    assert rest.replace(b": nothing new\n", b"") == b""


def test_one_tenant_leaves_room_for_the_others() -> None:
    async def main() -> None:
        progress = Progress(_nothing, lambda: False)
        with ExitStack() as streams:
            for job in ("a", "a", "b"):
                status: Any = SimpleNamespace(id=job, tenant="greedy")
                streams.enter_context(progress._watching(status))
            with pytest.raises(GatewayBusy, match="your tenant has 3 streams"):
                progress.check_room(6, "greedy", 3)
            progress.check_room(6, "other", 3)
            with pytest.raises(GatewayBusy, match="3 streams of events are open already"):
                progress.check_room(3, "other", 3)
        progress.check_room(6, "greedy", 3)

    asyncio.run(main())


def test_those_that_come_together_are_counted_before_they_begin() -> None:
    async def main() -> None:
        progress = Progress(_nothing, lambda: False)
        progress.check_room(2)
        progress.check_room(2)
        with pytest.raises(GatewayBusy):
            progress.check_room(2)
        status: Any = SimpleNamespace(id="a", tenant="", state=SimpleNamespace(is_final=False))
        stream = progress.events(status, lambda _: {})
        await anext(stream)  # it is one of the two, and no third
        assert progress.streams == 1
        with pytest.raises(GatewayBusy):
            progress.check_room(2)
        await stream.aclose()  # type: ignore[attr-defined]
        progress.check_room(2)
        progress._coming.clear()  # as after a second in which none of them has begun
        progress.check_room(1)

    asyncio.run(main())


def test_a_tenant_alone_has_all_of_them() -> None:
    def keys(*tenants: str) -> GatewaySettings:
        return GatewaySettings.model_validate({"max_event_streams": 7, "keys": {
            f"key{number}": {"sha256": f"{number:064x}", "tenant": tenant}
            for number, tenant in enumerate(tenants)
        }})

    assert share_of_tenant(keys()) == 0
    assert share_of_tenant(keys("shop", "shop")) == 0
    assert share_of_tenant(keys("shop", "bank")) == 4
