"""Predictions that were submitted and are fetched later, by this process or by another."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import redis

from celeriac import errors
from celeriac.messages import CONTRACT, PREDICT, Prediction, result_key, submission_key
from producer import wire
from producer.broker import Broker, broker_error
from producer.results import (
    Outcome,
    check_timeout,
    parse_outcome,
    pauses,
    read_answer,
    schedule,
)
from producer.routes import Route

_CANCEL = """
if redis.call('HEXISTS', KEYS[1], 'state') == 0 then return -1 end
local stored = redis.call('GET', KEYS[2])
if stored then
  local read, result = pcall(cjson.decode, stored)
  local status = read and result.status or 'SUCCESS'
  if status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED' then
    return redis.call('HGET', KEYS[1], 'state') == 'cancelled' and 1 or 0
  end
end
redis.call('HSET', KEYS[1], 'state', 'cancelled')
return 1
"""


class PredictionHandle:
    """One submitted prediction. Any process that reaches Redis can hold one, by its id."""

    def __init__(
        self, broker: Broker, prediction_id: str, model: str, expires_at: datetime,
        timeout_s: float,
    ) -> None:
        self.id = prediction_id
        self.model = model
        self.expires_at = expires_at
        """When the prediction and its result are forgotten (UTC)."""
        self._broker = broker
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"PredictionHandle({self.id!r}, model={self.model!r})"

    @classmethod
    def submit(
        cls, broker: Broker, route: Route, item: Any, expires_s: float, timeout_s: float
    ) -> PredictionHandle:
        """Queue ``item`` (JSON as it travels), or raise BrokerError; then nothing was queued."""
        now_ms = wire.now_ms()
        expires_ms = now_ms + int(expires_s * 1000)
        handle = cls(broker, wire.new_id(), route.model, _time(expires_ms), timeout_s)
        message = wire.task_message(
            PREDICT, handle.id, route.ordinary,
            {"model": route.model, "items": [item], "submission": handle.id, "v": CONTRACT},
            shown={"model": route.model, "items": 1, "submission": handle.id},
            expires_at=handle.expires_at,
        )
        state: dict[Any, Any] = {
            "model": route.model, "state": "queued",
            "submitted_ms": now_ms, "expires_ms": expires_ms,
        }
        key = submission_key(handle.id)
        try:
            with broker.redis.pipeline(transaction=True) as pipe:
                pipe.hset(key, mapping=state)
                pipe.pexpireat(key, expires_ms)
                pipe.lpush(route.ordinary, message)
                pipe.execute()
        except redis.RedisError as error:
            raise broker_error(error, broker.url) from error
        return handle

    @classmethod
    def open(cls, broker: Broker, prediction_id: str, timeout_s: float) -> PredictionHandle:
        """The prediction with this id. Raises PredictionNotFound once it has expired."""
        try:
            found: Any = broker.redis.hmget(
                submission_key(prediction_id), ["model", "expires_ms"]
            )
        except redis.RedisError as error:
            raise broker_error(error, broker.url) from error
        model, expires_ms = found
        if model is None or expires_ms is None:
            raise _not_found(prediction_id)
        return cls(broker, prediction_id, model.decode(), _time(int(expires_ms)), timeout_s)

    def done(self) -> bool:
        """True when :meth:`result` will not wait: answered, failed or cancelled.

        Raises PredictionNotFound after the expiry, and BrokerError.
        """
        try:
            return self._outcome() is not None
        except errors.Cancelled:
            return True

    def result(self, timeout_s: float | None = None) -> Prediction:
        """Wait for the answer, at most ``timeout_s`` (default: the client's).

        Raises the prediction's own error, Cancelled, DeadlineExceeded (it goes on: ask again),
        PredictionNotFound after the expiry, and BrokerError.
        """
        wait_s = check_timeout(timeout_s, self._timeout_s)
        for _ in pauses(wait_s):
            outcome = self._outcome()
            if outcome is not None:
                return _prediction(outcome)
        raise self._not_yet(wait_s)

    def cancel(self) -> bool:
        """Cancel it unless it is finished; True if it is cancelled now.

        A worker that computes it already goes on, but :meth:`result` raises Cancelled.
        Raises PredictionNotFound after the expiry, and BrokerError.
        """
        from kombu.exceptions import OperationalError

        keys = submission_key(self.id), result_key(self.id)
        try:
            cancelled: Any = self._broker.redis.eval(_CANCEL, 2, *keys)
            if cancelled == 1:
                self._broker.celery.control.revoke(self.id)
        except (redis.RedisError, OperationalError) as error:
            raise broker_error(error, self._broker.url) from error
        if cancelled == -1:
            raise _not_found(self.id)
        return bool(cancelled)

    def _outcome(self) -> Outcome | None:
        """What is stored once it is finished; None before."""
        try:
            with self._broker.redis.pipeline(transaction=False) as pipe:
                pipe.hget(submission_key(self.id), "state")
                pipe.get(result_key(self.id))
                state, stored = pipe.execute()
        except redis.RedisError as error:
            raise broker_error(error, self._broker.url) from error
        if state is None:
            raise _not_found(self.id)
        if state == b"cancelled":
            raise errors.Cancelled(f"the prediction {self.id} was cancelled")
        outcome = parse_outcome(stored)
        return outcome if outcome is not None and outcome.finished else None

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

    async def result(self, timeout_s: float | None = None) -> Prediction:
        """As :meth:`PredictionHandle.result`. Cancelling the wait leaves the prediction alone."""
        wait_s = check_timeout(timeout_s, self._handle._timeout_s)
        for pause_s in schedule(wait_s):
            await asyncio.sleep(pause_s)
            outcome = await asyncio.to_thread(self._handle._outcome)
            if outcome is not None:
                return _prediction(outcome)
        raise self._handle._not_yet(wait_s)

    async def cancel(self) -> bool:
        """As :meth:`PredictionHandle.cancel`."""
        return await asyncio.to_thread(self._handle.cancel)


def _prediction(outcome: Outcome) -> Prediction:
    answers = outcome.value()
    if not isinstance(answers, list) or len(answers) != 1:
        raise errors.WorkerError("the worker did not store a list of one answer")
    answer = read_answer(answers[0])
    if isinstance(answer, Prediction):
        return answer
    raise answer


def _not_found(prediction_id: str) -> errors.PredictionNotFound:
    return errors.PredictionNotFound(
        f"no prediction has the id {prediction_id!r}, or it has expired; submit the item again"
    )


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
