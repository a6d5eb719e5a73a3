"""The asyncio twin against a real server and a real lane."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from celeriac import errors
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer.aio import AsyncClient
from workers.lane.lane import Lane


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def test_concurrent_predictions(settings: Settings, lane: Lane) -> None:
    async def work() -> list[Any]:
        async with AsyncClient(settings=settings) as client:
            answers = await asyncio.gather(*(client.predict("echo", i) for i in range(1_000)))
            many = await client.predict_many("echo", range(3_000), timeout_s=30)
            return [p.value for p in [*answers, *many]]

    assert run(work()) == [*range(1_000), *range(3_000)]


def test_errors(settings: Settings, lane: Lane) -> None:
    async def work() -> list[Any]:
        async with AsyncClient(settings=settings) as client:
            for model, error in (("nothing", errors.ModelNotFound), ("Bad", errors.RequestError)):
                with pytest.raises(error):
                    await client.predict(model, 1)
            with pytest.raises(errors.InvalidItem):
                await client.predict_many("texts", ["a", 1])
            return await client.predict_many("texts", ["a", 1, object()], return_errors=True)

    kinds = [type(answer).__name__ for answer in run(work())]
    assert kinds == ["Prediction", "InvalidItem", "InvalidItem"]


def test_deadline_and_cancellation_while_the_loop_goes_on(
    settings: Settings, registry: Registry
) -> None:
    async def work() -> tuple[float, int]:
        async with AsyncClient(settings=settings) as client:
            with pytest.raises(errors.DeadlineExceeded, match=r"'echo' within 0\.2 s"):
                await client.predict("echo", 1, timeout_s=0.2)
            waiting = [asyncio.create_task(client.predict("echo", i)) for i in range(50)]
            waiting.append(asyncio.create_task(client.predict_many("echo", range(50))))
            await asyncio.sleep(0.1)
            started = time.monotonic()
            for task in waiting:
                task.cancel()
            done = await asyncio.gather(*waiting, return_exceptions=True)
            took_s = time.monotonic() - started
            assert {type(one) for one in done} == {asyncio.CancelledError}
            return took_s, client.statistics().open_items

    took_s, still_open = run(work())
    assert took_s < 2  # not the ten seconds that they may wait
    assert still_open == 0


def test_the_loop_is_never_blocked(settings: Settings, lane: Lane) -> None:
    """The longest gap between the ticks of a timer that shares the loop with the client."""

    async def work() -> float:
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            while True:
                started = time.monotonic()
                await asyncio.sleep(0.005)
                longest = max(longest, time.monotonic() - started)

        ticking = asyncio.create_task(tick())
        async with AsyncClient(settings=settings) as client:
            for _ in range(3):
                await client.predict("echo", 1)
            handle = await client.submit("echo", 1)
            with pytest.raises(errors.DeadlineExceeded):  # no worker of predict.cpu runs
                await handle.result(1.5)
            assert not await handle.done()
            again = await client.prediction(handle.id)
            assert await again.cancel()
        ticking.cancel()
        return longest

    assert run(work()) < 1.0


def test_an_event_loop_is_woken_once_for_all_that_land_together(
    settings: Settings, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> int:
        wakes = 0
        loop = asyncio.get_running_loop()
        wake = loop.call_soon_threadsafe

        def counted(*args: Any, **options: Any) -> Any:
            nonlocal wakes
            wakes += 1
            return wake(*args, **options)

        async with AsyncClient(settings=settings) as client:
            await client.predict("echo", 1)
            monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
            await asyncio.gather(*(client.predict("echo", i) for i in range(640)))
            found = wakes
            monkeypatch.undo()
        return found

    assert run(work()) <= 640 / 32


def test_many_items_go_on_more_slowly_when_the_model_is_overloaded(
    settings: Settings, registry: Registry, hand: Any
) -> None:
    def work_slowly() -> None:
        overloaded = errors.Overloaded("too much waits", 0.1).to_wire()
        hand.reply(hand.take(), {"error": overloaded})
        answered = 0
        while answered < 100:
            answered += hand.answer(hand.take())

    async def work() -> Any:
        async with AsyncClient(settings=settings) as client:
            working = asyncio.create_task(asyncio.to_thread(work_slowly))
            answers = await client.predict_many("echo", range(100), timeout_s=20)
            await working
            return [answer.value for answer in answers], client.statistics()

    answers, counts = run(work())
    assert answers == list(range(100))
    assert counts.failed["overloaded"] > 0
    assert counts.open_items == 0


def test_one_client_in_two_loops(settings: Settings, lane: Lane) -> None:
    client = AsyncClient(settings=settings)
    assert run(client.predict("echo", 1)).value == 1
    assert run(client.predict("echo", 2)).value == 2
    run(client.close())


def test_a_loop_whose_threads_are_taken_waits_no_longer_than_it_said(
    settings: Settings, lane: Lane
) -> None:
    """The first call of a client asks Redis for the models, in a thread."""

    async def work() -> float:
        going_on = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = asyncio.create_task(asyncio.to_thread(going_on.wait, 4))
        await asyncio.sleep(0)
        client = AsyncClient(settings=settings)
        started = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            await client.predict("echo", 1, timeout_s=0.3)
        took_s = time.monotonic() - started
        going_on.set()
        await busy
        await client.close()
        return took_s

    assert run(work()) < 3
