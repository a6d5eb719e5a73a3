"""One chunk: read it, predict, join, write its part and its record. Safe to repeat."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from celeriac import errors
from celeriac.datasets.csv import clip
from celeriac.datasets.reader import Rows, read_chunk
from celeriac.datasets.records import Chunk, RowError
from celeriac.jobs.columns import blamed, join, with_extras, with_unreadable
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.plan import ChunkRecord, JobPlan
from celeriac.jobs.sample import ScoredRows, leave_sample
from celeriac.jobs.staged import StagedChunk
from celeriac.outputs import TableAnswers

SLICE_ROWS = 4_096
"""Rows that the model is given at once: large enough for whole-array speed, small enough for
the memory of a network's layers, and for a cancellation to be noticed."""

PredictBatch = Callable[[pa.Table], TableAnswers]


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
) -> ChunkRecord:
    """Do one chunk, or find it done: its record. The same chunk always writes the same part.

    ``is_stopped`` is asked before each slice and ``holds_lease`` once, before anything is made
    final; raises Cancelled when the run shall not go on, and then leaves nothing behind. Raises
    DatasetError if the source has changed. ``epoch`` tells this run's files from another's.
    """
    record = folder.valid_record(plan, chunk)
    if record is not None:
        return record
    staged = folder.staged(plan, chunk.number, epoch)
    try:
        record = _write(folder, plan, chunk, predict_batch, is_stopped, staged, attempt, epoch)
        _check_lease(holds_lease, plan, chunk)
    except BaseException:
        staged.discard()
        raise
    return staged.publish(record, plan, chunk)


def _write(  # noqa: PLR0913, PLR0917 - as run_chunk
    folder: JobFolder,
    plan: JobPlan,
    chunk: Chunk,
    predict_batch: PredictBatch,
    is_stopped: Callable[[], bool],
    staged: StagedChunk,
    attempt: int,
    epoch: int,
) -> ChunkRecord:
    """Score the chunk and write its files under their staged names; their record."""
    started = time.perf_counter()
    file = plan.files[chunk.file]
    rows = read_chunk(plan.format, file, chunk, plan.columns, plan.scoring.reads)
    table, failed = _predict(rows, plan, predict_batch, is_stopped)
    if plan.scoring.error_column:
        table = with_unreadable(table, rows, chunk)
    failed = sorted([*rows.errors, *failed], key=lambda row: row.row)
    sample_s = leave_sample(folder, plan, chunk, ScoredRows(rows, table, failed))
    written = staged.write_part(table)
    errors_file = staged.write_errors(file.path, failed)
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
        attempt=attempt,
        epoch=epoch,
        worker=process_name(),
        seconds=round(time.perf_counter() - started, 6),
        sample_seconds=round(sample_s, 6),
        finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        failures=dict(Counter(row.code for row in failed)),
        bad_columns=blamed(failed, plan.scoring.reads),
    )
    _check_sums(record, file.path)
    return record


def process_name() -> str:
    """This process, as records and the ledger name it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _predict(
    rows: Rows, plan: JobPlan, predict_batch: PredictBatch, is_stopped: Callable[[], bool]
) -> tuple[pa.Table, list[RowError]]:
    tables: list[pa.Table] = []
    failed: list[RowError] = []
    for start in range(0, max(rows.table.num_rows, 1), SLICE_ROWS):
        if is_stopped():
            raise errors.Cancelled(f"job {plan.job_id} was stopped")
        piece = rows.table.slice(start, SLICE_ROWS)
        answers = predict_batch(piece.select(list(plan.scoring.needs)))
        answers = with_extras(answers, plan.scoring, piece.num_rows)
        joined, problems = join(
            piece, answers, plan.scoring.keeps, keep_failed=plan.scoring.error_column
        )
        tables.append(joined)
        failed += [
            _row_error(int(rows.numbers[start + at]), problem, piece, at)
            for at, problem in problems.items()
        ]
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks(), failed


def _row_error(number: int, error: errors.CeleriacError, piece: pa.Table, at: int) -> RowError:
    row = piece.slice(at, 1).to_pylist()[0]
    data = clip(json.dumps(row, ensure_ascii=False, default=_shown))
    return RowError(row=number, code=error.code, message=error.message, data=data)


def _shown(value: Any) -> str:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)


def _check_lease(holds_lease: Callable[[], bool], plan: JobPlan, chunk: Chunk) -> None:
    if not holds_lease():
        raise errors.Cancelled(f"job {plan.job_id}: chunk {chunk.number} is another's now")


def _check_sums(record: ChunkRecord, path: str) -> None:
    if record.rows_in != record.rows_ok + record.rows_failed:
        raise errors.JobFailed(
            f"{path}: chunk {record.chunk} has {record.rows_in} rows, but {record.rows_ok} were "
            f"answered and {record.rows_failed} failed"
        )
