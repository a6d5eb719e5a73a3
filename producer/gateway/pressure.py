"""Too many requests for a model: those that come last are refused, before their body is read.

A queue makes no model faster. Once the answers of a tenth of a second have waited longer than
``[gateway] max_wait_s`` on average, or than two batches take, the model has more than it can do;
then only as many requests are let in as are answered within half of that, by the best measured rate
of the last second. So the accepted ones are about as fast as at the limit of the load, and the
others hear it at once. It ends when nobody is refused any more and hardly any answer waits.

What a request waited is all of its time here but that of its batch: in this process, in the queue,
and on the way. Whichever is the bottleneck, more requests inside would only wait longer. The best
rate counts, and not the last, because a rate falls with what is let in: to follow it down would let
in ever less.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from celeriac import errors

WINDOW_S = 0.1
WINDOWS = 10
"""So many windows' rates are remembered."""
BATCHES = 2
"""A wait of so many batches is no sign of too many requests, however long it is."""
CALM = 0.25
"""It ends when answers wait no longer than this share of the bound."""
STALE_S = 10.0
"""So long a model counts as busy without an answer that says so. Lists' answers do not count."""
ROOM = 64
"""So many requests for a model are always let in: a stall of the process refuses nobody."""
MAX_PATHS = 16
"""Paths that are known to lead to a model, at most: others are refused by their handler."""


class Gate:
    """The requests for one model that have no answer yet, and what the answered ones waited."""

    __slots__ = (
        "_began_s", "_compute_s", "_count", "_max_wait_s", "_rates_per_s", "_refused", "_room",
        "_wait_s", "coming", "inside", "is_shut", "looks", "model", "paths",
    )  # fmt: skip

    def __init__(self, model: str, max_wait_s: float, now_s: float) -> None:
        self.model = model
        self.paths: list[bytes] = []
        """By which its requests came."""
        self.inside = 0
        self.coming = 0
        """Let in, but not yet counted as inside."""
        self.is_shut = False
        self.looks = 0
        """How often what :meth:`refusal` says may have changed."""
        self._max_wait_s = max_wait_s
        self._room = ROOM
        self._rates_per_s: deque[float] = deque(maxlen=WINDOWS)
        self._begin(now_s)

    def refuses(self, now_s: float) -> bool:
        """True if the next request is to be refused; then it counts as such."""
        if not self.is_shut:
            return False
        if now_s - self._began_s > STALE_S:
            self.is_shut = False
            self._begin(now_s)
            return False
        if self.inside + self.coming < self._room:
            return False
        self._refused += 1
        return True

    @property
    def rate_per_s(self) -> float:
        """How many it can answer: the best of the last second."""
        return max(self._rates_per_s, default=0.0)

    def refusal(self) -> errors.Overloaded:
        """What the next request is told: to come when those inside will have been answered."""
        return errors.Overloaded(
            f"{self._room:,} requests for model {self.model!r} are under way, as many as it "
            "answers in time ([gateway] max_wait_s)",
            self._retry_after_s,
        )

    def refusal_of_a_stranger(self) -> errors.Overloaded:
        """The same for those whose key nobody has looked at: no name, no number."""
        return errors.Overloaded(
            "as many requests are under way here as are answered in time ([gateway] max_wait_s)",
            self._retry_after_s,
        )

    @property
    def _retry_after_s(self) -> float:
        rate_per_s = self.rate_per_s
        return self._room / rate_per_s if rate_per_s else WINDOW_S

    def answered(self, seconds: float, compute_s: float, now_s: float) -> None:
        """A request was answered after ``seconds``, of which its batch took ``compute_s``."""
        self._count += 1
        self._wait_s += max(0.0, seconds - compute_s)
        self._compute_s += compute_s
        if now_s - self._began_s >= WINDOW_S:
            self._look(now_s)
            self._begin(now_s)

    def _look(self, now_s: float) -> None:
        self._rates_per_s.append(self._count / (now_s - self._began_s))
        wait_s, compute_s = self._wait_s / self._count, self._compute_s / self._count
        bound_s = max(self._max_wait_s, BATCHES * compute_s)
        if wait_s > bound_s:
            self.is_shut = True
        elif wait_s < CALM * bound_s and not self._refused:
            self.is_shut = False
        self._room = max(ROOM, int(self.rate_per_s * (bound_s / 2 + compute_s)))
        self.looks += 1

    def _begin(self, now_s: float) -> None:
        self._began_s = now_s
        self._count = self._refused = 0
        self._wait_s = self._compute_s = 0.0


class Way(NamedTuple):
    """Where the requests of a path go."""

    gate: Gate
    route: str
    """Template of the path."""


class Pressure:
    """The gates of one gateway: one for each model that somebody waits for."""

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._gates: dict[str, Gate] = {}
        self._ways: dict[bytes, Way] = {}

    def check(self, model: str, now_s: float) -> None:
        """Raises Overloaded if a request for ``model`` is one too many."""
        gate = self._gates.get(model)
        if gate is not None and gate.refuses(now_s):
            raise gate.refusal()

    def shut_way(self, path: bytes) -> Way | None:
        """Where a request of ``path`` would go, if not everybody is let in there."""
        way = self._ways.get(path)
        return way if way is not None and way.gate.is_shut else None

    def enter(self, model: str, now_s: float, path: bytes = b"", route: str = "") -> Gate:
        """Count a request in. Its :meth:`leave` must follow. Raises Overloaded.

        ``path`` (as it came) is where more requests of the kind are to be expected.
        """
        self.check(model, now_s)
        gate = self._gates.get(model)
        if gate is None:
            gate = self._gates[model] = Gate(model, self._max_wait_s, now_s)
        gate.inside += 1
        if path and path not in self._ways and len(gate.paths) < MAX_PATHS:
            self._ways[path] = Way(gate, route)
            gate.paths.append(path)
        return gate

    def leave(self, gate: Gate) -> None:
        """Count a request out.

        A model that nobody waits for is forgotten, unless it has too much to do: many answers come
        together, and then it may seem for a moment as if nobody waited.
        """
        gate.inside -= 1
        if not gate.inside and not gate.is_shut:
            del self._gates[gate.model]
            for path in gate.paths:
                del self._ways[path]
