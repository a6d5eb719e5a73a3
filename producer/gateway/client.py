"""The client of a gateway: calls with all that is known of their way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import redis

from celeriac.messages import ModelRef
from celeriac.registry.catalogue import VersionInfo
from producer import orders
from producer.aio import AsyncClient
from producer.broker import broker_error
from producer.calls import Call
from producer.client import check_expiry
from producer.handles import AsyncPredictionHandle, find, submit
from producer.jobs import JobHandle, JobStatus, status_of
from producer.orders import Order, Placed
from producer.serving import Serving, read_serving


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

    async def version(self, ref: ModelRef, timeout_s: float) -> VersionInfo:
        """What ``ref`` means now. Raises ModelNotFound, VersionNotFound."""
        found = await asyncio.to_thread(self.routes.catalogue, timeout_s)
        return found.resolve(ref)

    async def serving(self, name: str, device: str) -> list[Serving]:
        """The live workers that serve a model, or could. Raises BrokerError."""
        broker = self._client.broker
        try:
            return await asyncio.to_thread(read_serving, broker.redis, name, device)
        except redis.RedisError as error:
            raise broker_error(error, broker.url) from error

    async def order_job(
        self, job_id: str, order: Order, version: VersionInfo, digest: str
    ) -> Placed:
        """As :func:`producer.orders.place`."""
        return await asyncio.to_thread(
            orders.place, self._client.broker, job_id, order, version, digest
        )

    async def job_page(
        self, tenant: str, limit: int, after: str
    ) -> tuple[list[JobStatus], bool] | None:
        """A tenant's jobs, the newest first; are there more? None: ``after`` is none of them."""
        found = await asyncio.to_thread(orders.page, self._client.broker, tenant, limit, after)
        return found and ([status_of(entry) for entry in found[0]], found[1])

    async def job_statuses(self, ids: list[str]) -> list[JobStatus | None]:
        """Where these jobs stand, in one exchange; None for those that Redis does not know."""
        found = await asyncio.to_thread(orders.entries, self._client.broker, ids)
        return [None if entry is None else status_of(entry) for entry in found]

    async def cancel_job(self, status: JobStatus) -> None:
        """As :meth:`JobHandle.cancel`."""
        handle = JobHandle(self._client.broker, status.id, status.output)
        await asyncio.to_thread(handle.cancel)

    async def resume_job(self, job_id: str, max_error_share: float | None) -> None:
        """As :func:`producer.orders.resume`."""
        await asyncio.to_thread(orders.resume, self._client.broker, job_id, max_error_share)
