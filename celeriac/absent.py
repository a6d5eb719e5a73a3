"""Libraries that other libraries load for what nobody here asks of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """In the block, what is imported takes these for not installed, unless they are loaded already.

    Only for a library that does without them, and for processes that are ours alone: what was
    imported does without them for good. Another thread that imports one in the block cannot.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None: "not installed"
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
