"""Drift of a job: its sampled rows beside the reference of the version that answers them.

The first chunk leaves the version's profile beside the samples, so that a report needs no registry,
and whoever makes it anew compares with the same reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from celeriac import errors
from celeriac.datasets.files import write_file
from celeriac.drift import features
from celeriac.drift.features import Feature, Features
from celeriac.drift.profile import ReferenceProfile
from celeriac.drift.records import DriftReport
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.plan import JobPlan
from celeriac.registry.manifest import InputSchema
from celeriac.reports.condense import TEXT

MEASURED_ROWS = 5_000
"""Of a job: texts and images are measured, which takes longer than counting."""
MOST_ROWS = 20_000
"""Of the sample, are compared."""
MEASURED = "feature."
"""Before the names of columns, in a sample. Null: not measured; NaN: there was nothing to."""


@dataclass(frozen=True)
class Reference:
    """What the rows of a version are compared with."""

    profile: ReferenceProfile
    schema: InputSchema


def leave_profile(folder: JobFolder, reference: Reference) -> None:
    """Keep the profile beside the samples."""
    if not folder.profile.exists():
        write_file(folder.profile, reference.profile.dump(), durable=False)


def measured(
    reference: Reference, rows: pa.Table, plan: JobPlan, sampled: int
) -> dict[str, pa.Array]:
    """Measures of the texts and images of sampled rows, as columns of the sample."""
    wanted = features.measured_names(reference.profile)
    if not wanted or not rows.num_rows:
        return {}
    at = np.arange(0, rows.num_rows, max(1, sampled // MEASURED_ROWS))
    found = features.of_table(
        reference.profile, rows.take(pa.array(at)), reference.schema, plan.scoring.text_column
    )
    place = np.full(rows.num_rows, -1)
    place[at] = np.arange(len(at))
    return {
        MEASURED + name: pa.array(found[name].values, from_pandas=False).take(
            pa.array(place, mask=place < 0)
        )
        for name in wanted if name in found
    }


def job_drift(
    folder: JobFolder, plan: JobPlan, tables: list[pa.Table], prefixes: tuple[str, str]
) -> DriftReport | None:
    """What the samples of a job show; None if its version has no profile.

    ``prefixes``: of inputs and of answers, in the samples.
    """
    try:
        from celeriac.drift.check import Current, check

        profile = ReferenceProfile.load(folder.profile.read_bytes())
    except (OSError, errors.RegistryError, ModuleNotFoundError):  # a caller may lack scipy
        return None
    whole = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
    current = Current(
        features=_features(profile, whole, prefixes), source=plan.source, rows_total=plan.rows
    )
    return check(
        profile, current, model=plan.scoring.model, version=plan.scoring.version,
        now=datetime.now(UTC),
    )


def _features(
    profile: ReferenceProfile, whole: pa.Table, prefixes: tuple[str, str]
) -> Features:
    inputs, answers = prefixes
    step = max(1, whole.num_rows // MOST_ROWS)
    some = whole.take(pa.array(np.arange(0, whole.num_rows, step)))
    found: Features = {}
    for one in profile.features:
        prefix = answers if one.role == "answer" else inputs
        column = prefix + one.name
        if column not in whole.column_names:  # an input with the name of an answer
            column = prefix + one.name.removeprefix("input.")
        values: Any = None
        if MEASURED + one.name in whole.column_names:
            values = whole[MEASURED + one.name].drop_null().combine_chunks().to_numpy(
                zero_copy_only=False
            )
        elif column in whole.column_names:
            read = features.answer_values if one.role == "answer" else features.from_arrow
            values = read(_plain(some[column]))
        if values is not None:
            found[one.name] = Feature(values, one.unit, one.role)
    return found


def _plain(column: pa.ChunkedArray) -> Any:
    """Texts as they were before they were condensed, but cut."""
    at = column.type.get_field_index(TEXT) if pa.types.is_struct(column.type) else -1
    return column if at < 0 else pc.struct_field(column, [at])
