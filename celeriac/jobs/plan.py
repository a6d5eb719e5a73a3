"""What a job is, as data: written once to its output folder, read by everybody."""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime
from typing import Any, Literal

import msgspec

from celeriac import errors
from celeriac.datasets.records import (
    Aggregation,
    Chunk,
    DatasetColumn,
    DatasetPlan,
    Format,
    SourceFile,
    SourceFormat,
)
from celeriac.datasets.sharing import is_shared, is_unpacked_late

CONTRACT = 1
NEW_CONTRACT = 2
"""Of a plan in which small files share chunks, or are unpacked by them, or columns are in names of
folders, which older releases would misread."""
DEFAULT_TENANT = "default"
"""Whose the jobs are that were not asked for over HTTP."""
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Scoring(msgspec.Struct, frozen=True, kw_only=True):
    """Which model answers, from which columns, and what stands beside its answers."""

    model: str
    version: int
    device: Literal["cpu", "gpu"]
    needs: tuple[str, ...]
    """Columns that the model reads."""
    keeps: tuple[str, ...]
    """Columns that are joined to the predictions."""
    id_column: str | None = None
    """Column that names the rows, in ``errors/``; one of ``keeps``."""
    text_column: str | None = None
    output_format: Format = "parquet"
    model_column: bool = False
    """A column ``model`` says who answered: ``NAME@VERSION``."""
    error_column: bool = False
    """A column ``error``; rows that failed stay in the parts, without an answer."""
    dedupe: bool = False
    """Equal rows of a chunk are predicted once."""
    merge: bool = False
    """All parts are put together in one file, too."""
    aggregate: Aggregation | None = None
    model_created_at: str = ""
    """When the version was registered; another one may get its number. Empty: an older plan."""

    @property
    def ref(self) -> str:
        return f"{self.model}@{self.version}"

    @property
    def reads(self) -> list[str]:
        """Columns that are read at all, without repetition."""
        return list(dict.fromkeys((*self.keeps, *self.needs)))


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``job.json``: all that a chunk needs to know, except which rows it has."""

    contract: int
    job_id: str
    fingerprint: str
    """The same for the same data, chunks, model version and options."""
    source: str
    """As the caller named it."""
    format: SourceFormat
    files: tuple[SourceFile, ...]
    columns: tuple[DatasetColumn, ...]
    scoring: Scoring
    rows: int
    chunks: int
    max_error_share: float = 1.0
    """The job stops when a larger share of its rows has failed."""
    created_at: str
    """ISO 8601, UTC."""
    sample_rows: int = 0
    """Rows that the report's statistics are made of, at most."""
    tenant: str = DEFAULT_TENANT
    """Who sees the job over HTTP."""


class ChunkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``parts/part-00000.json``: written after the part, so it vouches for it."""

    chunk: int
    fingerprint: str
    first_row: int
    rows_in: int
    rows_ok: int
    rows_failed: int
    part: str
    bytes: int
    sha256: str
    errors_sha256: str | None
    model: str
    version: int
    attempt: int
    epoch: int = 0
    """Of the run that wrote it; its files carried it in their names until then."""
    worker: str
    seconds: float
    sample_seconds: float = 0.0
    """Those of ``seconds`` that went into the report's sample."""
    finished_at: str
    failures: dict[str, int] = {}
    """Failed rows by error code."""
    bad_columns: dict[str, int] = {}
    """Failed rows by the column that is to blame, where one is."""


class ExtraFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the output beside the parts."""

    file: str
    rows: int
    bytes: int
    sha256: str


def part_rows(plan: JobPlan, record: ChunkRecord) -> int:
    """Rows of a part's file."""
    return record.rows_in if plan.scoring.error_column else record.rows_ok


def make_plan(  # noqa: PLR0913 - what a job is made of
    dataset: DatasetPlan, scoring: Scoring, *, source: str, job_id: str, now: datetime,
    max_error_share: float = 1.0, sample_rows: int = 0, tenant: str = DEFAULT_TENANT,
) -> JobPlan:
    """The header of a job."""
    is_new = (
        is_shared(dataset.chunks) or is_unpacked_late(dataset.files)
        or any(column.in_folders for column in dataset.columns)
    )
    return JobPlan(
        contract=NEW_CONTRACT if is_new else CONTRACT,
        job_id=job_id,
        fingerprint=fingerprint(dataset, scoring),
        source=source,
        format=dataset.format,
        files=dataset.files,
        columns=dataset.columns,
        scoring=scoring,
        rows=dataset.rows,
        chunks=len(dataset.chunks),
        max_error_share=max_error_share,
        created_at=now.isoformat(timespec="seconds"),
        sample_rows=sample_rows,
        tenant=tenant,
    )


def fingerprint(dataset: DatasetPlan, scoring: Scoring) -> str:
    """sha256 over everything that decides the output; times of files do not."""
    files = [(file.path, file.size, file.sha256) for file in dataset.files]
    parts: list[Any] = [CONTRACT, dataset.format, files, dataset.columns, dataset.chunks, scoring]
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def new_job_id(now: datetime) -> str:
    """Sorts by time, and is easy to read out: ``20261122-142233-5f0c1d``."""
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def is_job_id(text: str) -> bool:
    """True if a job may have ``text`` as its id."""
    return bool(_JOB_ID.fullmatch(text))


def check_job_id(job_id: str) -> str:
    """``job_id`` itself; raises RequestError if it cannot be one."""
    if not is_job_id(job_id):
        raise errors.RequestError(
            f"{job_id!r} is not a job id: use letters, digits, '-', '_' and '.', at most 64"
        )
    return job_id


def encode_chunks(chunks: tuple[Chunk, ...]) -> bytes:
    """``plan.jsonl``: one chunk a line."""
    return b"".join(msgspec.json.encode(chunk) + b"\n" for chunk in chunks)


def decode_chunks(data: bytes) -> list[Chunk]:
    """The inverse of :func:`encode_chunks`. Raises msgspec.MsgspecError."""
    return [msgspec.json.decode(line, type=Chunk) for line in data.splitlines()]
