"""Waiting for what can be seen, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAIT_S = 60.0
"""Only a test that fails waits for so long."""


def wait_until(
    condition: Callable[[], T], told: str | Callable[[], object] = "waited too long", *,
    timeout_s: float = WAIT_S, pause_s: float = 0.02,
) -> T:
    """The first true answer of ``condition``. If none comes in time the test fails with what
    ``told`` says then."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, told() if callable(told) else told
        time.sleep(pause_s)
    return found
