"""When the chunks of a job ran, from their records: pure sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from celeriac.jobs.plan import ChunkRecord


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long a job's work took. Of two runs of the same job, this may differ."""

    started_at: str
    """When the first chunk that counts began; ISO 8601, UTC."""
    ended_at: str
    span_seconds: float
    """From one to the other."""
    working_seconds: float
    """In which at least one chunk ran: time without workers does not count."""
    rows_per_s: float
    """In those seconds."""
    chunk_seconds_median: float
    chunk_seconds_max: float
    attempts: int
    """Of all chunks together."""
    retried_chunks: int
    """Chunks that took more than one attempt."""
    sample_seconds: float
    """What the report's sample took in all chunks together."""
    report_seconds: float = 0.0
    """What the report took."""


@dataclass(frozen=True)
class Run:
    """The run of a chunk that counts; its times are seconds after the first run's beginning."""

    record: ChunkRecord
    start_s: float
    end_s: float


def runs(records: Sequence[ChunkRecord]) -> tuple[datetime, list[Run]]:
    """When the first run began, and the runs, in the order of their chunks."""
    ends = [datetime.fromisoformat(one.finished_at).timestamp() for one in records]
    starts = [end - one.seconds for one, end in zip(records, ends, strict=True)]
    first = min(starts)
    found = [
        Run(record, start - first, end - first)
        for record, start, end in zip(records, starts, ends, strict=True)
    ]
    return datetime.fromtimestamp(first, UTC), found


def timing(records: Sequence[ChunkRecord], *, report_seconds: float = 0.0) -> Timing:
    """The sums of at least one record."""
    first, found = runs(records)
    working_s = working_seconds(found)
    seconds = sorted(one.seconds for one in records)
    span_s = max(run.end_s for run in found)
    end = datetime.fromtimestamp(first.timestamp() + span_s, UTC)
    return Timing(
        started_at=first.isoformat(timespec="milliseconds"),
        ended_at=end.isoformat(timespec="milliseconds"),
        span_seconds=round(span_s, 3),
        working_seconds=round(working_s, 3),
        rows_per_s=round(sum(one.rows_in for one in records) / max(working_s, 1e-6), 1),
        chunk_seconds_median=seconds[len(seconds) // 2],
        chunk_seconds_max=seconds[-1],
        attempts=sum(one.attempt for one in records),
        retried_chunks=sum(one.attempt > 1 for one in records),
        sample_seconds=round(sum(one.sample_seconds for one in records), 3),
        report_seconds=report_seconds,
    )


def working_seconds(found: Sequence[Run]) -> float:
    """The time in which at least one of the runs was at work."""
    total = until = 0.0
    for run in sorted(found, key=lambda one: one.start_s):
        total += max(0.0, run.end_s - max(run.start_s, until))
        until = max(until, run.end_s)
    return total


def throughput(found: Sequence[Run], bins: int) -> tuple[float, list[float]]:
    """Length of a bin in seconds, and the rows per second in each; a chunk's rows are spread
    evenly over its run."""
    span_s = max((run.end_s for run in found), default=0.0)
    width_s = max(span_s, 1e-3) / bins
    rows = [0.0] * bins
    for run in found:
        seconds = max(run.end_s - run.start_s, 1e-6)
        first = min(int(run.start_s / width_s), bins - 1)
        last = min(int(run.end_s / width_s), bins - 1)
        for at in range(first, last + 1):
            left, right = at * width_s, (at + 1) * width_s
            shared = min(run.end_s, right) - max(run.start_s, left)
            if first == last:
                shared = seconds
            rows[at] += run.record.rows_in * max(0.0, shared) / seconds
    return width_s, [count / width_s for count in rows]
