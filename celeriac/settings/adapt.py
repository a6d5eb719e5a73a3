"""``[drift.adapt.MODEL]``: what is done about drift, besides telling it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from celeriac.messages import DEVICES, MAINTENANCE_QUEUE, batch_queue, predict_queue
from celeriac.settings.section import Section

_OURS = {MAINTENANCE_QUEUE, *map(predict_queue, DEVICES), *map(batch_queue, DEVICES)}


class AdaptSettings(Section):
    """``[drift.adapt.MODEL]``: a task of yours makes a challenger, and it has to be better."""

    retrain: Annotated[str, Field(min_length=1, max_length=200)]
    """Name of the Celery task that registers a challenger."""
    queue: Annotated[str, Field(min_length=1, max_length=200)]
    """Where a worker of yours, which has that task, takes it from."""
    labelled: Annotated[str, Field(min_length=1)]
    """Dataset with the truth (a path or a pattern), the newest rows last."""
    label: Annotated[str, Field(min_length=1)]
    """Its column with the truth."""
    text_column: str | None = None
    on: tuple[Literal["data_drift", "concept_drift"], ...] = ("data_drift", "concept_drift")
    """What calls for a challenger. Broken data never do."""
    held_out_rows: Annotated[int, Field(ge=50, le=1_000_000)] = 2_000
    """The newest labelled rows, on which champion and challenger are compared."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.01
    """So much better must the challenger be: of AUC or accuracy; of a mean absolute error, as a
    share of the champion's."""
    approval: Literal["person", "none"] = "person"
    """Who lets a challenger that is better become the champion."""
    retrain_timeout_s: Annotated[float, Field(ge=1, le=604_800)] = 3_600.0
    """From sending the task to its challenger."""
    judge_timeout_s: Annotated[float, Field(ge=1, le=3_600)] = 300.0
    """Of loading both versions and answering the held-out rows."""
    approve_within_s: Annotated[float, Field(ge=1, le=31_536_000)] = 604_800.0
    """Afterwards a challenger that nobody has approved is dropped."""
    watch_s: Annotated[float, Field(ge=1, le=31_536_000)] = 86_400.0
    """So long after its promotion a version that does worse is rolled back."""
    watch_labels: Annotated[int, Field(ge=20, le=1_000_000)] = 300
    """With fewer labels from feedback nothing is said of how it does."""
    cooldown_s: Annotated[float, Field(ge=0, le=31_536_000)] = 86_400.0
    """From the end of one adaptation to the beginning of the next."""

    @field_validator("on", mode="before")
    @classmethod
    def _never_on_broken_data(cls, kinds: object) -> object:
        if isinstance(kinds, (list, tuple)) and "data_quality" in kinds:
            raise ValueError("no version is trained on broken data: leave data_quality out")
        return kinds

    @field_validator("queue")
    @classmethod
    def _a_queue_of_theirs(cls, queue: str) -> str:
        if queue in _OURS or queue.startswith("realtime."):
            raise ValueError(
                "is a queue of Celeriac's own workers, which do not have your task; give your "
                "training worker a queue of its own, as training"
            )
        return queue
