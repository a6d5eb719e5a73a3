"""The rows of a job that its report's statistics are made of: which they are, and where.

Each chunk leaves its share beside its part. A sample is never worth a chunk: whoever writes or
reads one does without it if need be.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from celeriac import metrics
from celeriac.datasets.files import write_file
from celeriac.datasets.reader import Rows
from celeriac.datasets.records import Chunk, RowError
from celeriac.jobs.columns import extra_columns
from celeriac.jobs.drift import Reference, leave_profile, measured
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.plan import JobPlan
from celeriac.logs import get_logger
from celeriac.reports.condense import condense, row_bytes

SAMPLE_BYTES = 20_000_000
"""Of all samples of a job: a dataset of very many columns gives fewer rows."""
INPUT, ANSWER = "input.", "answer."
"""Before the names of columns, in a sample."""

log = get_logger(__name__)


@dataclass(frozen=True)
class ScoredRows:
    """What came of one chunk."""

    numbers: np.ndarray[Any, Any]
    """Of the rows that could be read."""
    part: pa.Table
    failed: Collection[RowError]


@dataclass(frozen=True)
class JobSample:
    """The sampled rows of a job, condensed."""

    tables: list[pa.Table]
    missing: list[int]
    """Chunks whose sample is lost or damaged."""

    @property
    def rows(self) -> int:
        return sum(table.num_rows for table in self.tables)


class SampleShare:
    """A chunk's share of the job's sample, taken while its rows come by.

    The same chunk always leaves the same rows. Whatever goes wrong is logged and counted.
    With a ``reference`` it also leaves measures of texts and images, and the profile itself.
    """

    def __init__(self, plan: JobPlan, chunk: Chunk, reference: Reference | None = None) -> None:
        self._plan, self._chunk, self._reference = plan, chunk, reference
        self._wanted: np.ndarray[Any, Any] | None = None
        self._numbers: list[np.ndarray[Any, Any]] = []
        self._inputs: list[pa.Table] = []
        self._measures: list[pa.Table] = []
        self._failed = False
        self.seconds = 0.0
        """That all of it took."""

    def see(self, rows: Rows) -> None:
        """Some rows of the chunk, as they were read."""
        if self._failed:
            return
        with self._trying():
            wanted = self._picked()
            if not len(wanted):
                return
            found = np.flatnonzero(np.isin(rows.numbers, wanted))
            self._numbers.append(rows.numbers[found])
            taken = _taken(rows.table.select(self._plan.scoring.reads), found)
            self._inputs.append(condense(taken))
            if self._reference is not None:
                columns = measured(self._reference, taken, self._plan, sample_rows(self._plan))
                self._measures += [pa.table(columns)] if columns else []

    def leave(self, folder: JobFolder, scored: ScoredRows) -> None:
        """Write what was taken, with the answers to it."""
        if self._failed or not self._inputs:
            return
        with self._trying():
            inputs = pa.concat_tables(self._inputs, promote_options="permissive")
            table = _sample(
                self._plan, self._chunk, scored, inputs, np.concatenate(self._numbers)
            )
            if self._reference is not None:
                leave_profile(folder, self._reference)
            if self._measures:
                measures = pa.concat_tables(self._measures)
                for name in measures.column_names:
                    table = table.append_column(name, measures[name])
            # No fsync: what a power cut takes is missed, not trusted.
            write_file(folder.sample(self._chunk.number), _encoded(table), durable=False)

    def _picked(self) -> np.ndarray[Any, Any]:
        if self._wanted is None:
            self._wanted = picks(self._plan, self._chunk) + self._chunk.first_row + 1
        return self._wanted

    @contextmanager
    def _trying(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - see above
            self._failed = True
            metrics.REPORT_FAILURES.labels("sample").inc()
            log.warning("no sample of the chunk", reason=repr(error)[:500])
        finally:
            self.seconds += time.perf_counter() - started


def read_samples(folder: JobFolder, plan: JobPlan, chunks: Sequence[Chunk]) -> JobSample:
    """What the chunks have left."""
    tables: list[pa.Table] = []
    missing: list[int] = []
    for chunk in chunks:
        if not len(picks(plan, chunk)):
            continue
        try:
            data = folder.sample(chunk.number).read_bytes()
            tables.append(pa.ipc.open_file(pa.BufferReader(data)).read_all())
        except (OSError, pa.ArrowException):
            missing.append(chunk.number)
    return JobSample(_joined(tables), missing)


def _joined(tables: list[pa.Table]) -> list[pa.Table]:
    """Neighbours of one schema as one: what goes through columns should not meet a thousand."""
    alike = groupby(tables, key=lambda table: table.schema)
    return [pa.concat_tables(group) for _, group in alike]


def sample_rows(plan: JobPlan) -> int:
    """How many rows of the whole dataset are sampled, at most."""
    dtypes = {column.name: column.dtype for column in plan.columns}
    width = row_bytes([dtypes.get(name, "") for name in plan.scoring.reads])
    return min(plan.sample_rows, plan.rows, SAMPLE_BYTES // max(width, 1))


def picks(plan: JobPlan, chunk: Chunk) -> np.ndarray[Any, Any]:
    """Positions in the chunk of the rows that are sampled.

    The dataset is cut into as many stretches of (almost) the same length as rows are wanted, and
    each gives one row, at a place that looks random and is always the same. So no row of the
    dataset weighs more than another, and nothing that repeats in it can fall into step.
    """
    before = sum(file.rows for file in plan.files[: chunk.file]) + chunk.first_row
    wanted = sample_rows(plan)
    if wanted == 0:
        return np.empty(0, dtype=np.int64)
    first = before * wanted // plan.rows
    stretches = np.arange(first, -(-(before + chunk.rows) * wanted // plan.rows), dtype=np.int64)
    starts = stretches * plan.rows // wanted
    lengths = (stretches + 1) * plan.rows // wanted - starts
    rows = starts + (_mixed(stretches) % lengths.astype(np.uint64)).astype(np.int64) - before
    return rows[(rows >= 0) & (rows < chunk.rows)]


def _mixed(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A well mixed 64-bit number for each (splitmix64)."""
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _sample(
    plan: JobPlan, chunk: Chunk, scored: ScoredRows, inputs: pa.Table,
    numbers: np.ndarray[Any, Any],
) -> pa.Table:
    """Condensed rows with these numbers, and the answers to them."""
    scoring, part = plan.scoring, scored.part
    names = [
        name for name in part.column_names[len(scoring.keeps) :]
        if name not in extra_columns(scoring)
    ]
    if scoring.error_column:  # a row for each of the chunk
        answered = np.arange(chunk.rows) + chunk.first_row + 1
    else:
        answered = scored.numbers[~np.isin(scored.numbers, [row.row for row in scored.failed])]
    places = np.searchsorted(answered, numbers)
    places = np.where(places < len(answered), places, 0)
    has_answer = answered[places] == numbers if len(answered) else places < 0
    answered_rows = part.select(names)
    if not (has_answer.all() and _is_all(places, part.num_rows)):
        answered_rows = answered_rows.take(pa.array(places, pa.int64(), mask=~has_answer))
    answers = condense(answered_rows)
    columns = {INPUT + name: inputs[name] for name in inputs.column_names}
    columns |= {ANSWER + name: answers[name] for name in names}
    return pa.table(columns)


def _taken(table: pa.Table, positions: np.ndarray[Any, Any]) -> pa.Table:
    return table if len(positions) == table.num_rows else table.take(pa.array(positions))


def _is_all(places: np.ndarray[Any, Any], rows: int) -> bool:
    return len(places) == rows and bool((places == np.arange(rows)).all())


def _encoded(table: pa.Table) -> Any:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
