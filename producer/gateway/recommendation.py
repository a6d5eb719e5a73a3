"""Batch, mini-batch or real time? The adviser over HTTP."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from celeriac.advisor.advice import Choice
from celeriac.advisor.requirement import Requirement
from producer.advice import advise_for, as_data
from producer.gateway.cold import contexts

router = APIRouter(prefix="/v1/recommendation", tags=["models"])

_adviser = ThreadPoolExecutor(1, "adviser")
"""An advice is some ten milliseconds of pure Python. One at a time shares the interpreter with the
event loop; many at once would leave it little."""


class Recommendation(BaseModel):
    """What to do, and why."""

    recommendation: str
    choices: list[Choice]
    """The best first; several where what is known does not decide."""
    reasons: list[str]
    missing: list[str]
    """What would decide."""
    can_be_met: bool | None
    """Null without a model."""
    measured_on: str | None
    ways: dict[str, dict[str, Any]]
    """Figures of each way, with a model."""


@router.get("", summary="Real time, mini-batch or batch? With figures for a measured model")
async def recommend(  # noqa: PLR0913, PLR0917 - the parameters of the query
    request: Request,
    latency_ms: Annotated[float, Query(gt=0, le=2_592_000_000, examples=[50])],
    volume: Annotated[int, Query(ge=1, le=10**12, description="Items a day", examples=[10_000])],
    update_frequency: Literal["continuous", "hourly", "daily"],
    model: Annotated[str | None, Query(max_length=200)] = None,
    peak_per_s: Annotated[float | None, Query(gt=0, le=1e9)] = None,
    cores: Annotated[int | None, Query(ge=1, le=100_000)] = None,
    core_hour_cost: Annotated[float | None, Query(ge=0, le=1e9)] = None,
) -> Recommendation:
    wanted = Requirement(
        latency_ms=latency_ms, volume=volume, update_frequency=update_frequency,
        peak_per_s=peak_per_s,
    )
    gateway, context = contexts(request)
    catalogue = await gateway.client.catalogue(context.left_s()) if model else None
    advice, profile = await asyncio.get_running_loop().run_in_executor(
        _adviser, advise_for, wanted, catalogue, model, gateway.settings, cores
    )
    return Recommendation.model_validate(as_data(advice, profile, core_hour_cost))
