"""The end of a task that runs as long as the gateway."""

from __future__ import annotations

import asyncio

AGAIN_S = 0.1
TIMES = 50


async def end(task: asyncio.Task[None]) -> None:
    """Cancel ``task`` until it has ended, for 5 s at most.

    Once is not enough: a client library may take the cancellation for one of its own time-outs.
    """
    for _ in range(TIMES):
        if task.done():
            return
        task.cancel()
        await asyncio.wait([task], timeout=AGAIN_S)
