"""Metrics of a pool's processes, on a disk that has room and on one that has none."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from workers.reserved_values import SIZE, ReservedValues


def test_a_file_has_its_blocks_before_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "counter_1.db"
    values: Any = ReservedValues(str(file))
    assert file.stat().st_blocks * 512 >= file.stat().st_size == SIZE
    values.write_value("items", 2.0, 0.0)
    values.close()
    found = ReservedValues.read_all_values_from_file(file)  # type: ignore[no-untyped-call]
    assert [(key, value) for key, value, *_ in found] == [("items", 2.0)]


def test_where_the_disk_is_full_values_are_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    values: Any = ReservedValues(str(tmp_path / "counter_1.db"))
    values.write_value("items", 2.0, 0.0)
    assert values.read_value("items") == (2.0, 0.0)
    values.close()
    assert not list(tmp_path.iterdir())
