"""Compare a dataset with the profile of a version.

A feature drifts only where two things agree: the difference is large enough to matter, and chance
does not explain it, adjusted for the number of features. Missing columns, changed types and nulls
need no statistics: they are told at once, as ``broken``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from msgspec.structs import replace

from celeriac.drift import bins, breaches, statistics
from celeriac.drift.classifier import two_samples
from celeriac.drift.features import Feature, Features
from celeriac.drift.performance import fell
from celeriac.drift.pictures import picture
from celeriac.drift.profile import FeatureProfile, Performance, ReferenceProfile
from celeriac.drift.records import (
    LEAST_DISTANCE,
    LEAST_LABELLED,
    DriftReport,
    FeatureDrift,
    Finding,
    Multivariate,
    Quality,
    State,
    Stretch,
)
from celeriac.drift.sentences import sentences

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class CheckRule:
    """When a difference is drift."""

    least_rows: int = 200
    """With fewer values, reference or current, nothing is said of a feature."""
    least_distance: float = LEAST_DISTANCE
    """Kolmogorov and Smirnov's distance, total variation, or Jensen and Shannon's distance."""
    level: float = 0.01
    """Adjusted p-values are below it."""
    correction: Literal["holm", "benjamini-hochberg"] = "holm"
    """``holm``: the chance of a single false finding is at most ``level``;
    ``benjamini-hochberg``: the share of false findings is."""
    noise: float = 0.001
    """The difference is larger than what chance alone gives in this share of all cases."""
    least_auc: float = 0.6
    """Of the classifier that tells current rows from the reference."""
    stretches: int = 30
    """Of the current rows, at most, for the statistic over time ..."""
    stretch_noise: float = 0.9
    """... and each so long that chance alone keeps the distance below this one."""


@dataclass(frozen=True, kw_only=True)
class Current:
    """The rows that are looked at."""

    features: Features
    """In their order."""
    source: str
    rows_total: int | None = None
    """Of the dataset, if these are some of its rows, evenly spread."""
    performance: Performance | None = None

    @property
    def rows(self) -> int:
        return max((len(one.values) for one in self.features.values()), default=0)

    @property
    def stride(self) -> float:
        """Rows of the dataset from one of these to the next."""
        return max(1.0, (self.rows_total or 0) / max(self.rows, 1))


@dataclass(frozen=True)
class _Compared:
    """One feature, before its p-value is adjusted."""

    found: FeatureDrift
    p_value: float
    is_large: bool


def check(  # noqa: PLR0913 - who is compared with what, and when
    profile: ReferenceProfile, current: Current, *, model: str, version: int, now: datetime,
    rule: CheckRule | None = None,
) -> DriftReport:
    """Compare. It raises nothing on account of the data, whatever they are."""
    rule = rule or CheckRule()
    broken: dict[str, list[Finding]] = {}
    looks: list[Finding] = []
    compared: list[_Compared] = []
    for feature in profile.features:
        one = current.features.get(feature.name)
        codes = bins.codes(feature, one.values) if one is not None else np.empty(0, dtype=np.int64)
        counts = np.bincount(codes, minlength=feature.bins)
        breach = breaches.of_feature(feature, one, counts)
        if any(finding.level == "bad" for finding in breach):
            broken[feature.name] = breach
        else:
            looks += breach
        if one is None or bins.is_number(one.values) != (feature.kind == "number"):
            compared.append(_Compared(_nothing(feature, len(codes)), 1.0, False))
        else:
            shown = _Shown(feature, one.values, codes, counts)
            compared.append(_compare(shown, current.stride, rule))
    features = tuple(_judged(compared, broken, rule))
    multivariate = _multivariate(profile, current, rule)
    quality = _quality(profile.performance, current.performance)
    said = sentences(features, broken, looks, multivariate, quality)
    return DriftReport(
        model=model, version=version, source=current.source,
        made_at=now.isoformat(timespec="seconds"), state=_state(features, multivariate, quality),
        rows=current.rows, rows_total=current.rows_total or current.rows,
        reference_rows=profile.rows, findings=said, features=features,
        multivariate=multivariate, quality=quality, warnings=profile.warnings,
    )


def no_profile(
    *, model: str, version: int, source: str, rows: int, now: datetime
) -> DriftReport:
    """What can be said of a version that has no profile."""
    text = (
        f"{model}@{version} was registered without a reference, so there is nothing to compare "
        "with; register its next version with reference=..."
    )
    return DriftReport(
        model=model, version=version, source=source, made_at=now.isoformat(timespec="seconds"),
        state="no_profile", rows=0, rows_total=rows,
        findings=(Finding(level="look", what="No profile", text=text),),
    )


# --- one feature ---------------------------------------------------------------------------------


def _compare(shown: _Shown, stride: float, rule: CheckRule) -> _Compared:
    feature = shown.feature
    reference, values = np.asarray(feature.counts[:-1]), shown.counts[:-1]
    rows, held = int(values.sum()), int(reference.sum())
    if min(rows, held) < rule.least_rows:
        return _Compared(_described(shown, "not_enough_data"), 1.0, False)
    tau = feature.autocorrelation_rows
    own = max(1.0, tau / stride)
    independent, others = held / tau, rows / own
    p, q = statistics.shares(reference), statistics.shares(values)
    distance = float(statistics.distance(feature.kind, p, q))
    shannon = statistics.jensen_shannon(p, q)
    square, degrees = statistics.chi_square(reference, values, tau, own)
    p_value = statistics.chi_square_p(square, degrees)
    used = int(((reference + values) > 0).sum())
    if feature.kind == "number":
        p_value = min(1.0, 2.0 * min(p_value, statistics.distance_p(distance, independent, others)))
        noise = statistics.distance_of_chance(rule.noise, independent, others)
    else:
        noise = statistics.variation_of_chance(
            rule.noise, used, independent, others, feature.luck_of_variation
        )
    shannon_noise = statistics.jensen_shannon_of_chance(
        rule.noise, used, independent, others, feature.luck
    )
    limit = float(max(rule.least_distance, noise))
    shannon_limit = max(rule.least_distance, shannon_noise)
    found = _described(
        shown, "stable", statistic=distance, threshold=limit, jensen_shannon=shannon,
        jensen_shannon_threshold=shannon_limit, p_value=p_value,
        stability_index=statistics.stability_index(reference, values),
        wasserstein=_way(shown, p, q), stretches=_stretches(shown, stride, rule),
    )
    return _Compared(found, p_value, distance >= limit or shannon >= shannon_limit)


@dataclass(frozen=True)
class _Shown:
    feature: FeatureProfile
    values: Array
    codes: Array
    counts: Array


def _nothing(feature: FeatureProfile, rows: int) -> FeatureDrift:
    return FeatureDrift(
        name=feature.name, role=feature.role, kind=feature.kind, unit=feature.unit,
        state="not_enough_data", rows=rows, null_share=1.0,
        reference_null_share=feature.nulls / max(feature.rows, 1), reference_mean=feature.mean,
    )


def _described(shown: _Shown, state: State, **fields: Any) -> FeatureDrift:
    feature, counts = shown.feature, shown.counts
    rows, mean = int(counts.sum()), _mean(shown.values)
    return FeatureDrift(
        name=feature.name, role=feature.role, kind=feature.kind, unit=feature.unit, state=state,
        rows=rows, null_share=int(counts[-1]) / max(rows, 1),
        reference_null_share=feature.nulls / max(feature.rows, 1),
        reference_mean=feature.mean, mean=mean, shift=_shift(feature, mean),
        picture=picture(feature, shown.values, counts), **fields,
    )


def _mean(values: Array) -> float | None:
    if not bins.is_number(values):
        return None
    finite = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        mean = float(finite.mean()) if len(finite) else np.nan
    return mean if np.isfinite(mean) else None


def _shift(feature: FeatureProfile, mean: float | None) -> float | None:
    if mean is None or feature.mean is None or not feature.std:
        return None
    found = (mean - feature.mean) / feature.std
    return found if np.isfinite(found) else None


def _way(shown: _Shown, p: Array, q: Array) -> float | None:
    """Wasserstein's distance in standard deviations of the reference."""
    feature = shown.feature
    if feature.kind != "number" or not feature.std or not feature.edges:
        return None
    low, high = feature.edges[0], feature.edges[-1]
    is_out = (shown.codes == 0) | (shown.codes == feature.bins - 2)
    outside = shown.values[is_out]
    rows = max(int(shown.counts[:-1].sum()), 1)
    with np.errstate(over="ignore", invalid="ignore"):
        beyond = float(np.where(outside > high, outside - high, low - outside).sum() / rows)
        found = statistics.wasserstein(np.asarray(feature.edges), p, q, beyond) / feature.std
    return float(found) if np.isfinite(found) else None


def _stretches(shown: _Shown, stride: float, rule: CheckRule) -> tuple[Stretch, ...]:
    """The distance over the current rows, stretch by stretch, in their order; nothing if the rows
    are too few, or too dependent, for two that say something."""
    feature, codes = shown.feature, shown.codes
    own = max(1.0, feature.autocorrelation_rows / stride)
    needed = own * statistics.rows_beyond_chance(
        rule.stretch_noise, rule.noise, feature.independent_rows
    )
    count = min(rule.stretches, int(len(codes) / max(needed, rule.least_rows)))
    if count < 2:
        return ()
    reference = np.asarray(feature.counts[:-1])
    p = statistics.shares(reference)
    found = []
    cuts = np.linspace(0, len(codes), count + 1).astype(int)
    for start, stop in pairwise(cuts):
        counts = np.bincount(codes[start:stop], minlength=feature.bins)[:-1]
        rows = int(counts.sum())
        if rows < rule.least_rows // 2:
            continue
        noise = statistics.distance_of_chance(rule.noise, feature.independent_rows, rows / own)
        found.append(Stretch(
            at=f"rows {round(start * stride) + 1:,} to {round(stop * stride):,}",
            statistic=float(statistics.distance(feature.kind, p, statistics.shares(counts))),
            threshold=max(rule.least_distance, noise),
        ))
    return tuple(found)


# --- all of them ---------------------------------------------------------------------------------


def _judged(
    compared: Sequence[_Compared], broken: dict[str, list[Finding]], rule: CheckRule
) -> list[FeatureDrift]:
    tested = [one for one in compared if one.found.state == "stable"]
    adjust = statistics.holm if rule.correction == "holm" else statistics.benjamini_hochberg
    adjusted = dict(zip(
        [one.found.name for one in tested], adjust([one.p_value for one in tested]), strict=True
    ))
    return [_with_state(one, adjusted, broken, rule) for one in compared]


def _with_state(
    one: _Compared, adjusted: dict[str, float], broken: dict[str, list[Finding]], rule: CheckRule
) -> FeatureDrift:
    p_value = adjusted.get(one.found.name, 1.0)
    state = one.found.state
    if one.found.name in broken:
        state = "broken"
    elif state == "stable" and one.is_large and p_value < rule.level:
        state = "drift"
    return replace(one.found, state=state, p_value=p_value)


def _state(
    features: Sequence[FeatureDrift], multivariate: Multivariate | None, quality: Quality | None
) -> State:
    states = {one.state for one in features}
    if multivariate is not None:
        states.add(multivariate.state)
    if quality is not None and quality.fell:
        states.add("worse")
    for state in _WORST_FIRST:
        if state in states:
            return state
    return "not_enough_data"


_WORST_FIRST: tuple[State, ...] = ("broken", "drift", "worse", "stable")


def _multivariate(
    profile: ReferenceProfile, current: Current, rule: CheckRule
) -> Multivariate | None:
    coded = profile.coded
    if coded is None or current.rows == 0:
        return None
    named = [profile.by_name[name] for name in coded.features]
    at = [
        n for n, one in enumerate(named)
        if _fits(one, current.features.get(one.name), current.rows)
    ]
    if len(at) < 2:
        return None
    rows = np.unique(np.linspace(0, current.rows - 1, min(current.rows, 2 * coded.rows or 1))
                     .astype(np.int64))
    used = [named[number] for number in at]
    codes = np.column_stack([
        bins.codes(one, current.features[one.name].values[rows]) for one in used
    ])
    tau = max(one.autocorrelation_rows for one in used)
    strides = profile.rows / max(coded.rows, 1), current.stride * current.rows / len(rows)
    dependence, other = (max(1.0, tau / max(1.0, stride)) for stride in strides)
    found = two_samples(used, coded.matrix()[:, at], codes, dependence, other)
    if found is None:
        return Multivariate(state="not_enough_data", threshold=rule.least_auc)
    is_drift = found.auc >= rule.least_auc and found.p_value < rule.level
    return Multivariate(
        state="drift" if is_drift else "stable", auc=found.auc, threshold=rule.least_auc,
        p_value=found.p_value, features=found.features,
    )


def _fits(feature: FeatureProfile, one: Feature | None, rows: int) -> bool:
    if one is None or len(one.values) != rows:
        return False
    return bins.is_number(one.values) == (feature.kind == "number")


def _quality(reference: Performance | None, current: Performance | None) -> Quality | None:
    if current is None:
        return None
    is_known = (
        reference is not None and reference.measure == current.measure
        and reference.rows >= LEAST_LABELLED
    )
    return Quality(
        measure=current.measure, current=current.value, error=current.error, rows=current.rows,
        reference=reference.value if reference is not None and is_known else None,
        fell=reference is not None and fell(reference, current),
    )
