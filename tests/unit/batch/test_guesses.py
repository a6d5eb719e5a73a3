"""Guessed types of CSV and JSON lines, held against the whole file: no row is lost by a guess."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from celeriac.datasets import guesses, scan as scanning, streams
from celeriac.datasets.copies import Copies
from celeriac.datasets.parts import read_parts, write_part
from celeriac.datasets.planner import plan
from celeriac.datasets.reader import read_chunk
from celeriac.datasets.records import DatasetPlan
from celeriac.datasets.sources import open_source

HEAD = "id,price,flag,zip\n" + "".join(f"{n},{n}.5,true,{n + 1}\n" for n in range(40))


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Any:
    """The head and the blocks of a file are a few rows, so that its rest is worth a look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "HEAD_BYTES", 100)
        patch.setattr(scanning, "BLOCK_BYTES", 64)
        yield


def planned(path: Path, text: str | bytes, **options: Any) -> DatasetPlan:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return plan(open_source(path), chunk_rows=7, **options)


def types_of(found: DatasetPlan) -> dict[str, str]:
    return {column.name: column.dtype for column in found.columns}


def rows_of(found: DatasetPlan) -> tuple[list[dict[str, Any]], list[str]]:
    """All rows that can be read, and what is wrong with the others."""
    names = [column.name for column in found.columns]
    read = [
        read_chunk(found.format, found.files, chunk, found.columns, names)
        for chunk in found.chunks
    ]
    rows = [row for one in read for row in one.table.to_pylist()]
    return rows, [bad.message for one in read for bad in one.errors]


@pytest.mark.parametrize(("written", "value"), [
    ("n/k", "n/k"), ("007", "007"), ("1.5", "1.5"), ('"a, ""b""\nc"', 'a, "b"\nc'),
    ("12345678901234567890", "12345678901234567890"),
])
def test_a_guess_that_a_later_value_refutes_gives_way(
    tmp_path: Path, written: str, value: str
) -> None:
    found = planned(tmp_path / "a.csv", f"{HEAD}{written},2,true,5\n1,2,true,5\n")
    assert types_of(found) == {"id": "text", "price": "float", "flag": "bool", "zip": "int"}
    rows, bad = rows_of(found)
    assert not bad
    assert [rows[0]["id"], rows[-2]["id"], rows[-1]["id"]] == ["0", value, "1"]


@pytest.mark.parametrize(("written", "kind"), [
    ("12345678901234567", "text"), ("inf", "text"), ("1e300", "float"), ("NaN", "float"),
    ("-12345678901234567", "text"), ("-1e300", "float"), ("1e400", "text"), ("1e-300", "float"),
    ("9e308", "text"), ("12e307", "text"), ("123456789012345e292", "float"), ("1.5e+307", "float"),
])
def test_no_number_is_rounded_by_a_guess(tmp_path: Path, written: str, kind: str) -> None:
    found = planned(tmp_path / "a.csv", f"{HEAD}1,{written},true,5\n1,2,true,5\n")
    assert types_of(found)["price"] == kind
    value = rows_of(found)[0][-2]["price"]
    assert value == (written if kind == "text" else None if written == "NaN" else float(written))


def test_other_guesses_stay(tmp_path: Path) -> None:
    odd = b",,,\n5,1e3,TRUE,\n\xff,1,true,2\n1,2\n5,NaN,false,-7\n"
    found = planned(tmp_path / "a.csv", HEAD.encode() + odd)
    assert types_of(found) == {"id": "int", "price": "float", "flag": "bool", "zip": "int"}
    rows, bad = rows_of(found)
    assert len(rows) == 43
    assert [one.split(" (")[0] for one in bad] == [
        "not valid UTF-8", "2 fields where the header has 4",
    ]


def test_one_and_nought_are_no_truth_values(tmp_path: Path) -> None:
    found = planned(tmp_path / "a.csv", HEAD + "1,2,1,5\n")
    assert types_of(found)["flag"] == "text"
    assert rows_of(found)[0][-1]["flag"] == "1"


def test_what_the_model_reads_keeps_its_type_and_what_nobody_reads_is_not_looked_at(
    tmp_path: Path,
) -> None:
    found = planned(
        tmp_path / "a.csv", HEAD + "n/k,x,true,y\n", dtypes={"id": "int"}, reads=["id", "price"]
    )
    assert types_of(found) == {"id": "int", "price": "text", "flag": "bool", "zip": "int"}
    _, bad = rows_of(found)
    assert bad == ["column 'id': 'n/k' is not a whole number"]


@pytest.mark.parametrize(("written", "kind"), [
    ("1.5", "float"), ("12345678901234567", "int"), ("n/k", "float"),
])
def test_whole_numbers_that_are_measured_become_numbers(
    tmp_path: Path, written: str, kind: str
) -> None:
    lines = [json.dumps({"id": n}) for n in range(40)]
    last = json.dumps({"id": written if written == "n/k" else json.loads(written)})
    for name, text in (
        ("a.csv", f"{HEAD}{written},2,true,5\n"), ("a.jsonl", "\n".join([*lines, last])),
    ):
        found = planned(tmp_path / name, text, numbers=["id"])
        assert types_of(found)["id"] == kind
        rows, bad = rows_of(found)
        assert [row["id"] for row in rows[:40]] == list(range(40))
        if written == "n/k":
            assert len(bad) == 1
        else:
            assert rows[40]["id"] == json.loads(written)


def test_other_types_that_are_measured_stay(tmp_path: Path) -> None:
    found = planned(tmp_path / "a.csv", HEAD + "1,x,7,5\n", numbers=["price", "flag"])
    assert types_of(found) == {"id": "int", "price": "float", "flag": "bool", "zip": "int"}


def test_a_later_file_and_a_compressed_one(tmp_path: Path) -> None:
    for name, last in (("a.csv", "1,2,true,5\n"), ("b.csv", "n/k,2,true,5\n")):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((HEAD + last).encode()))
    found = plan(open_source(tmp_path), chunk_rows=7, copies=Copies(tmp_path / "copies"))
    assert types_of(found)["id"] == "text"
    rows, bad = rows_of(found)
    assert (len(rows), bad) == (82, [])


def test_a_record_too_long_to_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "LONGEST_BYTES", 500)
    found = planned(tmp_path / "a.csv", HEAD + f"1,2,true,{'9' * 1_000}\n")
    assert set(types_of(found).values()) == {"text"}
    rows, bad = rows_of(found)
    assert (len(rows), bad) == (41, [])


@pytest.mark.parametrize("at", [1, 45])
@pytest.mark.parametrize(("first", "value", "kind", "comes_out"), [
    ("1.5", "9007199254740993", "json", "9007199254740993"), ("1.5", "NaN", "float", "nan"),
    ("1", "9007199254740993", "int", "9007199254740993"), ("1.5", "-Infinity", "float", "-inf"),
    ('"x"', "NaN", "json", "None"),
])
def test_odd_numbers_in_json_lines(
    tmp_path: Path, first: str, value: str, kind: str, comes_out: str, at: int
) -> None:
    """Wherever they come up, and whatever else is in their chunk."""
    lines = [f'{{"id": {n}, "n": {first}}}' for n in range(60)]
    lines[at] = f'{{"id": {at}, "n": {value}}}'
    found = planned(tmp_path / "a.jsonl", "\n".join(lines))
    assert types_of(found)["n"] == kind
    rows, bad = rows_of(found)
    assert (str(rows[at]["n"]), bad) == (comes_out, [])
    odd = planned(tmp_path / "b.jsonl", "\n".join([*lines, "no JSON"]), dtypes={"n": kind})
    assert [str(row["n"]) for row in rows_of(odd)[0]] == [str(row["n"]) for row in rows]


@pytest.mark.parametrize("in_two_files", [False, True])
@pytest.mark.parametrize("at", [0, 30])
@pytest.mark.parametrize(("number", "kind"), [
    (2**53 + 1, "json"), (-(2**53) - 1, "json"), (2**53, "float"),
])
def test_whole_numbers_stay_exact_when_a_fraction_comes_later(
    tmp_path: Path, number: int, kind: str, at: int, in_two_files: bool
) -> None:
    lines = [f'{{"n": {number if n == at else 1}}}\n' for n in range(60)]
    more = ['{"n": 1}\n' * 60, '{"n": 1.5}\n']
    texts = ["".join(lines), "".join(more)] if in_two_files else ["".join(lines + more)]
    for name, text in enumerate(texts):
        (tmp_path / f"{name}.jsonl").write_text(text)
    found = plan(open_source(tmp_path), chunk_rows=7)
    assert types_of(found) == {"n": kind}
    rows, bad = rows_of(found)
    assert (rows[at]["n"], bad) == (str(number) if kind == "json" else float(number), [])


@pytest.mark.parametrize("value", ["-NaN", "Inf", "1e400", "nan"])
def test_what_neither_json_nor_python_writes_is_a_bad_row(tmp_path: Path, value: str) -> None:
    lines = '{"n": 1.5}\n' * 60 + f'{{"n": {value}}}\n'
    rows, bad = rows_of(planned(tmp_path / "a.jsonl", lines))
    assert (len(rows), len(bad)) == (60, 1)


@pytest.mark.parametrize(("value", "kind", "comes_out"), [
    (5, "int", 5), (5.5, "float", 5.5), ("odd", "json", '"odd"'), ([1], "json", "[1]"),
    (None, "int", None),
])
def test_json_lines(tmp_path: Path, value: Any, kind: str, comes_out: Any) -> None:
    lines = [json.dumps({"id": n, "note": "x"}) for n in range(40)]
    lines += ["no JSON", json.dumps({"id": value, "note": "x"}), '{"note": "x"}']
    found = planned(tmp_path / "a.jsonl", "\n".join(lines))
    assert types_of(found) == {"id": kind, "note": "text"}
    rows, bad = rows_of(found)
    assert [one["id"] for one in rows[-2:]] == [comes_out, None]
    assert len(bad) == 1


CELLS = st.one_of(
    st.integers(-(10**20), 10**20).map(str), st.integers(0, 99).map(lambda n: f"{n:03}"),
    st.floats(allow_nan=False, allow_infinity=False, width=16).map(str),
    st.sampled_from(["", "NA", "true", "0", "1", "-0", "+1", " 1", "1 ", "inf", "a,b", "\r", "é"]),
    st.sampled_from(['x"y', "p\nq"]),
)


@settings(max_examples=150)
@given(
    start=st.sampled_from(["12", "1.5", "true", "x"]),
    cells=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=30),
)
def test_no_row_is_lost_and_texts_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, start: str, cells: list[tuple[str, str]]
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    rows = [(start, "7")] * 20 + cells
    writer.writerows([("one", "two"), *rows])
    found = planned(tmp_path_factory.mktemp("any") / "a.csv", text.getvalue())
    read, bad = rows_of(found)
    assert not bad
    assert len(read) == len(rows)
    kinds = types_of(found)
    for name, went_in in zip(("one", "two"), zip(*rows, strict=True), strict=True):
        came_out = [one[name] for one in read]
        if kinds[name] == "text":
            assert came_out == list(went_in)
        elif kinds[name] == "int":
            whole = [str(one) for one in came_out if one is not None]
            assert whole == [was for was in went_in if was not in ("", "NA")]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(("values", "wide"), [
    ([["12345678901234567", "1"], ["1.5"]], True), ([["5"], ["1.5"]], False),
    ([["", ""], ["12345678901234567"]], False),
])
def test_numbers_of_one_file_are_not_rounded_by_another(
    tmp_path: Path, kind: str, values: list[list[str]], wide: bool
) -> None:
    for number, some in enumerate(values):
        lines = ["id,n", *(f"1,{one}" for one in some)] if kind == "csv" else [
            f'{{"id": 1, "n": {one or "null"}}}' for one in some
        ]
        (tmp_path / f"{number}.{kind}").write_text("\n".join(lines))
    found = plan(open_source(tmp_path))
    is_wide = types_of(found)["n"] in ("text", "json")
    rows, bad = rows_of(found)
    every = [one for some in values for one in some]
    as_numbers = [float(one) if "1.5" in str(every) else int(one) for one in every if one]
    kept = [row["n"] for row in rows if row["n"] is not None]
    assert (is_wide, bad) == (wide, [])
    assert kept == ([one for one in every if one] if wide else as_numbers)


def test_null_and_an_empty_text_are_told_apart_after_a_guess_gave_way(tmp_path: Path) -> None:
    texts = [*map(str, range(60)), None, "", "x"]
    path = tmp_path / "part-00000.csv"
    write_part(path, pa.table({"k": texts, "v": [1.5] * len(texts)}), "csv")
    assert read_parts([path], "csv")["k"].to_pylist() == texts
