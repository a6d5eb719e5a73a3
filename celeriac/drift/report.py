"""``drift.html``: what a comparison found, for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from celeriac import errors
from celeriac.drift.records import LEAST_DISTANCE, DriftReport, FeatureDrift, Stretch
from celeriac.reports import charts, page

TEMPLATE = Path(__file__).parent / "report.html"
MOST_FEATURES = 120
"""On the page."""
MOST_TITLED = 30
"""With more features, bars have no words of their own: the page would be too large."""
MOST_FINDINGS = 40
_WORST_FIRST = {"broken": 0, "drift": 1, "stable": 2, "not_enough_data": 3}


@dataclass(frozen=True)
class Share:
    """One category."""

    label: str
    reference: float
    current: float


@dataclass(frozen=True)
class View:
    """One feature as it is drawn."""

    feature: FeatureDrift
    is_marked: bool
    pair: charts.Pair | None
    shares: tuple[Share, ...]
    time: charts.Plot | None
    limit: str
    """Path of the threshold, over ``time``."""


def render(report: DriftReport) -> bytes:
    """The page: one file under 1 MB. Raises RuntimeMissing without Jinja2."""
    found = views(report)
    for most in (MOST_FEATURES, MOST_FEATURES // 4, 0):  # names may be long
        made = page.render(
            TEMPLATE, report=report, headline=headline(report), views=found[:most],
            more_features=max(0, len(found) - most), titles=len(found[:most]) <= MOST_TITLED,
            broken=sum(one.state == "broken" for one in report.features),
            most_findings=MOST_FINDINGS, least=LEAST_DISTANCE,
        )
        if len(made) <= page.MOST_BYTES:
            return made
    raise errors.PayloadTooLarge(f"the page would be larger than {page.MOST_BYTES:,} bytes")


def headline(report: DriftReport) -> str:
    """The whole in one sentence."""
    drifted = report.drifted
    if report.state == "no_profile":
        return "There is nothing to compare with."
    if report.state == "not_enough_data":
        return "There are too few rows to say anything."
    if report.state == "broken":
        broken = sum(one.state == "broken" for one in report.features)
        return (
            f"The data are broken: {charts.many(broken, 'feature')} of {len(report.features)}. "
            "Mend them first; models are not retrained on broken data."
        )
    if report.state == "worse":
        return "The data look as before, but the answers have become worse."
    if report.state == "stable":
        return "Nothing has changed that would matter."
    what = (
        f"{charts.many(len(drifted), 'feature')} of {len(report.features)} "
        f"{'has' if len(drifted) == 1 else 'have'} changed"
        if drifted else "No feature alone has changed, but all of them together have"
    )
    if report.quality is None or not report.quality.is_compared:
        return f"{what}."
    if report.quality.fell:
        return f"{what}, and the answers have become worse."
    return f"{what}; the answers have not become worse."


def views(report: DriftReport) -> list[View]:
    """All features, the most changed first."""
    ranked = sorted(
        report.features, key=lambda one: (_WORST_FIRST.get(one.state, 9), -one.statistic)
    )
    return [_view(one) for one in ranked]


def _view(one: FeatureDrift) -> View:
    marked = one.state in ("drift", "broken")
    time, limit = _over_time(one.stretches)
    return View(one, marked, _pair(one, marked), _shares(one), time, limit)


def _pair(one: FeatureDrift, marked: bool) -> charts.Pair | None:
    found = one.picture
    if found is None or not found.edges:
        return None
    titles = [
        f"{charts.number(low)} to {charts.number(high)}: now {charts.share(now, 1)}, "
        f"reference {charts.share(before, 1)}"
        for low, high, now, before in zip(
            found.edges[:-1], found.edges[1:], found.current, found.reference, strict=True
        )
    ]
    most = max(*found.current, *found.reference)
    return charts.pair(
        found.current, found.reference, titles, top=f"{charts.share(most, 1)} of the rows",
        left=charts.number(found.edges[0]), right=charts.number(found.edges[-1]), marked=marked,
    )


def _shares(one: FeatureDrift) -> tuple[Share, ...]:
    found = one.picture
    if found is None or not found.labels:
        return ()
    return tuple(
        Share(label, min(before, 1.0), min(now, 1.0))
        for label, before, now in zip(found.labels, found.reference, found.current, strict=True)
    )


def _over_time(stretches: Sequence[Stretch]) -> tuple[charts.Plot | None, str]:
    if len(stretches) < 2:
        return None, ""
    values = [one.statistic for one in stretches]
    limits = [one.threshold for one in stretches]
    most = min(1.0, max(*values, *limits) * 1.05)
    titles = [
        f"{one.at}: {one.statistic:.3f}, threshold {one.threshold:.3f}" for one in stretches
    ]
    marked = [value >= limit for value, limit in zip(values, limits, strict=True)]
    plot = charts.bars(
        values, titles, top=f"{most:.2f}", left=stretches[0].at, right=stretches[-1].at,
        marked=marked, most=most,
    )
    return plot, charts.steps(limits, most)
