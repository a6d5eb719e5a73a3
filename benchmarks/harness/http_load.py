"""The load on an HTTP server: encoded requests over connections that stay open.

``python -m benchmarks.harness.http_load PLAN`` runs the points of a plan in a process of its own
and prints JSON lines: ``ready``, then ``begin`` and ``end`` of each point. Every subject gets this
same process. One event loop (uvloop) on raw protocols: about 30 us of CPU for a request, so that
the load takes little of the machine that it shares with what it measures. Every answer is checked.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.harness.client import tell
from benchmarks.harness.load import Window, arrivals, quantile

HOST = "127.0.0.1"
REFUSALS = (b"429", b"503")
MAX_CONNECTIONS = 1_000
"""Open loop: a request that finds none free waits here, and its latency counts."""
GRACE_S = 30.0
"""How long answers may take after the end of a point."""
TICK_S = 0.001
"""Open loop: requests are sent so often at most. To uvloop a shorter time is "at once", and a load
that looks at its clock all the time takes a core from what it measures."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._data = b""
        self.number = 0
        self.due = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, number: int, due: float) -> None:
        """Send request ``number``; its latency counts from ``due``."""
        self.number, self.due = number, due
        self._transport.write(self._run.requests[number % len(self._run.requests)])

    def data_received(self, data: bytes) -> None:
        if self._data:
            data = self._data + data
        if is_whole(data):
            self._data = b""
            self._run.answered(self, data)
        else:
            self._data = data

    def connection_lost(self, error: Exception | None) -> None:
        self._run.lost(self, error)

    def close(self) -> None:
        self._transport.close()


def is_whole(data: bytes) -> bool:
    """True if ``data`` is a whole answer."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = _LENGTH.search(data, 0, end)
    if length is not None:
        return len(data) >= end + 4 + int(length[1])
    return _CHUNKED.search(data, 0, end) is not None and data.endswith(_LAST_CHUNK)


class Run:
    """One point of one plan."""

    def __init__(
        self, requests: Sequence[bytes], answers: Sequence[bytes], window: Window
    ) -> None:
        self.requests = requests
        self._answers = answers
        self._window = window
        self._refused_s: list[float] = []
        self._late_s: list[float] = []
        self._open = 0
        self._ending = False
        self.ended = asyncio.Event()

    def begin(self, connections: Sequence[Connection]) -> None:
        """Begin to send."""
        raise NotImplementedError

    def go_on(self, connection: Connection, now: float) -> None:
        """A connection has its answer."""
        raise NotImplementedError

    def answered(self, connection: Connection, data: bytes) -> None:
        now = time.perf_counter()
        status = data[9:12]
        if status == b"200":
            self._window.note(connection.due, now)
            if self._answers[connection.number % len(self._answers)] not in data:
                self._window.failed(ValueError(f"wrong answer: {data[-200:]!r}"))
        elif status in REFUSALS:
            if connection.due >= self._window.start and now <= self._window.end:
                self._refused_s.append(now - connection.due)
        else:
            self._window.failed(ValueError(f"status {data[:300]!r}"))
        self.go_on(connection, now)

    def asked(self, due: float, now: float) -> None:
        """A request that was due is sent."""
        if due >= self._window.start:
            self._late_s.append(now - due)

    def lost(self, connection: Connection, error: Exception | None) -> None:
        if not self._ending:
            self._window.failed(ConnectionError(f"the server closed a connection: {error}"))
            self.ended.set()

    def result(self) -> dict[str, Any]:
        self._ending = True
        return {
            **self._window.result(),
            "refused": len(self._refused_s),
            "refused_ms": _few_quantiles_ms(self._refused_s),
            "late_ms": _few_quantiles_ms(self._late_s),
        }


def _few_quantiles_ms(seconds: Sequence[float]) -> list[float]:
    ordered = sorted(seconds)
    return [quantile(ordered, share) * 1000 for share in (0.5, 0.99, 1.0)]


class Closed(Run):
    """Each connection asks, waits for its answer, asks again."""

    def begin(self, connections: Sequence[Connection]) -> None:
        self._next = len(connections)
        self._open = len(connections)
        for number, connection in enumerate(connections):
            connection.ask(number, time.perf_counter())

    def go_on(self, connection: Connection, now: float) -> None:
        if now < self._window.end:
            connection.ask(self._next, now)
            self._next += 1
            return
        self._open -= 1
        if not self._open:
            self.ended.set()


class Open(Run):
    """Requests come by chance, whether earlier ones are answered or not."""

    def begin(self, connections: Sequence[Connection]) -> None:
        self._free = list(connections)
        self._all = len(connections)
        self._waiting: deque[float] = deque()
        self._next = 0
        self._arrived = False
        self._loop = asyncio.get_running_loop()
        self._tick()

    def plan(self, per_s: float, seed: int) -> None:
        self._due = deque(arrivals(per_s, time.perf_counter(), self._window.end, seed))

    def _tick(self) -> None:
        now = time.perf_counter()
        due, waiting = self._due, self._waiting
        while due and due[0] <= now:
            waiting.append(due.popleft())
        while waiting and self._free:
            self._ask(self._free.pop())
        if due:
            self._loop.call_later(max(TICK_S, due[0] - time.perf_counter()), self._tick)
        else:
            self._arrived = True
            self._end()

    def _ask(self, connection: Connection) -> None:
        due = self._waiting.popleft()
        connection.ask(self._next, due)
        self.asked(due, time.perf_counter())
        self._next += 1

    def go_on(self, connection: Connection, now: float) -> None:
        if now > self._window.end:
            self._waiting.clear()  # nobody would count them
        if self._waiting:
            self._ask(connection)
        else:
            self._free.append(connection)
            self._end()

    def _end(self) -> None:
        if self._arrived and len(self._free) == self._all:
            self.ended.set()


async def measure(
    port: int, requests: Sequence[bytes], answers: Sequence[bytes], point: dict[str, Any],
    number: int,
) -> dict[str, Any]:
    """One point: rate, quantiles, refusals, errors."""
    loop = asyncio.get_running_loop()
    kind = Closed if point["kind"] == "closed" else Open
    idle = [await asyncio.open_connection(HOST, port) for _ in range(point.get("idle", 0))]
    window = Window(
        point["seconds"], point["warmup_s"], lambda: tell(event="begin", point=number)
    )
    run = kind(requests, answers, window)
    wanted = point["in_flight"] if kind is Closed else MAX_CONNECTIONS
    connections = [
        (await loop.create_connection(lambda: Connection(run), HOST, port))[1]
        for _ in range(wanted)
    ]
    if isinstance(run, Open):
        run.plan(point["per_s"], number)
    run.begin(connections)
    try:
        limit_s = window.end - time.perf_counter() + GRACE_S
        await asyncio.wait_for(run.ended.wait(), limit_s)
    except TimeoutError:
        window.failed(TimeoutError(f"answers are missing {GRACE_S:g} s after the end"))
    found = run.result()
    for connection in connections:
        connection.close()
    for _, writer in idle:
        writer.close()
    await asyncio.sleep(0.1)
    return found


async def run_plan(plan: dict[str, Any]) -> None:
    """Every point of ``plan``, one after the other."""
    requests = [text.encode("latin-1") for text in plan["requests"]]
    answers = [text.encode("latin-1") for text in plan["answers"]]
    gc.collect()
    gc.freeze()
    tell(event="ready")
    for number, point in enumerate(plan["points"]):
        found = await measure(plan["port"], requests, answers, point, number)
        tell(event="end", point=number, result=found)


if __name__ == "__main__":
    uvloop.run(run_plan(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
