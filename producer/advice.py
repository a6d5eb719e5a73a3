"""The adviser for whoever has the catalogue: a model's profile, and an advice as plain data."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from celeriac import errors
from celeriac.advisor.advice import Advice
from celeriac.advisor.requirement import Profile
from celeriac.registry.catalogue import VersionInfo


def profile_of(model: str, version: VersionInfo, max_batch_items: int) -> Profile:
    """What a version was measured to cost on its own device.

    ``max_batch_items`` is the largest batch where the version says nothing. Raises RequestError if
    it was never measured.
    """
    for one in version.profile:
        if one.device == version.device:
            return Profile(
                fixed_s=one.fixed_s, item_s=one.item_s, measured_on=one.machine,
                max_batch_size=version.serving.max_batch_size or max_batch_items,
            )
    raise errors.RequestError(
        f"{model}@{version.version} was never measured: run `celeriac optimize {model}` and "
        "promote what it registers, or ask without a model"
    )


def cores_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_data(
    advice: Advice, profile: Profile | None, core_hour_cost: float | None
) -> dict[str, Any]:
    """An advice as JSON has it. ``core_hour_cost``, in any currency, adds a cost per million."""
    ways = {name: getattr(advice, name) for name in ("real_time", "mini_batch", "batch")}
    shown = {name: _way(way, core_hour_cost) for name, way in ways.items() if way is not None}
    return {
        "recommendation": advice.headline, "choices": list(advice.choices),
        "reasons": list(advice.reasons), "missing": list(advice.missing),
        "can_be_met": advice.can_be_met, "measured_on": profile.measured_on if profile else None,
        "ways": shown,
    }


def _way(way: Any, core_hour_cost: float | None) -> dict[str, Any]:
    fields = asdict(way)
    fields.update(fields.pop("waits", {}))
    cost = None if core_hour_cost is None else core_hour_cost * way.core_hours_per_million
    shown = {key: _rounded(value) for key, value in fields.items()}
    return {**shown, "cost_per_million": _rounded(cost)}


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
