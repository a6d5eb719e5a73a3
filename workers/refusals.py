"""What a worker knows of a Redis that refuses writes: told once, and asked again until it is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from celeriac.logs import get_logger
from celeriac.refused_writes import is_refused_write

log = get_logger(__name__)

AGAIN_S = 0.5
"""Between two attempts."""


class Refusals:
    """Of one process. ``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s: float | None = None
        self._again_s = 0.0
        self.last_s = float("-inf")
        """By the clock, when Redis last refused something."""

    @property
    def now(self) -> bool:
        """True while Redis refuses writes, as far as is known."""
        return self._since_s is not None

    @property
    def is_due(self) -> bool:
        """True if it is time to try again."""
        return self._clock() >= self._again_s

    @property
    def ago_s(self) -> float:
        """Since the last refusal; infinite if there was none."""
        return self._clock() - self.last_s

    def note(self, error: BaseException) -> None:
        """Redis has refused a write. Raises ``error`` if it says anything else."""
        if not is_refused_write(error):
            raise error
        self.last_s = self._clock()
        self._again_s = self.last_s + AGAIN_S
        if self._since_s is None:
            self._since_s = self.last_s
            log.error(
                "redis refuses writes; this worker takes no messages, keeps what it has, and goes "
                "on when redis accepts writes again",
                reason=str(error).rpartition("pipeline caused error: ")[2],
            )

    def over(self) -> None:
        """Redis has accepted a write."""
        if self._since_s is not None:
            refused_s = round(self._clock() - self._since_s, 1)
            self._since_s = None
            log.warning("redis accepts writes again", refused_s=refused_s)


REFUSALS = Refusals()
"""Of this process."""
