"""The forward passes and loads under way in this process, for whoever watches them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Work of one thread inside a model library."""

    model: str
    version: int
    items: int
    """0: the version is being loaded."""
    started_s: float
    """``time.monotonic()``."""


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
        model=model, version=version, items=items, started_s=time.monotonic()
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


def all_under_way() -> list[Pass]:
    """A copy, safe to look at while others begin and end."""
    return list(_under_way.values())
