"""Between a batch job and a summary: what the job aggregates, and its reading afterwards."""

from __future__ import annotations

from typing import Any, TypeGuard

import msgspec

from celeriac import errors
from celeriac.applications.reviews import summary
from celeriac.applications.reviews.summary import Group, ReviewSummary
from celeriac.datasets.files import write_file
from celeriac.datasets.places import Place
from celeriac.datasets.records import Aggregation, Period
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.manifest import read_manifest

LABEL, PROBABILITY = "prediction", "probability"
"""Columns of the job's answers."""


def aggregation(
    product: str, date: str | None, period: Period, positive: Any
) -> Aggregation:
    """What a job must aggregate, so that its reviews can be summarised.

    Raises RequestError for columns that cannot be told from each other or from the answers.
    """
    for name in filter(None, (product, date)):
        if name in (LABEL, PROBABILITY):
            raise errors.RequestError(
                f"the dataset has a column {name!r}, as the answers have: give it another name"
            )
    if product == date:
        raise errors.RequestError(f"column {product!r} cannot be both the product and the date")
    return Aggregation(
        by=tuple(filter(None, (product, date, LABEL))), mean=(PROBABILITY,), std=(PROBABILITY,),
        share={LABEL: positive}, period={date: period} if date else {},
    )


def is_summary(wanted: Aggregation | None) -> TypeGuard[Aggregation]:
    """True of what :func:`aggregation` makes."""
    return wanted is not None and wanted.by[-1:] == (LABEL,) and wanted.std == (PROBABILITY,)


def read_summary(folder: JobFolder) -> ReviewSummary:
    """The summary of a finished job. Raises Conflict until it has finished, and RequestError if
    it was submitted for something else."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise errors.Conflict(
            f"{folder.path}: there is no summary until the job has finished; "
            "`celeriac batch status` says where it stands"
        )
    wanted = folder.load().scoring.aggregate
    if not is_summary(wanted):
        raise errors.RequestError(
            f"{folder.path}: holds a job that was not submitted for a summary of reviews "
            "(`celeriac reviews summarise`)"
        )
    product, *dates = wanted.by[:-1]
    groups = _groups(folder, wanted) if manifest.aggregates else []
    return ReviewSummary(
        job_id=manifest.job_id, model=manifest.model, version=manifest.version,
        positive=str(wanted.share[LABEL]), product_column=product,
        date_column=dates[0] if dates else None,
        period=wanted.period[dates[0]] if dates else "month",
        rows_failed=manifest.rows_failed, overall=summary.overall(groups),
        products=summary.products(groups),
    )


def write_summary(folder: JobFolder, found: ReviewSummary) -> Place:
    """``reviews.json`` and ``reviews.html`` beside the job's own files; the page's path.

    Raises StorageError, and RuntimeMissing without Jinja2.
    """
    from celeriac.applications.reviews.page import render

    write_file(folder.summary("json"), msgspec.json.format(msgspec.json.encode(found)))
    page = folder.summary("html")
    write_file(page, render(found))
    return page


def _groups(folder: JobFolder, wanted: Aggregation) -> list[Group]:
    # Late: to decide what to aggregate needs no pyarrow.
    from celeriac.datasets.aggregates import share_name
    from celeriac.datasets.parts import read_parts

    product, *dates = wanted.by[:-1]
    rows = read_parts([folder.aggregates("parquet")], "parquet").to_pylist()
    is_positive = share_name(LABEL, wanted.share[LABEL])
    return [
        Group(
            product=None if row[product] is None else str(row[product]),
            first_day=row[dates[0]] if dates else None, positive=row[is_positive] == 1,
            count=row["count"], mean=row[f"{PROBABILITY}_mean"], std=row[f"{PROBABILITY}_std"],
        )
        for row in rows
    ]
