"""What a forked child must do before it uses what its parent made.

A child inherits sockets that its parent still talks on, locks that a thread of the parent may
hold, and no thread but its own. So each object with such things says how it starts afresh.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol


class Forkable(Protocol):
    def after_fork(self) -> None:
        """Start afresh; runs in the child, which has one thread only. Waits for nothing."""
        ...


_watched: weakref.WeakSet[Any] = weakref.WeakSet()
_abandoned: list[Any] = []


def watch(thing: Forkable) -> None:
    """Have ``thing.after_fork()`` called in every forked child, as long as ``thing`` lives."""
    _watched.add(thing)


def abandon(*things: Any) -> None:
    """Keep what belongs to the parent without ever using it: no destructor runs on it here."""
    _abandoned.extend(thing for thing in things if thing is not None)


def _in_child() -> None:
    for thing in list(_watched):
        thing.after_fork()


os.register_at_fork(after_in_child=_in_child)
