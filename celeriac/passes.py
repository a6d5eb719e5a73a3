"""The forward passes and loads under way in this process, for whoever watches them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from celeriac import errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Work of one thread inside a model library."""

    model: str
    version: int
    items: int
    """0: the version is being loaded."""
    started_s: float
    """``time.monotonic()``."""
    thread: int
    """As the kernel numbers it (``threading.get_native_id()``)."""


_under_way: dict[int, Pass] = {}
"""By thread; one thread is in one model at a time."""


@contextmanager
def under_way(model: str, version: int, items: int) -> Iterator[None]:
    """Around a forward pass of ``items``, or around a load (0 items) with all that it does."""
    thread = threading.get_ident()
    if thread in _under_way:
        yield
        return
    _under_way[thread] = Pass(
        model=model, version=version, items=items, started_s=time.monotonic(),
        thread=threading.get_native_id(),
    )
    try:
        yield
    finally:
        del _under_way[thread]


def next_pass() -> None:
    """Another forward pass begins in what this thread does, with a time of its own.

    A batch that fails is taken apart in many of them. A load keeps its one time.
    """
    thread = threading.get_ident()
    current = _under_way.get(thread)
    if current is not None and current.items:
        _under_way[thread] = replace(current, started_s=time.monotonic())


_lose: Callable[[Pass | None, str], None] | None = None


def on_device_lost(handler: Callable[[Pass | None, str], None] | None) -> None:
    """Have ``handler`` called with the pass and the reason when this process loses its GPU.

    A worker's handler ends the process; without one, callers get DeviceLost.
    """
    global _lose
    _lose = handler


def device_lost(reason: str) -> errors.DeviceLost:
    """The GPU cannot be used by this process any more, since its context is broken."""
    if _lose is not None:
        _lose(_under_way.get(threading.get_ident()), reason)
    return errors.DeviceLost(f"this process has lost its GPU ({reason}); start another")


def all_under_way() -> list[Pass]:
    """A copy, safe to look at while others begin and end."""
    return list(_under_way.values())
