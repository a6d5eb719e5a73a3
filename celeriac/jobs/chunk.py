"""One chunk: read it, predict, join, write its part and its record. Safe to repeat."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from celeriac import errors
from celeriac.datasets import spellings
from celeriac.datasets.reader import Rows, read_chunk, read_pieces
from celeriac.datasets.records import Chunk, RowError, clip
from celeriac.datasets.sharing import located, named
from celeriac.jobs import policy
from celeriac.jobs.columns import blamed, join, with_extras, with_unreadable
from celeriac.jobs.drift import Reference
from celeriac.jobs.duplicates import find_groups, part_of, spread
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.memory import give_back, kept_memory
from celeriac.jobs.plan import ChunkRecord, JobPlan, Scoring
from celeriac.jobs.sample import SampleShare, ScoredRows
from celeriac.jobs.slices import MOST_ALONE, in_slices
from celeriac.jobs.staged import StagedChunk
from celeriac.outputs import TableAnswers, together

PredictBatch = Callable[[pa.Table], TableAnswers]
Joined = tuple[pa.Table, list[RowError]]
"""Rows of the output, and the rows that failed."""


@dataclass(frozen=True)
class _Attempt:
    """How a chunk is run this time; fields as :func:`run_chunk` takes them."""

    number: int
    epoch: int
    short: int
    spares: bool

    def rows_at_once(self, row_bytes: int, rows: int = 0) -> int:
        """Of rows of so many bytes, of which there are ``rows``."""
        return policy.slice_rows(self.short, row_bytes, rows)


def run_chunk(  # noqa: PLR0913 - the chunk, and how it is run
    folder: JobFolder,
    plan: JobPlan,
    chunk: Chunk,
    predict_batch: PredictBatch,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    holds_lease: Callable[[], bool] = lambda: True,
    attempt: int = 1,
    epoch: int = 0,
    short: int = 0,
    reference: Reference | None = None,
    spares: bool = False,
) -> ChunkRecord:
    """Do one chunk, or find it done: its record. The same chunk always writes the same part.

    ``is_stopped`` is asked before each slice and ``holds_lease`` once, before anything is made
    final; raises Cancelled when the run shall not go on, and then leaves nothing behind. Raises
    DatasetError if the source has changed, JobNotFound if the output was deleted. ``epoch`` tells
    this run's files from another's; ``short``: so many attempts lacked memory. ``reference``: with
    what the report compares.
    ``spares``: a damaged file that shares the chunk with others costs its own rows, not theirs.
    """
    this = _Attempt(attempt, epoch, short, spares)
    record = folder.valid_record(plan, chunk)
    if record is not None:
        return record
    staged = folder.staged(plan, chunk.number, epoch)
    with kept_memory().used(), _leaving_nothing_deleted(folder, plan, chunk):
        try:
            record = _write(
                folder, plan, chunk, predict_batch, is_stopped, staged, this,
                SampleShare(plan, chunk, reference),
            )
            _check_lease(holds_lease, plan, chunk)
        except BaseException:
            staged.discard()
            raise
        return staged.publish(record, plan, chunk)


@contextmanager
def _leaving_nothing_deleted(folder: JobFolder, plan: JobPlan, chunk: Chunk) -> Iterator[None]:
    """An output folder that was deleted does not come back. Raises JobNotFound then."""
    try:
        yield
    finally:
        is_gone = folder.clear_chunk(chunk.number)
    if is_gone:
        raise folder.gone(plan.job_id)


def _write(  # noqa: PLR0913, PLR0917 - as run_chunk
    folder: JobFolder,
    plan: JobPlan,
    chunk: Chunk,
    predict_batch: PredictBatch,
    is_stopped: Callable[[], bool],
    staged: StagedChunk,
    attempt: _Attempt,
    share: SampleShare,
) -> ChunkRecord:
    """Score the chunk and write its files under their staged names; their record."""
    started = time.perf_counter()
    tables: list[pa.Table] = []
    failed: list[RowError] = []
    unreadable: list[RowError] = []
    for rows in _read(plan, chunk, attempt):
        share.see(rows)
        table, bad = _predict(rows, plan, predict_batch, is_stopped, attempt)
        tables.append(table)
        unreadable += rows.errors
        failed += bad
        del rows  # before the next ones are read
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    tables.clear()  # or all of the part is there twice until it is written
    give_back(table.nbytes)  # what the inputs took, in pieces too small for what is written now
    found = _readable(chunk, unreadable)
    if plan.scoring.error_column:
        table = with_unreadable(table, found, unreadable, chunk)
    failed = sorted([*unreadable, *failed], key=lambda row: row.row)
    share.leave(folder, ScoredRows(found, table, failed))
    written = staged.write_part(table)
    errors_file = staged.write_errors([*located(plan.files, chunk, failed)])
    record = ChunkRecord(
        chunk=chunk.number,
        fingerprint=plan.fingerprint,
        first_row=chunk.first_row,
        rows_in=chunk.rows,
        rows_ok=table.num_rows - (len(failed) if plan.scoring.error_column else 0),
        rows_failed=len(failed),
        part=folder.part(chunk.number, plan.scoring.output_format, written.sha256).name,
        bytes=written.bytes,
        sha256=written.sha256,
        errors_sha256=errors_file.sha256 if errors_file else None,
        model=plan.scoring.model,
        version=plan.scoring.version,
        attempt=attempt.number,
        epoch=attempt.epoch,
        worker=process_name(),
        seconds=round(time.perf_counter() - started, 6),
        sample_seconds=round(share.seconds, 6),
        finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        failures=dict(Counter(row.code for row in failed)),
        bad_columns=blamed(failed, plan.scoring.reads),
    )
    _check_sums(record, named(plan.files, chunk))
    return record


def process_name() -> str:
    """This process, as records and the ledger name it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _read(plan: JobPlan, chunk: Chunk, attempt: _Attempt) -> Iterator[Rows]:
    """The chunk, piece by piece; whole, if equal rows are to be found in it."""
    scoring = plan.scoring
    what = (plan.format, plan.files, chunk, plan.columns, scoring.reads)
    if scoring.dedupe:
        yield read_chunk(*what, scoring.id_column, spares=attempt.spares)
    else:
        yield from read_pieces(
            *what, attempt.rows_at_once, scoring.id_column, spares=attempt.spares
        )


def _readable(chunk: Chunk, unreadable: Sequence[RowError]) -> np.ndarray[Any, Any]:
    """The numbers of the chunk's rows, without those that could not be read."""
    numbers = np.arange(chunk.rows) + chunk.first_row + 1
    if not unreadable:
        return numbers
    return np.setdiff1d(numbers, [bad.row for bad in unreadable], assume_unique=True)


def _predict(
    rows: Rows, plan: JobPlan, predict_batch: PredictBatch, is_stopped: Callable[[], bool],
    attempt: _Attempt,
) -> Joined:
    """All rows answered and joined, and those that failed."""
    scoring = plan.scoring
    count = rows.table.num_rows
    at_once = attempt.rows_at_once(rows.table.nbytes // max(1, count), count)
    inputs = rows.table.select(list(scoring.needs))

    def predict(table: pa.Table) -> TableAnswers:
        if is_stopped():
            raise errors.Cancelled(f"job {plan.job_id} was stopped")
        answers = predict_batch(table)
        _check_memory(answers, table.num_rows)
        return answers

    answers = _predict_once(inputs, predict, at_once) if scoring.dedupe else None

    def work(start: int, count: int) -> Joined:
        if answers is None:
            return _join(rows, start, predict(inputs.slice(start, count)), scoring)
        return _join(rows, start, part_of(answers, start, count), scoring)

    def alone(start: int) -> Joined:
        return _join(rows, start, _no_memory(predict(inputs.slice(start, 0))), scoring)

    found = in_slices(rows.table.num_rows, at_once, work, alone)
    table = pa.concat_tables([one for one, _ in found], promote_options="permissive")
    return table, [row for _, failed in found for row in failed]


def _predict_once(inputs: pa.Table, predict: PredictBatch, at_once: int) -> TableAnswers:
    """Answers to all rows, of which equal ones are predicted once."""
    groups = find_groups(inputs)
    different = inputs.take(pa.array(groups.first))
    found = in_slices(
        different.num_rows, at_once,
        lambda start, count: predict(different.slice(start, count)),
        lambda start: _no_memory(predict(different.slice(start, 0))),
    )
    return spread(together(found), groups)


def _check_memory(answers: TableAnswers, rows: int) -> None:
    """Raises WorkerError if no row at all had enough memory: that is no fault of the rows."""
    if rows <= MOST_ALONE or len(answers.errors) < rows:
        return
    if all(isinstance(one, errors.ResourceExhausted) for one in answers.errors.values()):
        raise errors.WorkerError(f"not enough memory for any of {rows:,} rows, even alone")


def _no_memory(nothing: TableAnswers) -> TableAnswers:
    """The answer to a row that does not fit; ``nothing``: the answers to no rows."""
    columns = {name: pa.nulls(1, column.type) for name, column in nothing.columns.items()}
    error = errors.ResourceExhausted("not enough memory for this row, even alone")
    return TableAnswers(columns, {0: error})


def _join(
    rows: Rows, start: int, answers: TableAnswers, scoring: Scoring
) -> Joined:
    """A slice of the output, and its rows that failed."""
    count = len(next(iter(answers.columns.values())))
    piece = rows.table.slice(start, count)
    answers = with_extras(answers, scoring, piece.num_rows)
    joined, problems = join(piece, answers, scoring.keeps, keep_failed=scoring.error_column)
    failed = [
        _row_error(int(rows.numbers[start + at]), problem, piece, at, scoring.id_column)
        for at, problem in problems.items()
    ]
    return joined, failed


def _row_error(
    number: int, error: errors.CeleriacError, piece: pa.Table, at: int, id_column: str | None
) -> RowError:
    row = spellings.rows_of(piece.slice(at, 1))[0]
    data = clip(json.dumps(row, ensure_ascii=False, default=_shown))
    named = row[id_column] if id_column else None
    return RowError(row=number, id=named, code=error.code, message=error.message, data=data)


def _shown(value: Any) -> str:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else spellings.as_text(value)


def _check_lease(holds_lease: Callable[[], bool], plan: JobPlan, chunk: Chunk) -> None:
    if not holds_lease():
        raise errors.Cancelled(f"job {plan.job_id}: chunk {chunk.number} is another's now")


def _check_sums(record: ChunkRecord, path: str) -> None:
    if record.rows_in != record.rows_ok + record.rows_failed:
        raise errors.JobFailed(
            f"{path}: chunk {record.chunk} has {record.rows_in} rows, but {record.rows_ok} were "
            f"answered and {record.rows_failed} failed"
        )
