"""``report.html``: what a person wants to know of a finished job, and its part of the manifest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec.structs import replace

from celeriac import errors, metrics
from celeriac.datasets.files import write_file
from celeriac.datasets.places import Place
from celeriac.drift import report as drift_page
from celeriac.jobs.drift import job_drift
from celeriac.jobs.findings import findings
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.manifest import Manifest, SampleSummary, read_manifest
from celeriac.jobs.plan import ChunkRecord, JobPlan
from celeriac.jobs.sample import ANSWER, INPUT, read_samples
from celeriac.jobs.timing import Run, runs, throughput, timing
from celeriac.logs import get_logger
from celeriac.reports import charts, page
from celeriac.reports.columns import profiles
from celeriac.reports.records import ColumnProfile

TEMPLATE = Path(__file__).parent / "report.html"
MOST_PROFILES = 1_000
"""Columns in the manifest."""
MOST_COLUMNS = 200
"""Columns on the page."""
MOST_FINDINGS = 30
MOST_DRIFT = 6
"""Features that are drawn beside the reference; the table has all."""
MOST_DEAD = 50
SLOWEST = 5
BINS = 60
MESSAGE_CHARS = 200

_MEANINGS = {
    errors.DatasetError.code: "the row cannot be read",
    errors.UnreadableFile.code: (
        "the row's file could not be read; celeriac batch dead requeue tries it again"
    ),
    errors.InvalidItem.code: "the row does not fit the model's input",
    errors.PayloadTooLarge.code: "the row is larger than an item may be",
    errors.ModelFailed.code: "the model raised an error on the row",
    errors.NonFiniteOutput.code: "the model answered NaN or infinity",
    errors.ResourceExhausted.code: "there was not enough memory for the row",
}

log = get_logger(__name__)


@dataclass(frozen=True)
class Failure:
    """Rows that failed for the same kind of reason, and one of them."""

    code: str
    rows: int
    meaning: str
    example: str


def with_report(
    folder: JobFolder, plan: JobPlan, records: Sequence[ChunkRecord], manifest: Manifest
) -> Manifest:
    """Write the report; the manifest with its figures.

    Whatever goes wrong is logged, counted, and named in the manifest: no report is worth a job.
    """
    try:
        return _reported(folder, plan, records, manifest)
    except Exception as error:
        metrics.REPORT_FAILURES.labels("report").inc()
        log.exception("no report of the job")
        return replace(manifest, report="", report_error=_told(error))


def make_report(folder: JobFolder, *, again: bool = False) -> Place:
    """The report of a finished job, made now if it is missing (or ``again``).

    Raises JobNotFound, JobFailed if the job is not complete or its report cannot be made.
    """
    plan, manifest = folder.load(), read_manifest(folder)
    if manifest is None:
        raise errors.JobFailed(
            f"{folder.path}: the job is not complete, and only then has a report; "
            f"`celeriac batch status {plan.job_id}` shows where it stands"
        )
    if folder.report.exists() and not again:
        return folder.report
    found = [folder.read_record(chunk.number) for chunk in folder.chunks(plan)]
    records = [record for record in found if record is not None]
    try:
        manifest = _reported(folder, plan, records, manifest)
    except Exception as error:
        raise errors.JobFailed(f"{folder.report}: cannot be made: {_told(error)}") from error
    write_file(folder.manifest, msgspec.json.format(msgspec.json.encode(manifest)))
    return folder.report


def _reported(
    folder: JobFolder, plan: JobPlan, records: Sequence[ChunkRecord], manifest: Manifest
) -> Manifest:
    """As :func:`with_report`, but raises what goes wrong."""
    started = time.perf_counter()
    manifest = _described(folder, plan, records, manifest)
    write_file(folder.report, _page(folder, plan, records, manifest))
    took = timing(records, report_seconds=round(time.perf_counter() - started, 3))
    return replace(manifest, report=folder.report.name, report_error="", timing=took)


def _told(error: Exception) -> str:
    text = error.message if isinstance(error, errors.CeleriacError) else repr(error)
    return text[:500]


def _described(
    folder: JobFolder, plan: JobPlan, records: Sequence[ChunkRecord], manifest: Manifest
) -> Manifest:
    """The manifest with statistics and times."""
    manifest = replace(manifest, timing=timing(records))
    if not plan.sample_rows:
        return manifest
    scored = {record.chunk for record in records}
    found = read_samples(
        folder, plan, [one for one in folder.chunks(plan) if one.number in scored]
    )
    if manifest.sample and len(found.missing) > manifest.sample.chunks_missing:
        return manifest  # it was made of more than is left now
    inputs, answers = _profiles(found.tables, INPUT), _profiles(found.tables, ANSWER)
    return replace(
        manifest, columns=inputs, answers=answers,
        drift=job_drift(folder, plan, found.tables, (INPUT, ANSWER)) or manifest.drift,
        sample=SampleSummary(rows=found.rows, chunks_missing=len(found.missing)),
    )


def _profiles(tables: list[Any], prefix: str) -> tuple[ColumnProfile, ...]:
    names = dict.fromkeys(
        name for table in tables for name in table.column_names if name.startswith(prefix)
    )
    wanted = list(names)[:MOST_PROFILES]
    pieces = [
        table.select([name for name in table.column_names if name in set(wanted)])
        for table in tables
    ]
    pieces = [
        table.rename_columns([name.removeprefix(prefix) for name in table.column_names])
        for table in pieces
    ]
    return tuple(profiles(pieces, labels=prefix == ANSWER))


def _page(
    folder: JobFolder, plan: JobPlan, records: Sequence[ChunkRecord], manifest: Manifest
) -> bytes:
    _, found = runs(records)
    shown = sorted(manifest.columns, key=lambda one: one.name not in manifest.bad_columns)
    noticed = findings(manifest, [one.name for one in plan.columns if one.in_folders])
    for most in (MOST_COLUMNS, MOST_COLUMNS // 4, 0):  # names may be long
        made = page.render(
            TEMPLATE,
            manifest=manifest,
            plan=plan,
            output=str(folder.path),
            findings=noticed[:MOST_FINDINGS],
            more_findings=max(0, len(noticed) - MOST_FINDINGS),
            failures=_failures(folder, records, manifest),
            dead=manifest.dead[:MOST_DEAD],
            throughput=_throughput_plot(found),
            durations=_duration_plot(found),
            slowest=sorted(records, key=lambda one: -one.seconds)[:SLOWEST],
            workers=_workers(records),
            columns=shown[:most],
            drift=manifest.drift,
            drift_headline=drift_page.headline(manifest.drift) if manifest.drift else "",
            drift_views=drift_page.views(manifest.drift)[:MOST_DRIFT] if manifest.drift else [],
            more_columns=len(shown) - len(shown[:most]),
            error_column=plan.scoring.error_column,
        )
        if len(made) <= page.MOST_BYTES:
            return made
    raise errors.JobFailed(f"the report would be larger than {page.MOST_BYTES:,} bytes")


def _throughput_plot(found: Sequence[Run]) -> charts.Plot:
    width_s, rates = throughput(found, min(BINS, max(6, len(found))))
    titles = [
        f"{charts.duration(at * width_s)} to {charts.duration((at + 1) * width_s)}: "
        f"{charts.number(rate)} rows/s"
        for at, rate in enumerate(rates)
    ]
    return charts.bars(
        rates, titles, top=f"{charts.number(max(rates))} rows/s", left="start",
        right=charts.duration(width_s * len(rates)),
    )


def _duration_plot(found: Sequence[Run]) -> charts.Plot:
    """A bar for each chunk, or for the longest of some neighbours."""
    ordered = sorted((run.record for run in found), key=lambda one: one.chunk)
    group = -(-len(ordered) // charts.MOST_BARS)
    groups = [ordered[at : at + group] for at in range(0, len(ordered), group)]
    longest = [max(some, key=lambda one: one.seconds) for some in groups]
    retried = [any(one.attempt > 1 for one in some) for some in groups]
    titles = [
        f"chunk {one.chunk}: {charts.duration(one.seconds)}"
        + (f", the longest of {len(some)}" if len(some) > 1 else "")
        + (f", attempt {max(other.attempt for other in some)}" if again else "")
        for one, some, again in zip(longest, groups, retried, strict=True)
    ]
    return charts.bars(
        [one.seconds for one in longest], titles, marked=retried,
        top=charts.duration(max(one.seconds for one in longest)),
        left=f"chunk {ordered[0].chunk:,}", right=f"{ordered[-1].chunk:,}",
    )


def _workers(records: Sequence[ChunkRecord]) -> list[tuple[str, int, int, float]]:
    """Each process with its chunks, rows and seconds; the busiest first, at most ten."""
    found: dict[str, tuple[int, int, float]] = {}
    for one in records:
        chunks, rows, seconds = found.get(one.worker, (0, 0, 0.0))
        found[one.worker] = (chunks + 1, rows + one.rows_in, seconds + one.seconds)
    ranked = sorted(found.items(), key=lambda item: (-item[1][1], item[0]))
    return [(name, *sums) for name, sums in ranked[:10]]


def _failures(
    folder: JobFolder, records: Sequence[ChunkRecord], manifest: Manifest
) -> list[Failure]:
    return [
        Failure(code, rows, _MEANINGS.get(code, ""), _example(folder, records, code))
        for code, rows in manifest.failures.items()
    ]


def _example(folder: JobFolder, records: Sequence[ChunkRecord], code: str) -> str:
    """The first row that failed so, in a line; empty if its file is gone."""
    record = next((one for one in records if code in one.failures), None)
    if record is None or record.errors_sha256 is None:
        return ""
    try:
        with folder.errors(record.chunk, record.errors_sha256).open("rb") as stream:
            for line in _lines(stream):
                row = msgspec.json.decode(line)
                if row["code"] == code:
                    name = Path(row["source"]).name
                    return f"row {row['row']:,} of {name}: {row['message'][:MESSAGE_CHARS]}"
    except (OSError, msgspec.MsgspecError):
        log.warning("no example of a failed row", chunk=record.chunk)
    return ""


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Block by block: an object of S3 does not know lines, and the file may be large."""
    rest = b""
    while block := stream.read(1 << 16):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
