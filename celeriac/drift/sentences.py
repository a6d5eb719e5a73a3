"""What a person should know of a comparison, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from celeriac.drift.records import LEAST_LABELLED, FeatureDrift, Finding, Multivariate, Quality
from celeriac.reports.charts import many, number


def sentences(
    features: Sequence[FeatureDrift], broken: Mapping[str, Sequence[Finding]],
    looks: Sequence[Finding], multivariate: Multivariate | None, quality: Quality | None,
) -> tuple[Finding, ...]:
    """The worst first."""
    found = [finding for some in broken.values() for finding in some]
    ranked = sorted(
        (one for one in features if one.state == "drift"), key=lambda one: -one.statistic
    )
    found += [_of_drift(one) for one in ranked]
    found += [*_of_quality(quality, bool(found)), *looks]
    found += _of_all(multivariate, is_explained=bool(ranked or broken))
    few = [one for one in features if one.state == "not_enough_data"]
    if few:
        names = ", ".join(one.name for one in few[:5]) + (", ..." if len(few) > 5 else "")
        found.append(Finding(
            level="look", what="Not enough data",
            text=f"of {names} there are too few values to say anything, which is not the same as "
            "no drift",
        ))
    order = {"bad": 0, "look": 1, "good": 2}
    return tuple(sorted(found, key=lambda one: order[one.level]))


def _of_drift(one: FeatureDrift) -> Finding:
    return Finding(level="bad", what=one.name, text=_how(one))


def _how(one: FeatureDrift) -> str:
    """In everyday words, with one figure."""
    part = f"distance {one.statistic:.2f}, where {one.threshold:.2f} is much"
    if one.statistic < one.threshold:
        part = (
            f"Jensen-Shannon distance {one.jensen_shannon:.2f}, where "
            f"{one.jensen_shannon_threshold:.2f} is much"
        )
    if one.kind == "category":
        return f"its values come in other shares ({part})"
    if one.mean is None or one.reference_mean is None:
        return f"is distributed differently ({part})"
    is_shift = one.shift is not None and abs(one.shift) > 0.5 * (one.wasserstein or 0.0)
    if is_shift or (one.shift is None and one.mean != one.reference_mean):
        way = "larger" if one.mean > one.reference_mean else "smaller"
        return (
            f"has become {way}: {number(one.mean)} on average, {number(one.reference_mean)} in "
            f"the reference ({part})"
        )
    return f"is spread differently around a mean of {number(one.mean)} ({part})"


def _of_quality(quality: Quality | None, any_drift: bool) -> Iterator[Finding]:
    if quality is None:
        return
    now = f"{number(quality.current)} on {many(quality.rows, 'labelled row')}"
    if quality.reference is None:
        yield Finding(
            level="look", what=quality.measure,
            text=f"is {now}; that of the reference is not known",
        )
        return
    was = f"{number(quality.reference)} on the reference"
    if not quality.is_compared:
        yield Finding(
            level="look", what=quality.measure,
            text=f"is {now}, {was}: of fewer than {LEAST_LABELLED} rows nothing can be said",
        )
        return
    worse = "has risen" if quality.measure == "mean absolute error" else "has fallen"
    if quality.fell:
        yield Finding(
            level="bad", what=quality.measure,
            text=f"{worse}: {now}, {was}: the answers have become worse",
        )
        return
    worse = "did not rise" if quality.measure == "mean absolute error" else "did not fall"
    text = f"{worse}: {now}, {was}"
    if any_drift:
        text += "; the inputs have changed, and the answers are as good as before"
    yield Finding(level="good", what=quality.measure, text=text)


def _of_all(multivariate: Multivariate | None, *, is_explained: bool) -> Iterator[Finding]:
    if multivariate is None or multivariate.state != "drift":
        return
    names = ", ".join(name for name, _ in multivariate.features[:5])
    by = f", most of all by {names}" if names else ""
    together = "" if is_explained else (
        ": no feature drifts alone, so what has changed is how they go together"
    )
    yield Finding(
        level="look" if is_explained else "bad", what="All features together",
        text=f"a classifier tells these rows from the reference in {multivariate.auc:.0%} of all "
        f"pairs{by}{together}",
    )
