"""From the features of a reference to its profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from celeriac.drift import bins
from celeriac.drift.calibration import (
    LEAST_INDEPENDENT_ROWS,
    WINDOW_ROWS,
    autocorrelation_rows,
    calibrate,
    series,
)
from celeriac.drift.features import Feature, Features
from celeriac.drift.profile import (
    CodedRows,
    FeatureProfile,
    Performance,
    ReferenceProfile,
    TextProfile,
)

Array = np.ndarray[Any, Any]
LEAST_ROWS = 100
"""Fewer examples make no profile unless they are given as the reference."""
MOST_ROWS = {"text": 10_000, "image": 2_000}
MOST_TABLE_ROWS = 100_000
STRETCHES = 10
MOST_FEATURES = 500
CODED_ROWS = 2_000
CODED_FEATURES = 100


def rows_taken(rows: int, kind: str) -> Array:
    """Positions of the rows that a profile is made of: all, or a few long stretches of them, so
    that what follows what can be seen.
    """
    most = MOST_ROWS.get(kind, MOST_TABLE_ROWS)
    if rows <= most:
        return np.arange(rows)
    length = most // STRETCHES
    starts = np.linspace(0, rows - length, STRETCHES).astype(np.int64)
    taken: Array = (starts[:, None] + np.arange(length)).ravel()
    return taken


def make_profile(  # noqa: PLR0913 - what a profile is made of
    features: Features, *, rows_given: int | None = None, texts: Sequence[TextProfile] = (),
    performance: Performance | None = None, window_rows: int = WINDOW_ROWS,
    source: Literal["reference", "examples"] = "reference",
) -> ReferenceProfile:
    """The profile of some rows in the order in which they came.

    Rows that were shuffled say nothing of autocorrelation: on a stream that has some, their
    thresholds are too low.
    """
    rows = max((len(one.values) for one in features.values()), default=0)
    kept = list(features.items())[:MOST_FEATURES]
    made = [_feature(name, one, window_rows) for name, one in kept]
    found = [feature for feature, _ in made]
    return ReferenceProfile(
        source=source, rows=rows, rows_given=rows if rows_given is None else rows_given,
        features=tuple(found), texts=tuple(texts), performance=performance,
        coded=_coded(made, rows),
        warnings=tuple(_warnings(found, rows, len(features))),
    )


def _feature(name: str, one: Feature, window_rows: int) -> tuple[FeatureProfile, Array]:
    """And the reference itself, as numbers of bins."""
    make = bins.number_feature if bins.is_number(one.values) else bins.category_feature
    feature = make(name, one.values, unit=one.unit, role=one.role)
    codes = bins.reference_codes(feature, one.values)
    if feature.rows == 0:
        return feature, codes
    tau = autocorrelation_rows(series(feature, codes))
    of_nulls = autocorrelation_rows(codes == feature.bins - 1)
    feature = feature.model_copy(update={
        "autocorrelation_rows": round(tau, 3), "null_autocorrelation_rows": round(of_nulls, 3)
    })
    found = calibrate(feature, codes, window_rows=window_rows)
    return feature.model_copy(update={"calibration": found}), codes


def _coded(made: Sequence[tuple[FeatureProfile, Array]], rows: int) -> CodedRows | None:
    inputs = [one for one in made if one[0].role == "input"][:CODED_FEATURES]
    if not inputs or rows == 0:
        return None
    at = np.unique(np.linspace(0, rows - 1, min(rows, CODED_ROWS)).astype(np.int64))
    matrix = np.column_stack([codes[at] for _, codes in inputs])
    return CodedRows.of(tuple(feature.name for feature, _ in inputs), matrix)


def _warnings(found: Sequence[FeatureProfile], rows: int, given: int) -> list[str]:
    said = []
    if given > len(found):
        said.append(f"only the first {len(found)} of {given} features are watched")
    short = [one for one in found if 0 < one.independent_rows < LEAST_INDEPENDENT_ROWS]
    if short:
        worst = min(short, key=lambda one: one.independent_rows)
        some = f" and {len(short) - 1} more" if len(short) > 1 else ""
        said.append(
            f"the reference is short: its {rows:,} {'row tells' if rows == 1 else 'rows tell'} as "
            f"much about {worst.name}{some} as "
            f"{worst.independent_rows:,.0f} independent ones"
            + (f" (neighbours are alike over {worst.autocorrelation_rows:,.0f} rows)"
               if worst.autocorrelation_rows > 2 else "")
            + f"; with fewer than {LEAST_INDEPENDENT_ROWS}, false alarms may be more frequent than "
            "stated: give more of it"
        )
    return said
