"""Many concurrent items, few messages: group commit.

Callers hand over their items and get futures at once. One thread publishes what waits; what
arrives meanwhile is gathered for its next turn. So a lone item leaves at once, without a timer,
and the busier the process is, the fuller are its envelopes.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

import msgspec
import redis

from celeriac import errors
from celeriac.messages import CONTRACT, MAX_ENVELOPE_ITEMS, Envelope, Prediction
from producer import wire
from producer.broker import Broker, broker_error

log = logging.getLogger(__name__)

MAX_OPEN_ITEMS = 10_000
"""Items of one client that may be without an answer; one more is refused."""
MAX_OPEN_BYTES = 256_000_000
"""Bytes of such items."""
MAX_ENVELOPE_BYTES = 512_000
"""Items of one envelope together, unless a single item is larger."""
TURN_ITEMS = 1_024
"""Items of one exchange with Redis, at most ..."""
TURN_BYTES = 8_000_000
"""... and bytes, but for one call's items, which stay together."""


class Call:
    """One item on its way, and the future of its answer."""

    __slots__ = ("deadline_ms", "future", "item", "model", "queue", "size")

    def __init__(self, model: str, queue: str, item: bytes, deadline_ms: int) -> None:
        self.model = model
        self.queue = queue
        self.item = item
        """Encoded; emptied when it is published."""
        self.size = len(item)
        self.deadline_ms = deadline_ms
        self.future: Future[Prediction] = Future()

    def answer(self, prediction: Prediction) -> None:
        """Give the caller the answer; nothing happens if nobody waits any more."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_result(prediction)

    def fail(self, error: errors.CeleriacError) -> None:
        """Give the caller the error; nothing happens if nobody waits any more."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


def pack(calls: Iterable[Call]) -> Iterator[list[Call]]:
    """Put calls into envelopes: of one model each, in order, within the limits."""
    filling: dict[tuple[str, str], tuple[list[Call], int]] = {}
    for call in calls:
        key = (call.queue, call.model)
        members, size = filling.get(key, ([], 0))
        full = len(members) == MAX_ENVELOPE_ITEMS or size + call.size > MAX_ENVELOPE_BYTES
        if members and full:
            yield members
            members, size = [], 0
        members.append(call)
        filling[key] = members, size + call.size
    for members, _ in filling.values():
        yield members


class Coalescer:
    """The calls of one client in one process, and the thread that publishes them."""

    def __init__(self, broker: Broker, reply_to: str) -> None:
        self._broker = broker
        self._reply_to = reply_to
        self._waiting: queue.SimpleQueue[Sequence[Call] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._items = 0
        self._bytes = 0
        self._sent: dict[str, list[Call]] = {}
        self._thread = threading.Thread(target=self._run, name="celeriac-send", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, calls: Sequence[Call]) -> None:
        """Have ``calls`` sent. Never blocks. Raises Overloaded if too many have no answer yet."""
        size = sum(call.size for call in calls)
        with self._lock:
            if self._items + len(calls) > MAX_OPEN_ITEMS or self._bytes + size > MAX_OPEN_BYTES:
                raise errors.Overloaded(
                    f"{self._items:,} items of this client have no answer yet; wait for answers "
                    "before you send more, or score large data as a dataset"
                )
            self._items += len(calls)
            self._bytes += size
        for call in calls:
            call.future.add_done_callback(self._closing(call.size))
        self._waiting.put(calls)

    def claim(self, envelope_id: str) -> list[Call]:
        """The calls of an envelope that was answered; none if it is not known (any more)."""
        return self._sent.pop(envelope_id, [])

    def forget_settled(self) -> None:
        """Drop envelopes that nobody waits for, and fail what is past its deadline."""
        now_ms = wire.now_ms()
        for envelope_id, calls in list(self._sent.items()):
            for call in calls:
                if call.deadline_ms < now_ms:
                    call.fail(errors.DeadlineExceeded(f"no answer from model {call.model!r}"))
            if all(call.future.done() for call in calls):
                self._sent.pop(envelope_id, None)

    def stop(self) -> None:
        """Publish what waits, and end. Does not wait for it."""
        self._waiting.put(None)

    def join(self, timeout_s: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def fail_all(self, reason: str) -> None:
        """Fail every call that is still open."""
        calls = [call for sent in list(self._sent.values()) for call in sent]
        self._sent.clear()
        while not self._waiting.empty():
            calls.extend(self._waiting.get() or ())
        for call in calls:
            call.fail(errors.Cancelled(reason))

    def _closing(self, size: int) -> Any:
        def closed(_: Future[Prediction]) -> None:
            with self._lock:
                self._items -= 1
                self._bytes -= size

        return closed

    def _run(self) -> None:
        going_on = True
        while going_on:
            calls, going_on = self._gather()
            if not calls:
                continue
            try:
                self._publish(calls)
            except redis.RedisError as error:
                _fail(calls, broker_error(error, self._broker.url))
            except Exception as error:  # the thread must outlive any one turn
                log.exception("items could not be sent")
                _fail(calls, errors.CeleriacError(f"the items could not be sent: {error}"))

    def _gather(self) -> tuple[list[Call], bool]:
        """What waits, at most one turn's worth; and False if no more is to come."""
        calls: list[Call] = []
        size = 0
        block = self._waiting.get()
        while block is not None:
            calls += [call for call in block if not call.future.done()]
            size += sum(call.size for call in block)
            if len(calls) >= TURN_ITEMS or size >= TURN_BYTES:
                return calls, True
            try:
                block = self._waiting.get_nowait()
            except queue.Empty:
                return calls, True
        return calls, False

    def _publish(self, calls: list[Call]) -> None:
        sent: dict[str, list[Call]] = {}
        with self._broker.redis.pipeline(transaction=False) as pipe:
            for members in pack(calls):
                envelope = self._envelope(members)
                sent[envelope.id] = members
                pipe.lpush(members[0].queue, wire.envelope_message(envelope, members[0].queue))
            for call in calls:
                call.item = b""
            self._sent.update(sent)  # before the reply can come
            try:
                pipe.execute()
            except redis.RedisError:
                for envelope_id in sent:
                    self._sent.pop(envelope_id, None)
                raise

    def _envelope(self, members: list[Call]) -> Envelope:
        return Envelope(
            v=CONTRACT,
            id=wire.new_id(),
            model=members[0].model,
            items=[msgspec.Raw(call.item) for call in members],
            reply_to=self._reply_to,
            deadline_ms=max(call.deadline_ms for call in members),
        )


def _fail(calls: list[Call], error: errors.CeleriacError) -> None:
    for call in calls:
        call.fail(type(error)(error.message))  # a traceback belongs to one caller
