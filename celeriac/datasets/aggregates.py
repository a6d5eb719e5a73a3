"""Counts, means, spread, shares and quantiles of a job's output by groups, part by part.

Quantiles come from a sketch of bins whose width grows with the value (as DDSketch): a result is
within 0.5 % of a value of that rank, and the sketches of two parts add up.

Groups are exact. What is measured is rounded to floats of 64 bits first: of whole numbers beyond
2^53 and of decimals 15 to 17 digits count, and so many has a mean. A spread of less than the last
of them, as of Unix times in nanoseconds within a microsecond, is lost.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from celeriac import errors
from celeriac.datasets.periods import in_periods
from celeriac.datasets.records import Aggregation
from celeriac.datasets.spellings import for_csv, values_of

MAX_GROUPS = 200_000
MAX_BINS = 3_000_000
"""Of all groups together."""
_ACCURACY = 0.005
_GAMMA = (1 + _ACCURACY) / (1 - _ACCURACY)
_OFFSET = 1 << 20
"""Larger than any bin's exponent, so that one whole number holds sign and exponent."""
_COUNT = "count"
_BIN = "\0bin"


def check_aggregation(
    wanted: Aggregation, numbers: Sequence[str], others: Sequence[str]
) -> None:
    """``numbers`` and ``others``: columns of the output that are numbers, and that are not.

    Raises RequestError that names what cannot be aggregated.
    """
    known = {*numbers, *others}
    if not wanted.by:
        raise errors.RequestError("an aggregation names at least one column in `by`")
    for name in (*wanted.by, *wanted.measured, *wanted.share):
        if name not in known:
            raise errors.RequestError(
                f"no column {name!r} to aggregate; the output has: {', '.join(sorted(known))}"
            )
    for name in wanted.measured:
        if name not in numbers:
            raise errors.RequestError(
                f"column {name!r} holds no numbers; count them by `share` = {{{name!r}: VALUE}}"
            )
    _check_own(wanted)
    for name in wanted.period:
        if name not in wanted.by:
            raise errors.RequestError(f"`period` names {name!r}, which is not among `by`")
    for name, shares in wanted.quantiles.items():
        if not shares or not all(0 <= share <= 1 for share in shares):
            raise errors.RequestError(f"quantiles of {name!r} are numbers from 0 to 1: [0.5, 0.95]")


def aggregate(tables: Iterable[pa.Table], wanted: Aggregation) -> pa.Table:
    """One row for each group, in the order of the groups' values.

    Raises JobFailed if there are too many groups to hold.
    """
    totals: pa.Table | None = None
    sketches: dict[str, pa.Table] = dict.fromkeys(wanted.quantiles)
    origins: dict[str, float] = {}
    for table in tables:
        groups = _columns_of(table, wanted, origins)
        totals = _merged(totals, _totals(groups, wanted), wanted.by)
        _check_bound(totals.num_rows, MAX_GROUPS, "groups", wanted)
        for name in wanted.quantiles:
            sketches[name] = _merged(sketches[name], _sketch(groups, name, wanted), _cells(wanted))
            _check_bound(sketches[name].num_rows, MAX_BINS, "different values", wanted)
    if totals is None:
        raise errors.JobFailed("there is no part to aggregate")
    totals = totals.sort_by([(name, "ascending") for name in wanted.by])
    return _result(totals, sketches, wanted)


def share_name(name: str, value: Any) -> str:
    """Column of the share of ``value`` in column ``name``."""
    return f"{name}_share_{value}"


def _columns_of(
    table: pa.Table, wanted: Aggregation, origins: dict[str, float]
) -> pa.Table:
    """What groups the rows, and each measured column as floats.

    The spread is that of distances from a value of the column, its origin: sums and squares of the
    values themselves would drown a small spread around a large mean.
    """
    by = {
        name: in_periods(table[name], wanted.period[name]) if name in wanted.period
        else _keys(table[name]) for name in wanted.by
    }
    measured = {_value(name): _floats(table[name]) for name in wanted.measured}
    shares = {
        _value(share_name(name, value)): pc.cast(
            pc.equal(_texts(table, name), as_text(value)), pa.int8()
        ).cast(pa.float64())
        for name, value in wanted.share.items()
    }
    spread: dict[str, Any] = {}
    for name in wanted.std:
        values = measured[_value(name)]
        if name not in origins:
            known = pc.drop_null(values.filter(pc.fill_null(pc.is_finite(values), False)))
            if len(known):
                origins[name] = known[0].as_py()
        away = pc.subtract(values, origins.get(name, 0.0))
        spread |= {_distances(name): away, _squares(name): pc.multiply(away, away)}
    return pa.table({**by, **measured, **shares, **spread})


def _totals(groups: pa.Table, wanted: Aggregation) -> pa.Table:
    asked: list[tuple[Any, str]] = [([], "count_all")]
    for name in _means(wanted):
        asked += [(_value(name), kind) for kind in ("sum", "count", "min", "max")]
    asked += [(of(name), "sum") for name in wanted.std for of in (_distances, _squares)]
    found = groups.group_by(list(wanted.by), use_threads=False).aggregate(asked)
    return found.rename_columns(
        [_COUNT if name == "count_all" else name for name in found.column_names]
    )


def _sketch(groups: pa.Table, name: str, wanted: Aggregation) -> pa.Table:
    """How many values of each bin there are in each group."""
    values = groups[_value(name)]
    groups = groups.filter(pc.is_finite(values))
    bins = _bins(groups[_value(name)].to_numpy())
    table = groups.select(list(wanted.by)).append_column(_BIN, pa.array(bins))
    found = table.group_by(_cells(wanted), use_threads=False).aggregate([([], "count_all")])
    return found.rename_columns([*_cells(wanted), _COUNT])


def _merged(total: pa.Table | None, more: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Two tables of sums (and of least and greatest values) as one."""
    if total is None:
        return more
    both = pa.concat_tables([total, more], promote_options="permissive")
    names = [name for name in both.column_names if name not in keys]
    kinds = [name.rpartition("_")[2] for name in names]
    asked = [
        (name, kind if kind in ("min", "max") and name != _COUNT else "sum")
        for name, kind in zip(names, kinds, strict=True)
    ]
    found = both.group_by(list(keys), use_threads=False).aggregate(asked)
    return found.select([*keys, *(f"{name}_{kind}" for name, kind in asked)]).rename_columns(
        [*keys, *names]
    )


def _result(
    totals: pa.Table, sketches: dict[str, pa.Table], wanted: Aggregation
) -> pa.Table:
    columns = {name: totals[name] for name in (*wanted.by, _COUNT)}
    for name in (*wanted.mean, *(share_name(*pair) for pair in wanted.share.items())):
        mean = pc.divide(totals[f"{_value(name)}_sum"], totals[f"{_value(name)}_count"])
        shown = f"{name}_mean" if name in wanted.mean else name
        columns[shown] = pc.if_else(pc.is_nan(mean), None, mean)
    for name in wanted.std:
        columns[f"{name}_std"] = _deviation(totals, name)
    for name, shares in wanted.quantiles.items():
        found = _quantiles(totals, sketches[name], name, wanted)
        for share in shares:
            columns[_rank_name(name, share)] = pa.array(found[share], pa.float64())
    return pa.table(columns)


def _deviation(totals: pa.Table, name: str) -> pa.Array:
    """Null for groups of fewer than two values, and where one is not finite."""
    counts = totals[f"{_value(name)}_count"].to_numpy().astype(np.float64)
    away, squares = (totals[f"{of(name)}_sum"].to_numpy() for of in (_distances, _squares))
    with np.errstate(divide="ignore", invalid="ignore"):
        variances = np.maximum(squares - away * away / counts, 0.0) / (counts - 1)
    return pa.array(np.sqrt(variances), mask=(counts < 2) | ~np.isfinite(variances))


def _quantiles(
    totals: pa.Table, sketch: pa.Table, name: str, wanted: Aggregation
) -> dict[float, list[float | None]]:
    bins: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    groups, keys = _groups_of(totals, sketch, wanted.by)
    cells = zip(sketch[_BIN].to_pylist(), sketch[_COUNT].to_pylist(), strict=True)
    for key, cell in zip(keys, cells, strict=True):
        bins.setdefault(_findable(key), []).append(cell)
    shares = wanted.quantiles[name]
    found: dict[float, list[float | None]] = {share: [] for share in shares}
    value = _value(name)
    ends = (totals[f"{value}_{end}"].to_pylist() for end in ("min", "max"))
    for group, least, most in zip(groups, *ends, strict=True):
        cells_of = sorted(bins.get(_findable(group), []))
        for share in shares:
            found[share].append(
                min(max(_at(cells_of, share), least), most) if cells_of else None
            )
    return found


def _groups_of(
    totals: pa.Table, sketch: pa.Table, by: Sequence[str]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The groups of each row of both, spelled together, so that equal ones are."""
    columns = [
        values_of(pa.chunked_array([*totals[one].chunks, *sketch[one].chunks], totals[one].type))
        for one in by
    ]
    keys = list(zip(*columns, strict=True))
    return keys[: totals.num_rows], keys[totals.num_rows :]


def _at(cells: list[tuple[int, int]], share: float) -> float:
    """The middle of the bin that holds the value of this rank."""
    rank = share * (sum(count for _, count in cells) - 1)
    seen = accumulate(count for _, count in cells)
    code = next(code for (code, _), count in zip(cells, seen, strict=True) if count > rank)
    if code == 0:
        return 0.0
    middle = 2 * math.pow(_GAMMA, abs(code) - _OFFSET) / (_GAMMA + 1)
    return math.copysign(middle, code)


def _bins(values: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        exponents = np.ceil(np.log(np.abs(values)) / math.log(_GAMMA))
        codes = np.where(values == 0, 0, np.sign(values) * (exponents + _OFFSET))
    return codes.astype(np.int64)


def _floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """NaN is no value, as null: only some formats can tell them apart."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    elif pa.types.is_string(column.type):
        column = _numerals(column)
    values = column.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_nan(values), None, values)


def _numerals(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers, true and false as parts of text have them: of JSON lines, decimals are quoted."""
    texts = pc.utf8_trim(texts, '"')
    texts = pc.if_else(pc.is_in(texts, pa.array(["", "null"])), None, texts)
    return pc.replace_substring(pc.replace_substring(texts, "true", "1"), "false", "0")


def _texts(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column as its parts in CSV have it."""
    return for_csv(table.select([name]))[name].cast(pa.string())


def _keys(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """What groups rows, by its bits: 0.0 and -0.0 are one group, and so is every NaN."""
    if str(column.type).startswith(("decimal32", "decimal64")):  # Arrow has no kernels for them
        return column.cast(pa.decimal128(column.type.precision, column.type.scale))
    if not pa.types.is_floating(column.type):
        return column
    if pa.types.is_float16(column.type):  # Arrow cannot add them
        column = column.cast(pa.float32())
    nan, zero = pa.scalar(math.nan, column.type), pa.scalar(0.0, column.type)
    return pc.if_else(pc.is_nan(column), nan, pc.add(column, zero))


def _findable(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """A group as a key of a dict, in which NaN would not be found again."""
    return tuple("nan" if one != one else one for one in key)  # noqa: PLR0124


def _means(wanted: Aggregation) -> list[str]:
    return [*wanted.measured, *(share_name(*pair) for pair in wanted.share.items())]


def _shown(wanted: Aggregation) -> list[str]:
    """Columns of the result beside those of ``by`` and the count."""
    return [
        *(f"{name}_mean" for name in dict.fromkeys(wanted.mean)),
        *(share_name(*pair) for pair in wanted.share.items()),
        *(f"{name}_std" for name in wanted.std),
        *(_rank_name(name, share) for name, some in wanted.quantiles.items() for share in some),
    ]


def _rank_name(name: str, share: float) -> str:
    return f"{name}_p{share * 100:g}"


def _cells(wanted: Aggregation) -> list[str]:
    return [*wanted.by, _BIN]


def _value(name: str) -> str:
    """Measured columns have a name that no column of a group has."""
    return f"\0{name}"


def _distances(name: str) -> str:
    return f"\0\0{name}"


def _squares(name: str) -> str:
    return f"\0\0\0{name}"


def as_text(value: Any) -> str:
    """A value as it is compared with those of a column: Arrow writes ``true``, Python ``True``."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_own(wanted: Aggregation) -> None:
    own = {_COUNT, *_shown(wanted)}
    for name in wanted.by:
        if name in own:
            raise errors.RequestError(
                f"the aggregates have a column {name!r} of their own: rename that of `by`"
            )
    for name, count in Counter([*wanted.by, *_shown(wanted)]).items():
        if count > 1:
            raise errors.RequestError(
                f"the aggregates would have a column {name!r} twice; ask for it once"
            )


def _check_bound(found: int, most: int, what: str, wanted: Aggregation) -> None:
    if found > most:
        raise errors.JobFailed(
            f"more than {most:,} {what} by {', '.join(wanted.by)}: aggregate by another column"
        )
