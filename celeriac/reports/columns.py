"""From the rows of a sample, condensed, to statistics of its columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from celeriac.reports.condense import BYTES, CHARS, HEIGHT, ITEMS, TEXT, TEXT_CHARS, WIDTH
from celeriac.reports.records import Category, ColumnProfile, Histogram, Numbers

BINS = 24
LARGEST = 1e300
"""Beyond it no bins are cut: their edges would not be finite."""
TOP = 10
SHOWN_CHARS = 40
"""A longer text is no category, and nobody's letters belong into a report."""
LEAST_COUNT = 5
"""A value that comes more rarely may tell of a single person."""
LABELS = 50
FEW = 20
"""Whole numbers with so few different values are categories too."""


def profiles(tables: Sequence[pa.Table], *, labels: bool = False) -> Iterator[ColumnProfile]:
    """Statistics of each column of some tables that hold the same columns.

    ``labels``: the values are a model's, and nobody's; where they are few, rare ones are shown too.
    """
    for name in dict.fromkeys(name for table in tables for name in table.column_names):
        pieces = [table[name] for table in tables if name in table.column_names]
        yield profile(name, pieces, labels=labels)


def profile(
    name: str, pieces: Sequence[pa.ChunkedArray], *, labels: bool = False
) -> ColumnProfile:
    """Statistics of one column, which comes in pieces."""
    rows, nulls = sum(len(one) for one in pieces), sum(one.null_count for one in pieces)
    found = ColumnProfile(name=name, kind="empty", rows=rows, nulls=nulls)
    try:
        tables = [pa.table({"": one}) for one in pieces]
        joined = pa.concat_tables(tables, promote_options="permissive")
        values = joined.combine_chunks()[""].drop_null().combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return _with(found, kind="mixed")
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.nulls(0)
    if len(values) == 0:
        return found
    try:
        return _with(found, **_statistics(values, labels))
    except pa.ArrowException:  # a type that cannot be compared
        return _with(found, kind="other")


def _statistics(values: pa.Array, labels: bool) -> dict[str, Any]:
    dtype, is_type = values.type, pa.types
    if is_type.is_boolean(dtype):
        return {"kind": "boolean", **_categories(values.cast(pa.string()), labels=True)}
    if is_type.is_integer(dtype) or is_type.is_floating(dtype):
        return _number_statistics(values, labels)
    if is_type.is_temporal(dtype):
        return _time_statistics(values)
    return _record_statistics(values, labels) if is_type.is_struct(dtype) else {"kind": "other"}


def _record_statistics(values: pa.Array, labels: bool) -> dict[str, Any]:
    """Of what was condensed."""
    fields = {field.name for field in values.type}
    if TEXT in fields:
        return _text_statistics(values, labels)
    if ITEMS in fields:
        return {"kind": "list", **_measured(values.field(ITEMS), "items")}
    if BYTES not in fields:
        return {"kind": "other"}
    found = _measured(values.field(BYTES), "bytes")
    if WIDTH not in fields:
        return {"kind": "bytes", **found}
    sides = {"width": values.field(WIDTH), "height": values.field(HEIGHT)}
    found |= {name: numbers_of(np.sort(_finite(side))) for name, side in sides.items()}
    return {"kind": "image", **found}


def _number_statistics(values: pa.Array, labels: bool) -> dict[str, Any]:
    exact = finite = np.sort(_finite(values))
    if pa.types.is_integer(values.type):  # of which a float holds those up to 2^53
        exact = np.sort(values.to_numpy(zero_copy_only=False))
    found: dict[str, Any] = {"kind": "number", "not_finite": len(values) - len(finite)}
    if len(finite) == 0:
        return found
    distinct = 1 + int(np.count_nonzero(exact[1:] != exact[:-1]))
    found |= {"distinct": distinct, "numbers": numbers_of(finite), "histogram": histogram(finite)}
    if distinct <= FEW and (finite == np.floor(finite)).all():
        shown = [str(one) if isinstance(one, int) else f"{one:.15g}" for one in exact.tolist()]
        texts = pa.array(shown, pa.string())
        found |= _categories(texts, labels)
    return found


def _time_statistics(values: pa.Array) -> dict[str, Any]:
    ends = pc.min_max(values)
    first, last = (_shown_time(ends[end]) for end in ("min", "max"))
    found: dict[str, Any] = {"kind": "time", "first": first, "last": last}
    found["distinct"] = pc.count_distinct(values).as_py()
    if pa.types.is_date(values.type) or pa.types.is_timestamp(values.type):
        seconds = values.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        found["histogram"] = histogram(np.sort(_finite(seconds)), whole=True)
    return found


def _text_statistics(values: pa.Array, labels: bool) -> dict[str, Any]:
    texts, lengths = values.field(TEXT), values.field(CHARS)
    found = {"kind": "text", **_measured(lengths, "characters")}
    keys = texts
    if pc.max(lengths).as_py() > TEXT_CHARS:
        keys = pc.binary_join_element_wise(texts, lengths.cast(pa.string()), "\0")
    short = texts.filter(pc.less_equal(lengths, SHOWN_CHARS))
    found |= _categories(short, labels)
    found["distinct"] = pc.count_distinct(keys).as_py()
    found["others"] += len(texts) - len(short)
    return found


def _categories(texts: pa.Array, labels: bool) -> dict[str, Any]:
    counts = pc.value_counts(texts).to_pylist() if len(texts) else []
    least = 1 if labels and len(counts) <= LABELS else LEAST_COUNT
    ranked = sorted(counts, key=lambda one: (-one["counts"], one["values"]))
    top = tuple(
        Category(value=one["values"], count=one["counts"])
        for one in ranked[:TOP] if one["counts"] >= least
    )
    others = len(texts) - sum(one.count for one in top)
    return {"distinct": len(counts), "top": top, "others": others}


def _measured(values: pa.Array, unit: str) -> dict[str, Any]:
    finite = np.sort(_finite(values))
    return {"unit": unit, "numbers": numbers_of(finite), "histogram": histogram(finite)}


def numbers_of(ordered: np.ndarray[Any, Any]) -> Numbers | None:
    """Of numbers in ascending order; None without any."""
    if len(ordered) == 0:
        return None
    ranks = [0.05, 0.25, 0.5, 0.75, 0.95]
    at = [float(ordered[round(rank * (len(ordered) - 1))]) for rank in ranks]
    scale = float(np.abs(ordered[[0, -1]]).max()) or 1.0  # sums of huge numbers stay finite
    scaled = ordered / scale
    return Numbers(
        min=float(ordered[0]), p5=at[0], p25=at[1], median=at[2], p75=at[3], p95=at[4],
        max=float(ordered[-1]), mean=float(scaled.mean()) * scale, std=float(scaled.std()) * scale,
    )


def histogram(ordered: np.ndarray[Any, Any], *, whole: bool = False) -> Histogram | None:
    """Of numbers in ascending order. Without ``whole``, far ends are gathered in the outer bins."""
    if len(ordered) == 0:
        return None
    low, high = float(ordered[0]), float(ordered[-1])
    p1, p99 = (float(ordered[round(rank * (len(ordered) - 1))]) for rank in (0.01, 0.99))
    spread = p99 - p1
    if not whole and spread > 0:
        low = p1 if p1 - low > spread else low
        high = p99 if high - p99 > spread else high
    if low == high or max(abs(low), abs(high)) > LARGEST:
        return Histogram(edges=(low, high), counts=(len(ordered),))
    bins = BINS
    if high - low < BINS and (ordered == np.floor(ordered)).all():  # one for each whole number
        low, high = low - 0.5, high + 0.5
        bins = round(high - low)
    edges = np.linspace(low, high, bins + 1)
    inner = np.searchsorted(ordered, edges[1:-1], side="left")
    counts = np.diff(np.concatenate([[0], inner, [len(ordered)]]))
    return Histogram(
        edges=tuple(edges.tolist()), counts=tuple(counts.tolist()),
        below=float(ordered[0]) < low, above=float(ordered[-1]) > high,
    )


def _finite(values: pa.Array) -> np.ndarray[Any, Any]:
    numbers = values.drop_null().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    finite: np.ndarray[Any, Any] = numbers[np.isfinite(numbers)]
    return finite


def _shown_time(value: Any) -> str:
    kinds = [value.type]
    if pa.types.is_timestamp(value.type):  # by the second; in UTC if nobody knows the zone
        kinds = [pa.timestamp("s", value.type.tz), pa.timestamp("s", "UTC")]
    for kind in kinds:
        try:
            return str(value.cast(kind, safe=False).cast(pa.string()).as_py())
        except (pa.ArrowException, ValueError):
            continue
    return str(value)


def _with(found: ColumnProfile, **fields: Any) -> ColumnProfile:
    return ColumnProfile(
        name=found.name, rows=found.rows, nulls=found.nulls, **{"kind": found.kind, **fields}
    )
