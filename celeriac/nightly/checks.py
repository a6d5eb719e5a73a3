"""Drift night by night: what each date's check has found, and what that opens or closes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime

import msgspec

from celeriac import errors
from celeriac.datasets.files import remove_file, write_file
from celeriac.datasets.places import Place, expanded
from celeriac.drift.events import DriftEvent, Kind
from celeriac.drift.records import DriftReport

NAME = "drift.json"
PAGE = "drift.html"
_UNTOLD = "drift.untold.json"
"""What was found and perhaps not told yet: a worker that was killed goes on from there."""
_SAYS_NOTHING = ("not_enough_data", "no_profile")


def report_of(output: str | Place) -> Place:
    """The file that says that a check is done; written last."""
    return expanded(output) / NAME


def is_done(output: str | Place) -> bool:
    """True if a folder holds a check. May raise OSError."""
    return report_of(output).exists()


def read(output: str | Place) -> DriftReport:
    """What a check has found. Raises JobNotFound if it cannot be read."""
    try:
        return DriftReport.load(report_of(output).read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise errors.JobNotFound(f"{report_of(output)}: cannot be read: {error}") from error


def keep(folder: Place, report: DriftReport) -> None:
    """Before it is told: told again after a kill, it is the same report. Raises StorageError."""
    write_file(folder / _UNTOLD, report.dump())


def kept(folder: Place) -> DriftReport | None:
    """What an earlier task of this attempt has found, and has not ended. May raise OSError."""
    try:
        return DriftReport.load((folder / _UNTOLD).read_bytes())
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def finish(folder: Place, report: DriftReport) -> None:
    """It has been told: the date is done. Raises StorageError."""
    write_file(report_of(folder), report.dump())
    with suppress(errors.StorageError):  # nobody asks for it any more
        remove_file(folder / _UNTOLD)


def events(  # noqa: PLR0913 - what was found, and how it is told
    before: Sequence[DriftReport], now: DriftReport, after: Sequence[DriftReport] = (), *,
    entry: str, what: str, said: str,
) -> list[DriftEvent]:
    """The episodes of an entry of the schedule that ``now`` closes and opens, between what was
    found ``before`` its date, and ``after`` it if it was caught up: what closes comes first, so
    that data which are mended hold up nothing else.

    An episode stays open until a night says that it is over: too few rows say nothing, and too few
    labels nothing of the answers. ``what`` was looked at; ``said``: the whole in one sentence.
    """
    was = _open_after([*before, *after])
    found = _open_after([*before, now, *after])
    at_s = datetime.fromisoformat(now.made_at).timestamp()
    opened = [
        DriftEvent(
            kind=kind, state="opened", model=model, version=version, source="dataset",
            features=_features(kind, now), detail=f"{what}: {said}", at_s=at_s, entry=entry,
        )
        for kind, model, version in sorted(found - was)
    ]
    closed = [
        DriftEvent(
            kind=kind, state="closed", model=model, version=version, source="dataset",
            features=(), at_s=at_s, entry=entry,
            detail=f"{what}: {said}" if (model, version) == (now.model, now.version)
            else f"{what}: {now.model}@{now.version} answers now",
        )
        for kind, model, version in sorted(was - found)
    ]
    return [*closed, *opened]


def kinds(report: DriftReport) -> list[Kind]:
    """What a report tells. Of broken data nothing else: differences in them mean nothing."""
    if report.state == "broken":
        return ["data_quality"]
    found: list[Kind] = ["data_drift"] if report.state == "drift" else []
    if report.quality is not None and report.quality.fell:
        found.append("concept_drift")
    return found


_Open = frozenset[tuple[Kind, str, int]]
"""Kind, model and version: an entry of the schedule may get another model."""


def _open_after(reports: Iterable[DriftReport]) -> _Open:
    found: _Open = frozenset()
    for report in reports:
        found = _after(found, report)
    return found


def _after(was: _Open, report: DriftReport) -> _Open:
    if report.state in _SAYS_NOTHING:
        return was
    about = report.model, report.version
    found = {(kind, *about) for kind in kinds(report)}
    is_measured = report.quality is not None and report.quality.is_compared
    found |= {
        one for one in was if one[1:] == about and (
            one[0] != "data_quality" if report.state == "broken"  # says nothing about the rest
            else one[0] == "concept_drift" and not is_measured
        )
    }
    return frozenset(found)


def _features(kind: Kind, report: DriftReport) -> tuple[str, ...]:
    if kind == "concept_drift":
        return ()
    state = "broken" if kind == "data_quality" else "drift"
    worst = sorted(
        (one for one in report.features if one.state == state), key=lambda one: -one.statistic
    )
    return tuple(one.name for one in worst)
