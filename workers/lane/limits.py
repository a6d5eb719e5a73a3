"""How versions are served: limits from the catalogue, costs from what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from celeriac.batching.cost import CostLine
from celeriac.host import ModelHost
from celeriac.messages import MAX_ENVELOPE_ITEMS
from celeriac.registry.catalogue import Catalogue
from celeriac.registry.profiles import fitting, this_machine
from workers.lane.buffer import Target

FIXED_SHARE = 0.25
"""A batch is large enough when its fixed cost is at most this share of its time: a smaller one
leaves callers something to do while the next one runs."""
FIXED_SHARE_BACKLOG = 0.05
"""The same while so much waits that only throughput counts."""
SHORT_S = 0.02
"""While other models are in use a batch takes no longer than this, unless its fixed cost asks for
more: their items wait for it."""


@dataclass(slots=True)
class Limits:
    """One version's."""

    cap: int
    """Items of one forward pass, at most."""
    max_wait_ms: float
    cost: CostLine

    def useful_items(self, waiting_items: float, *, is_shared: bool) -> int:
        """Items of one batch, at most, while ``waiting_items`` more wait behind it.

        ``is_shared``: other models are in use in this worker.
        """
        useful = self._useful(FIXED_SHARE)
        if waiting_items > 2 * useful:
            useful = self._useful(FIXED_SHARE_BACKLOG)
        if is_shared and self.cost.known:
            short = max(self.cost.largest(SHORT_S), self.cost.useful(FIXED_SHARE))
            useful = max(1, min(useful, short))
        return useful

    def _useful(self, share: float) -> int:
        if not self.cost.known:
            return self.cap
        return min(self.cap, max(MAX_ENVELOPE_ITEMS, self.cost.useful(share)))


class AllLimits:
    """Limits by version; read again when the host has refreshed. Bounded by the catalogue."""

    def __init__(self, host: ModelHost, max_items: int) -> None:
        self._host = host
        self._max_items = max_items
        self._catalogue: Catalogue | None = None
        self._limits: dict[Target, Limits] = {}

    def of(self, target: Target) -> Limits:
        """The limits of a version."""
        if self._host.catalogue is not self._catalogue:
            self._follow(self._host.catalogue)
        found = self._limits.get(target)
        if found is None:
            found = self._limits[target] = self._read(target, self._guess(target))
        return found

    def _follow(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        known = {
            target: limits for target, limits in self._limits.items()
            if target[0] in catalogue.models and target[1] in catalogue.models[target[0]].versions
        }
        self._limits = {target: self._read(target, old.cost) for target, old in known.items()}

    def _guess(self, target: Target) -> CostLine:
        """What a version's own profile says of its cost, until batches have run here."""
        name, version = target
        model = self._host.catalogue.models.get(name)
        info = model.versions.get(version) if model else None
        found = info and fitting(
            info.profile, device=self._host.device, threads=self._host.threads,
            machine=this_machine(),
        )
        return CostLine.of(found.fixed_s, found.item_s) if found else CostLine()

    def _read(self, target: Target, cost: CostLine) -> Limits:
        name, version = target
        model = self._host.catalogue.models.get(name)
        info = model.versions.get(version) if model else None
        if info is None:  # registered since the last refresh
            return Limits(self._max_items, 0.0, cost)
        cap = info.serving.max_batch_size or self._max_items
        return Limits(cap, info.serving.max_wait_ms, cost)
