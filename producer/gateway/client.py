"""The client of a gateway: calls with all that is known of their way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from producer.aio import AsyncClient
from producer.calls import Call
from producer.client import check_expiry
from producer.handles import AsyncPredictionHandle, find, submit


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

    async def submit_for(  # noqa: PLR0913 - whose prediction, and its options
        self, tenant: str, model: str, item: Any, *, prediction_id: str | None,
        expires_s: float | None, webhook: str | None,
    ) -> tuple[AsyncPredictionHandle, bool]:
        """As :meth:`submit`, for a tenant. False: it was there already."""
        client = self._client
        kept_s = check_expiry(expires_s, self.settings.realtime.submission_ttl_s)
        route = await self._route(model, self.timeout_s)
        handle, is_new = await asyncio.to_thread(
            submit, client.broker, route, client.realtime.encode(item), expires_s=kept_s,
            timeout_s=self.timeout_s, prediction_id=prediction_id, webhook=webhook, tenant=tenant,
        )
        return AsyncPredictionHandle(handle), is_new

    async def find(self, tenant: str, prediction_id: str) -> AsyncPredictionHandle:
        """A tenant's prediction. Raises PredictionNotFound for any other's."""
        return AsyncPredictionHandle(await asyncio.to_thread(
            find, self._client.broker, prediction_id, self.timeout_s, tenant
        ))
