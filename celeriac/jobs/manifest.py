"""``manifest.json``: what the output of a finished job is."""

from __future__ import annotations

import msgspec

from celeriac import errors
from celeriac.drift.records import DriftReport
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.plan import ExtraFile
from celeriac.jobs.timing import Timing
from celeriac.reports.records import ColumnProfile


class PartSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One part in the manifest."""

    file: str
    rows: int
    bytes: int
    sha256: str
    errors: str | None
    """File with the failed rows of this part."""


class DeadPart(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that was given up: its rows have no answers."""

    chunk: int
    source: str
    """Its file; of several the first and the last one."""
    first_row: int
    """Number of its first row in the file; the first row of data is 1."""
    rows: int
    attempts: int
    reason: str
    dropped: bool


class SampleSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the statistics of columns are made of."""

    rows: int
    chunks_missing: int
    """Chunks whose share of the sample is lost: the statistics are without it."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``manifest.json``: what the whole output is. It is there only when the sums are right."""

    contract: int
    job_id: str
    fingerprint: str
    state: str
    """``completed``, or ``completed_with_errors`` if rows failed or chunks were given up."""
    source: str
    model: str
    version: int
    rows_in: int
    rows_ok: int
    rows_failed: int
    """Those of dead chunks among them."""
    rows_dead: int = 0
    model_seconds: float
    """Time that the chunks took, added up over all workers."""
    parts: tuple[PartSummary, ...]
    merged: ExtraFile | None = None
    """All parts in one file."""
    aggregates: tuple[ExtraFile, ...] = ()
    dead: tuple[DeadPart, ...] = ()
    failures: dict[str, int] = {}
    """Failed rows by error code, without those of dead chunks."""
    bad_columns: dict[str, int] = {}
    """Failed rows by the column whose value is to blame, where one is."""
    report: str = ""
    """File with the same for a person."""
    report_error: str = ""
    """Why there is none; `celeriac batch report` makes it again."""
    sample: SampleSummary | None = None
    columns: tuple[ColumnProfile, ...] = ()
    """The dataset, column by column, as far as it was read."""
    answers: tuple[ColumnProfile, ...] = ()
    """The same of the columns that the model gave."""
    timing: Timing | None = None
    drift: DriftReport | None = None
    """The sampled rows beside the reference of the version; None if it has no profile."""
    created_at: str
    finished_at: str


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
