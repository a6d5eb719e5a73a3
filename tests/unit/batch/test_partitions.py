"""Columns in the names of folders, as ``date=2026-11-24/region=eu``: found, planned, read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celeriac import errors
from celeriac.datasets.planner import plan
from celeriac.datasets.reader import read_chunk
from celeriac.datasets.records import DatasetPlan
from celeriac.datasets.sources import open_files, open_source

Write = Callable[[Path, list[int]], None]


def write_csv(path: Path, values: list[int]) -> None:
    path.with_suffix(".csv").write_text("\n".join(["x", *map(str, values)]) + "\n")


def write_jsonl(path: Path, values: list[int]) -> None:
    path.with_suffix(".jsonl").write_text("".join(f'{{"x": {one}}}\n' for one in values))


def write_parquet(path: Path, values: list[int]) -> None:
    pq.write_table(pa.table({"x": values}), path.with_suffix(".parquet"), row_group_size=2)


def lake(root: Path, write: Write = write_csv) -> Path:
    """Two dates of two regions, with what other programs leave beside the data."""
    for at, folders in enumerate([
        "date=2026-11-24/region=S%C3%A3o%20Paulo", "date=2026-11-24/region=eu",
        "date=2026-11-25/region=__HIVE_DEFAULT_PARTITION__",
    ]):
        folder = root / "events" / folders
        folder.mkdir(parents=True)
        write(folder / "part-0", [10 * at, 10 * at + 1, 10 * at + 2])
    (root / "events" / "_SUCCESS").touch()
    (root / "events" / "date=2026-11-24" / "_temporary").mkdir()
    write(root / "events" / "date=2026-11-24" / "_temporary" / "part-9", [99])
    (root / "events" / "date=2026-11-26").mkdir()
    return root / "events"


def rows(planned: DatasetPlan, names: list[str], named: str | None = None) -> list[dict[str, Any]]:
    tables = [
        read_chunk(planned.format, planned.files, chunk, planned.columns, names, named).table
        for chunk in planned.chunks
    ]
    return list(pa.concat_tables(tables).to_pylist())


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
@pytest.mark.parametrize("chunk_rows", [2, 100])
def test_folders_of_partitions_are_searched_and_are_columns(
    tmp_path: Path, write: Write, chunk_rows: int
) -> None:
    """Chunks of a part of a file, and one that files share."""
    planned = plan(open_source(lake(tmp_path, write)), chunk_rows=chunk_rows)
    assert [column.name for column in planned.columns] == ["x", "date", "region"]
    first, second, third = "2026-11-24", "2026-11-24", "2026-11-25"
    expected = [
        {"region": region, "x": 10 * at + row, "date": date}
        for at, (date, region) in enumerate([(first, "São Paulo"), (second, "eu"), (third, None)])
        for row in range(3)
    ]
    found = rows(planned, ["region", "x", "date"])
    assert sorted(found, key=lambda row: row["x"]) == expected
    assert [row["date"] for row in rows(planned, ["date"])] == [first] * 6 + [third] * 3


def test_a_file_a_folder_and_a_pattern_have_the_same_columns(tmp_path: Path) -> None:
    folder = lake(tmp_path)
    inner = folder / "date=2026-11-24" / "region=eu"
    for source in (inner / "part-0.csv", inner, folder / "**" / "region=e*" / "*.csv"):
        found = open_source(source)
        assert found.names == ["x", "date", "region"]
        assert rows(plan(found), ["date", "region"])[0] == {"date": "2026-11-24", "region": "eu"}
    assert open_files([inner / "part-0.csv"]).names == ["x"]  # our own parts


def test_a_pattern_of_folders_is_told_how_it_goes_on(tmp_path: Path) -> None:
    folder = lake(tmp_path)
    (folder / "other").mkdir()
    for pattern in (folder / "date=2026-11-2*", f"{folder}/date=2026-11-2*/"):
        with pytest.raises(errors.DatasetError, match=r"no file matches .* folders do") as found:
            open_source(pattern)
        named = f"name the pattern {folder}/date=2026-11-2*/**/*.csv (in quotes)"
        assert found.value.message.endswith(named)
    with pytest.raises(errors.DatasetError, match=r"no file matches the pattern$"):
        open_source(folder / "o*")
    assert len(open_source(f"{folder}/date=2026-11-2*/**/*.csv").files) == 3


def test_a_column_of_the_files_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "x=7"
    folder.mkdir()
    write_csv(folder / "a", [1, 2])
    found = open_source(tmp_path)
    assert found.names == ["x"]
    assert rows(plan(found), ["x"]) == [{"x": 1}, {"x": 2}]


def test_a_folder_has_the_type_that_the_model_takes(tmp_path: Path) -> None:
    for hour in ("07", "11"):
        (tmp_path / f"hour={hour}").mkdir()
        write_csv(tmp_path / f"hour={hour}" / "a", [1])
    found = open_source(tmp_path)
    assert [row["hour"] for row in rows(plan(found), ["hour"])] == ["07", "11"]
    typed = plan(found, dtypes={"hour": "int"})
    assert [row["hour"] for row in rows(typed, ["hour"])] == [7, 11]
    (tmp_path / "hour=noon").mkdir()
    write_csv(tmp_path / "hour=noon" / "a", [1])
    with pytest.raises(errors.DatasetError, match=r"a\.csv: hour=noon: .* takes column 'hour'"):
        plan(open_source(tmp_path), dtypes={"hour": "int"})


def test_a_table_that_keeps_what_was_deleted_is_refused(tmp_path: Path) -> None:
    folder = lake(tmp_path, write_parquet)
    (folder / "_delta_log").mkdir()
    for source in (folder, folder / "date=2026-11-24" / "region=eu"):
        with pytest.raises(errors.DatasetError, match=rf"^{source}: .* Delta Lake \(_delta_log\)"):
            open_source(source)
    assert len(open_source(folder / "**" / "*.parquet").files) == 3


def test_no_folder_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "image=7").mkdir()
    write_parquet(tmp_path / "image=7" / "a", [1])
    with pytest.raises(errors.DatasetError, match=r"image=7: the model takes column 'image'"):
        plan(open_source(tmp_path), dtypes={"image": "image"})


def test_names_of_columns_may_hold_anything_but_an_equals_sign(tmp_path: Path) -> None:
    folder = tmp_path / "event-type=a=b" / "1st=2%2F3" / "new%20year=true"
    folder.mkdir(parents=True)
    write_csv(folder / "a", [1])
    found = plan(open_source(tmp_path))
    assert rows(found, ["event-type", "1st", "new year"]) == [
        {"event-type": "a=b", "1st": "2/3", "new year": "true"}
    ]


@pytest.mark.parametrize("source", [
    "events/date=1/a.csv", "events/date=1", "events/date=2", "events/*/*.csv", "events",
    "latest.csv",
])
def test_files_and_folders_that_are_links_keep_the_columns_of_their_names(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the files of a table lie in a store, by their content; named from anywhere."""
    store = tmp_path / "store"
    for folder in ("store/2", "events/date=1", "lake/date=1"):
        (tmp_path / folder).mkdir(parents=True)
    write_csv(store / "5f0c1d", [1])
    write_csv(store / "2" / "a", [2])
    (tmp_path / "events" / "date=1" / "a.csv").symlink_to(store / "5f0c1d.csv")
    (tmp_path / "events" / "date=2").symlink_to(store / "2")
    write_csv(tmp_path / "lake" / "date=1" / "a", [1])
    (tmp_path / "latest.csv").symlink_to(tmp_path / "lake" / "date=1" / "a.csv")
    monkeypatch.chdir(tmp_path)
    for named in (source, tmp_path / source, f"events/../{source}"):
        found = rows(plan(open_source(named)), ["x", "date"])
        assert found
        assert all(row["date"] == str(row["x"]) for row in found)


def test_links_of_several_folders_may_lead_to_one_file(tmp_path: Path) -> None:
    """Of equal files a store keeps one; its own name may look like a folder's."""
    (tmp_path / "store").mkdir()
    write_csv(tmp_path / "store" / "h=1", [7])
    for date in (1, 2):
        (tmp_path / f"date={date}").mkdir()
        (tmp_path / f"date={date}" / "a.csv").symlink_to(tmp_path / "store" / "h=1.csv")
    found = rows(plan(open_source(f"{tmp_path}/*/a.csv")), ["x", "date"])
    assert [(row["x"], row["date"]) for row in found] == [(7, "1"), (7, "2")]


def test_a_hint_does_not_go_in_circles(tmp_path: Path) -> None:
    """Two links to where they are: each way has 2^40 ends. What cannot be read is passed over."""
    folder = tmp_path / "new" / "deep"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).symlink_to(tmp_path / "new")
    (tmp_path / "_old").mkdir()
    write_csv(tmp_path / "_old" / "a", [1])
    with pytest.raises(errors.DatasetError, match=r"no file matches the pattern$"):
        open_source(tmp_path / "*")
    write_csv(folder / "x", [1])
    with pytest.raises(errors.DatasetError, match=r"\*/\*\*/\*\.csv \(in quotes\)$"):
        open_source(tmp_path / "*")


def test_folders_that_differ_are_refused(tmp_path: Path) -> None:
    folder = lake(tmp_path)
    write_csv(folder / "date=2026-11-24" / "b", [1])
    with pytest.raises(errors.DatasetError, match=r"differs from .* of its folders: region"):
        open_source(folder)


def test_bad_rows_are_named_by_a_folder(tmp_path: Path) -> None:
    for at, bad in enumerate(["1,2", "3", "4,5"]):
        folder = tmp_path / f"row={at}"
        folder.mkdir()
        (folder / "a.csv").write_text(f"x\n10\n{bad}\n12\n")
    planned = plan(open_source(tmp_path))
    (chunk,) = planned.chunks  # all files share it
    found = read_chunk("csv", planned.files, chunk, planned.columns, ["x", "row"], "row")
    assert [(bad.row, bad.id) for bad in found.errors] == [(2, "0"), (8, "2")]
    assert found.table["row"].to_pylist() == ["0"] * 2 + ["1"] * 3 + ["2"] * 2
