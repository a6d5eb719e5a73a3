"""Imported by a worker under test (``-I kernel_counts``): a count that a test can raise."""

from __future__ import annotations

import os
from pathlib import Path

from celeriac.jobs import memory

memory.VMSTAT = Path(os.environ["KERNEL_COUNTS"])
