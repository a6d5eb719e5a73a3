"""Predictions that were submitted and are fetched later, by this process or by another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis

from celeriac import errors
from celeriac.messages import DEFAULT_TENANT, Prediction
from celeriac.submissions.ledger import (
    Limits,
    Record,
    Submission,
    SubmissionLedger,
    SubmissionState,
    Webhook,
)
from celeriac.submissions.requests import check_id, digest_of
from celeriac.webhooks import check_target
from producer import nudges, wire
from producer.broker import Broker, broker_error
from producer.results import check_timeout, pauses, read_answer, schedule
from producer.routes import Route


@dataclass(frozen=True, kw_only=True)
class PredictionStatus:
    """What is known of a submitted prediction now."""

    id: str
    model: str
    """As it was submitted."""
    state: SubmissionState
    """``queued``, ``running``, ``done``, ``failed``, ``cancelled`` or ``expired``."""
    submitted_at: datetime
    """All times are UTC."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    expires_at: datetime
    """By then it has ended."""
    attempts: int = 0
    """How often a worker has begun it."""
    prediction: Prediction | None = None
    """If it is done."""
    error: errors.CeleriacError | None = None
    """If it has failed."""
    webhook: str | None = None
    webhook_status: str | None = None
    """``pending``, ``delivered`` or ``given_up``, once it has ended."""
    webhook_attempts: int = 0
    webhook_reason: str | None = None
    """Why the last attempt failed."""


class PredictionHandle:
    """One submitted prediction. Any process that reaches Redis can hold one, by its id."""

    def __init__(  # noqa: PLR0913, PLR0917 - a prediction, and whose it is
        self, broker: Broker, prediction_id: str, model: str, expires_at: datetime,
        timeout_s: float, tenant: str = DEFAULT_TENANT,
    ) -> None:
        self.id = prediction_id
        self.model = model
        self.expires_at = expires_at
        """By then it has ended (UTC): an item that is not answered in time is not answered."""
        self._broker = broker
        self._timeout_s = timeout_s
        self._tenant = tenant

    def __repr__(self) -> str:
        return f"PredictionHandle({self.id!r}, model={self.model!r})"

    def done(self) -> bool:
        """True when :meth:`result` will not wait: answered, failed, cancelled or expired.

        Raises PredictionNotFound once it is forgotten, and BrokerError.
        """
        return self._read().state.is_final

    def status(self) -> PredictionStatus:
        """All that is known of it. Raises PredictionNotFound and BrokerError."""
        return _status(self._read())

    def result(self, timeout_s: float | None = None) -> Prediction:
        """Wait for the answer, at most ``timeout_s`` (default: the client's).

        Raises the prediction's own error, Cancelled, Expired, DeadlineExceeded (it goes on: ask
        again), PredictionNotFound once it is forgotten, and BrokerError.
        """
        wait_s = check_timeout(timeout_s, self._timeout_s)
        for _ in pauses(wait_s):
            record = self._read()
            if record.state.is_final:
                return _answer(record)
        raise self._not_yet(wait_s)

    def cancel(self) -> bool:
        """Cancel it unless it has ended; True if it is cancelled now.

        A worker that computes it already goes on, but its answer does not count.
        Raises PredictionNotFound once it is forgotten, and BrokerError.
        """
        try:
            state = SubmissionLedger(self._broker.redis).cancel(self._tenant, self.id)
        except redis.RedisError as error:
            raise broker_error(error, self._broker.url) from error
        if state is None:
            raise _not_found(self.id)
        return state is SubmissionState.CANCELLED

    def _read(self) -> Record:
        return _read(self._broker, self._tenant, self.id)

    def _not_yet(self, wait_s: float) -> errors.DeadlineExceeded:
        return errors.DeadlineExceeded(
            f"the prediction {self.id} of model {self.model!r} has no answer after {wait_s:g} s; "
            f"it can be asked again until {self.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        )


class AsyncPredictionHandle:
    """A :class:`PredictionHandle` whose methods are awaited."""

    def __init__(self, handle: PredictionHandle) -> None:
        self._handle = handle
        self.id = handle.id
        self.model = handle.model
        self.expires_at = handle.expires_at

    def __repr__(self) -> str:
        return f"Async{self._handle!r}"

    async def done(self) -> bool:
        """As :meth:`PredictionHandle.done`."""
        return await asyncio.to_thread(self._handle.done)

    async def status(self) -> PredictionStatus:
        """As :meth:`PredictionHandle.status`."""
        return await asyncio.to_thread(self._handle.status)

    async def result(self, timeout_s: float | None = None) -> Prediction:
        """As :meth:`PredictionHandle.result`. Cancelling the wait leaves the prediction alone."""
        wait_s = check_timeout(timeout_s, self._handle._timeout_s)
        for pause_s in schedule(wait_s):
            await asyncio.sleep(pause_s)
            record = await asyncio.to_thread(self._handle._read)
            if record.state.is_final:
                return _answer(record)
        raise self._handle._not_yet(wait_s)

    async def cancel(self) -> bool:
        """As :meth:`PredictionHandle.cancel`."""
        return await asyncio.to_thread(self._handle.cancel)


def submit(  # noqa: PLR0913 - a prediction and its options
    broker: Broker,
    route: Route,
    item: bytes,
    *,
    expires_s: float,
    timeout_s: float,
    prediction_id: str | None = None,
    webhook: str | None = None,
    tenant: str = DEFAULT_TENANT,
) -> tuple[PredictionHandle, bool]:
    """Enter ``item`` (JSON as it travels) in the ledger: one exchange with Redis.

    Returns its handle, and False if it was there already. Raises RequestError (the id, the
    webhook), Conflict, Overloaded and BrokerError; then nothing was entered.
    """
    settings = broker.settings
    wanted = Submission(
        tenant=tenant, id=check_id(prediction_id) if prediction_id is not None else wire.new_id(),
        model=route.model, queue=route.ordinary, item=item,
        digest="" if prediction_id is None else digest_of(route.model, item, webhook, expires_s),
        expires_s=expires_s, kept_s=settings.submissions.kept_s,
        webhook=None if webhook is None else _webhook(broker, webhook),
    )
    limits = Limits(
        open=settings.submissions.max_open, open_bytes=settings.submissions.max_open_bytes,
        known=settings.submissions.max_known,
        tenant_share=settings.submissions.max_tenant_share,
    )
    try:
        is_new, expires_ms = SubmissionLedger(broker.redis).submit(
            wanted, limits, nudges.call_to_line(route.ordinary, route.model)
        )
    except redis.RedisError as error:
        raise broker_error(error, broker.url) from error
    expires_at = _time(expires_ms)
    handle = PredictionHandle(broker, wanted.id, route.model, expires_at, timeout_s, tenant)
    return handle, is_new


def find(
    broker: Broker, prediction_id: str, timeout_s: float, tenant: str = DEFAULT_TENANT
) -> PredictionHandle:
    """The prediction with this id. Raises PredictionNotFound, and BrokerError."""
    record = _read(broker, tenant, prediction_id)
    return PredictionHandle(
        broker, record.id, record.model, _time(record.expires_ms), timeout_s, tenant
    )


def _webhook(broker: Broker, url: str) -> Webhook:
    gateway = broker.settings.gateway
    target = check_target(url, gateway.webhook_hosts)
    if not gateway.webhook_secret:
        raise errors.RequestError(
            "webhooks need a secret that signs them: its operator sets [gateway] webhook_secret"
        )
    return Webhook(delivery=wire.new_id(), url=url, host=target.place)


def _read(broker: Broker, tenant: str, prediction_id: str) -> Record:
    try:
        check_id(prediction_id)
        record = SubmissionLedger(broker.redis).read(tenant, prediction_id)
    except errors.RequestError as error:
        raise _not_found(prediction_id) from error
    except redis.RedisError as error:
        raise broker_error(error, broker.url) from error
    if record is None:
        raise _not_found(prediction_id)
    return record


def _answer(record: Record) -> Prediction:
    """The answer of one that has ended; raises its error."""
    status = _status(record)
    if status.prediction is not None:
        return status.prediction
    if status.error is not None:
        raise status.error
    if record.state is SubmissionState.CANCELLED:
        raise errors.Cancelled(f"the prediction {record.id} was cancelled")
    raise errors.Expired(
        f"the prediction {record.id} had no answer by the end of its time, "
        f"{_time(record.expires_ms):%Y-%m-%d %H:%M:%S} UTC; submit the item again"
    )


def _status(record: Record) -> PredictionStatus:
    answer = read_answer(_decode(record.answer)) if record.answer else None
    return PredictionStatus(
        id=record.id, model=record.model, state=record.state,
        submitted_at=_time(record.submitted_ms), expires_at=_time(record.expires_ms),
        started_at=_time(record.started_ms) if record.started_ms else None,
        ended_at=_time(record.ended_ms) if record.ended_ms else None, attempts=record.attempts,
        prediction=answer if isinstance(answer, Prediction) else None,
        error=answer if isinstance(answer, errors.CeleriacError) else None,
        webhook=record.webhook or None, webhook_status=record.webhook_status or None,
        webhook_attempts=record.webhook_attempts, webhook_reason=record.webhook_reason or None,
    )


def _decode(answer: bytes) -> Any:
    try:
        return msgspec.json.decode(answer)
    except msgspec.MsgspecError:
        return None  # read_answer says so


def _not_found(prediction_id: str) -> errors.PredictionNotFound:
    return errors.PredictionNotFound(
        f"no prediction has the id {prediction_id[:80]!r}, or it is forgotten; "
        "submit the item again"
    )


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
