"""The real-time path: items in, outcomes out. Client and AsyncClient are two ways to wait on it."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any

import msgspec

from celeriac import errors
from celeriac.messages import Prediction, encode_item
from producer import forks, wire
from producer.broker import Broker
from producer.calls import Call, OpenItems, Outcome, settle_all
from producer.coalescer import Coalescer
from producer.publisher import Publisher
from producer.refusals import Refusals
from producer.replies import ReplyReader
from producer.routes import Route, Routes
from producer.statistics import ClientStatistics, Counts

CLOSE_S = 1.0
"""How long closing waits for each thread."""


class Exchange:
    """The two threads of one client in one process, and what they share."""

    def __init__(
        self, broker: Broker, counts: Counts, open_items: OpenItems, refusals: Refusals
    ) -> None:
        self.client_id = wire.new_id()
        self._pid = os.getpid()
        publisher = Publisher(broker, self.client_id, counts, refusals)
        self.coalescer = Coalescer(publisher, counts, open_items)
        self._reader = ReplyReader(broker, self.client_id, publisher, refusals, counts)
        self.coalescer.start()
        self._reader.start()

    def close(self) -> None:
        """Publish what waits, fail what has no answer, end the threads. Bounded."""
        if os.getpid() != self._pid:  # a child has none of the threads, and not these sockets
            return
        self.coalescer.stop()
        self._reader.stop()
        self.coalescer.join(CLOSE_S)
        self.coalescer.fail_all("the client was closed before the answer came")
        self._reader.join(CLOSE_S)


class Realtime:
    """Sends items to the real-time workers. Threads start at first use, in each process anew."""

    def __init__(self, broker: Broker) -> None:
        self.routes = Routes(broker)
        self._broker = broker
        self._closed = False
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        """A child's fresh start: it makes its own exchange, and counts from zero."""
        forks.abandon(getattr(self, "_exchange", None))
        self._lock = threading.Lock()
        self._exchange: Exchange | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._counts = Counts()
        self._open_items = OpenItems()
        self._refusals = Refusals(self._broker.settings.realtime.max_queue_items)

    def start(
        self, route: Route, items: Iterable[Any], timeout_s: float, *, may_publish: bool = False
    ) -> list[Call]:
        """Have ``items`` sent; never waits. One call for each; a bad item's has failed already.

        So have those that are refused because too much waits. ``may_publish``: the caller is a
        thread that may publish its only item by itself.
        """
        deadline_ms = wire.now_ms() + int(timeout_s * 1000)
        calls = [self._call(route, item, deadline_ms) for item in items]
        good = [call for call in calls if call.outcome is None]
        if good:
            self._send(route, good, may_publish)
        return calls

    def wait(self, call: Call, end_s: float, timeout_s: float) -> Prediction:
        """The answer to ``call``, until the monotonic time ``end_s``.

        Raises the item's error, or DeadlineExceeded, which names ``timeout_s``; then the call is
        forgotten.
        """
        return answer(self.outcome(call, end_s, timeout_s))

    def outcome(self, call: Call, end_s: float, timeout_s: float) -> Outcome:
        """As :meth:`wait`, but returns the error."""
        try:
            outcome = call.wait(max(0.0, end_s - time.monotonic()))
        except KeyboardInterrupt:
            abandon([call])
            raise
        return outcome or self.late(call, timeout_s)

    def late(self, call: Call, timeout_s: float) -> Outcome:
        """The outcome of a call whose time is over: an answer may come at the last moment."""
        if call.settle(late(call.model, timeout_s)):
            self._counts.add("expired")
        outcome = call.outcome
        assert outcome is not None  # noqa: S101 - a settled call has one
        return outcome

    def statistics(self) -> ClientStatistics:
        return self._counts.read(self._open_items.items)

    def encode(self, item: Any) -> bytes:
        """As :func:`encode`, with the limit of the settings."""
        return encode(item, self._broker.settings.realtime.max_item_bytes)

    def close(self) -> None:
        """End the threads; calls without an answer fail with Cancelled. Takes 2 s at most."""
        with self._lock:
            self._closed = True
            finalizer, self._finalizer, self._exchange = self._finalizer, None, None
        if finalizer is not None:
            finalizer()

    def _call(self, route: Route, item: Any, deadline_ms: int) -> Call:
        try:
            return Call(route.model, route.realtime, self.encode(item), deadline_ms)
        except errors.CeleriacError as error:
            failed = Call(route.model, route.realtime, b"", deadline_ms)
            failed.settle(error)
            self._counts.failed(error.code)
            return failed

    def _send(self, route: Route, calls: list[Call], may_publish: bool) -> None:
        admitted = self._refusals.admit(route.realtime, len(calls))
        if admitted:
            try:
                self._open().coalescer.submit(calls[:admitted], may_publish=may_publish)
            except errors.Overloaded as error:
                self._refuse(calls[:admitted], error)
        if admitted < len(calls):
            self._refuse(calls[admitted:], self._refusals.refusal(route.realtime, route.model))

    def _refuse(self, calls: list[Call], error: errors.Overloaded) -> None:
        for call in calls:  # an error for each: a traceback belongs to one caller
            call.settle(errors.Overloaded(error.message, error.retry_after_s))
        self._counts.add("refused", len(calls))

    def _open(self) -> Exchange:
        exchange = self._exchange
        if exchange is not None:
            return exchange
        with self._lock:
            if self._closed:
                raise errors.RequestError("this client is closed; make a new one")
            if self._exchange is None:
                self._exchange = Exchange(
                    self._broker, self._counts, self._open_items, self._refusals
                )
                # Runs when the client is collected or the interpreter ends, whichever is first.
                self._finalizer = weakref.finalize(self, self._exchange.close)
            return self._exchange


def encode(item: Any, limit: int) -> bytes:
    """``item`` as it travels. Raises InvalidItem, or PayloadTooLarge beyond ``limit`` bytes."""
    try:
        data = msgspec.json.encode(encode_item(item))
    except (RecursionError, ValueError, TypeError, OverflowError) as error:
        raise errors.InvalidItem(f"the item cannot be sent as JSON: {error}") from error
    if len(data) > limit:
        raise errors.PayloadTooLarge(
            f"the item has {len(data):,} bytes on the wire; at most {limit:,} are allowed "
            "([realtime] max_item_bytes): score large data as a dataset (submit_dataset)"
        )
    return data


def answer(outcome: Outcome) -> Prediction:
    """The prediction; raises the error."""
    if isinstance(outcome, Prediction):
        return outcome
    raise outcome


def late(model: str, timeout_s: float) -> errors.DeadlineExceeded:
    """The error of a call that got no answer in time."""
    return errors.DeadlineExceeded(
        f"no answer from model {model!r} within {timeout_s:g} s; "
        "`celeriac status` shows its queue and whether a worker serves it"
    )


def abandon(calls: Iterable[Call]) -> None:
    """Nobody waits for these any more."""
    settle_all(
        (call, errors.Cancelled(f"the prediction of {call.model!r} was cancelled"))
        for call in calls
    )
