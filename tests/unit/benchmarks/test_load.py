"""The load and the figures that come of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.harness import load


def window(seconds: float = 0.3, warmup_s: float = 0.05) -> load.Window:
    return load.Window(seconds, warmup_s, lambda: None)


def share(result: dict[str, Any], at: float) -> float:
    return float(result["quantiles_ms"][load.SHARES.index(at)])


def measured(run: Callable[[], dict[str, Any]], calls: int) -> dict[str, Any]:
    """What a window says that has so many calls: where the machine stands still it has fewer."""
    return next(result for _ in range(10) if (result := run())["calls"] >= calls)


def test_threads_measure_what_a_call_takes() -> None:
    result = measured(lambda: load.closed_threads(lambda _: time.sleep(0.02), [1], 4, window()), 4)
    assert result["calls"] <= 4 * 0.3 / 0.02
    assert result["per_s"] == pytest.approx(result["calls"] / 0.3)
    assert share(result, 0.0) >= 20
    assert result["errors"] == 0


def test_coroutines_measure_what_a_call_takes() -> None:
    async def call(_: Any) -> None:
        await asyncio.sleep(0.02)

    result = measured(lambda: asyncio.run(load.closed_async(call, [1], 4, window())), 4)
    assert result["calls"] <= 4 * 0.3 / 0.02
    assert share(result, 0.0) >= 20


def test_an_open_loop_counts_from_when_a_call_was_due() -> None:
    """One slow server for all: calls that had to wait for it must say so."""

    async def run() -> dict[str, Any]:
        gate = asyncio.Lock()

        async def call(_: Any) -> None:
            async with gate:
                await asyncio.sleep(0.02)

        return await load.open_async(call, [1], 100, window(0.5), seed=1)

    result = measured(lambda: asyncio.run(run()), 4)
    assert share(result, 0.9) > 60


def test_an_open_loop_of_threads_counts_from_when_a_call_was_due() -> None:
    def run() -> dict[str, Any]:
        return load.open_threads(lambda _: time.sleep(0.01), [1], 100, window(0.5), seed=1)

    result = measured(run, 10)
    assert result["calls"] <= 100
    assert share(result, 0.0) >= 10


def test_failures_are_counted_and_named() -> None:
    def call(_: Any) -> None:
        raise ValueError("no")

    result = load.closed_threads(call, [1], 3, window(0.1))
    assert result["errors"] == 3
    assert result["first_error"] == "ValueError: no"


def test_arrivals_are_seeded_and_of_the_rate() -> None:
    times = load.arrivals(1_000, 0.0, 10.0, seed=3)
    assert times == load.arrivals(1_000, 0.0, 10.0, seed=3)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert times == sorted(times)


def test_quantiles() -> None:
    assert load.quantile([], 0.5) == 0
    assert load.quantile([1, 2, 3, 4], 0.5) == 3
    assert load.quantile([1, 2, 3, 4], 1.0) == 4


def test_a_refused_call_is_no_error_and_a_paced_caller_goes_on() -> None:
    class Overloaded(Exception):
        """As the client's."""

    calls: list[int] = []

    def call(number: int) -> None:
        calls.append(number)
        if number:
            raise Overloaded

    def run() -> dict[str, Any]:
        calls.clear()
        return load.paced(call, [0, 1], window(0.3))

    result = measured(run, 2)
    assert result["errors"] == 0
    assert result["refused"] >= 1
    assert len(calls) <= 1 + 0.35 / load.PAUSE_S


def test_what_began_before_the_window_is_complete_in_it() -> None:
    found = load.Window(10.0, 0.0, lambda: None)
    found.note(found.start - 1, found.start + 1)
    found.note(found.start + 1, found.start + 2)
    found.note(found.start + 1, found.end + 1)
    assert (found.completed, found.result()["calls"]) == (2, 1)
