"""A whole dataset beside the profile of a version."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from msgspec.structs import replace

from celeriac import errors
from celeriac.datasets import planner, sources
from celeriac.datasets.copies import Copies
from celeriac.datasets.places import describe, place
from celeriac.datasets.reader import read_chunk
from celeriac.datasets.records import DatasetPlan
from celeriac.drift import features
from celeriac.drift.check import CheckRule, Current, check, no_profile
from celeriac.drift.performance import labels_of, misfit, performance
from celeriac.drift.profile import ReferenceProfile
from celeriac.drift.records import DriftReport
from celeriac.inputs import IMAGE_COLUMN, Limits, columns_needed
from celeriac.outputs import TableAnswers
from celeriac.registry.manifest import ModelVersion

MOST_ROWS = 100_000
"""Evenly spread over the dataset; more would not change what is found."""
Predict = Callable[[pa.Table], TableAnswers]


@dataclass(frozen=True)
class Sampled:
    """Some rows of a dataset, in their order."""

    table: pa.Table
    rows_total: int
    source: str


def check_dataset(  # noqa: PLR0913 - a version, a dataset, and what is wanted
    manifest: ModelVersion, profile: ReferenceProfile | None, source: Any, *, now: datetime,
    predict: Predict | None = None, text_column: str | None = None, label: str | None = None,
    most_rows: int = MOST_ROWS, limits: Limits | None = None, rule: CheckRule | None = None,
) -> DriftReport:
    """Compare a dataset (a path, a pattern, a frame ...) with what a version was made for.

    ``predict`` answers the rows that are looked at, so that answers are compared too. ``label``
    is a column with the truth. Raises DatasetError if the dataset cannot be read.
    """
    sampled = sample(source, manifest, most_rows, text_column, label)
    if profile is None:
        return no_profile(
            model=manifest.name, version=manifest.version, source=sampled.source,
            rows=sampled.rows_total, now=now,
        )
    table = sampled.table
    inputs = features.of_table(profile, table, manifest.input, text_column, limits)
    answers, said = _answers(predict, table)
    truth = None if label is None else table[label].to_pylist()
    if truth is not None and answers:
        said += _of_truth(label, truth, manifest)
    current = Current(
        features=features.merged(inputs, answers, profile.answers), source=sampled.source,
        rows_total=sampled.rows_total,
        performance=None if truth is None
        else performance(answers, truth, labels_of(manifest.output)),
    )
    if not answers:
        profile = _without_answers(profile)
    report = check(
        profile, current, model=manifest.name, version=manifest.version, now=now, rule=rule
    )
    return replace(report, warnings=(*report.warnings, *said))


def sample(
    source: Any, manifest: ModelVersion, most_rows: int, text_column: str | None = None,
    label: str | None = None,
) -> Sampled:
    """At most ``most_rows`` of a dataset, with the columns that the model reads, as far as they
    are there. Raises DatasetError.
    """
    return _read(
        source, [manifest], text_column, label,
        lambda plan, names: _pieces(plan, names, most_rows),
    )


def newest(
    source: Any, manifests: Sequence[ModelVersion], rows: int, text_column: str | None,
    label: str,
) -> Sampled:
    """The last ``rows`` of a dataset, or all if it has fewer, with ``label`` and the columns that
    the versions read, as far as they are there. Raises DatasetError.
    """
    return _read(
        source, manifests, text_column, label, lambda plan, names: _last_pieces(plan, names, rows)
    )


def _read(
    source: Any, manifests: Sequence[ModelVersion], text_column: str | None, label: str | None,
    pieces: Callable[[DatasetPlan, list[str]], Iterable[pa.Table]],
) -> Sampled:
    found = sources.open_source(source)
    if label is not None and label not in found.names:
        raise errors.DatasetError(
            f"{found.called} lacks {label!r}; it has: {', '.join(found.names[:20])}"
        )
    wanted = [name for one in manifests for name in _wanted(one, found, text_column)]
    names = list(dict.fromkeys([*wanted, *([label] if label else [])]))
    in_folders = {column.name for column in found.in_folders}  # texts, if nobody says more
    dtypes = {
        column.name: column.dtype for one in manifests for column in one.input.columns
        if column.name in (found.names if column.dtype == "text" else in_folders)
    }
    if not names:
        raise errors.DatasetError(
            f"{found.called} has none of the columns that {manifests[0].ref} reads; it has: "
            f"{', '.join(found.names[:20])}"
        )
    with tempfile.TemporaryDirectory(prefix="celeriac-drift-") as folder:
        nullable = {name for one in manifests for name in one.input.nullable}
        plan = planner.plan(
            found, dtypes=dtypes, nullable=nullable, reads=names,
            copies=Copies(place(Path(folder) / "input"))
        )
        table = pa.concat_tables(pieces(plan, names), promote_options="permissive")
    return Sampled(table.combine_chunks(), plan.rows, describe(source))


def _wanted(
    manifest: ModelVersion, source: sources.Source, text_column: str | None
) -> list[str]:
    schema, available = manifest.input, source.names
    if schema.kind in ("table", "any"):
        names = [column.name for column in schema.columns] or list(available)
        return [name for name in names if name in available]
    if schema.kind == "image" and IMAGE_COLUMN in available:
        return [IMAGE_COLUMN]
    return columns_needed(schema, available, text_column, source.called)


def _pieces(plan: DatasetPlan, names: list[str], most_rows: int) -> Iterator[pa.Table]:
    step = max(1.0, plan.rows / max(most_rows, 1))
    before = 0
    for chunk in plan.chunks:
        rows = read_chunk(plan.format, plan.files, chunk, plan.columns, names)
        first = int(np.ceil(before / step))
        at = (np.arange(first, np.ceil((before + chunk.rows) / step)) * step).astype(np.int64)
        wanted = at - before + chunk.first_row + 1
        keep = np.flatnonzero(np.isin(rows.numbers, wanted)) if step > 1 else None
        before += chunk.rows
        yield rows.table if keep is None else rows.table.take(pa.array(keep))


def _last_pieces(plan: DatasetPlan, names: list[str], rows: int) -> list[pa.Table]:
    found: list[pa.Table] = []
    for chunk in reversed(plan.chunks):
        missing = rows - sum(table.num_rows for table in found)
        if missing <= 0:
            break
        table = read_chunk(plan.format, plan.files, chunk, plan.columns, names).table
        found.append(table.slice(max(0, table.num_rows - missing)))
    return found[::-1]


def _answers(predict: Predict | None, table: pa.Table) -> tuple[features.Features, list[str]]:
    if predict is None:
        return {}, []
    try:
        return features.of_answers(predict(table).columns), []
    except errors.DatasetError as error:  # a column is missing or of another type
        return {}, [f"the rows cannot be answered: {error.message}"]


def _of_truth(label: str | None, truth: Sequence[Any], manifest: ModelVersion) -> list[str]:
    if manifest.output.outputs > 1 or manifest.output.kind == "any":
        return [f"{label!r} says nothing: {manifest.ref} has no single label or number as answer"]
    why = misfit(truth, labels_of(manifest.output))
    return [f"{label!r} does not say how good the answers are: {why}"] if why else []


def _without_answers(profile: ReferenceProfile) -> ReferenceProfile:
    inputs = tuple(one for one in profile.features if one.role == "input")
    return profile.model_copy(update={"features": inputs})
