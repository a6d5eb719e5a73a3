"""Load on one callable, and the latencies that come of it. Standard library only.

This module also runs in the environments of other task queues.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Call = Callable[[Any], Any]
AsyncCall = Callable[[Any], Awaitable[Any]]
Begin = Callable[[], None]

SHARES = [*(i / 100 for i in range(100)), 0.995, 0.999, 1.0]
"""The quantiles that a result holds."""
POOL_THREADS = 128
REFUSAL = "Overloaded"
"""The error by which a subject refuses a call early."""
PAUSE_S = 0.02
MAX_OPEN = 8_000
"""Open loop: more calls than this at a time are not begun; each counts as late."""


class Window:
    """The latencies of calls that began after the warm-up and ended before the end."""

    def __init__(self, seconds: float, warmup_s: float, begin: Begin) -> None:
        self.start = time.perf_counter() + warmup_s
        self.end = self.start + seconds
        self.seconds = seconds
        self.latencies_s: list[float] = []
        self.errors: list[str] = []
        self.refused = 0
        self.completed = 0
        """Calls that ended in the window, whenever they began."""
        self.late = 0
        timer = threading.Timer(warmup_s, begin)
        timer.daemon = True
        timer.start()

    def note(self, began: float, ended: float) -> None:
        """Count one call if the whole of it lies in the window."""
        self.completed += self.start <= ended <= self.end
        if began >= self.start and ended <= self.end:
            self.latencies_s.append(ended - began)

    def failed(self, error: BaseException) -> None:
        """Count a call that raised; one that was refused for the load is no error."""
        if type(error).__name__ == REFUSAL:
            self.refused += 1
            return
        self.errors.append(f"{type(error).__name__}: {error}"[:200])

    def result(self) -> dict[str, Any]:
        """Rate, quantiles in ms, errors."""
        ordered = sorted(self.latencies_s)
        return {
            "calls": len(ordered),
            "per_s": len(ordered) / self.seconds,
            "quantiles_ms": [quantile(ordered, share) * 1000 for share in SHARES],
            "errors": len(self.errors),
            "first_error": self.errors[0] if self.errors else "",
            "late": self.late,
            "refused": self.refused,
        }


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of a sorted sequence lies; 0 if it is empty."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def closed_threads(
    call: Call, items: Sequence[Any], in_flight: int, window: Window
) -> dict[str, Any]:
    """Each of ``in_flight`` threads calls, waits for its answer, calls again."""

    def loop(first: int) -> None:
        number = first
        while (began := time.perf_counter()) < window.end:
            try:
                call(items[number % len(items)])
            except Exception as error:  # noqa: BLE001 - counted, and fails the benchmark
                window.failed(error)
                return
            window.note(began, time.perf_counter())
            number += in_flight

    threads = [threading.Thread(target=loop, args=(i,), daemon=True) for i in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(window.seconds + 60)
    return window.result()


async def closed_async(
    call: AsyncCall, items: Sequence[Any], in_flight: int, window: Window
) -> dict[str, Any]:
    """As :func:`closed_threads`, with coroutines of one event loop."""

    async def loop(first: int) -> None:
        number = first
        while (began := time.perf_counter()) < window.end:
            try:
                await call(items[number % len(items)])
            except Exception as error:  # noqa: BLE001
                window.failed(error)
                return
            window.note(began, time.perf_counter())
            number += in_flight

    await asyncio.gather(*(loop(i) for i in range(in_flight)))
    return window.result()


def arrivals(rate_per_s: float, start: float, end: float, seed: int) -> list[float]:
    """Times of a Poisson process between ``start`` and ``end``."""
    chance = random.Random(seed)
    times = []
    now = start
    while (now := now + chance.expovariate(rate_per_s)) < end:
        times.append(now)
    return times


def paced(call: Call, items: Sequence[Any], window: Window) -> dict[str, Any]:
    """One caller who rests between an answer and the next call."""
    number = 0
    while (began := time.perf_counter()) < window.end:
        try:
            call(items[number % len(items)])
        except Exception as error:  # noqa: BLE001
            window.failed(error)
        else:
            window.note(began, time.perf_counter())
        number += 1
        time.sleep(PAUSE_S)
    return window.result()


async def open_async(
    call: AsyncCall, items: Sequence[Any], rate_per_s: float, window: Window, seed: int
) -> dict[str, Any]:
    """Calls arrive by chance, whether earlier ones are answered or not.

    A latency counts from the time at which the call should have begun.
    """
    running: set[asyncio.Task[None]] = set()

    async def one(due: float, item: Any) -> None:
        try:
            await call(item)
        except Exception as error:  # noqa: BLE001
            window.failed(error)
            return
        window.note(due, time.perf_counter())

    begin = time.perf_counter()
    for number, due in enumerate(arrivals(rate_per_s, begin, window.end, seed)):
        if (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        elif number % 64 == 0:
            await asyncio.sleep(0)  # behind: let answers in
        if len(running) >= MAX_OPEN:
            window.late += 1
            await asyncio.sleep(0)
            continue
        task = asyncio.create_task(one(due, items[number % len(items)]))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return window.result()


def open_threads(
    call: Call, items: Sequence[Any], rate_per_s: float, window: Window, seed: int
) -> dict[str, Any]:
    """As :func:`open_async`, by a pool of ``POOL_THREADS``."""
    due = arrivals(rate_per_s, time.perf_counter(), window.end, seed)
    heapq.heapify(due)
    lock = threading.Lock()

    def loop() -> None:
        while True:
            with lock:
                if not due:
                    return
                when = heapq.heappop(due)
            time.sleep(max(0.0, when - time.perf_counter()))
            try:
                call(items[int(when * 1e6) % len(items)])
            except Exception as error:  # noqa: BLE001
                window.failed(error)
                return
            window.note(when, time.perf_counter())

    pool = [threading.Thread(target=loop, daemon=True) for _ in range(POOL_THREADS)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join(window.seconds + 60)
    return window.result()
