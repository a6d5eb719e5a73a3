"""Imported by a worker under test (``-I slow_tasks``): a task that tells when it runs."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from celery import shared_task

SECONDS = 4.0


@shared_task(name="test.slow", ignore_result=True)
def slow(folder: str) -> None:
    """Leave a file at the start of each run, ``ended`` at its end."""
    handle, _ = tempfile.mkstemp(prefix="run-", dir=folder)
    os.close(handle)
    time.sleep(SECONDS)
    (Path(folder) / "ended").touch()
