"""The client of a gateway: calls with all that is known of their way."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from producer.aio import AsyncClient
from producer.calls import Call


class GatewayClient(AsyncClient):
    """An asyncio client that gives its calls away, settled; errors are outcomes among others.

    ``request`` is the id that the worker's log names the items by. What :meth:`predict` raises
    before an item is sent is raised here too.
    """

    async def call(self, model: str, item: Any, timeout_s: float, request: str) -> Call:
        return await self._call(model, item, timeout_s, request)

    async def calls(
        self, model: str, items: Sequence[Any], timeout_s: float, request: str
    ) -> list[Call]:
        """In the order of the items."""
        async with contextlib.aclosing(self._each(model, items, timeout_s, request)) as calls:
            return [call async for call in calls]
