"""Equal rows of a table: each is answered once, and the answer given to all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from celeriac import errors
from celeriac.outputs import TableAnswers

_ROW = "\0row"


@dataclass(frozen=True)
class Groups:
    """Which rows of a table are equal, bit by bit."""

    first: np.ndarray[Any, Any]
    """The first row of each group, ascending."""
    group_of: np.ndarray[Any, Any]
    """The group of each row."""


def find_groups(table: pa.Table) -> Groups:
    """Rows whose values are equal in all columns; those of lists or records are all different."""
    rows = np.arange(table.num_rows)
    if not table.num_columns:
        return Groups(rows, rows)
    numbered = table.append_column(_ROW, pa.array(rows))
    try:
        grouped = numbered.group_by(table.column_names, use_threads=False).aggregate(
            [(_ROW, "list")]
        )
    except pa.ArrowNotImplementedError:
        return Groups(rows, rows)
    members = grouped[f"{_ROW}_list"].combine_chunks()
    flat, sizes = members.flatten().to_numpy(), np.diff(members.offsets.to_numpy())
    first = flat[members.offsets.to_numpy()[:-1]]
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    group_of = np.empty(table.num_rows, dtype=np.int64)
    group_of[flat] = np.repeat(rank, sizes)
    return Groups(first[order], group_of)


def spread(answers: TableAnswers, groups: Groups) -> TableAnswers:
    """The answer of each group for all its rows."""
    where = pa.array(groups.group_of)
    columns = {name: column.take(where) for name, column in answers.columns.items()}
    failed: dict[int, errors.CeleriacError] = {}
    if answers.errors:
        rows = np.argsort(groups.group_of, kind="stable")  # group by group
        ends = np.cumsum(np.bincount(groups.group_of, minlength=len(groups.first)))
        for group, error in answers.errors.items():
            start = ends[group - 1] if group else 0
            failed.update(dict.fromkeys(rows[start : ends[group]].tolist(), error))
    return TableAnswers(columns, failed)


def part_of(answers: TableAnswers, start: int, count: int) -> TableAnswers:
    """The answers to ``count`` rows from ``start``."""
    columns = {name: column.slice(start, count) for name, column in answers.columns.items()}
    failed = {
        row - start: error for row, error in answers.errors.items() if start <= row < start + count
    }
    return TableAnswers(columns, failed)
