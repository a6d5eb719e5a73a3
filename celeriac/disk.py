"""What outlasts a power cut, and a disk that is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """True if what could not be written lacked room."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in FULL


def sync(path: Path) -> None:
    """Have what was written to a file, or the names in a folder, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
