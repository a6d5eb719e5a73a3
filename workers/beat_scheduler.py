"""Celery's scheduler of beat, on a machine whose clock may be set back.

Celery keeps when each entry was sent last, also on disk, and counts its interval from then. After a
clock was ahead for two hours and is right again, it would send nothing for two hours: no night, no
look for lost work.
"""

from __future__ import annotations

from typing import Any

from celery.beat import PersistentScheduler

from celeriac.logs import get_logger
from workers.beat_presence import BeatPresence

log = get_logger(__name__)

_TOLD_S = 1.0
"""A clock that was set back by less is not worth a line in the log."""


class Scheduler(PersistentScheduler):  # type: ignore[misc]
    """Counts from now what was sent at a time that has not come yet.

    ``presence`` says that beat is there; None where nobody has given one.
    """

    presence: BeatPresence | None = None

    def tick(self, *args: Any, **options: Any) -> Any:
        """Send what is due; returns the seconds to the next look."""
        ahead_s = 0.0
        for entry in self.schedule.values():
            now = entry.default_now()
            if entry.last_run_at > now:
                ahead_s = max(ahead_s, (entry.last_run_at - now).total_seconds())
                entry.last_run_at = now
        if ahead_s:
            self._heap = None  # its times are those of the other clock
        if ahead_s > _TOLD_S:
            log.warning("the clock was set back; beat goes on", by_s=round(ahead_s, 1))
        if self.presence is not None:
            self.presence.say()
        return super().tick(*args, **options)

    def close(self) -> None:
        """Leave; what was sent when is kept."""
        if self.presence is not None:
            self.presence.leave()
        super().close()
