"""The real-time path: items in, futures out. Client and AsyncClient are two ways to wait on it."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import CancelledError
from typing import Any

import msgspec

from celeriac import errors
from celeriac.messages import Prediction, encode_item
from producer import forks, wire
from producer.broker import Broker
from producer.coalescer import Call, Coalescer
from producer.replies import ReplyReader
from producer.routes import Route, Routes

CLOSE_S = 1.0
"""How long closing waits for each thread."""
WINDOW_ITEMS = 2_048
"""Items of one ``predict_many`` that are on their way at the same time."""
BLOCK_ITEMS = 256
"""Items of one ``predict_many`` that are handed over together."""


class Exchange:
    """The two threads of one client in one process, and what they share."""

    def __init__(self, broker: Broker) -> None:
        client_id = wire.new_id()
        self._pid = os.getpid()
        self.coalescer = Coalescer(broker, client_id)
        self._reader = ReplyReader(broker, client_id, self.coalescer)
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
        self._lock = threading.Lock()
        self._exchange: Exchange | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        forks.watch(self)

    def after_fork(self) -> None:
        """A child's fresh start: it makes its own exchange."""
        forks.abandon(self._exchange)
        self._lock = threading.Lock()
        self._exchange = None
        self._finalizer = None

    def start(self, route: Route, items: Iterable[Any], timeout_s: float) -> list[Call]:
        """Have ``items`` sent; never blocks. One call for each; a bad item's has failed already.

        Raises Overloaded when too many items of this client have no answer yet.
        """
        deadline_ms = wire.now_ms() + int(timeout_s * 1000)
        calls = [self._call(route, item, deadline_ms) for item in items]
        good = [call for call in calls if not call.future.done()]
        if good:
            self._open().coalescer.submit(good)
        return calls

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
            failed.fail(error)
            return failed

    def _open(self) -> Exchange:
        exchange = self._exchange
        if exchange is not None:
            return exchange
        with self._lock:
            if self._closed:
                raise errors.RequestError("this client is closed; make a new one")
            if self._exchange is None:
                self._exchange = Exchange(self._broker)
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


def wait(call: Call, end_s: float, timeout_s: float) -> Prediction:
    """The answer to ``call``, until the monotonic time ``end_s``.

    Raises the item's error, or DeadlineExceeded, which names ``timeout_s``; then the call is
    forgotten.
    """
    try:
        return call.future.result(max(0.0, end_s - time.monotonic()))
    except TimeoutError:
        if not call.future.cancel():
            return call.future.result(0)  # it came at the last moment
        raise late(call.model, timeout_s) from None
    except CancelledError:
        raise errors.Cancelled(f"the prediction of {call.model!r} was cancelled") from None
    except KeyboardInterrupt:
        call.future.cancel()
        raise


def late(model: str, timeout_s: float) -> errors.DeadlineExceeded:
    """The error of a call that got no answer in time."""
    return errors.DeadlineExceeded(
        f"no answer from model {model!r} within {timeout_s:g} s; "
        "`celeriac status` shows its queue and whether a worker serves it"
    )


def abandon(calls: Iterable[Call]) -> None:
    """Nobody waits for these any more."""
    for call in calls:
        call.future.cancel()
