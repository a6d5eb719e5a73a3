"""The threads of one client in one process: a sender, a reader, and one for coroutines' lookups."""

from __future__ import annotations

import os
import threading

from producer import wire
from producer.broker import Broker
from producer.calls import Call
from producer.coalescer import Coalescer
from producer.desk import Desk
from producer.flights import Flights
from producer.lookups import LookupThread
from producer.publisher import Publisher
from producer.replies import ReplyReader

CLOSE_S = 1.0
"""How long closing waits for each thread."""


class Exchange:
    """The threads of one client in one process, and what they share."""

    def __init__(self, broker: Broker, desk: Desk) -> None:
        self.client_id = wire.new_id()
        self._pid = os.getpid()
        self._desk = desk
        publisher = Publisher(broker, self.client_id, desk.counts, desk.refusals)
        self.coalescer = Coalescer(publisher, desk.counts, desk.open_items)
        self._flights = Flights(self.coalescer.submit, desk.counts)
        self._reader = ReplyReader(
            broker, self.client_id, publisher, desk.refusals, desk.counts
        )
        self._lock = threading.Lock()
        self._lookup_thread: LookupThread | None = None
        self.coalescer.start()
        self._reader.start()

    def send(self, calls: list[Call], *, alone: bool = False) -> None:
        """Have calls sent, but for those that are refused or follow an equal one. Never waits."""
        calls = self._desk.admit(calls)
        calls = [call for call in calls if self._flights.lead(call)]
        if calls:
            self.coalescer.submit(calls, alone=alone)

    def look_up(self, calls: list[Call]) -> None:
        """Have calls looked up in the result cache, and the unknown ones sent. Never waits."""
        with self._lock:
            if self._lookup_thread is None:
                self._lookup_thread = LookupThread(self._desk.lookups, self.send)
            self._lookup_thread.ask(calls)

    def close(self) -> None:
        """Publish what waits, fail what has no answer, end the threads. Bounded."""
        if os.getpid() != self._pid:  # a child has none of the threads, and not these sockets
            return
        if self._lookup_thread is not None:
            self._lookup_thread.stop()
            self._lookup_thread.join(CLOSE_S)
        self._reader.stop()
        self.coalescer.stop()
        self.coalescer.join(CLOSE_S)
        self.coalescer.fail_all("the client was closed before the answer came")
        self._reader.join(CLOSE_S)
