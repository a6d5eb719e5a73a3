"""Record ends of CSV: each record in exactly one span, whatever the quotes and line ends."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pytest
from hypothesis import given, settings, strategies as st

from celeriac.datasets import scan as scanning
from celeriac.datasets.scan import Span, UnclosedQuote, cut, scan

FIELDS = st.text(alphabet='ab,"\n\r é✓', max_size=8)
ROWS = st.lists(st.tuples(FIELDS, FIELDS), min_size=1, max_size=12)


@pytest.fixture(params=[1, 3, 1 << 22], ids=["blocks of 1", "blocks of 3", "one block"])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(scanning, "BLOCK_BYTES", request.param)
    return int(request.param)


def spans_of(data: bytes, chunk_rows: int = 1, chunk_bytes: int = 1 << 30) -> list[Span]:
    return list(cut(scan(io.BytesIO(data)), 0, chunk_rows, chunk_bytes))


def written(rows: list[tuple[str, str]], line_end: str, *, last_end: bool) -> bytes:
    lines = [",".join(map(quoted, row)) for row in rows]
    return (line_end.join(lines) + (line_end if last_end else "")).encode()


def quoted(field: str) -> str:
    special = any(char in field for char in ',"\r\n')
    return '"{}"'.format(field.replace('"', '""')) if special else field


def parsed(data: bytes) -> list[dict[str, Any]]:
    table = arrow_csv.read_csv(
        io.BytesIO(data),
        arrow_csv.ReadOptions(column_names=["a", "b"], block_size=len(data) + 1),
        arrow_csv.ParseOptions(newlines_in_values=True),
        arrow_csv.ConvertOptions(column_types={"a": pa.string(), "b": pa.string()}),
    )
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


@settings(max_examples=80)
@given(
    block=st.sampled_from([1, 3, 7, 1 << 22]), rows=ROWS,
    line_end=st.sampled_from(["\n", "\r\n"]), last_end=st.booleans(),
    chunk_rows=st.integers(1, 5), chunk_bytes=st.integers(1, 60),
)
def test_spans_cover_each_record_once(
    block: int, rows: list[tuple[str, str]], line_end: str, last_end: bool,
    chunk_rows: int, chunk_bytes: int,
) -> None:
    data = written(rows, line_end, last_end=last_end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "BLOCK_BYTES", block)
        spans = spans_of(data, chunk_rows, chunk_bytes)
    assert [span.first_row for span in spans] == [
        sum(one.rows for one in spans[:number]) for number in range(len(spans))
    ]
    assert all(
        span.rows <= chunk_rows and (span.end - span.start <= chunk_bytes or span.rows == 1)
        for span in spans
    )
    pieces = [parsed(data[span.start : span.end]) for span in spans]
    assert [len(piece) for piece in pieces] == [span.rows for span in spans]
    assert [row for piece in pieces for row in piece] == parsed(data)
    assert sum(span.rows for span in spans) == len(rows)


@settings(max_examples=80)
@given(data=st.text(alphabet='a,"\n\r', max_size=30).map(str.encode))
def test_any_bytes_are_cut_as_the_parser_cuts_them(data: bytes) -> None:
    """Quotes in odd places too: one record a span, and the parser sees one in each."""
    try:
        spans = spans_of(data)
    except UnclosedQuote:
        return
    for span in spans:
        seen: list[Any] = []
        piece = data[span.start : span.end]
        table = arrow_csv.read_csv(
            io.BytesIO(piece),
            arrow_csv.ReadOptions(
                column_names=["a"], block_size=len(piece) + 1, use_threads=False
            ),
            arrow_csv.ParseOptions(
                newlines_in_values=True,
                invalid_row_handler=lambda row, seen=seen: seen.append(row) or "skip",
            ),
        )
        assert table.num_rows + len(seen) == 1


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"", 0), (b"\n\n\r\n", 0), (b"a", 1), (b"a\n", 1), (b"a\r\nb\r\n", 2), (b"a\rb\r", 2),
        (b'"a\nb",c\nd\n', 2), (b'"a""b\n",c\n', 1), (b'5" pipe\n6" pipe\n', 2),
        (b'"a" b,"c\nd"\ne\n', 2), (b"a\n\n\nb", 2),
    ],
)
def test_records_are_counted(block_bytes: int, data: bytes, rows: int) -> None:
    assert sum(span.rows for span in spans_of(data)) == rows


def test_an_open_quote_names_its_row(block_bytes: int) -> None:
    with pytest.raises(UnclosedQuote) as caught:
        spans_of(b'a\nb\n"c\nd\n')
    assert caught.value.row == 3


def test_a_record_larger_than_a_chunk_is_a_chunk() -> None:
    long = b"x" * 100
    spans = spans_of(b"a\n" + long + b"\nb\n", chunk_rows=10, chunk_bytes=10)
    assert [(span.first_row, span.rows) for span in spans] == [(0, 1), (1, 1), (2, 1)]
