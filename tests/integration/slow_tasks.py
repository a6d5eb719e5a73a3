"""Imported by a worker under test (``-I slow_tasks``): a task that tells when it runs, and an end
that hangs."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from celery import shared_task, signals

SECONDS = 4.0
HANGS_VARIABLE = "SLOW_TASKS_HANG"
"""With this in its environment a worker never comes to its end."""


@shared_task(name="test.slow", ignore_result=True)
def slow(folder: str, seconds: float = SECONDS, ballast: str = "") -> None:
    """Leave a file at the start of each run, ``ended`` at its end."""
    handle, _ = tempfile.mkstemp(prefix="run-", dir=folder)
    os.close(handle)
    time.sleep(seconds)
    (Path(folder) / "ended").touch()


@signals.worker_shutdown.connect
def _hang(**_: Any) -> None:
    if HANGS_VARIABLE in os.environ:
        time.sleep(60)
