"""Nights of drift: a dataset is compared, or a job has been, and what is found is announced."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path

from celeriac import errors
from celeriac.datasets.files import write_file
from celeriac.datasets.places import expanded
from celeriac.drift.records import DriftReport
from celeriac.drift.report import headline, render
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.manifest import read_manifest
from celeriac.logs import get_logger
from celeriac.messages import ModelRef
from celeriac.nightly import checks
from celeriac.nightly.calendar import MAX_ATTEMPTS, dataset_path, find, output_path
from celeriac.nightly.policy import Run
from celeriac.registry.store import Registry
from celeriac.settings.nightly import NightlySettings
from producer import nights
from producer.broker import Broker
from tasks.drift_notices import announce

log = get_logger(__name__)

LOOKBACK_DAYS = 31
"""How far back a night looks for what is open."""
_UNKNOWN = (
    "its version was registered without a reference, or no report was made of its rows (the log of "
    "the maintenance worker, [batch] sample_rows)"
)
_UNREADABLE = (errors.JobNotFound, errors.JobFailed, OSError)


def check_date(broker: Broker, name: str, day: date, attempt: int, *, owner: str) -> bool:
    """Compare the dataset of a date, unless that is done or under way; False then.

    Raises Busy, ConfigError, DatasetError, RegistryError and its kinds; then the date stays owed.
    """
    schedule = find(broker.settings.nightly, name)
    return nights.begin_check(
        broker, name, day, attempt, owner=owner,
        check=lambda: _check(broker, name, schedule, day, attempt),
    )


def tell_job(broker: Broker, name: str, schedule: NightlySettings, run: Run) -> None:
    """Announce what the report of a job that has ended says of drift, once."""
    records = nights.records_of(broker, name)
    if records.is_drift_told(run.day, run.attempt):
        return
    try:
        report = found_by(schedule, run.output)
    except _UNREADABLE as error:
        _complain(run.output, str(error))
        return
    if report is not None:
        _announce(broker, name, schedule, run.day, run.attempt, report)
    else:
        log.warning("drift of a job is not known", schedule=name, date=run.day.isoformat())
        nights.note(broker, name, "drift is not known", run.day, run.attempt, _UNKNOWN)
    records.mark_drift_told(run.day, run.attempt)


@lru_cache(maxsize=1_000)
def _complain(output: str, reason: str) -> None:
    """Once in a process, not at each look."""
    log.warning("what a night has found cannot be read", output=output, reason=reason)


IsTold = Callable[[date, int], bool]
"""Of an attempt: what it has found has been announced."""


def _always(_day: date, _attempt: int) -> bool:
    """A comparison is done only when it has been told."""
    return True


def earlier(
    schedule: NightlySettings, day: date, attempt: int, is_told: IsTold = _always
) -> list[DriftReport]:
    """What was found, and told, by all attempts before this one, the oldest first. One that cannot
    be read says nothing, and keeps no later night from it."""
    days = [day - timedelta(days=back) for back in range(LOOKBACK_DAYS, 0, -1)]
    found = [one for before in days for one in _found_on(schedule, before, is_told)]
    return found + _found_on(schedule, day, is_told, attempt - 1)


def later(
    schedule: NightlySettings, day: date, is_told: IsTold = _always
) -> list[DriftReport]:
    """The same of later dates: this one is caught up."""
    days = [day + timedelta(days=ahead) for ahead in range(1, LOOKBACK_DAYS + 1)]
    return [one for after in days for one in _found_on(schedule, after, is_told)]


def _found_on(
    schedule: NightlySettings, day: date, is_told: IsTold, most: int = MAX_ATTEMPTS
) -> list[DriftReport]:
    """By the first ``most`` attempts at a date."""
    found = []
    for number in nights.attempts(schedule, day):
        if number > most:
            break
        output = output_path(schedule, day, number)
        try:
            report = found_by(schedule, output) if is_told(day, number) else None
        except _UNREADABLE as error:
            _complain(output, str(error))
            continue
        if report is not None:
            found.append(report)
    return found


def found_by(schedule: NightlySettings, output: str) -> DriftReport | None:
    """What one attempt has found; None if it has no end yet, or its version no reference."""
    if schedule.kind == "drift":
        return checks.read(output) if checks.is_done(output) else None
    manifest = read_manifest(JobFolder(output))
    return manifest.drift if manifest is not None else None


def _check(
    broker: Broker, name: str, schedule: NightlySettings, day: date, attempt: int
) -> str:
    """The whole in one sentence. ``drift.json`` comes last: a date without it is owed."""
    folder = expanded(output_path(schedule, day, attempt))
    report = checks.kept(folder) or _compared(broker, schedule, day)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / checks.PAGE, render(report))
    checks.keep(folder, report)
    _announce(broker, name, schedule, day, attempt, report)
    checks.finish(folder, report)
    log.info(
        "nightly drift check", schedule=name, date=day.isoformat(), attempt=attempt,
        state=report.state,
    )
    return headline(report)


def _compared(broker: Broker, schedule: NightlySettings, day: date) -> DriftReport:
    from celeriac.release.comparing import Wanted, compare_aside  # numpy and pyarrow, also in beat

    options = schedule.check
    report = compare_aside(
        Registry(Path(broker.settings.models.root)), ModelRef.parse(schedule.model),
        Wanted(source=dataset_path(schedule, day), **options.arguments()), broker.settings,
        options.timeout_s,
    )
    if report.state == "no_profile":
        raise errors.RegistryError(
            f"{report.model}@{report.version} was registered without a reference, so there is "
            "nothing to compare with; register its next version with one"
        )
    return report


def _announce(  # noqa: PLR0913, PLR0917 - which attempt has found what
    broker: Broker, name: str, schedule: NightlySettings, day: date, attempt: int,
    report: DriftReport,
) -> None:
    records = nights.records_of(broker, name)
    is_told = records.is_drift_told if schedule.kind == "dataset" else _always
    announce(broker, *checks.events(
        earlier(schedule, day, attempt, is_told), report, later(schedule, day, is_told),
        entry=name, what=f"{name}, {day}", said=headline(report),
    ))
