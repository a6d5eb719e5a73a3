"""The asyncio twin of the client: the same path, other ways to wait.

Items go through the same :class:`producer.realtime.Realtime`; nothing blocks the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from celeriac import errors
from celeriac.messages import Prediction
from celeriac.registry.catalogue import ModelInfo
from celeriac.settings import Settings
from producer.broker import Broker
from producer.bulk import Bulk, blocks
from producer.calls import Call, Outcome
from producer.client import Client
from producer.feedback import Feedback, Feedbacks
from producer.handles import AsyncPredictionHandle
from producer.landings import Landing
from producer.realtime import abandon, answer
from producer.results import check_timeout
from producer.routes import Route, Routes
from producer.statistics import ClientStatistics

if TYPE_CHECKING:
    from celeriac.datasets.records import Aggregation, Format
    from producer.jobs import JobHandle, JobStatus
    from producer.orders import PlannedBy
    from producer.planning import Progress

THREAD_S = 0.1
"""A thread that keeps the time of a call may be so late."""


class AsyncClient:
    """:class:`producer.client.Client` for asyncio, with the same arguments and defaults.

    Cancelling a coroutine that waits forgets its items. One client may serve several event loops.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        settings: Settings | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self._client = Client(url, settings=settings, timeout_s=timeout_s)
        self.settings = self._client.settings
        self.timeout_s = self._client.timeout_s
        self._landings: dict[asyncio.AbstractEventLoop, Landing] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def broker(self) -> Broker:
        """As :attr:`Client.broker`."""
        return self._client.broker

    @property
    def routes(self) -> Routes:
        """The catalogue in memory: for the gateway, which must know what a model takes."""
        return self._client.realtime.routes

    async def close(self) -> None:
        """As :meth:`Client.close`."""
        await asyncio.to_thread(self._client.close)

    async def predict(
        self, model: str, item: Any, *, timeout_s: float | None = None
    ) -> Prediction:
        """As :meth:`Client.predict`."""
        call = await self._call(model, item, timeout_s)
        assert call.outcome is not None  # noqa: S101 - it is settled
        return answer(call.outcome)


    @overload
    async def predict_many(
        self, model: str, items: Iterable[Any], *, timeout_s: float | None = None,
        return_errors: Literal[False] = False,
    ) -> list[Prediction]: ...

    @overload
    async def predict_many(
        self, model: str, items: Iterable[Any], *, timeout_s: float | None = None,
        return_errors: bool,
    ) -> list[Prediction | errors.CeleriacError]: ...

    async def predict_many(
        self, model: str, items: Iterable[Any], *, timeout_s: float | None = None,
        return_errors: bool = False,
    ) -> list[Any]:
        """As :meth:`Client.predict_many`."""
        outcomes: list[Outcome] = []
        async with contextlib.aclosing(self._each(model, items, timeout_s)) as calls:
            async for call in calls:
                assert call.outcome is not None  # noqa: S101 - it is settled
                outcomes.append(call.outcome if return_errors else answer(call.outcome))
        return outcomes

    def statistics(self) -> ClientStatistics:
        """As :meth:`Client.statistics`; it waits for nothing."""
        return self._client.statistics()

    async def submit(
        self, model: str, item: Any, *, expires_s: float | None = None, id: str | None = None,
        webhook: str | None = None,
    ) -> AsyncPredictionHandle:
        """As :meth:`Client.submit`."""
        return AsyncPredictionHandle(await asyncio.to_thread(
            self._client.submit, model, item, expires_s=expires_s, id=id, webhook=webhook
        ))

    async def prediction(self, prediction_id: str) -> AsyncPredictionHandle:
        """As :meth:`Client.prediction`."""
        return AsyncPredictionHandle(
            await asyncio.to_thread(self._client.prediction, prediction_id)
        )

    async def prediction_id(self, prediction: Prediction) -> str:
        """As :meth:`Client.prediction_id`; it waits for Redis once a minute, at most."""
        return (await self._ready_feedbacks()).id_of(prediction)

    async def feedback(self, prediction_id: str, label: Any) -> Feedback:
        """As :meth:`Client.feedback`."""
        return await asyncio.to_thread(self._client.feedback, prediction_id, label)

    async def _ready_feedbacks(self) -> Feedbacks:
        """Whose ``id_of`` waits for nothing now. Raises BrokerError."""
        feedbacks = self._client.feedbacks
        if not feedbacks.is_ready:
            await asyncio.to_thread(feedbacks.prepare)
        return feedbacks

    async def models(self) -> dict[str, ModelInfo]:
        """As :meth:`Client.models`."""
        return await asyncio.to_thread(self._client.models)

    async def promote(
        self, ref: str, why: str = "", *, timeout_s: float | None = None, who: str = "",
        force: bool = False,
    ) -> dict[str, Any]:
        """As :meth:`Client.promote`."""
        return await asyncio.to_thread(
            self._client.promote, ref, why, timeout_s=timeout_s, who=who, force=force
        )

    async def rollback(
        self, name: str, why: str = "", *, timeout_s: float | None = None, who: str = ""
    ) -> dict[str, Any]:
        """As :meth:`Client.rollback`."""
        return await asyncio.to_thread(
            self._client.rollback, name, why, timeout_s=timeout_s, who=who
        )

    async def submit_dataset(  # noqa: PLR0913 - as the client's
        self,
        source: Any,
        model: str,
        output: str | Path,
        *,
        chunk_rows: int | None = None,
        text_column: str | None = None,
        keep_columns: Sequence[str] | None = None,
        id_column: str | None = None,
        output_format: Format = "parquet",
        merge: bool = False,
        aggregate: Aggregation | Mapping[str, Any] | None = None,
        model_column: bool = False,
        error_column: bool = False,
        dedupe: bool = False,
        max_error_share: float | None = None,
        job_id: str | None = None,
        expires_s: float | None = None,
        on_progress: Progress | None = None,
        planned_by: PlannedBy = "auto",
    ) -> JobHandle:
        """As :meth:`Client.submit_dataset`; the handle's own methods block."""
        return await asyncio.to_thread(
            self._client.submit_dataset, source, model, output, chunk_rows=chunk_rows,
            text_column=text_column, keep_columns=keep_columns, id_column=id_column,
            output_format=output_format, merge=merge, aggregate=aggregate,
            model_column=model_column, error_column=error_column, dedupe=dedupe,
            max_error_share=max_error_share, job_id=job_id, expires_s=expires_s,
            on_progress=on_progress, planned_by=planned_by,
        )

    async def job(self, job_id: str) -> JobHandle:
        """As :meth:`Client.job`; the handle's own methods block."""
        return await asyncio.to_thread(self._client.job, job_id)

    async def jobs(self) -> list[JobStatus]:
        """As :meth:`Client.jobs`."""
        return await asyncio.to_thread(self._client.jobs)

    async def _route(self, model: str, timeout_s: float) -> Route:
        routes = self._client.realtime.routes
        known = routes.known(model)
        if known:
            return known
        finding = asyncio.to_thread(routes.find, model, timeout_s)
        try:  # the loop's threads may all be taken
            return await asyncio.wait_for(finding, timeout_s + THREAD_S)
        except TimeoutError as error:
            raise errors.DeadlineExceeded(
                f"the models could not be looked up within {timeout_s:g} s: the threads of the "
                "event loop (its default executor) are all taken"
            ) from error

    async def _call(
        self, model: str, item: Any, timeout_s: float | None, request: str = ""
    ) -> Call:
        """The settled call of one item. ``request``: what the worker's log names it by."""
        limit_s = check_timeout(timeout_s, self.timeout_s)
        end_s = time.monotonic() + limit_s
        route = await self._route(model, limit_s)
        (call,) = self._client.realtime.prepare(route, [item], limit_s, request)
        if call.outcome is None:
            self._landing().depart(route, call)
            await self._outcome(call, end_s, limit_s)
        return call

    async def _outcome(self, call: Call, end_s: float, limit_s: float) -> Outcome:
        """The outcome of ``call`` until the monotonic time ``end_s``."""
        if call.outcome is not None:
            return call.outcome
        try:
            outcome = await self._landing().wait(call, end_s)
        except asyncio.CancelledError:
            abandon([call])
            raise
        return outcome or self._client.realtime.late(call, limit_s)

    async def _each(
        self, model: str, items: Iterable[Any], timeout_s: float | None, request: str = ""
    ) -> AsyncGenerator[Call, None]:
        """The calls of many items, each once it is settled. Ended early, it forgets the rest."""
        limit_s = check_timeout(timeout_s, self.timeout_s)
        end_s = time.monotonic() + limit_s
        route = await self._route(model, limit_s)
        bulk = Bulk(self._client.realtime, route, end_s, on_loop=True, request=request)
        try:
            for block in blocks(items):
                bulk.add(block)
                while bulk.full:
                    yield await self._next(bulk, end_s, limit_s)
                await asyncio.sleep(0)  # encoding many items must not hold up the loop
            while bulk:
                yield await self._next(bulk, end_s, limit_s)
        finally:
            bulk.abandon()

    async def _next(self, bulk: Bulk, end_s: float, limit_s: float) -> Call:
        """As :meth:`Client._next`."""
        while True:
            call = bulk.head
            pause_s = bulk.pause_s(await self._outcome(call, end_s, limit_s))
            if pause_s is None:
                bulk.take()
                return call
            await asyncio.sleep(pause_s)
            bulk.retry()

    def _send(self, route: Route, calls: list[Call]) -> None:
        self._client.realtime.send(route, calls, on_loop=True)

    def _landing(self) -> Landing:
        """Where the calls of the running event loop land."""
        loop = asyncio.get_running_loop()
        landing = self._landings.get(loop)
        if landing is None:
            landing = Landing(loop, self._send)
            running = {one: its for one, its in self._landings.items() if not one.is_closed()}
            self._landings = {**running, loop: landing}
        return landing
