"""The parts of an output, read as one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celeriac.datasets import parts
from celeriac.datasets.places import place


def test_threads_of_pyarrow_hold_no_python_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lets go of it while the interpreter ends aborts the process (SIGABRT)."""
    given: list[Any] = []
    read_table = pq.read_table
    monkeypatch.setattr(
        parts.pq, "read_table", lambda source: given.append(source) or read_table(source)
    )
    for name in ("one.parquet", "two.parquet"):
        pq.write_table(pa.table({"label": [name]}), tmp_path / name)
    paths = [place(tmp_path / "one.parquet"), place(tmp_path / "two.parquet")]
    found = parts.read_parts(paths, "parquet")
    assert found.column("label").to_pylist() == ["one.parquet", "two.parquet"]
    assert [type(one) for one in given] == [pa.BufferReader, pa.BufferReader]
