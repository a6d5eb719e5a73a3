"""The lease of the submissions that this process runs, renewed by a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

import redis

from celeriac.logs import get_logger

log = get_logger(__name__)

_LONGEST_EXCHANGE_S = 30.0


class SubmissionLease:
    """Renews while the block runs, at most ``longest_s``; then the lease lapses.

    A forward pass that hangs is the watchdog's matter: it ends the process.
    """

    def __init__(
        self, renew: Callable[[], object], *, lease_s: float, longest_s: float
    ) -> None:
        self._renew = renew
        self._pause_s = lease_s / 4
        self._longest_s = longest_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="submissions", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(_LONGEST_EXCHANGE_S)

    def _keep(self) -> None:
        end_s = time.monotonic() + self._longest_s
        while not self._ended.wait(self._pause_s) and time.monotonic() < end_s:
            try:
                self._renew()
            except redis.RedisError as error:  # nobody else can claim meanwhile
                log.warning("lease not renewed", reason=str(error))
