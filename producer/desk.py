"""What a client knows and counts in one process, whatever becomes of its connections."""

from __future__ import annotations

from celeriac import errors
from celeriac.cache import open_cache
from celeriac.settings import Settings
from producer.calls import Call, OpenItems
from producer.lookups import Lookups
from producer.refusals import Refusals
from producer.statistics import ClientStatistics, Counts


class Desk:
    """Its open items, counts, paused queues and result cache."""

    def __init__(self, settings: Settings) -> None:
        self.counts = Counts()
        self.open_items = OpenItems()
        self.refusals = Refusals(settings.realtime.max_queue_items)
        self.lookups = Lookups(open_cache(settings), self.counts)

    def admit(self, calls: list[Call]) -> list[Call]:
        """The calls that may be sent now; the others are refused."""
        if not self.refusals.any:
            return calls
        queues: dict[str, list[Call]] = {}
        for call in calls:
            queues.setdefault(call.queue, []).append(call)
        admitted = []
        for queue, wanted in queues.items():
            number = self.refusals.admit(queue, len(wanted))
            admitted += wanted[:number]
            if number < len(wanted):
                self.refuse(wanted[number:], self.refusals.refusal(queue, wanted[0].model))
        return admitted

    def refuse(self, calls: list[Call], error: errors.Overloaded) -> None:
        """Settle calls with ``error``."""
        for call in calls:  # one for each: a traceback belongs to one caller
            call.settle(errors.Overloaded(error.message, error.retry_after_s))
        self.counts.add("refused", len(calls))

    def statistics(self) -> ClientStatistics:
        return self.counts.read(self.open_items.items)
