"""Results of ordinary tasks, read as Celery's Redis backend stores them.

The client's Celery app has no result backend: whoever wants one result reads its key. An error in
it is data: it becomes one of our own exceptions, and no class that it names is ever looked up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
import redis

from celeriac import errors, lua
from celeriac.keys import result_key
from celeriac.messages import Prediction
from producer.broker import Broker, broker_error

FIRST_PAUSE_S = 0.002
LONGEST_PAUSE_S = 0.1

SENT_TTL_S = 3_600
"""It is known for so long that a task was sent; its result is kept as long."""
_SENT = '{"status": "PENDING", "result": null}'
_SEND = """
if redis.call('SET', KEYS[2], ARGV[2], 'NX', 'EX', ARGV[3]) then
  redis.call('LPUSH', KEYS[1], ARGV[1])
end
"""


class Outcome(msgspec.Struct):
    """What is stored of a task: ``status`` and ``result``."""

    status: str
    result: Any = None

    @property
    def finished(self) -> bool:
        return self.status in ("SUCCESS", "FAILURE", "REVOKED")

    def value(self) -> Any:
        """The result of a finished task; raises the error of one that failed."""
        if self.status == "SUCCESS":
            return self.result
        raise task_error(self.status, self.result)


_decode = msgspec.json.Decoder(Outcome).decode


def send(broker: Broker, queue: str, task_id: str, message: bytes) -> None:
    """Send a task that is to run once, and whose result is waited for. Raises BrokerError.

    Where the answer is lost, redis-py asks again: the place of the result says that it was sent.
    """
    keys = queue, result_key(task_id)
    try:
        lua.run(broker.redis, _SEND, keys, message, _SENT, SENT_TTL_S)
    except redis.RedisError as error:
        raise broker_error(error, broker.url) from error


def wait_result(
    broker: Broker, task_id: str, timeout_s: float, what: str = "the task"
) -> Any:
    """Wait for the result of a task, at most ``timeout_s``.

    ``what`` names the task in the error. Raises the task's own error as the class that carries its
    code, WorkerError for any other, DeadlineExceeded when there is no result in time, and
    BrokerError when Redis cannot be reached.
    """
    for _ in pauses(timeout_s):
        outcome = read_outcome(broker, task_id)
        if outcome is not None and outcome.finished:
            return outcome.value()
    raise errors.DeadlineExceeded(
        f"{what} has no result after {timeout_s:g} s; "
        "`celeriac status` shows whether a worker of its queue runs"
    )


def pauses(timeout_s: float) -> Iterator[None]:
    """One step for each look at Redis: the first at once, the last when the time is over."""
    for pause_s in schedule(timeout_s):
        if pause_s:
            time.sleep(pause_s)
        yield


def schedule(timeout_s: float) -> Iterator[float]:
    """How long to sleep before each look, in seconds: growing pauses until the time is over."""
    end = time.monotonic() + timeout_s
    pause_s = FIRST_PAUSE_S
    yield 0.0
    while (left_s := end - time.monotonic()) > 0:
        yield min(pause_s, left_s)
        pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)


def read_outcome(broker: Broker, task_id: str) -> Outcome | None:
    """What is stored now; None while nothing is. Raises BrokerError."""
    try:
        stored: Any = broker.redis.get(result_key(task_id))
    except redis.RedisError as error:
        raise broker_error(error, broker.url) from error
    return parse_outcome(stored)


def parse_outcome(stored: bytes | None) -> Outcome | None:
    """The stored form of a result; None if there is none. Raises WorkerError if it is not ours."""
    if stored is None:
        return None
    try:
        return _decode(stored)
    except msgspec.MsgspecError as error:
        raise errors.WorkerError(
            "the stored result cannot be read; the worker must store plain JSON "
            "(result_serializer 'json', no result_compression)"
        ) from error


def task_error(status: str, result: Any) -> errors.CeleriacError:
    """The exception that a failed task's result stands for.

    >>> task_error("FAILURE", {"exc_type": "ModelNotFound", "exc_message": ["no model 'x'"]})
    ModelNotFound("no model 'x'")
    """
    record = result if isinstance(result, dict) else {}
    kind = str(record.get("exc_type") or "an error")
    text = _text(record.get("exc_message"))
    if status == "REVOKED" or kind == "TaskRevokedError":
        if text == "expired":
            return errors.DeadlineExceeded(
                "the task expired before a worker took it; `celeriac status` shows whether workers "
                "are there, and whose clock is wrong"
            )
        return errors.Cancelled("the task was revoked")
    ours = errors.by_class_name(kind)
    if ours is not None:
        return ours(text or None)
    if kind == "NotRegistered":
        return errors.WorkerError(f"the worker does not know the task {text}; upgrade it")
    return errors.WorkerError(f"the task failed with {kind}: {text}" if text else f"{kind} failed")


def read_answer(answer: Any) -> Prediction | errors.CeleriacError:
    """One entry of a list of answers: a prediction, or the error of that item."""
    try:
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            return errors.from_wire(answer["error"])
        return Prediction.from_wire(answer)
    except msgspec.ValidationError as error:
        return errors.WorkerError(f"the worker's answer cannot be read: {error}")


def check_timeout(timeout_s: float | None, default_s: float) -> float:
    """``timeout_s`` or the default. Raises RequestError unless it is a number above 0."""
    if timeout_s is None:
        return default_s
    try:
        is_usable = 0 < timeout_s <= 86_400
    except TypeError:  # a text, say
        is_usable = False
    if not is_usable:
        raise errors.RequestError(
            f"timeout_s is a number of seconds above 0 and at most a day, not {timeout_s!r}"
        )
    return float(timeout_s)


def _text(message: Any) -> str:
    if isinstance(message, (list, tuple)):
        return ", ".join(str(part) for part in message)
    return "" if message is None else str(message)
