"""Memory that is free goes back to the system; the C library would keep it for the next model."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Collect what is in cycles, and have the C library return what is free."""
    gc.collect()
    trim()


def trim() -> None:
    """Have the C library return what is free."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # not glibc
        return
    malloc_trim(0)
