"""The reply reader: one thread that pops this client's reply list and resolves its futures."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import redis

from celeriac import errors
from celeriac.messages import Prediction, Reply, reply_key
from producer.broker import Broker
from producer.coalescer import Call, Coalescer
from producer.results import read_answer

log = logging.getLogger(__name__)

POP_REPLIES = 100
"""Replies that one exchange with Redis fetches, at most."""
POP_WAIT_S = 1.0
SWEEP_S = 1.0
"""How often calls that nobody waits for are forgotten."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.05, 1.0

_decode = msgspec.json.Decoder(Reply).decode


class ReplyReader:
    """Reads the replies to the envelopes of one coalescer."""

    def __init__(self, broker: Broker, client_id: str, coalescer: Coalescer) -> None:
        self._broker = broker
        self._key = reply_key(client_id)
        self._coalescer = coalescer
        self._stopping = threading.Event()
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="celeriac-read", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Read no more. Does not wait."""
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread, which an empty reply wakes unless Redis is silent."""
        if self._thread is threading.current_thread() or not self._thread.is_alive():
            return
        if time.monotonic() - self._heard > 2 * POP_WAIT_S:
            self._thread.join(timeout_s)
            return
        try:
            self._broker.redis.rpush(self._key, b"")
            self._thread.join(timeout_s)
            self._broker.redis.delete(self._key)
        except redis.RedisError:  # then the thread has lost Redis too, and ends by itself
            self._thread.join(timeout_s)

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        swept = time.monotonic()
        while not self._stopping.is_set():
            try:
                popped: Any = self._broker.redis.blmpop(
                    POP_WAIT_S, 1, self._key, direction="LEFT", count=POP_REPLIES
                )
                self._heard = time.monotonic()
                retry_s = FIRST_RETRY_S
                for raw in popped[1] if popped else ():
                    self._settle(raw)
            except redis.RedisError as error:
                log.debug("reply list lost, again in %g s: %s", retry_s, error)
                self._stopping.wait(retry_s)
                retry_s = min(retry_s * 2, LONGEST_RETRY_S)
            except Exception:  # the thread must outlive any one reply
                log.exception("a reply could not be handled")
            if time.monotonic() - swept > SWEEP_S:
                self._coalescer.forget_settled()
                swept = time.monotonic()

    def _settle(self, raw: bytes) -> None:
        if not raw:
            return
        try:
            reply = _decode(raw)
        except msgspec.MsgspecError as error:
            log.warning("a reply could not be read: %s", error)
            return
        settle(self._coalescer.claim(reply.id), reply)


def settle(calls: list[Call], reply: Reply) -> None:
    """Resolve the calls of one envelope by its reply."""
    if not calls:
        return
    answers = reply.answers
    if reply.error is None and answers is not None and len(answers) == len(calls):
        for call, answer in zip(calls, answers, strict=True):
            _resolve(call, answer)
        return
    make = _whole_error(reply, len(calls))
    for call in calls:
        call.fail(make())


def _whole_error(reply: Reply, wanted: int) -> Callable[[], errors.CeleriacError]:
    error = reply.error
    if error is not None:
        return lambda: errors.from_wire(error)
    found = len(reply.answers or ())
    return lambda: errors.WorkerError(f"the worker gave {found} answers to {wanted} items")


def _resolve(call: Call, answer: dict[str, Any]) -> None:
    result = read_answer(answer)
    if isinstance(result, Prediction):
        call.answer(result)
    else:
        call.fail(result)
