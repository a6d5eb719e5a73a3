"""What one client has done in this process, in plain numbers."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ClientStatistics:
    """What a client has done in this process since it was made. Single items only.

    Items whose callers gave them up (a cancelled coroutine, a closed client) are in ``items_sent``
    at most.
    """

    items_sent: int = 0
    """Items that were published; a re-send does not count again."""
    envelopes_sent: int = 0
    """Messages that they were published in."""
    envelopes_resent: int = 0
    """Messages that were published a second time, because their work seemed to be lost."""
    envelopes_withdrawn: int = 0
    """Messages that were taken out of their queue, because nobody waited for them any more."""
    answered: int = 0
    """Items that a worker answered."""
    failed: dict[str, int] = field(default_factory=dict)
    """Items that failed, by error code, whoever found it; but for ``expired`` and ``refused``."""
    expired: int = 0
    """Items that had no answer at their deadline; those that were never published included."""
    refused: int = 0
    """Items that were refused here, because too much waited already; they were never published."""
    cache_hits: int = 0
    cache_misses: int = 0
    cache_errors: int = 0
    """Lookups that failed; the items were computed."""
    shared: int = 0
    """Items that shared the work of an equal item that was under way."""
    open_items: int = 0
    """Items that have no answer yet."""


class Counts:
    """Counts for :class:`ClientStatistics`, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def add(self, name: str, number: int = 1) -> None:
        """Count ``number`` more of a field of :class:`ClientStatistics`."""
        with self._lock:
            self._counts[name] += number

    def failed(self, code: str, number: int = 1) -> None:
        """Count items that failed with an error of this code."""
        with self._lock:
            self._failed[code] += number

    def read(self, open_items: int) -> ClientStatistics:
        """All of them now; ``open_items`` have no outcome yet."""
        with self._lock:
            return ClientStatistics(
                **self._counts, failed=dict(self._failed), open_items=open_items
            )
