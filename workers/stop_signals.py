"""The signals that stop a program which supervises others."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


class Stop(BaseException):
    """The first signal to stop; leaves whatever the main thread waits in."""


class StopSignals:
    """The first signal drains; Ctrl-C after that kills what is left. For the main thread."""

    def __init__(self, hurry: Callable[[], None]) -> None:
        self.stopping = False
        self._hurry = hurry
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup asks for it
                signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if not self.stopping:
            self.stopping = True
            raise Stop
        if signum == signal.SIGINT:
            self._hurry()
