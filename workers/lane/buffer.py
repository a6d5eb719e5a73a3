"""What the lane has popped and not answered yet: about one batch for each model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from celeriac.batching.policy import Cut
from workers.lane.messages import Received

Target = tuple[str, int]
"""A model's name and version."""


class Buffer:
    """Envelopes by version, in the order in which they came."""

    def __init__(self) -> None:
        self.lines: dict[Target, deque[Received]] = {}
        self._keys: set[tuple[str, str]] = set()
        self._items: dict[str, int] = {}  # bounded by the models
        self._suspects = 0
        self._earliest_ms = float("inf")

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._keys

    def items(self, model: str) -> int:
        """Items of a model that wait here."""
        return self._items.get(model, 0)

    def add(self, target: Target, received: Received) -> None:
        """Put an envelope at the end of its version's line."""
        line = self.lines.get(target)
        if line is None:
            line = self.lines[target] = deque()
        line.append(received)
        self._keys.add(received.key)
        self._suspects += received.losses > 0
        self._items[target[0]] = self.items(target[0]) + received.count
        self._earliest_ms = min(self._earliest_ms, received.deadline_ms)

    def take(self, target: Target, cut: Cut) -> list[Received]:
        """Take a batch from the front of a line; what has cost a process its GPU goes alone."""
        line = self.lines[target]
        number = self._before_suspect(line, cut.messages) if self._suspects else cut.messages
        taken = [line.popleft() for _ in range(number)]
        self._forget(target, taken)
        return taken

    def take_all(self, target: Target) -> list[Received]:
        """Take a whole line."""
        line = self.lines[target]
        taken = list(line)
        line.clear()
        self._forget(target, taken)
        return taken

    def drop_expired(self, now_ms: float) -> int:
        """Drop what nobody waits for any more; returns the number of its items."""
        if now_ms <= self._earliest_ms:
            return 0
        dropped = 0
        self._earliest_ms = float("inf")
        for target, line in list(self.lines.items()):
            late = [one for one in line if one.deadline_ms < now_ms]
            if late:
                kept = [one for one in line if one.deadline_ms >= now_ms]
                line.clear()
                line.extend(kept)
                self._forget(target, late)
                dropped += sum(one.count for one in late)
            self._earliest_ms = min(
                self._earliest_ms, min((one.deadline_ms for one in line), default=float("inf"))
            )
        return dropped

    def empty(self) -> Iterator[tuple[str, list[Received]]]:
        """Take everything out, model by model, oldest first."""
        by_model: dict[str, list[Received]] = {}
        for (model, _), line in self.lines.items():
            by_model.setdefault(model, []).extend(line)
        self.lines.clear()
        self._keys.clear()
        self._items.clear()
        self._suspects = 0
        self._earliest_ms = float("inf")
        for model, received in by_model.items():
            yield model, sorted(received, key=lambda one: one.arrived_ms)

    def _before_suspect(self, line: deque[Received], most: int) -> int:
        if line[0].losses:
            return 1
        ahead = enumerate(islice(line, most))
        return next((number for number, one in ahead if one.losses), most)

    def _forget(self, target: Target, taken: list[Received]) -> None:
        model = target[0]
        self._items[model] -= sum(one.count for one in taken)
        self._keys.difference_update(one.key for one in taken)
        if self._suspects:
            self._suspects -= sum(one.losses > 0 for one in taken)
        if not self.lines[target]:
            del self.lines[target]
        if not self._keys:
            self._earliest_ms = float("inf")
