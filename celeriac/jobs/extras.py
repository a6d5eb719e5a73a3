"""What the finaliser makes of the parts where the job asks for it: one file, and aggregates."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.compute as pc

from celeriac.datasets.aggregates import aggregate
from celeriac.datasets.merge import merge_parts, read_tables
from celeriac.datasets.parts import write_part
from celeriac.datasets.places import Place
from celeriac.datasets.records import Aggregation, Format
from celeriac.jobs.columns import ERROR
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.plan import ChunkRecord, ExtraFile, JobPlan, part_rows


def write_merged(
    folder: JobFolder, plan: JobPlan, records: Sequence[ChunkRecord]
) -> ExtraFile | None:
    """All parts in one file, if the job wants that. Raises StorageError."""
    scoring = plan.scoring
    if not scoring.merge or not records:
        return None
    target = folder.merged(scoring.output_format)
    written = merge_parts(_parts(folder, records), target, scoring.output_format)
    rows = sum(part_rows(plan, record) for record in records)
    return ExtraFile(file=target.name, rows=rows, bytes=written.bytes, sha256=written.sha256)


def write_aggregates(
    folder: JobFolder, plan: JobPlan, records: Sequence[ChunkRecord]
) -> tuple[ExtraFile, ...]:
    """The job's aggregates as Parquet and as CSV, if it wants some.

    Raises JobFailed if there are too many groups, StorageError, DatasetError.
    """
    scoring = plan.scoring
    if scoring.aggregate is None or not records:
        return ()
    wanted = scoring.aggregate
    columns = [*wanted.reads, *([ERROR] if scoring.error_column else [])]
    tables = read_tables(
        _parts(folder, records), scoring.output_format, list(dict.fromkeys(columns)),
        _dtypes(plan, wanted),
    )
    if scoring.error_column:
        tables = (table.filter(pc.equal(pc.fill_null(table[ERROR], ""), "")) for table in tables)
    result = aggregate(tables, wanted)
    files = []
    kinds: tuple[Format, ...] = ("parquet", "csv")
    for kind in kinds:
        path = folder.aggregates(kind)
        written = write_part(path, result, kind)
        files.append(ExtraFile(
            file=path.name, rows=result.num_rows, bytes=written.bytes, sha256=written.sha256
        ))
    return tuple(files)


def _parts(folder: JobFolder, records: Sequence[ChunkRecord]) -> list[Place]:
    return [folder.path / "parts" / record.part for record in records]


def _dtypes(plan: JobPlan, wanted: Aggregation) -> dict[str, str]:
    """Types for reading parts of text again: groups as they are written, measures as numbers, and
    of what becomes periods numbers as such."""
    measured = {name: "float" for name in wanted.measured if name not in wanted.by}
    if plan.scoring.output_format != "csv":
        return {**measured, ERROR: "text"}
    was = {column.name: column.dtype for column in plan.columns}
    groups = {
        name: "float" if name in wanted.period and was.get(name, "").startswith(_NUMBERS) else "own"
        for name in (*wanted.by, *wanted.share)
    }
    return {**groups, **measured, ERROR: "own"}


_NUMBERS = ("int", "uint", "float", "double", "halffloat")
