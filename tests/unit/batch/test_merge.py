"""All parts in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celeriac.datasets import images
from celeriac.datasets.merge import merge_parts, read_tables
from celeriac.datasets.parts import read_parts
from celeriac.datasets.places import Listed
from celeriac.datasets.records import SourceFile


def written(folder: Path, sizes: list[int]) -> list[Path]:
    """Parquet parts of so many rows, which count on."""
    paths, first = [], 0
    for number, rows in enumerate(sizes):
        path = folder / f"part-{number:05d}.parquet"
        pq.write_table(pa.table({"n": np.arange(first, first + rows)}), path)
        paths.append(path)
        first += rows
    return paths


@pytest.mark.parametrize(("sizes", "groups"), [
    ([1] * 300, [300]),  # a folder of many small files
    ([30_000, 30_000, 30_000], [60_000, 30_000]),
    ([50_000, 1, 70_000], [50_000, 70_001]),
    ([0, 0], [0]),
])
def test_parts_of_few_rows_share_a_row_group(
    tmp_path: Path, sizes: list[int], groups: list[int]
) -> None:
    parts, target = written(tmp_path, sizes), tmp_path / "merged.parquet"
    found = merge_parts(parts, target, "parquet")
    file = pq.ParquetFile(target)
    metadata = file.metadata
    assert [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)] in (
        groups, [rows for rows in groups if rows]
    )
    assert file.read()["n"].to_pylist() == list(range(sum(sizes)))
    assert merge_parts(parts, tmp_path / "again.parquet", "parquet") == found


def test_parts_of_parquet_are_no_files_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that a thread still holds as the interpreter ends aborts the process."""
    folder = tmp_path / "day=1"  # no column of the output
    folder.mkdir()
    paths = [folder / "one.parquet", folder / "two.parquet"]
    for path in paths:
        pq.write_table(pa.table({"label": [path.stem]}), path)
    listing = tmp_path / "listing.parquet"
    images.write_listing(listing, [Listed("a.png", 1, 0)])
    opened = Path.open

    def counted(path: Path, *args: Any, **options: Any) -> Any:
        assert path not in (*paths, listing), "a file of Python"
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", counted)
    assert read_parts(paths, "parquet").to_pydict() == {"label": ["one", "two"]}
    merge_parts(paths, tmp_path / "merged.parquet", "parquet")
    found = pa.concat_tables(read_tables(paths, "parquet", ["label"], {}))
    assert found.to_pydict() == {"label": ["one", "two"]}
    file = SourceFile(path="", size=0, mtime_ns=0, sha256="", rows=1, copy=str(listing))
    table, _, _ = images.read_rows(file, images.chunk_of(0, 0, 1), ["path"])
    assert table.to_pydict() == {"path": ["a.png"]}
