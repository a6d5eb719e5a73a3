"""The asyncio twin of the client: the same path, other ways to wait.

Items go through the same :class:`producer.realtime.Realtime`; nothing blocks the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from celeriac import errors
from celeriac.messages import Prediction
from celeriac.registry.catalogue import ModelInfo
from celeriac.settings import Settings
from producer.client import Client, blocks
from producer.coalescer import Call
from producer.handles import AsyncPredictionHandle
from producer.realtime import WINDOW_ITEMS, abandon, late
from producer.results import check_timeout
from producer.routes import Route

if TYPE_CHECKING:
    from producer.datasets import Progress
    from producer.jobs import JobHandle, JobStatus


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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """As :meth:`Client.close`."""
        await asyncio.to_thread(self._client.close)

    async def predict(
        self, model: str, item: Any, *, timeout_s: float | None = None
    ) -> Prediction:
        """As :meth:`Client.predict`."""
        limit_s = check_timeout(timeout_s, self.timeout_s)
        end_s = time.monotonic() + limit_s
        route = await self._route(model, limit_s)
        (call,) = self._client.realtime.start(route, [item], limit_s)
        return await _wait(call, end_s, limit_s)

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
        limit_s = check_timeout(timeout_s, self.timeout_s)
        end_s = time.monotonic() + limit_s
        route = await self._route(model, limit_s)
        start = self._client.realtime.start
        calls: deque[Call] = deque()
        answers: list[Prediction | errors.CeleriacError] = []
        try:
            for block in blocks(items):
                calls += start(route, block, max(end_s - time.monotonic(), 0.001))
                while len(calls) > WINDOW_ITEMS:
                    answers.append(await _settle(calls.popleft(), end_s, limit_s, return_errors))
                await asyncio.sleep(0)  # encoding many items must not hold up the loop
            while calls:
                answers.append(await _settle(calls.popleft(), end_s, limit_s, return_errors))
        finally:
            abandon(calls)
        return answers

    async def submit(
        self, model: str, item: Any, *, expires_s: float | None = None
    ) -> AsyncPredictionHandle:
        """As :meth:`Client.submit`."""
        submit = self._client.submit
        return AsyncPredictionHandle(
            await asyncio.to_thread(submit, model, item, expires_s=expires_s)
        )

    async def prediction(self, prediction_id: str) -> AsyncPredictionHandle:
        """As :meth:`Client.prediction`."""
        return AsyncPredictionHandle(
            await asyncio.to_thread(self._client.prediction, prediction_id)
        )

    async def models(self) -> dict[str, ModelInfo]:
        """As :meth:`Client.models`."""
        return await asyncio.to_thread(self._client.models)

    async def promote(
        self, ref: str, why: str = "", *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """As :meth:`Client.promote`."""
        return await asyncio.to_thread(self._client.promote, ref, why, timeout_s=timeout_s)

    async def rollback(
        self, name: str, why: str = "", *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """As :meth:`Client.rollback`."""
        return await asyncio.to_thread(self._client.rollback, name, why, timeout_s=timeout_s)

    async def submit_dataset(  # noqa: PLR0913 - as the client's
        self,
        source: str | Path,
        model: str,
        output: str | Path,
        *,
        chunk_rows: int | None = None,
        text_column: str | None = None,
        keep_columns: Sequence[str] | None = None,
        output_format: Literal["parquet", "csv"] = "parquet",
        job_id: str | None = None,
        on_progress: Progress | None = None,
    ) -> JobHandle:
        """As :meth:`Client.submit_dataset`; the handle's own methods block."""
        return await asyncio.to_thread(
            self._client.submit_dataset, source, model, output, chunk_rows=chunk_rows,
            text_column=text_column, keep_columns=keep_columns, output_format=output_format,
            job_id=job_id, on_progress=on_progress,
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
        return known if known else await asyncio.to_thread(routes.find, model, timeout_s)


async def _wait(call: Call, end_s: float, limit_s: float) -> Prediction:
    """The answer to ``call`` until the monotonic time ``end_s``; as :func:`realtime.wait`."""
    waiting = asyncio.wrap_future(call.future)
    try:
        async with asyncio.timeout(max(0.0, end_s - time.monotonic())):
            return await waiting
    except TimeoutError:
        raise late(call.model, limit_s) from None


async def _settle(
    call: Call, end_s: float, limit_s: float, return_errors: bool
) -> Prediction | errors.CeleriacError:
    try:
        return await _wait(call, end_s, limit_s)
    except errors.CeleriacError as error:
        if return_errors:
            return error
        raise
