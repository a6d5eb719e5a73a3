"""The adviser beside the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac.settings import Settings
from producer.advice import advise_for
from producer.gateway import recommendation


def test_one_advice_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = threading.Semaphore(100), [0]

    def slow(*asked: Any) -> Any:
        under_way.acquire()
        most.append(100 - under_way._value)
        time.sleep(0.005)
        under_way.release()
        return advise_for(*asked)

    monkeypatch.setattr(recommendation, "advise_for", slow)
    app = SimpleNamespace(state=SimpleNamespace(gateway=SimpleNamespace(settings=Settings())))
    request: Any = SimpleNamespace(app=app, scope={"celeriac": None})

    async def main() -> list[Any]:
        return await asyncio.gather(*(
            recommendation.recommend(
                request, latency_ms=50, volume=1, update_frequency="daily", peak_per_s=None
            )
            for _ in range(5)
        ))

    answers = asyncio.run(main())
    assert {one.recommendation for one in answers} == {"real time"}
    assert max(most) == 1
