"""The client: single predictions and whole datasets for any Python service.

    with Client() as client:
        client.predict("reviews", "Best coffee I ever bought").label
"""

from __future__ import annotations

import contextlib
import getpass
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from celeriac import errors
from celeriac.messages import (
    MAINTENANCE_QUEUE,
    MODELS_PROMOTE,
    MODELS_ROLLBACK,
    ModelRef,
    Prediction,
    check_model_name,
)
from celeriac.registry.catalogue import ModelInfo
from celeriac.settings import Settings, check_broker_url, get_settings
from producer import handles, wire
from producer.broker import Broker
from producer.bulk import Bulk, blocks
from producer.calls import Outcome
from producer.closing import Closing
from producer.feedback import Feedback, Feedbacks
from producer.handles import PredictionHandle
from producer.realtime import Realtime, answer
from producer.results import check_timeout, send, wait_result
from producer.statistics import ClientStatistics

if TYPE_CHECKING:
    from celeriac.datasets.records import Aggregation, Format
    from producer.jobs import JobHandle, JobStatus
    from producer.orders import PlannedBy
    from producer.planning import Progress

PROMOTE_EXTRA_S = 15.0
"""What a promotion may take beyond the check of the version."""


class Client(Closing):
    """Predictions from the models that Celeriac serves.

    Safe with threads, and after a fork: connections and threads are made at first use, in each
    process anew, so one client may be made at import time and shared by all workers of a service.
    It changes nothing of a host project's Celery, and waits for no Celery result, so it can be
    used inside any task.

    Defaults: ``url`` is ``CELERIAC_BROKER_URL``, or ``[broker] url`` of ``celeriac.toml``, or the
    local stack at redis://127.0.0.1:6389/0. ``timeout_s`` is ``[realtime] timeout_s``, 5 s. One
    client holds at most 10,000 items without an answer; an item has at most 1,000,000 bytes.

    Every method may raise BrokerError (Redis cannot be reached; one that hangs is waited for
    ``[broker] socket_timeout_s``, 5 s, whatever ``timeout_s``, but by ``predict`` and
    ``predict_many``), and RequestError for an argument that makes no sense. Errors are in
    :mod:`celeriac.errors`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        settings: Settings | None = None,
        timeout_s: float | None = None,
    ) -> None:
        settings = settings or get_settings()
        if url is not None:
            broker = settings.broker.model_copy(update={"url": check_broker_url(url)})
            settings = settings.model_copy(update={"broker": broker})
        self.settings = settings
        self.timeout_s = check_timeout(timeout_s, settings.realtime.timeout_s)
        self.broker = Broker(settings)
        self.realtime = Realtime(self.broker)
        self.feedbacks = Feedbacks(self.broker, self.realtime.routes)

    def close(self) -> None:
        """End the client's threads and connections; takes a few seconds at most.

        Calls of other threads that still wait fail with Cancelled.
        """
        self.realtime.close()
        self.broker.close()

    # --- single items ---------------------------------------------------------------------------

    def predict(self, model: str, item: Any, *, timeout_s: float | None = None) -> Prediction:
        """The model's answer to one item: a text, number, list, dict, bytes or numpy array.

        ``model`` is ``NAME``, ``NAME@VERSION`` or ``NAME@ALIAS``. Raises ModelNotFound and
        VersionNotFound at once, ItemError and its kinds, PayloadTooLarge, Overloaded, and
        DeadlineExceeded after ``timeout_s``.
        """
        limit_s = check_timeout(timeout_s, self.timeout_s)
        end_s = time.monotonic() + limit_s
        route = self.realtime.routes.find(model, limit_s)
        (call,) = self.realtime.start(route, [item], limit_s)
        return self.realtime.wait(call, end_s, limit_s)

    @overload
    def predict_many(
        self, model: str, items: Iterable[Any], *, timeout_s: float | None = None,
        return_errors: Literal[False] = False,
    ) -> list[Prediction]: ...

    @overload
    def predict_many(
        self, model: str, items: Iterable[Any], *, timeout_s: float | None = None,
        return_errors: bool,
    ) -> list[Prediction | errors.CeleriacError]: ...

    def predict_many(
        self, model: str, items: Iterable[Any], *, timeout_s: float | None = None,
        return_errors: bool = False,
    ) -> list[Any]:
        """The answers to any number of items, in their order.

        ``timeout_s`` is for all of them together. The first item's error is raised; with
        ``return_errors``, errors stand in the places of their items. While the model is overloaded
        it goes on more slowly, as long as there is time. Otherwise as :meth:`predict`.
        """
        limit_s = check_timeout(timeout_s, self.timeout_s)
        end_s = time.monotonic() + limit_s
        route = self.realtime.routes.find(model, limit_s)
        bulk = Bulk(self.realtime, route, end_s)
        outcomes: list[Outcome] = []
        try:
            for block in blocks(items):
                bulk.add(block)
                while bulk.full:
                    outcomes.append(self._next(bulk, end_s, limit_s, return_errors))
            while bulk:
                outcomes.append(self._next(bulk, end_s, limit_s, return_errors))
        finally:
            bulk.abandon()
        return outcomes

    def statistics(self) -> ClientStatistics:
        """What this client has done in this process, in plain numbers; single items only."""
        return self.realtime.statistics()

    # --- submitted items ------------------------------------------------------------------------

    def submit(
        self, model: str, item: Any, *, expires_s: float | None = None, id: str | None = None,
        webhook: str | None = None,
    ) -> PredictionHandle:
        """Have one item predicted, and return at once; the handle fetches the answer.

        It is accepted when this returns, and ends as done, failed, cancelled or, if it has no
        answer by ``handle.expires_at``, expired: ``expires_s`` from now, by default and at most
        ``[realtime] submission_ttl_s`` (a day). What is known of it is kept for
        ``[submissions] kept_s`` more.

        With an ``id`` (1 to 64 letters, digits, ``._-``) it is entered once, however often it is
        submitted; Conflict is raised for another item, model or option under the same id.
        ``webhook`` is an address whose host ``[gateway] webhook_hosts`` lists; it gets a signed
        POST when the prediction ends. Raises Overloaded, and else as :meth:`predict` does before
        an item is sent.
        """
        kept_s = check_expiry(expires_s, self.settings.realtime.submission_ttl_s)
        route = self.realtime.routes.find(model, self.timeout_s)
        handle, _ = handles.submit(
            self.broker, route, self.realtime.encode(item), expires_s=kept_s,
            timeout_s=self.timeout_s, prediction_id=id, webhook=webhook,
        )
        return handle

    def prediction(self, prediction_id: str) -> PredictionHandle:
        """A submitted prediction by its id, in any process.

        Raises PredictionNotFound for an id that was never given, or is forgotten.
        """
        return handles.find(self.broker, prediction_id, self.timeout_s)

    # --- labels ---------------------------------------------------------------------------------

    def prediction_id(self, prediction: Prediction) -> str:
        """An id by which :meth:`feedback` knows an answer when its truth comes.

        It says by itself what was predicted, by which version and when, signed, so nothing is
        stored: keep it with what the label will come for. Each call makes another one, for another
        label. Raises RequestError for a model of several outputs.
        """
        return self.feedbacks.id_of(prediction)

    def feedback(self, prediction_id: str, label: Any) -> Feedback:
        """Tell what the right answer would have been: a class, or a number.

        ``prediction_id`` is one of :meth:`prediction_id`, of the gateway, or of a submitted
        prediction. A prediction counts once, however often it is labelled. Raises
        PredictionNotFound for an id that was not given here or is older than
        ``[feedback] accepted_s``, and RequestError for a label that the version could never give.
        """
        return self.feedbacks.give(prediction_id, label, timeout_s=self.timeout_s)

    # --- models ---------------------------------------------------------------------------------

    def models(self) -> dict[str, ModelInfo]:
        """Every model by its name, with its versions and aliases, as of now."""
        return dict(self.realtime.routes.catalogue(self.timeout_s).models)

    def promote(
        self, ref: str, why: str = "", *, timeout_s: float | None = None, who: str = "",
        force: bool = False,
    ) -> dict[str, Any]:
        """Make a version (``NAME@VERSION``) its model's champion, after its checks on a worker.

        Returns ``{"model", "version", "previous", "changed", "latency", "champion_latency"}``;
        latencies are ``{"one_ms", "batch_ms", "batch_items"}`` or None. Raises PromotionRefused,
        ModelNotFound, VersionNotFound, and DeadlineExceeded when no maintenance worker answers
        within ``timeout_s`` (default: the longest check, ``[models] check_timeout_s``, and 15 s).
        ``who`` asks, for the model's history: by default this user. ``force``: also if it is
        slower than the champion by more than ``[models] max_slowdown``.
        """
        ModelRef.parse(ref)
        kwargs = {"ref": ref, "force": True} if force else {"ref": ref}
        return self._maintain(MODELS_PROMOTE, kwargs, why, timeout_s, who)

    def rollback(
        self, name: str, why: str = "", *, timeout_s: float | None = None, who: str = ""
    ) -> dict[str, Any]:
        """Make the previous champion of a model champion again, once.

        Returns ``{"model", "version", "from"}``. Raises as :meth:`promote`; PromotionRefused if
        there is no champion before this one.
        """
        kwargs = {"name": check_model_name(name)}
        return self._maintain(MODELS_ROLLBACK, kwargs, why, timeout_s, who)

    # --- datasets -------------------------------------------------------------------------------

    def submit_dataset(  # noqa: PLR0913 - a dataset and its options
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
        """Score a dataset with the batch workers; as :func:`producer.datasets.submit_dataset`.

        Raises ModelNotFound, VersionNotFound, DatasetError and OutputConflict; then nothing was
        queued.

        A batch worker that is free reads the dataset while this call waits, so that this process
        needs neither pyarrow nor its memory. This process does it where none begins within 0.2 s,
        where it has loaded pyarrow already, where only it has the data (frames, Arrow tables), for
        an output in S3, and with ``planned_by="client"``; then it needs the extra
        ``celeriac[datasets]``. The job is the same.

        ``planned_by="worker"`` leaves all that is done with the dataset to a batch worker; as
        :func:`producer.orders.order_dataset`. It returns within milliseconds, needs no extra, and
        opens no file; the job is ``validating`` until it is planned, and what is wrong with the
        dataset or the output ends it as ``failed``, with the same message in ``status().error``.
        Frames, Arrow tables and ``on_progress`` are refused. To send an order again after an error
        give it a ``job_id``: the same order is the same job, another one raises Conflict.
        """
        from producer import datasets, orders

        submit: Callable[..., JobHandle] = orders.order_dataset
        if not orders.is_for_worker(planned_by):
            submit = partial(datasets.submit_dataset, asks_worker=planned_by == "auto")
        return submit(
            self.broker, source, model, output, chunk_rows=chunk_rows, text_column=text_column,
            keep_columns=keep_columns, id_column=id_column, output_format=output_format,
            merge=merge, aggregate=aggregate, model_column=model_column,
            error_column=error_column, dedupe=dedupe, max_error_share=max_error_share,
            job_id=job_id, expires_s=expires_s, on_progress=on_progress,
        )

    def job(self, job_id: str) -> JobHandle:
        """A job by its id, in any process. Raises JobNotFound if Redis does not know it."""
        from producer.jobs import JobHandle

        return JobHandle.open(self.broker, job_id)

    def jobs(self) -> list[JobStatus]:
        """The jobs that Redis knows, the newest first, at most 100."""
        from producer.jobs import list_jobs

        return list_jobs(self.broker)

    def _next(
        self, bulk: Bulk, end_s: float, limit_s: float, return_errors: bool
    ) -> Outcome:
        """The next outcome of a bulk; raises its error unless errors are wanted."""
        while True:
            outcome = self.realtime.outcome(bulk.head, end_s, limit_s)
            pause_s = bulk.pause_s(outcome)
            if pause_s is None:
                bulk.take()
                return outcome if return_errors else answer(outcome)
            time.sleep(pause_s)
            bulk.retry()

    def _maintain(
        self, task: str, kwargs: dict[str, Any], why: str, timeout_s: float | None, asker: str
    ) -> dict[str, Any]:
        """Have the maintenance role do something, and wait for it."""
        limit_s = check_timeout(
            timeout_s, self.settings.models.check_timeout_s + PROMOTE_EXTRA_S
        )
        kwargs = {**kwargs, "who": asker or who(), "why": why}
        task_id = wire.new_id()
        message = wire.task_message(
            task, task_id, MAINTENANCE_QUEUE, kwargs, shown=kwargs,
            expires_at=datetime.now(UTC) + timedelta(seconds=limit_s),
        )
        send(self.broker, MAINTENANCE_QUEUE, task_id, message)
        done: dict[str, Any] = wait_result(self.broker, task_id, limit_s, what=task)
        return done


def check_expiry(expires_s: float | None, longest_s: float) -> float:
    """``expires_s`` or the longest. Raises RequestError if it is out of range."""
    if expires_s is None:
        return longest_s
    with contextlib.suppress(TypeError):  # a text, say
        if 1 <= expires_s <= longest_s:
            return expires_s
    raise errors.RequestError(
        f"expires_s is 1 to {longest_s} seconds ([realtime] submission_ttl_s), not {expires_s!r}"
    )


def who() -> str:
    """Who asks, for the history of a model."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
