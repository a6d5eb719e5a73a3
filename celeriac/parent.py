"""The end of a process with that of the one that started it."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(signum: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the thread that started it ends.

    Only on Linux; elsewhere nothing happens. A parent that had ended before is not noticed.
    """
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signum)):
        raise OSError("prctl cannot set the signal of a parent's end")
