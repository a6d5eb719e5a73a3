"""What of a finished job somebody should look at: rules that turn figures into sentences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Literal, NamedTuple

from celeriac.drift.report import headline
from celeriac.jobs.manifest import Manifest
from celeriac.reports.charts import duration, many, share
from celeriac.reports.records import ColumnProfile

MANY_NULLS = 0.2
LONG_IDLE = 0.5
LEAST_IDLE_S = 10.0
LEAST_ROWS = 20
"""With fewer rows nothing is said of columns that hold one value."""


class Finding(NamedTuple):
    """A sentence, and how bad it is."""

    level: Literal["bad", "look"]
    what: str
    """The thing that it is about."""
    text: str


Rule = Callable[[Manifest], Iterator[Finding]]


def findings(manifest: Manifest, in_folders: Collection[str] = ()) -> list[Finding]:
    """The worst first. ``in_folders``: columns that names of folders hold; in a dataset of one
    folder they have one value."""
    columns = partial(_of_columns, in_folders=in_folders)
    rules: tuple[Rule, ...] = (_of_rows, _of_drift, _of_answers, columns, _of_run)
    found = [one for rule in rules for one in rule(manifest)]
    return sorted(found, key=lambda one: one.level != "bad")


def _of_rows(manifest: Manifest) -> Iterator[Finding]:
    failed, total = manifest.rows_failed - manifest.rows_dead, manifest.rows_in
    if manifest.rows_dead:
        yield Finding(
            "bad", "Chunks given up",
            f"{many(len(manifest.dead), 'chunk')} with {many(manifest.rows_dead, 'row')} "
            f"({share(manifest.rows_dead, total)}), which have no answer",
        )
    if failed:
        yield Finding(
            "bad", "Failed rows",
            f"{failed:,} of {total:,} ({share(failed, total)}); each is in errors/ with its reason",
        )


def _of_drift(manifest: Manifest) -> Iterator[Finding]:
    drift = manifest.drift
    if drift is not None and drift.state in ("broken", "drift", "worse"):
        yield Finding("bad" if drift.state == "broken" else "look", "Drift", headline(drift))


def _of_answers(manifest: Manifest) -> Iterator[Finding]:
    for one in manifest.answers:
        if one.is_constant and one.values >= LEAST_ROWS:
            yield Finding(
                "look", one.name, f"is the same in all {one.values:,} sampled answers: {_only(one)}"
            )


def _of_columns(manifest: Manifest, in_folders: Collection[str]) -> Iterator[Finding]:
    for one in manifest.columns:
        bad = manifest.bad_columns.get(one.name, 0)
        if bad:
            yield Finding("bad", one.name, f"{many(bad, 'row')} failed by the value of this column")
        if one.kind == "empty" and one.rows:
            yield Finding("bad", one.name, f"has no value in any of {one.rows:,} sampled rows")
        elif one.null_share >= MANY_NULLS:
            yield Finding("look", one.name, f"{share(one.nulls, one.rows)} of its values are null")
        if one.not_finite:
            yield Finding(
                "look", one.name,
                f"{share(one.not_finite, one.rows)} of its values are NaN or infinite",
            )
        if one.kind == "mixed":
            yield Finding("bad", one.name, "changes its type within the dataset")
        if one.is_constant and one.values >= LEAST_ROWS and one.name not in in_folders:
            yield Finding(
                "look", one.name, f"has the same value in all sampled rows: {_only(one)}"
            )


def _of_run(manifest: Manifest) -> Iterator[Finding]:
    sample, timing = manifest.sample, manifest.timing
    if sample and sample.chunks_missing:
        yield Finding(
            "look", "Sample",
            ("the share of 1 chunk is" if sample.chunks_missing == 1 else
             f"the shares of {sample.chunks_missing:,} chunks are")
            + " lost; the figures of columns do without",
        )
    if timing is None:
        return
    if timing.retried_chunks:
        yield Finding(
            "look", "Attempts",
            f"{many(timing.retried_chunks, 'chunk')} took more than one attempt "
            f"({timing.attempts:,} for {many(len(manifest.parts), 'chunk')}); "
            "a worker was stopped or killed, or a chunk failed and was tried again",
        )
    idle_s = timing.span_seconds - timing.working_seconds
    if idle_s > max(LEAST_IDLE_S, LONG_IDLE * timing.span_seconds):
        yield Finding("look", "Standstill", f"for {duration(idle_s)} no chunk was at work")


def _only(one: ColumnProfile) -> str:
    if one.top:
        return one.top[0].value
    if one.numbers and not one.unit:
        return f"{one.numbers.min:.6g}"
    return one.first or "one value"
