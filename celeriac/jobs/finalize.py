"""The end of a job: check every part against the plan, then manifest.json, then _SUCCESS."""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec.structs import replace

from celeriac import errors
from celeriac.datasets.copies import remove_copies
from celeriac.datasets.files import write_file
from celeriac.jobs.extras import ExtraFile, part_rows, write_aggregates, write_merged
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.plan import CONTRACT, ChunkRecord, JobPlan


class PartSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One part in the manifest."""

    file: str
    rows: int
    bytes: int
    sha256: str
    errors: str | None
    """File with the failed rows of this part."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``manifest.json``: what the whole output is. It is there only when the sums are right."""

    contract: int
    job_id: str
    fingerprint: str
    state: str
    """``completed``, or ``completed_with_errors`` if some rows failed."""
    source: str
    model: str
    version: int
    rows_in: int
    rows_ok: int
    rows_failed: int
    model_seconds: float
    """Time that the chunks took, added up over all workers."""
    parts: tuple[PartSummary, ...]
    merged: ExtraFile | None = None
    """All parts in one file."""
    aggregates: tuple[ExtraFile, ...] = ()
    created_at: str
    finished_at: str


def finalize(folder: JobFolder, now: datetime) -> Manifest:
    """Check and close a job. Safe to run twice: the second time changes nothing.

    Raises JobFailed that names the first part that is missing, damaged or wrong.
    """
    finished = read_manifest(folder)
    if finished is not None:
        return finished
    plan = folder.load()
    records: list[ChunkRecord] = []
    for chunk in folder.chunks(plan):
        record = folder.valid_record(plan, chunk)
        if record is None:
            raise errors.JobFailed(
                f"{folder.path}: part {chunk.number} of {plan.chunks} is missing or damaged; "
                f"`celeriac batch resume {plan.job_id}` computes it again"
            )
        records.append(record)
    failed = sum(record.rows_failed for record in records)
    manifest = Manifest(
        contract=CONTRACT,
        job_id=plan.job_id,
        fingerprint=plan.fingerprint,
        state="completed_with_errors" if failed else "completed",
        source=plan.source,
        model=plan.scoring.model,
        version=plan.scoring.version,
        rows_in=sum(record.rows_in for record in records),
        rows_ok=sum(record.rows_ok for record in records),
        rows_failed=failed,
        model_seconds=round(sum(record.seconds for record in records), 3),
        parts=tuple(_summary(plan, record) for record in records),
        created_at=plan.created_at,
        finished_at=now.isoformat(timespec="seconds"),
    )
    if manifest.rows_in != plan.rows or manifest.rows_ok + failed != plan.rows:
        raise errors.JobFailed(
            f"{folder.path}: the plan has {plan.rows} rows, the parts {manifest.rows_in} "
            f"({manifest.rows_ok} answered, {failed} failed)"
        )
    manifest = replace(
        manifest,
        merged=write_merged(folder, plan, records),
        aggregates=write_aggregates(folder, plan, records),
    )
    folder.remove_debris()
    write_file(folder.manifest, msgspec.json.format(msgspec.json.encode(manifest)))
    write_file(folder.success, b"")
    remove_copies(folder.copies)
    return manifest


def read_manifest(folder: JobFolder) -> Manifest | None:
    """The manifest of a finished job; None as long as there is no _SUCCESS."""
    if not folder.success.exists():
        return None
    try:
        return msgspec.json.decode(folder.manifest.read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.MsgspecError) as error:
        raise errors.JobFailed(
            f"{folder.manifest}: is missing or damaged beside _SUCCESS ({error})"
        ) from error


def _summary(plan: JobPlan, record: ChunkRecord) -> PartSummary:
    errors_file = f"errors/part-{record.chunk:05d}.jsonl" if record.rows_failed else None
    return PartSummary(
        file=f"parts/{record.part}", rows=part_rows(plan, record), bytes=record.bytes,
        sha256=record.sha256, errors=errors_file,
    )
