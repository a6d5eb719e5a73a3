"""The columns of a part: what is kept, the answers, and who or what is to blame for them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa

from celeriac import errors
from celeriac.datasets.records import Chunk, RowError
from celeriac.jobs.plan import Scoring
from celeriac.outputs import TableAnswers

MODEL, ERROR = "model", "error"


def extra_columns(scoring: Scoring) -> list[str]:
    """Columns beyond those that are kept and the answers."""
    wanted = ((MODEL, scoring.model_column), (ERROR, scoring.error_column))
    return [name for name, is_wanted in wanted if is_wanted]


def with_extras(answers: TableAnswers, scoring: Scoring, rows: int) -> TableAnswers:
    """The answers with the columns ``model`` and ``error``, where they are wanted."""
    columns = dict(answers.columns)
    if scoring.model_column:
        columns[MODEL] = pa.repeat(pa.scalar(scoring.ref), rows)
    if scoring.error_column:
        texts: list[str | None] = [None] * rows
        for row, error in answers.errors.items():
            texts[row] = _told(error.code, error.message)
        columns[ERROR] = pa.array(texts, pa.string())
    return TableAnswers(columns, answers.errors)


def join(
    table: pa.Table, answers: TableAnswers, keeps: tuple[str, ...], *, keep_failed: bool = False
) -> tuple[pa.Table, dict[int, errors.CeleriacError]]:
    """The kept columns and the answers side by side, without the rows that failed if not wanted.

    An input column with the name of an answer's column comes out as ``input_<name>``.
    """
    names = list(keeps)
    columns: list[Any] = [table[name] for name in keeps]
    for name, values in answers.columns.items():
        if name in names:
            names[names.index(name)] = _free_name(f"input_{name}", {*names, *answers.columns})
        names.append(name)
        columns.append(values)
    joined = pa.table(columns, names=names)
    if answers.errors and not keep_failed:
        ok = np.ones(table.num_rows, dtype=bool)
        ok[list(answers.errors)] = False
        joined = joined.filter(pa.array(ok))
    return joined, dict(answers.errors)


def with_unreadable(
    table: pa.Table, numbers: np.ndarray[Any, Any], unreadable: Collection[RowError], chunk: Chunk
) -> pa.Table:
    """A row for each row of the chunk: those that could not be read hold their error alone."""
    if not unreadable:
        return table
    first = chunk.first_row + 1
    where = np.full(chunk.rows, -1)
    where[numbers - first] = np.arange(table.num_rows)
    whole = table.take(pa.array(where, mask=where < 0))
    texts = whole[ERROR].to_pylist()
    for bad in unreadable:
        texts[bad.row - first] = _told(bad.code, bad.message)
    column = whole.schema.get_field_index(ERROR)
    return whole.set_column(column, ERROR, pa.array(texts, pa.string()))


def blamed(failed: Collection[RowError], names: Collection[str]) -> dict[str, int]:
    """How many rows failed by the value of one column, by that column."""
    found: dict[str, int] = {}
    for row in failed:
        for name in names if row.message.startswith("column ") else ():
            if row.message.startswith((f"column {name!r}:", f"column {name!r} ")):
                found[name] = found.get(name, 0) + 1
                break
    return found


def _told(code: str, message: str) -> str:
    return f"{code}: {message}"


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"input_{name}"
    return name
