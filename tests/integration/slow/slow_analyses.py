"""Imported by a worker under test (``-I slow_analyses``): each analysis takes a while."""

from __future__ import annotations

import time
from typing import Any

from tasks import sensors

SECONDS = 0.02
_analysis_of = sensors.analysis_of


def _slowly(batch: Any) -> Any:
    time.sleep(SECONDS)
    return _analysis_of(batch)


sensors.analysis_of = _slowly
