"""The kinds that the columns of a CSV can still be, by the values so far.

A column is ``int``, ``float`` or ``bool`` only if every value comes out as it went in: "007" and
20-digit ids stay texts. Values are looked at column by column, which takes some 0.1 microseconds
each; or one expression of a whole record runs over the bytes for as long as every column stays what
it is, which takes 4 nanoseconds a byte.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv


def _texts(values: list[str]) -> pa.StringArray:
    """An array, built without pandas: ``pa.array`` imports that, if there is one."""
    encoded = [value.encode() for value in values]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(
        len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))
    )


NULLS = _texts(arrow_csv.ConvertOptions().null_values)
_EXPONENT = "[eE](?:-[0-9]{1,3}|[+]?(?:0?[0-9]{1,2}|1[0-9]{2}|2[0-8][0-9]|29[0-2]))"
_FLOAT = (
    rf"-?(?:(?:0|[1-9][0-9]{{0,14}})(?:\.[0-9]+)?(?:{_EXPONENT})?"
    r"|[0-9](?:\.[0-9]+)?[eE][+]?(?:29[3-9]|30[0-7]))"
)
"""1e400 is no float but infinity, and so is 999999999999999e294."""
PATTERNS = {
    "int": r"^(0|-?[1-9][0-9]{0,17})$",
    "float": rf"^{_FLOAT}$",
    "bool": r"^(true|false|True|False|TRUE|FALSE)$",
}
_ANY = tuple(PATTERNS)
"""The first that is left is the type. All are left only where there was no value yet."""
# What keeps a column as it is: a value that is of all the kinds that are left, and of no other.
_CELLS = {
    _ANY: "",
    ("int", "float"): "0|-?[1-9][0-9]{0,14}",
    ("int",): "0|-?[1-9][0-9]{0,17}",
    ("float",): _FLOAT,
    ("bool",): "true|false|True|False|TRUE|FALSE",
}
_MOST_COLUMNS = 300


class Kinds:
    """What each column can still be."""

    def __init__(self, names: list[str]) -> None:
        self._left = dict.fromkeys(names, _ANY)
        self._nulls = {""}

    @property
    def open(self) -> list[str]:
        """Columns that are not known to be texts."""
        return [name for name, left in self._left.items() if left]

    @property
    def types(self) -> dict[str, str]:
        """``null`` where there was no value, ``long`` for integers that a float would round."""
        odd = {_ANY: "null", ("int",): "long", (): "text"}
        return {name: odd.get(left) or left[0] for name, left in self._left.items()}

    def narrow(self, table: pa.Table) -> None:
        """Look at columns that were parsed as texts, each in one chunk; at many in one call."""
        if not table.num_rows:
            return
        is_null = self._are_null(table)
        firsts = is_null.argmin(axis=1).tolist()
        for at, name in enumerate(table.column_names):
            if not is_null[at, firsts[at]]:
                first = table[name][firsts[at]].as_py()  # that mostly leaves one kind
                self._keep(name, [kind for kind in PATTERNS if re.match(PATTERNS[kind], first)])
        for kind, pattern in PATTERNS.items():
            asked = [
                at for at, name in enumerate(table.column_names)
                if kind in self._left[name] and self._left[name] != _ANY
            ]
            if asked:
                part = table.select(asked)
                fits = _by_column(pc.match_substring_regex(_joined(part), pattern), part)
                all_fit: list[bool] = np.all(fits | is_null[asked], axis=1).tolist()
                for name, fit in zip(part.column_names, all_fit, strict=True):
                    if not fit:
                        self._keep(name, [other for other in PATTERNS if other != kind])

    def is_quicker(self, size: int, seen: int, seen_rows: int) -> bool:
        """True if :meth:`skip` pays for ``size`` bytes, if these are as the ``seen`` were."""
        cells = size * seen_rows // max(seen, 1) * len(self.open)
        columns = len(self._left)
        return columns <= _MOST_COLUMNS and cells > size // 25 + 500 * columns

    def skip(self, data: bytes) -> bytes:
        """``data``, which is whole records, from the first one on that could change anything, or
        has no line break."""
        has_quotes = b'"' in data
        cells = ",".join(self._cell(left, has_quotes) for left in self._left.values())
        offsets = pa.py_buffer(np.array([0, len(data)], dtype=np.int32))
        whole = pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(data)])
        # Replaced, since that tells where the match ends.
        rest: bytes = pc.replace_substring_regex(whole, rf"^(?:(?:{cells})?\r?\n)*", "")[0].as_py()
        return rest

    def _are_null(self, table: pa.Table) -> np.ndarray[Any, Any]:
        texts = _joined(table)
        found = pc.is_in(texts, value_set=NULLS)
        if found.true_count:
            self._nulls.update(texts.filter(found).unique().to_pylist())
        return _by_column(found, table)

    def _keep(self, name: str, kinds: list[str]) -> None:
        self._left[name] = tuple(kind for kind in self._left[name] if kind in kinds)

    def _cell(self, left: tuple[str, ...], has_quotes: bool) -> str:
        if left:
            cell = f"{_CELLS[left]}|{'|'.join(map(re.escape, sorted(self._nulls)))}"
            return f'(?:{cell}|"(?:{cell})")' if has_quotes else f"(?:{cell})"
        plain = r'[^",\r\n]*'
        return rf'(?:{plain}|"(?:[^"]|"")*")' if has_quotes else plain


def _joined(table: pa.Table) -> pa.Array:
    """All of the first column, then all of the second: one call takes longer than some values."""
    return pa.concat_arrays([column.chunk(0) for column in table.columns])


def _by_column(flags: pa.BooleanArray, table: pa.Table) -> np.ndarray[Any, Any]:
    # By way of its buffer: ``to_numpy`` imports pandas.
    buffer = flags.cast(pa.uint8()).buffers()[1]
    array = np.frombuffer(buffer, dtype=np.bool_, count=len(flags))
    return array.reshape(table.num_columns, table.num_rows)
