"""An entry of the beat schedule, as the maintenance role takes all of them."""

from __future__ import annotations

from typing import Any

from celeriac.messages import MAINTENANCE_QUEUE


def every(seconds: float, task: str, **kwargs: Any) -> dict[str, Any]:
    """``task``, sent so often. It expires before the next one: a worker that was stopped does not
    find a heap of them."""
    options = {"queue": MAINTENANCE_QUEUE, "expires": seconds, "ignore_result": True}
    entry = {"task": task, "schedule": seconds, "options": options}
    return entry | {"kwargs": kwargs} if kwargs else entry
