"""A process that stays warm and does what its standard input says: a JSON line in, one out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def serve(work: Callable[..., dict[str, Any] | None]) -> None:
    """Call ``work(**command)`` for each line; answer with what it returns, and its seconds."""
    for line in sys.stdin:
        command = json.loads(line)
        began = time.perf_counter()
        result = work(**command)
        seconds = time.perf_counter() - began
        sys.stdout.write(json.dumps({"seconds": seconds, **(result or {})}) + "\n")
        sys.stdout.flush()
