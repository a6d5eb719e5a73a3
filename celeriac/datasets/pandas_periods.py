"""Periods of pandas, as text."""

from __future__ import annotations

import json
import re

import pyarrow as pa

from celeriac import errors

_PANDAS = "pandas.period"
_RENAMED = {"A": "Y", "H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns"}
"""Frequencies as pandas wrote them before 2.2."""


def frequency_of(field: pa.Field) -> str:
    """Of a column of pandas' periods, as ``M``; empty for any other column.

    A process knows the type if it has loaded pandas; a file says it all the same.
    """
    if getattr(field.type, "extension_name", "") == _PANDAS:
        return str(field.type.freq)
    about = field.metadata or {}
    if about.get(b"ARROW:extension:name") != _PANDAS.encode():
        return ""
    return str(json.loads(about[b"ARROW:extension:metadata"])["freq"])


def periods_as_text(column: pa.ChunkedArray, frequency: str) -> pa.Array:
    """As pandas prints them (``2026Q1``): the numbers that they are kept as say nothing without
    their frequency. Raises DatasetError if this pandas does not know that."""
    import pandas as pd  # few datasets have any

    today = re.sub(r"[A-Z]+", lambda name: _RENAMED.get(name[0], name[0]), frequency, count=1)
    try:
        dtype = pd.PeriodDtype(today)
    except ValueError as error:
        raise errors.DatasetError(
            f"periods of the frequency {frequency!r} cannot be read by pandas {pd.__version__}; "
            "write them as text"
        ) from error
    kept = [getattr(chunk, "storage", chunk) for chunk in column.chunks]
    numbers = pa.chunked_array(kept, pa.int64())
    periods = pd.Series(pd.arrays.PeriodArray(numbers.fill_null(0).to_numpy(), dtype=dtype))
    texts = periods.astype(str).to_numpy(dtype=object)
    return pa.array(texts, pa.string(), mask=numbers.is_null().to_numpy())
