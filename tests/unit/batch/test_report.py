"""The report of a job: right counts, one small file, harmless whatever is in the data."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celeriac import errors
from celeriac.datasets.planner import plan as plan_dataset
from celeriac.datasets.records import Chunk
from celeriac.datasets.sources import open_source
from celeriac.jobs import report
from celeriac.jobs.chunk import run_chunk
from celeriac.jobs.finalize import finalize
from celeriac.jobs.findings import findings
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import DeadChunk
from celeriac.jobs.manifest import read_manifest
from celeriac.jobs.plan import ChunkRecord, JobPlan, Scoring, make_plan
from celeriac.jobs.report import make_report
from celeriac.jobs.timing import Run, runs, throughput, timing, working_seconds
from celeriac.outputs import TableAnswers
from celeriac.reports import charts, page

NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)
SCRIPT = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("b", "span"):
            self.words.append(" ")
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag != "span":
            self.words.append("" if tag == "b" else " ")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def score(table: pa.Table) -> TableAnswers:
    texts = table[table.column_names[0]].to_pylist()
    bad: dict[int, errors.CeleriacError] = {
        at: errors.InvalidItem(f"column {table.column_names[0]!r}: found {SCRIPT}")
        for at, text in enumerate(texts) if text is None
    }
    answers = [None if at in bad else SCRIPT if at % 2 else "good" for at in range(len(texts))]
    return TableAnswers({"prediction": pa.array(answers, pa.string())}, bad)


def run_job(
    tmp_path: Path, table: pa.Table, *, chunk_rows: int = 25, sample_rows: int = 100_000,
    skip: tuple[int, ...] = (),
) -> tuple[JobFolder, JobPlan, list[Chunk]]:
    """A job whose chunks, but for ``skip``, are done."""
    path = tmp_path / f"{SCRIPT.replace('/', '')}.parquet"
    pq.write_table(table, path, row_group_size=chunk_rows)
    dataset = plan_dataset(open_source(path), chunk_rows=chunk_rows)
    names = tuple(column.name for column in dataset.columns)
    scoring = Scoring(model="shout", version=1, device="cpu", needs=names[:1], keeps=names)
    plan = make_plan(
        dataset, scoring, source=str(path), job_id="one", now=NOW, sample_rows=sample_rows
    )
    folder = JobFolder(tmp_path / "out")
    folder.create(plan, dataset.chunks)
    for chunk in dataset.chunks:
        if chunk.number not in skip:
            run_chunk(folder, plan, chunk, score, attempt=3 if chunk.number == 1 else 1)
    return folder, plan, list(dataset.chunks)


def hundred() -> pa.Table:
    return pa.table({
        SCRIPT: [None if n % 10 == 0 else f"text {n}" for n in range(100)],
        "n": range(100), "kind": [SCRIPT] * 60 + ["other"] * 40, "empty": pa.nulls(100),
    })


def read(folder: JobFolder) -> Page:
    return Page(folder.report.read_text(encoding="utf-8"))


def test_the_report_counts_what_the_manifest_counts(tmp_path: Path) -> None:
    folder, _, _ = run_job(tmp_path, hundred())
    manifest = finalize(folder, NOW)
    assert manifest.report == "report.html"
    assert (manifest.rows_failed, manifest.failures) == (10, {"item_invalid": 10})
    assert manifest.bad_columns == {SCRIPT: 10}
    assert manifest.timing is not None
    assert (manifest.timing.attempts, manifest.timing.retried_chunks) == (6, 1)
    assert manifest.sample is not None
    assert (manifest.sample.rows, manifest.sample.chunks_missing) == (100, 0)
    assert [(one.name, one.kind, one.nulls) for one in manifest.columns] == [
        (SCRIPT, "text", 10), ("n", "number", 0), ("kind", "text", 0), ("empty", "empty", 100),
    ]
    assert [(one.name, one.nulls, [(top.value, top.count) for top in one.top])
            for one in manifest.answers] == [("prediction", 10, [("good", 46), (SCRIPT, 44)])]
    assert read_manifest(folder) == manifest
    text = read(folder).text
    for words in (
        "100 rows of", "answered90 90 %", "failed10 10 %", "chunks4 6 attempts",
        "item_invalid 10 the row does not fit the model's input", f"row 1 of {SCRIPT[:8]}",
        f"{SCRIPT}: 10 rows failed by the value of this column",
        "empty: has no value in any of 100 sampled rows", "1 chunk took more than one attempt",
    ):
        assert words in text, words


def test_hostile_names_and_values_are_text(tmp_path: Path) -> None:
    folder, _, _ = run_job(tmp_path, hundred())
    finalize(folder, NOW)
    found = read(folder)
    assert "script" not in found.tags
    assert found.text.count(SCRIPT) >= 5  # column, category, answer, example, finding
    assert not [name for name, _ in found.attributes if name.startswith("on")]


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    folder, _, _ = run_job(tmp_path, hundred())
    finalize(folder, NOW)
    found, html = read(folder), folder.report.read_text(encoding="utf-8")
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & {*found.tags}
    assert not [pair for pair in found.attributes if pair[0] in ("src", "href", "xlink:href")]
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html
    assert "default-src 'none'" in html


def test_very_many_columns_with_very_long_names_stay_below_a_megabyte(tmp_path: Path) -> None:
    table = pa.table({f"{n} {'<' * 300}": [n * x % 7 / 3 for x in range(60)] for n in range(1_200)})
    folder, _, _ = run_job(tmp_path, table, chunk_rows=60)
    manifest = finalize(folder, NOW)
    assert manifest.report == "report.html"
    assert folder.report.stat().st_size <= page.MOST_BYTES
    assert len(manifest.columns) == report.MOST_PROFILES
    assert "more columns are in manifest.json" in read(folder).text


def test_dead_chunks_and_lost_samples_are_named(tmp_path: Path) -> None:
    folder, _, _ = run_job(tmp_path, hundred(), skip=(2,))
    folder.sample(0).unlink()
    manifest = finalize(folder, NOW, [DeadChunk(2, 3, f"it hung {SCRIPT}", "", 0, False)])
    assert manifest.sample is not None
    assert (manifest.sample.rows, manifest.sample.chunks_missing) == (50, 1)
    text = read(folder).text
    assert "Chunks given up: 1 chunk with 25 rows (25 %), which have no answer" in text
    assert f"it hung {SCRIPT}" in text
    assert "the share of 1 chunk is lost" in text
    assert "Rows that failed are in errors/" in text
    assert "given up are in no file" in text


def test_where_no_row_failed_but_in_chunks_given_up_there_is_no_folder_of_errors(
    tmp_path: Path,
) -> None:
    table = pa.table({SCRIPT: [f"text {n}" for n in range(100)]})
    folder, _, _ = run_job(tmp_path, table, skip=(2,))
    finalize(folder, NOW, [DeadChunk(2, 3, "it hung", "", 0, False)])
    assert not (folder.path / "errors").exists()
    text = read(folder).text
    assert "errors/" not in text
    assert "given up are in no file" in text


def test_without_a_sample_the_report_says_so(tmp_path: Path) -> None:
    folder, _, _ = run_job(tmp_path, hundred(), sample_rows=0)
    manifest = finalize(folder, NOW)
    assert (manifest.report, manifest.sample, manifest.columns) == ("report.html", None, ())
    assert "No rows were sampled for this job" in read(folder).text


def test_a_report_that_fails_costs_no_job_and_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = run_job(tmp_path, hundred())

    def fail(*args: Any, **values: Any) -> bytes:
        raise ZeroDivisionError("no plot")

    with monkeypatch.context() as patch:
        patch.setattr(page, "render", fail)
        manifest = finalize(folder, NOW)
        assert (manifest.state, manifest.rows_ok) == ("completed_with_errors", 90)
        assert (manifest.report, manifest.report_error) == ("", "ZeroDivisionError('no plot')")
        assert not folder.report.exists()
        with pytest.raises(errors.JobFailed, match=r"report.html: cannot be made: .*no plot"):
            make_report(folder)
    assert make_report(folder) == folder.report
    again = read_manifest(folder)
    assert again is not None
    assert (again.report, again.report_error) == ("report.html", "")
    assert again.parts == manifest.parts
    assert len(again.columns) == 4


def test_a_report_that_is_there_stays_unless_asked_for_again(tmp_path: Path) -> None:
    folder, _, _ = run_job(tmp_path, hundred())
    with pytest.raises(errors.JobFailed, match="the job is not complete"):
        make_report(folder)
    finalize(folder, NOW)
    folder.report.write_text("old")
    assert make_report(folder).read_bytes() == b"old"
    assert make_report(folder, again=True).read_bytes() != b"old"


def test_a_report_that_is_made_without_its_samples_keeps_the_figures(tmp_path: Path) -> None:
    folder, _, _ = run_job(tmp_path, hundred())
    manifest = finalize(folder, NOW)
    for file in (folder.path / "samples").iterdir():
        file.unlink()
    make_report(folder, again=True)
    again = read_manifest(folder)
    assert again is not None
    assert (again.columns, again.sample) == (manifest.columns, manifest.sample)
    assert "different values 100" in read(folder).text


def test_a_job_that_is_opened_again_has_no_report(tmp_path: Path) -> None:
    folder, _, _ = run_job(tmp_path, hundred())
    finalize(folder, NOW)
    folder.reopen([])
    assert not folder.report.exists()


def record(number: int, end_s: float, seconds: float, rows: int = 10) -> ChunkRecord:
    return ChunkRecord(
        chunk=number, fingerprint="", first_row=0, rows_in=rows, rows_ok=rows, rows_failed=0,
        part="", bytes=0, sha256="", errors_sha256=None, model="m", version=1, attempt=1,
        worker="w", seconds=seconds,
        finished_at=(NOW + timedelta(seconds=end_s)).isoformat(timespec="milliseconds"),
    )


def test_time_without_work_does_not_count() -> None:
    records = [record(0, 10, 10), record(1, 8, 4), record(2, 3_610, 10)]
    found = timing(records)
    assert (found.span_seconds, found.working_seconds) == (3_610, 20)
    assert found.rows_per_s == 1.5
    assert (found.started_at, found.ended_at) == (
        "2026-11-22T03:00:00.000+00:00", "2026-11-22T04:00:10.000+00:00",
    )


@pytest.mark.parametrize(("second_end_s", "said"), [
    (20, []), (3_610, ["for 59 min 50 s no chunk was at work"]),
])
def test_a_long_standstill_is_worth_a_look(
    tmp_path: Path, second_end_s: float, said: list[str]
) -> None:
    folder, _, _ = run_job(tmp_path, pa.table({"text": ["a", "b"] * 10}))
    manifest = finalize(folder, NOW)
    took = timing([record(0, 0, 10), record(1, second_end_s, 20)])
    found = findings(msgspec.structs.replace(manifest, timing=took))
    assert [one.text for one in found if one.what == "Standstill"] == said


@pytest.mark.parametrize("bins", [1, 7, 60])
def test_throughput_adds_up_to_all_rows(bins: int) -> None:
    first, found = runs([record(0, 10, 10), record(1, 12, 1, 500), record(2, 12, 0, 3)])
    assert first == NOW
    width_s, rates = throughput(found, bins)
    assert sum(rates) * width_s == pytest.approx(513)
    assert working_seconds(found) == pytest.approx(11)


def test_a_run_of_no_length_is_drawn() -> None:
    _, found = runs([record(0, 0, 0)])
    assert working_seconds(found) == 0
    assert throughput(found, 3)[1][0] > 0
    assert [type(one) for one in found] == [Run]


def test_a_clean_job_is_worth_no_look(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {n}" for n in range(100)]})
    partition = tmp_path / "date=2026-11-24"
    partition.mkdir()
    folder, _, _ = run_job(partition, table, chunk_rows=100)
    manifest = finalize(folder, NOW)
    assert [one.what for one in findings(manifest)] == ["date"]
    assert "Nothing: every row has an answer" in read(folder).text


def test_answers_that_are_all_the_same_are(tmp_path: Path) -> None:
    folder, _, _ = run_job(tmp_path, hundred())
    manifest = finalize(folder, NOW)
    (answer,) = manifest.answers
    same = msgspec.structs.replace(answer, distinct=1, top=answer.top[1:])
    noticed = findings(msgspec.structs.replace(manifest, answers=(same,)))
    assert f"is the same in all 90 sampled answers: {SCRIPT}" in [one.text for one in noticed]


def test_bars_share_the_width_and_what_is_there_can_be_seen() -> None:
    plot = charts.bars([0, 1, 1_000], ["a", "b", "c"], top="t", left="l", right="r")
    assert [bar.height for bar in plot.bars] == [0, 1.5, 100]
    assert plot.bars[-1].x + plot.bars[-1].width <= charts.WIDTH
    assert plot.path.count("M") == 2
    marked = replace(plot, bars=(replace(plot.bars[2], marked=True),))
    assert (marked.path, marked.marked_path.count("M")) == ("", 1)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (charts.number(0), "0"), (charts.number(12_345.678), "12,346"),
        (charts.number(0.012345), "0.01235"), (charts.number(1e12), "1e+12"),
        (charts.number(-1.5), "-1.5"), (charts.number(100), "100"),
        (charts.duration(0.0123), "12 ms"), (charts.duration(59.96), "60.0 s"),
        (charts.duration(605), "10 min 5 s"), (charts.duration(7_500), "2 h 05 min"),
        (charts.share(1, 100_000), "< 0.1 %"), (charts.share(99_999, 100_000), "> 99.9 %"),
        (charts.share(0, 0), "0 %"), (charts.share(1, 3), "33.3 %"),
        (charts.moment("2026-11-22T03:00:00.123+01:00"), "2026-11-22 02:00:00 UTC"),
    ],
)
def test_figures_are_for_people(shown: str, words: str) -> None:
    assert shown == words
