"""The environment of a benchmark's processes."""

from __future__ import annotations

import os

from celeriac.settings import Settings
from workers.child_settings import environment

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def child_environment(settings: Settings) -> dict[str, str]:
    """Of a process that follows ``settings``, whatever ours say, and computes with one thread."""
    others = {k: v for k, v in os.environ.items() if not k.startswith("CELERIAC_")}
    return others | environment(settings) | ONE_THREAD
