"""The end of a task that runs as long as the gateway."""

from __future__ import annotations

import asyncio

AGAIN_S = 0.1


async def end(task: asyncio.Task[None]) -> None:
    """Cancel ``task`` until it has ended.

    Once is not enough: a client library may take the cancellation for one of its own time-outs.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=AGAIN_S)
