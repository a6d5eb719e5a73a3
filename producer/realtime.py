"""The real-time path: items in, outcomes out. Client and AsyncClient are two ways to wait on it."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any

import msgspec

from celeriac import errors
from celeriac.cache import Answerer, cache_key
from celeriac.messages import Prediction, json_value
from producer import forks, wire
from producer.broker import Broker
from producer.calls import Call, Outcome, settle_all
from producer.desk import Desk
from producer.exchange import Exchange
from producer.routes import Route, Routes
from producer.statistics import ClientStatistics


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
        forks.abandon(getattr(self, "_exchange", None), getattr(self, "_desk", None))
        self._lock = threading.Lock()
        self._exchange: Exchange | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._desk = Desk(self._broker.settings)

    def start(
        self, route: Route, items: Iterable[Any], timeout_s: float, *, on_loop: bool = False
    ) -> list[Call]:
        """Have ``items`` sent. One call for each; a bad item's has failed already.

        So have those that are refused because too much waits. Waits for nothing but a lookup in
        the result cache, and not even for that if the caller is ``on_loop``, an event loop.
        """
        calls = self.prepare(route, items, timeout_s)
        self.send(route, calls, on_loop=on_loop)
        return calls

    def prepare(
        self, route: Route, items: Iterable[Any], timeout_s: float, request: str = ""
    ) -> list[Call]:
        """One call for each of ``items``, to be sent; a bad item's has failed already.

        ``request`` is what the worker's log names them by.
        """
        deadline_ms = wire.now_ms() + int(timeout_s * 1000)
        return [self._call(route, item, deadline_ms, request) for item in items]

    def send(self, route: Route, calls: list[Call], *, on_loop: bool = False) -> None:
        """Send what was prepared, as :meth:`start` does."""
        good = [call for call in calls if call.outcome is None]
        if not good:
            return
        try:
            self._send(route, good, on_loop)
        except errors.CeleriacError:
            raise
        except BaseException:  # an interrupt: what follows one of them would wait for its end
            abandon(good)
            raise

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
        except BaseException:  # an interrupt, a time limit of Celery's
            abandon([call])
            raise
        return outcome or self.late(call, timeout_s)

    def late(self, call: Call, timeout_s: float) -> Outcome:
        """The outcome of a call whose time is over: an answer may come at the last moment."""
        if call.settle(late(call.model, timeout_s, self.routes.clock_ahead_s)):
            self._desk.counts.add("expired")
        outcome = call.outcome
        assert outcome is not None  # noqa: S101 - a settled call has one
        return outcome

    def statistics(self) -> ClientStatistics:
        return self._desk.statistics()

    def encode(self, item: Any) -> bytes:
        """As :func:`encode`, with the limit of the settings."""
        return encode(item, self._broker.settings.realtime.max_item_bytes)

    def close(self) -> None:
        """End the threads; calls without an answer fail with Cancelled. Takes 3 s at most."""
        with self._lock:
            self._closed = True
            finalizer, self._finalizer, self._exchange = self._finalizer, None, None
        if finalizer is not None:
            finalizer()

    def _call(self, route: Route, item: Any, deadline_ms: int, request: str) -> Call:
        try:
            call = Call(route.model, route.realtime, self.encode(item), deadline_ms, request)
        except errors.CeleriacError as error:
            failed = Call(route.model, route.realtime, b"", deadline_ms, request)
            failed.settle(error)
            self._desk.counts.failed(error.code)
            return failed
        if route.cached and self._desk.lookups.is_on:
            with contextlib.suppress(ValueError):
                who = Answerer(route.name, route.version, route.created_at)
                call.key = cache_key(who, json_value(item))
        return call

    def _send(self, route: Route, calls: list[Call], on_loop: bool) -> None:
        exchange = self._open()
        cached = route.cached and self._desk.lookups.is_on
        if cached and not on_loop:
            calls = self._desk.lookups.find(calls)
            if not calls:
                return
        try:
            opened = self._desk.open_items.open(calls)
        except errors.Overloaded as error:
            self._desk.refuse(calls, error)
            return
        if cached and on_loop:
            exchange.look_up(calls)
        else:
            exchange.send(calls, alone=opened == 1)

    def _open(self) -> Exchange:
        exchange = self._exchange
        if exchange is not None:
            return exchange
        with self._lock:
            if self._closed:
                raise errors.RequestError("this client is closed; make a new one")
            if self._exchange is None:
                self._exchange = Exchange(self._broker, self._desk)
                # Runs when the client is collected or the interpreter ends, whichever is first.
                self._finalizer = weakref.finalize(self, self._exchange.close)
            return self._exchange


def encode(item: Any, limit: int) -> bytes:
    """``item`` as it travels. Raises InvalidItem, or PayloadTooLarge beyond ``limit`` bytes."""
    _check_size(_least_bytes(item), limit)
    try:
        data = msgspec.json.encode(json_value(item))
    except (RecursionError, ValueError, TypeError, OverflowError) as error:
        raise errors.InvalidItem(f"the item cannot be sent as JSON: {error}") from error
    _check_size(len(data), limit)
    return data


def _least_bytes(item: Any) -> int:
    """What ``item`` takes as base64 alone; 0 for what does not travel so."""
    raw = len(item) if isinstance(item, (bytes, bytearray)) else getattr(item, "nbytes", 0)
    return 4 * -(-raw // 3)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise errors.PayloadTooLarge(
            f"the item has {size:,} bytes on the wire; at most {limit:,} are allowed "
            "([realtime] max_item_bytes): score large data as a dataset (submit_dataset)"
        )


def answer(outcome: Outcome) -> Prediction:
    """The prediction; raises the error."""
    if isinstance(outcome, Prediction):
        return outcome
    raise outcome


def late(model: str, timeout_s: float, clock_ahead_s: float) -> errors.DeadlineExceeded:
    """The error of a call that got no answer in time.

    With a clock that is behind, each call ends so: workers take for late what is sent.
    """
    what = f"no answer from model {model!r} within {round(timeout_s, 3):g} s"
    if clock_ahead_s < 0:
        return errors.DeadlineExceeded(
            f"{what}; the clock of this machine is {-clock_ahead_s:,.0f} s behind that of Redis: "
            "if it is the wrong one, workers take for too late what it sends"
        )
    return errors.DeadlineExceeded(
        f"{what}; `celeriac status` shows its queue and whether a worker serves it"
    )


def abandon(calls: Iterable[Call]) -> None:
    """Nobody waits for these any more."""
    settle_all(
        (call, errors.Cancelled(f"the prediction of {call.model!r} was cancelled"))
        for call in calls
    )
