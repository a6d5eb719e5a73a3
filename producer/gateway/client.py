"""The client of a gateway: calls with all that is known of their way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from celeriac import errors
from celeriac.drift.feedback import VersionAccuracy, accuracies
from celeriac.drift.prediction_ids import has_truth
from celeriac.drift.standing import Standing, load_all
from celeriac.jobs.order import Order
from celeriac.messages import ModelRef, Prediction
from celeriac.registry.catalogue import Catalogue, VersionInfo
from producer import orders
from producer.aio import AsyncClient
from producer.calls import Call
from producer.client import check_expiry
from producer.feedback import Feedback
from producer.handles import AsyncPredictionHandle, find, submit
from producer.jobs import JobHandle, JobStatus, redis_errors, reopen, status_of
from producer.orders import Placed
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

    async def ids(
        self, tenant: str, outcomes: Sequence[Prediction | errors.CeleriacError]
    ) -> list[str | None]:
        """An id for each answer of which a label can say that it was right; None for the others.

        Raises BrokerError.
        """
        feedbacks = await self._ready_feedbacks()
        return [
            feedbacks.id_of(one, tenant)
            if isinstance(one, Prediction) and has_truth(one) else None
            for one in outcomes
        ]

    async def label_for(
        self, tenant: str, labels: Sequence[tuple[str, Any]]
    ) -> list[Feedback | errors.CeleriacError]:
        """Count labels, each by the id of its prediction. Raises BrokerError, DeadlineExceeded."""
        return await asyncio.to_thread(self._label, tenant, labels)

    async def accuracies(
        self, name: str, since_s: float, step_s: float
    ) -> list[VersionAccuracy]:
        """Of the versions of a model that have labels. Raises BrokerError."""
        with redis_errors(self.broker):
            return await asyncio.to_thread(
                accuracies, self.broker.redis, name, since_s, step_s, time.time()
            )

    def _label(
        self, tenant: str, labels: Sequence[tuple[str, Any]]
    ) -> list[Feedback | errors.CeleriacError]:
        found: list[Feedback | errors.CeleriacError] = []
        for prediction_id, label in labels:
            try:
                found.append(self._client.feedbacks.give(
                    prediction_id, label, timeout_s=self.timeout_s, tenant=tenant
                ))
            except (errors.BrokerError, errors.DeadlineExceeded):
                raise
            except errors.CeleriacError as error:
                found.append(error)
        return found

    async def catalogue(self, timeout_s: float) -> Catalogue:
        """As it is now. Raises BrokerError, DeadlineExceeded."""
        return await asyncio.to_thread(self.routes.catalogue, timeout_s)

    async def version(self, ref: ModelRef, timeout_s: float) -> VersionInfo:
        """What ``ref`` means now. Raises ModelNotFound, VersionNotFound."""
        return (await self.catalogue(timeout_s)).resolve(ref)

    async def serving(self, name: str, device: str) -> list[Serving]:
        """The live workers that serve a model, or could. Raises BrokerError."""
        with redis_errors(self.broker):
            return await asyncio.to_thread(read_serving, self.broker.redis, name, device)

    async def standings(self, name: str) -> list[Standing]:
        """How the single items of a model's versions stand; the newest first. Raises BrokerError.
        """
        with redis_errors(self.broker):
            every = await asyncio.to_thread(load_all, self.broker.redis)
        return [one for one in reversed(every) if one.model == name]

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
        """As :func:`producer.jobs.reopen`."""
        await asyncio.to_thread(reopen, self._client.broker, job_id, max_error_share)
