"""The adviser for whoever has the catalogue, and an advice as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from celeriac import errors
from celeriac.advisor.advice import Advice, advise
from celeriac.advisor.requirement import Requirement
from celeriac.messages import ModelRef
from celeriac.registry.catalogue import Catalogue
from celeriac.registry.manifest import Profile
from celeriac.registry.profiles import fitting, this_machine, usable_cores
from celeriac.settings import Settings


def advise_for(
    wanted: Requirement, catalogue: Catalogue | None, model: str | None, settings: Settings,
    cores: int | None,
) -> tuple[Advice, Profile | None]:
    """Advice for ``model`` (NAME, NAME@VERSION or NAME@ALIAS), or for any, and what it rests on.

    ``cores`` are this machine's if None. Raises ModelNotFound, VersionNotFound, and RequestError if
    the version was never measured.
    """
    cores = cores or usable_cores()
    if model is None or catalogue is None:
        return advise(wanted, cores=cores), None
    ref = ModelRef.parse(model)
    version = catalogue.resolve(ref)
    profile = fitting(
        version.profile, device=version.device, threads=1, machine=this_machine()
    )
    if profile is None:
        raise errors.RequestError(
            f"{ref.name}@{version.version} was never measured: run `celeriac optimize {ref.name} "
            "--profile` and promote what it registers, or ask without a model"
        )
    most = version.serving.max_batch_size or settings.realtime.max_batch_items
    return advise(wanted, profile, max_batch_size=most, cores=cores), profile


def as_data(
    advice: Advice, profile: Profile | None, core_hour_cost: float | None
) -> dict[str, Any]:
    """An advice as JSON has it. ``core_hour_cost``, in any currency, adds a cost per million."""
    ways = {name: getattr(advice, name) for name in ("real_time", "mini_batch", "batch")}
    shown = {name: _way(way, core_hour_cost) for name, way in ways.items() if way is not None}
    return {
        "recommendation": advice.headline, "choices": list(advice.choices),
        "reasons": list(advice.reasons), "missing": list(advice.missing),
        "can_be_met": advice.can_be_met, "measured_on": profile.machine if profile else None,
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
