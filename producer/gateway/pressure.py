"""Too many requests for a model: those that come last are refused, before their body is read.

A queue makes no model faster. Once the answers of a tenth of a second have waited longer than
``[gateway] max_wait_s`` on average, or than two batches take, the model has more than it can do;
then only as many requests are let in as it answers within half of that, by the measured rate. So
the accepted ones are about as fast as at the limit of the load, and the others hear it at once. It
ends when hardly any answer waits.

What a request waited is the time in the model's queue, as the worker says it. The way through this
process does not count: where the gateway itself is the bottleneck, the model has no queue, and to
let in less would only leave its workers idle.
"""

from __future__ import annotations

from celeriac import errors

WINDOW_S = 0.1
BATCHES = 2
"""A wait of so many batches is no sign of too many requests, however long it is."""
CALM = 0.25
"""It ends when answers wait no longer than this share of the bound."""
ROOM = 64
"""So many requests for a model are always let in: a stall of the process refuses nobody."""


class Gate:
    """The requests for one model that have no answer yet, and what the answered ones waited."""

    __slots__ = (
        "_began_s", "_compute_s", "_count", "_max_wait_s", "_rate_per_s", "_room", "_wait_s",
        "inside", "is_shut",
    )  # fmt: skip

    def __init__(self, max_wait_s: float, now_s: float) -> None:
        self._max_wait_s = max_wait_s
        self.inside = 0
        self.is_shut = False
        self._room = ROOM
        self._rate_per_s = 0.0
        self._begin(now_s)

    @property
    def is_full(self) -> bool:
        """True if the next request is to be refused."""
        return self.is_shut and self.inside >= self._room

    @property
    def retry_after_s(self) -> float:
        """When those that are inside will have been answered."""
        return self.inside / self._rate_per_s if self._rate_per_s else WINDOW_S

    def answered(self, wait_s: float, compute_s: float, now_s: float) -> None:
        """A request waited ``wait_s`` for a batch that took ``compute_s``."""
        self._count += 1
        self._wait_s += wait_s
        self._compute_s += compute_s
        if now_s - self._began_s >= WINDOW_S:
            self._look(now_s)
            self._begin(now_s)

    def _look(self, now_s: float) -> None:
        rate_per_s = self._count / (now_s - self._began_s)
        # Half a window's stall says little of what the model can do.
        self._rate_per_s = max(rate_per_s, (self._rate_per_s + rate_per_s) / 2)
        wait_s, compute_s = self._wait_s / self._count, self._compute_s / self._count
        bound_s = max(self._max_wait_s, BATCHES * compute_s)
        if wait_s > bound_s:
            self.is_shut = True
        elif wait_s < CALM * bound_s:
            self.is_shut = False
        self._room = max(ROOM, int(self._rate_per_s * (bound_s / 2 + compute_s)))

    def _begin(self, now_s: float) -> None:
        self._began_s = now_s
        self._count = 0
        self._wait_s = self._compute_s = 0.0


class Pressure:
    """The gates of one gateway: one for each model that somebody waits for."""

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._gates: dict[str, Gate] = {}

    def check(self, model: str) -> None:
        """Raises Overloaded if a request for ``model`` is one too many."""
        gate = self._gates.get(model)
        if gate is not None and gate.is_full:
            raise errors.Overloaded(
                f"{gate.inside:,} requests for model {model!r} are under way, as many as it "
                "answers in time ([gateway] max_wait_s)", gate.retry_after_s,
            )

    def enter(self, model: str, now_s: float) -> Gate:
        """Count a request in. Its :meth:`leave` must follow. Raises Overloaded."""
        self.check(model)
        gate = self._gates.get(model)
        if gate is None:
            gate = self._gates[model] = Gate(self._max_wait_s, now_s)
        gate.inside += 1
        return gate

    def leave(self, model: str, gate: Gate) -> None:
        """Count a request out. A model that nobody waits for is forgotten."""
        gate.inside -= 1
        if not gate.inside:
            del self._gates[model]
