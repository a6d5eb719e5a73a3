"""Celeriac: a process that decides on texts, or asks their model, with many at the same time."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from benchmarks.subjects.served import serve
from producer.aio import AsyncClient
from producer.applications.moderation import AsyncModerator


async def rate(
    way: str, model: str, texts: list[str], seconds: float, width: int
) -> dict[str, Any]:
    """Answers in a second, with ``width`` coroutines that ask one after the other."""
    counts = [0] * width
    async with AsyncClient(timeout_s=30) as client:
        moderator = AsyncModerator(client)

        async def ask(text: str) -> Any:
            if way == "predict":
                return await client.predict(model, text)
            return await moderator.moderate(text)

        await asyncio.gather(*(ask(text) for text in texts[:width]))
        end_s = time.perf_counter() + seconds

        async def run(number: int) -> None:
            for text in itertools.islice(itertools.cycle(texts), number * 7, None):
                if time.perf_counter() > end_s:
                    return
                await ask(text)
                counts[number] += 1

        began_s = time.perf_counter()
        await asyncio.gather(*map(run, range(width)))
        took_s = time.perf_counter() - began_s
        moderator.close()
    return {"rate": sum(counts) / took_s}


if __name__ == "__main__":

    def work(**wanted: Any) -> dict[str, Any]:
        return asyncio.run(rate(**wanted))

    serve(work)
