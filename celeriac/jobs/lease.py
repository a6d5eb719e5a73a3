"""The lease of the chunk that this process runs, renewed by a thread of its own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

import redis

from celeriac.jobs.ledger import Answer
from celeriac.logs import get_logger

log = get_logger(__name__)

EXIT_GRACE_S = 10.0
"""After the longest run, how long the chunk may take to notice before its process ends."""
CANCEL_GRACE_S = 2.0
"""The same after its job was cancelled: a pass may take minutes, a caller expects seconds."""
EXIT_CODE = 70
_LONGEST_PAUSE_S = 1.0
"""Between two renewals, so that a cancellation is noticed within seconds."""


class ChunkLease:
    """Renews while the block runs, at most ``timeout_s``; then has the run stop, or ends it.

    The process of a run that does not stop, because its time is over (``is_over``) or its job has
    been cancelled, ends: ``on_hang`` is called first. Redis being away stops nothing: nobody else
    can claim the chunk meanwhile.
    """

    def __init__(
        self,
        renew: Callable[[], Answer],
        *,
        lease_s: float,
        timeout_s: float,
        on_hang: Callable[[], object] = lambda: None,
        exit: Callable[[int], object] = os._exit,
    ) -> None:
        self._renew, self._on_hang, self._exit = renew, on_hang, exit
        self._pause_s = min(lease_s / 4, _LONGEST_PAUSE_S)
        self._timeout_s = timeout_s
        self._stopped = threading.Event()
        self._ended = threading.Event()
        self._cancelled_s: float | None = None
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._heard_s = time.monotonic()
        self.answer = Answer.KEPT
        """The last answer of the ledger."""
        self.is_over = False
        """True once ``timeout_s`` has passed."""

    def __enter__(self) -> ChunkLease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()  # its thread ends by itself: what it may still ask changes nothing

    def is_stopped(self) -> bool:
        """True if the run should not go on."""
        return self._stopped.is_set()

    def is_held(self) -> bool:
        """Ask the ledger, unless it has just been heard: a short run has its lease from its claim.

        True as well if it cannot be asked: storage has its own fence.
        """
        if time.monotonic() - self._heard_s >= self._pause_s:
            self._ask()
        return not self._stopped.is_set()

    def _keep(self) -> None:
        end_s = time.monotonic() + self._timeout_s
        while not self._ended.wait(self._pause_s):
            if time.monotonic() < end_s:
                self._ask()
            else:
                self.is_over = True
                self._stopped.set()
            if time.monotonic() > self._exit_at_s(end_s) and not self._ended.is_set():
                why = f"longer than {self._timeout_s} s" if self.is_over else "cancelled"
                log.error("chunk hangs; its process ends", why=why)
                self._give_up()
                self._exit(EXIT_CODE)
                return

    def _exit_at_s(self, end_s: float) -> float:
        at_s = end_s + EXIT_GRACE_S
        return at_s if self._cancelled_s is None else min(self._cancelled_s + CANCEL_GRACE_S, at_s)

    def _give_up(self) -> None:
        try:
            self._on_hang()
        except redis.RedisError as error:  # its lease lapses by itself
            log.warning("chunk not given back", reason=str(error))

    def _ask(self) -> None:
        try:
            self.answer = self._renew()
        except redis.RedisError as error:
            log.warning("lease not renewed", reason=str(error))
            return
        self._heard_s = time.monotonic()
        if self.answer is Answer.CANCELLED and self._cancelled_s is None:
            self._cancelled_s = time.monotonic()
        if self.answer in (Answer.LOST, Answer.CANCELLED):
            self._stopped.set()  # UNKNOWN: Redis has forgotten the job; its folder has not
