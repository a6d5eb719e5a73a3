"""Who waits for a prediction that is fetched later."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from celeriac.submissions.ledger import SubmissionState
from producer.gateway import predictions


def test_a_gateway_that_drains_lets_them_go() -> None:
    gateway: Any = SimpleNamespace(is_draining=False)
    looks: list[int] = []

    async def status() -> Any:
        looks.append(len(looks))
        gateway.is_draining = len(looks) == 3
        return SimpleNamespace(state=SubmissionState.QUEUED)

    async def is_disconnected() -> bool:
        return False

    handle: Any = SimpleNamespace(status=status)
    request: Any = SimpleNamespace(is_disconnected=is_disconnected)
    found = asyncio.run(predictions._after(gateway, handle, 60, request))
    assert (found.state, looks) == (SubmissionState.QUEUED, [0, 1, 2])
