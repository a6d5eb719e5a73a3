"""The end of a job: check every part against the plan, then manifest.json, then _SUCCESS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import msgspec
from msgspec.structs import replace

from celeriac import errors
from celeriac.datasets.files import write_file
from celeriac.datasets.records import Chunk
from celeriac.datasets.sharing import named
from celeriac.disk import is_full
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import DeadChunk
from celeriac.jobs.manifest import DeadPart, Manifest, PartSummary, read_manifest
from celeriac.jobs.plan import CONTRACT, ChunkRecord, JobPlan, part_rows


def finalize(
    folder: JobFolder, now: datetime, dead: Sequence[DeadChunk] = (),
    is_wanted: Callable[[], bool] = lambda: True,
) -> Manifest:
    """Check and close a job. Safe to run twice: the second time changes nothing.

    ``dead``: the chunks that may lack a part. ``is_wanted`` is asked before anything is deleted
    that a run may need, and before anything looks finished. Raises Cancelled if the job goes on
    instead; JobFailed that names the first other part that is missing, damaged or wrong, or the
    reason if every chunk is dead, or if another job has the folder now; JobNotFound if that was
    deleted.
    """
    finished = read_manifest(folder)
    if finished is not None:
        _tidy(folder, finished)  # whoever wrote it may have been killed before
        return finished
    plan = folder.load()
    records, lost = _parts(folder, plan, dead)
    manifest = _manifest(folder, plan, records, lost, now)
    if manifest.rows_in != plan.rows or manifest.rows_ok + manifest.rows_failed != plan.rows:
        raise errors.JobFailed(
            f"{folder.path}: the plan has {plan.rows} rows, the parts {manifest.rows_in} "
            f"({manifest.rows_ok} answered, {manifest.rows_failed} failed)"
        )
    with _leaving_room(folder, plan):
        manifest = _written(folder, plan, records, manifest, is_wanted)
    _tidy(folder, manifest)
    return manifest


def _tidy(folder: JobFolder, manifest: Manifest) -> None:
    # Late: callers, who only read manifests, need no pyarrow.
    from celeriac.datasets.copies import remove_copies

    if not manifest.dead:  # else chunks may be tried again
        remove_copies(folder.copies)


@contextmanager
def _leaving_room(folder: JobFolder, plan: JobPlan) -> Iterator[None]:
    """On a full disk nothing stays of what did not come to its end."""
    try:
        yield
    except errors.StorageError as error:
        if is_full(error):
            folder.clear_unfinished(plan)
        raise


def _written(
    folder: JobFolder, plan: JobPlan, records: list[ChunkRecord], manifest: Manifest,
    is_wanted: Callable[[], bool],
) -> Manifest:
    """Write all that the parts are made into, the manifest and last of all _SUCCESS."""
    # Late, as above.
    from celeriac.jobs.extras import write_aggregates, write_merged
    from celeriac.jobs.report import with_report

    manifest = replace(
        manifest,
        merged=write_merged(folder, plan, records),
        aggregates=write_aggregates(folder, plan, records),
    )
    manifest = with_report(folder, plan, records, manifest)
    _check_wanted(plan, is_wanted)  # or what a chunk is writing now would pass for debris
    folder.remove_debris(records)
    if folder.clear_ends(plan):
        raise folder.gone(plan.job_id)
    folder.load_of(plan.job_id)  # another job may have its place
    _check_wanted(plan, is_wanted)
    write_file(folder.manifest, msgspec.json.format(msgspec.json.encode(manifest)))
    write_file(folder.success, b"")
    return manifest


def _check_wanted(plan: JobPlan, is_wanted: Callable[[], bool]) -> None:
    if not is_wanted():
        raise errors.Cancelled(f"job {plan.job_id} goes on: it was resumed while it ended")


def _parts(
    folder: JobFolder, plan: JobPlan, dead: Sequence[DeadChunk]
) -> tuple[list[ChunkRecord], list[DeadPart]]:
    """The records of all parts, and the chunks without one. Raises as :func:`finalize`."""
    given_up = {one.chunk: one for one in dead}
    records: list[ChunkRecord] = []
    lost: list[DeadPart] = []
    for chunk in folder.chunks(plan):
        record = folder.valid_record(plan, chunk)
        if record is not None:
            records.append(record)
        elif chunk.number in given_up:
            lost.append(_dead_part(plan, chunk, given_up[chunk.number]))
        elif not folder.holds_job():
            raise folder.gone(plan.job_id)
        else:
            raise errors.JobFailed(
                f"{folder.path}: part {chunk.number} of {plan.chunks} is missing or damaged; "
                f"`celeriac batch resume {plan.job_id}` computes it again"
            )
    if lost and not records:
        raise errors.JobFailed(f"no chunk could be scored; {lost[0].reason}")
    return records, lost


def _manifest(
    folder: JobFolder, plan: JobPlan, records: list[ChunkRecord], lost: list[DeadPart],
    now: datetime,
) -> Manifest:
    rows_dead = sum(one.rows for one in lost)
    failed = sum(record.rows_failed for record in records) + rows_dead
    return Manifest(
        contract=CONTRACT,
        job_id=plan.job_id,
        fingerprint=plan.fingerprint,
        state="completed_with_errors" if failed or lost else "completed",
        source=plan.source,
        model=plan.scoring.model,
        version=plan.scoring.version,
        rows_in=sum(record.rows_in for record in records) + rows_dead,
        rows_ok=sum(record.rows_ok for record in records),
        rows_failed=failed,
        rows_dead=rows_dead,
        model_seconds=round(sum(record.seconds for record in records), 3),
        parts=tuple(_summary(folder, plan, record) for record in records),
        dead=tuple(lost),
        failures=_sum(record.failures for record in records),
        bad_columns=_sum(record.bad_columns for record in records),
        created_at=plan.created_at,
        finished_at=now.isoformat(timespec="seconds"),
    )


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total.most_common())


def _dead_part(plan: JobPlan, chunk: Chunk, dead: DeadChunk) -> DeadPart:
    return DeadPart(
        chunk=chunk.number, source=named(plan.files, chunk), first_row=chunk.first_row + 1,
        rows=chunk.rows, attempts=dead.attempts, reason=dead.reason, dropped=dead.dropped,
    )


def _summary(folder: JobFolder, plan: JobPlan, record: ChunkRecord) -> PartSummary:
    errors_sha256 = record.errors_sha256
    errors_file = folder.errors(record.chunk, errors_sha256) if errors_sha256 else None
    return PartSummary(
        file=f"parts/{record.part}", rows=part_rows(plan, record), bytes=record.bytes,
        sha256=record.sha256, errors=f"errors/{errors_file.name}" if errors_file else None,
    )
