"""The runs of nightly schedules: what is there, and one that begins. Never waits for a job."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from celeriac import errors
from celeriac.datasets.places import expanded
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.lease import ChunkLease
from celeriac.jobs.ledger import Answer, JobState
from celeriac.jobs.manifest import read_manifest
from celeriac.keys import NIGHTLY_PLANNING_S
from celeriac.messages import CONTRACT, MAINTENANCE_QUEUE, NIGHTLY_RUN
from celeriac.nightly import checks
from celeriac.nightly.calendar import MAX_ATTEMPTS, dataset_path, find, output_path
from celeriac.nightly.policy import Run, RunState
from celeriac.nightly.records import Event, Holder, NightRecords
from celeriac.settings.nightly import NightlySettings
from producer.broker import Broker
from producer.datasets import submit_dataset
from producer.jobs import JobHandle, open_ledger, redis_errors

LONGEST_PLAN_S = 3_600.0
_LATER = re.compile(r"[2-9]|[1-9][0-9]")
"""Numbers of forced attempts, up to :data:`MAX_ATTEMPTS`."""
_SWAPS = 5
_RUNNING = (JobState.IN_PROGRESS, JobState.FINALIZING, JobState.CANCELLING)


def records_of(broker: Broker, name: str) -> NightRecords:
    """What Redis remembers of a schedule."""
    return NightRecords(broker.redis, name)


# --- what is there --------------------------------------------------------------------------------


def runs(broker: Broker, name: str, day: date) -> list[Run]:
    """The attempts at a date that have a job, or a check, oldest first. Raises BrokerError."""
    schedule = find(broker.settings.nightly, name)
    return [
        _attempt(broker, schedule, output_path(schedule, day, attempt), day, attempt)
        for attempt in attempts(schedule, day)
    ]


def attempts(schedule: NightlySettings, day: date) -> list[int]:
    """The numbers of the attempts at a date that have a job, or a check, in order. One whose folder
    was deleted hides no later one. May raise OSError."""
    first = expanded(output_path(schedule, day))
    beside = first.parent.glob(f"{glob.escape(first.name)}.attempt-*")
    ends = [folder.name.rpartition("-")[2] for folder in beside]
    numbers = [1, *sorted(int(end) for end in ends if _LATER.fullmatch(end))]
    return [one for one in numbers if holds(schedule, output_path(schedule, day, one))]


def newest(broker: Broker, name: str, day: date) -> Run:
    """The newest attempt at a date, one that is planned now included. Raises BrokerError.

    A folder that cannot be read is a state of its own, not an error.
    """
    schedule = find(broker.settings.nightly, name)
    output = output_path(schedule, day)
    try:
        found = runs(broker, name, day)
    except (errors.JobNotFound, errors.JobFailed, OSError) as error:
        return Run(
            day=day, attempt=1, state=RunState.UNREADABLE, output=output, reason=str(error)
        )
    last = found[-1] if found else Run(day=day, attempt=1, state=RunState.ABSENT, output=output)
    with redis_errors(broker):
        holder = records_of(broker, name).holder()
    if holder is None or holder.job_id or holder.date != day.isoformat():
        return last
    if not last.state.can_begin and holder.attempt <= last.attempt:
        return last
    begun_at = datetime.fromisoformat(holder.begun_at) if holder.begun_at else last.begun_at
    return replace(
        last, attempt=holder.attempt, state=RunState.PLANNING, begun_at=begun_at,
        output=output_path(schedule, day, holder.attempt),
    )


def current(found: list[Run]) -> Run | None:
    """The attempt whose output counts: the newest one that is whole."""
    return next((run for run in reversed(found) if run.state.is_whole), None)


def under_way(broker: Broker, name: str) -> Holder | None:
    """The run of the schedule that has not ended: no other one may begin. Raises BrokerError."""
    with redis_errors(broker):
        holder = records_of(broker, name).holder()
        return None if holder is None or _is_over(broker, holder) else holder


# --- one that begins ------------------------------------------------------------------------------


class Busy(errors.RequestError):
    """An earlier run of the schedule has not ended."""

    code = "nightly_busy"


def begin(broker: Broker, name: str, day: date, attempt: int, *, owner: str) -> str | None:
    """Submit one attempt at a date, unless it has a job; returns the job's id.

    None: another task is about to. A job that was planned but is not queued (its worker was
    killed, or Redis lost it) goes on. Raises Busy while an earlier run of the schedule has not
    ended, and what submit_dataset raises; then the date stays owed.
    """
    schedule = find(broker.settings.nightly, name)
    folder = JobFolder(output_path(schedule, day, attempt))
    _check_attempt(name, day, attempt)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ours = Holder(date=day.isoformat(), attempt=attempt, owner=owner, begun_at=now)
    run = _seen(broker, folder, day, attempt) if folder.holds_job() else None
    if run is not None and not run.state.can_begin:
        _adopt(broker, name, ours, run)
        return run.job_id
    taken = _take(broker, name, ours)
    if taken is None:
        return None
    try:
        with _held(broker, name, taken):
            job_id, what = _submit(broker, schedule, folder, day, attempt)
    except BaseException:
        records_of(broker, name).swap(taken, None)
        raise
    _keep(broker, name, taken, job_id)
    note(broker, name, what, day, attempt, f"job {job_id}")
    return job_id


def begin_check(  # noqa: PLR0913 - one attempt, and what it does
    broker: Broker, name: str, day: date, attempt: int, *, owner: str, check: Callable[[], str]
) -> bool:
    """Have ``check`` do one attempt at a date, unless it is done or another task is at it: False.

    It leaves the file that says that it is done, and returns what it has found, in a sentence.
    Raises Busy while an earlier run of the schedule has not ended, and what ``check`` raises; then
    the date stays owed.
    """
    schedule = find(broker.settings.nightly, name)
    _check_attempt(name, day, attempt)
    if holds(schedule, output_path(schedule, day, attempt)):
        return False
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ours = Holder(date=day.isoformat(), attempt=attempt, owner=owner, begun_at=now)
    taken = _take(broker, name, ours)
    if taken is None:
        return False
    try:
        with _held(broker, name, taken):
            found = check()
    finally:
        records_of(broker, name).swap(taken, None)
    note(broker, name, "compared", day, attempt, found)
    return True


def send(
    broker: Broker, name: str, day: date, attempt: int, *, expires_s: int | None = None
) -> None:
    """Queue one attempt at a date. Raises BrokerError."""
    with redis_errors(broker):
        broker.celery.send_task(
            NIGHTLY_RUN,
            kwargs={
                "v": CONTRACT, "name": name, "date": day.isoformat(), "attempt": attempt,
            },
            queue=MAINTENANCE_QUEUE, expires=expires_s,
        )


def note(  # noqa: PLR0913, PLR0917 - one line of a history
    broker: Broker, name: str, what: str, day: date, attempt: int, text: str = ""
) -> None:
    """Add a line to the schedule's history."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    event = Event(at=at, what=what, date=day.isoformat(), attempt=attempt, text=text[:1_000])
    with redis_errors(broker):
        records_of(broker, name).note(event)


def _check_attempt(name: str, day: date, attempt: int) -> None:
    if not 1 <= attempt <= MAX_ATTEMPTS:
        raise errors.RequestError(
            f"{name} for {day} has no attempt {attempt}: they go from 1 to {MAX_ATTEMPTS}; "
            f"`celeriac nightly history {name}` lists those that there are"
        )


def _take(broker: Broker, name: str, ours: Holder) -> Holder | None:
    """Take the slot: as it is held now. None if another task plans this very attempt. Raises Busy.
    """
    records = records_of(broker, name)
    for _ in range(_SWAPS):
        held = records.holder()
        if held is not None and held.is_same_run(ours):  # a first delivery, killed meanwhile
            return held
        if held is None or _is_over(broker, held):
            if records.swap(held, ours):
                return ours
        elif (held.date, held.attempt) == (ours.date, ours.attempt):
            return None
        else:
            raise Busy(
                f"{name} for {ours.date} does not begin: its run for {held.date} (attempt "
                f"{held.attempt}) has not ended; it begins afterwards"
            )
    raise Busy(f"{name} for {ours.date} does not begin: others begin all the time")


def _held(broker: Broker, name: str, ours: Holder) -> ChunkLease:
    """Keeps the slot while the block plans; after a kill it is free within a minute."""

    def renew() -> Answer:
        records_of(broker, name).swap(ours, ours, NIGHTLY_PLANNING_S)
        return Answer.KEPT

    return ChunkLease(renew, lease_s=NIGHTLY_PLANNING_S, timeout_s=LONGEST_PLAN_S)


def _keep(broker: Broker, name: str, ours: Holder, job_id: str) -> None:
    """The slot is the job's until it has ended."""
    with_job = Holder(date=ours.date, attempt=ours.attempt, owner=ours.owner, job_id=job_id)
    records, ttl_s = records_of(broker, name), broker.settings.batch.job_ttl_s
    if not records.swap(ours, with_job, ttl_s):
        records.swap(None, with_job, ttl_s)  # Redis has forgotten it meanwhile


def _adopt(broker: Broker, name: str, ours: Holder, run: Run) -> None:
    """A task that was killed after it had submitted comes again: the slot is its job's, also if the
    time to plan is over and nobody has it."""
    held = records_of(broker, name).holder()
    if held is None or held.is_same_run(ours):
        _keep(broker, name, held or ours, run.job_id)


def _is_over(broker: Broker, holder: Holder) -> bool:
    if not holder.job_id:
        return False  # planned now; after a kill the key soon expires
    entry = open_ledger(broker).entry(holder.job_id)
    return entry is None or entry.state.is_final


def _submit(
    broker: Broker, schedule: NightlySettings, folder: JobFolder, day: date, attempt: int
) -> tuple[str, str]:
    """Job id, and what was done."""
    if folder.holds_job():
        run = _seen(broker, folder, day, attempt)
        if not run.state.can_begin:  # made since we looked
            return run.job_id, "found"
        if folder.plan.exists():  # else: who planned it was killed before it was written
            JobHandle.from_output(broker, folder.path).resume()
            return run.job_id, "resumed"
    handle = submit_dataset(
        broker, dataset_path(schedule, day), schedule.model, folder.path,
        **schedule.options.arguments(),
    )
    return handle.id, "submitted"


def holds(schedule: NightlySettings, output: str) -> bool:
    """True if a folder has the job of an attempt, or its check. May raise OSError."""
    return checks.is_done(output) if schedule.kind == "drift" else JobFolder(output).holds_job()


def _attempt(
    broker: Broker, schedule: NightlySettings, output: str, day: date, attempt: int
) -> Run:
    if schedule.kind == "dataset":
        return _seen(broker, JobFolder(output), day, attempt)
    found = checks.read(output)
    return Run(
        day=day, attempt=attempt, state=RunState.COMPLETED, output=output,
        begun_at=datetime.fromisoformat(found.made_at), rows=found.rows_total,
        reason=f"{found.model}@{found.version} {found.state.replace('_', ' ')}",
    )


def _seen(broker: Broker, folder: JobFolder, day: date, attempt: int) -> Run:
    """The run that lives in a folder: the ledger knows, or else the folder."""
    plan = folder.load()
    begun_at = datetime.fromisoformat(plan.created_at)
    run = Run(
        day=day, attempt=attempt, state=RunState.LOST, output=str(folder.path),
        job_id=plan.job_id, begun_at=begun_at, rows=plan.rows,
    )
    with redis_errors(broker):
        entry = open_ledger(broker).entry(plan.job_id)
    if entry is not None and entry.state is not JobState.VALIDATING:
        running = entry.state in _RUNNING
        return replace(
            run, state=RunState.RUNNING if running else RunState(entry.state),
            rows_failed=entry.rows_failed + entry.rows_dead, reason=entry.error,
        )
    manifest = read_manifest(folder)
    if manifest is not None:
        return replace(run, state=RunState(manifest.state), rows_failed=manifest.rows_failed)
    forgotten = timedelta(seconds=broker.settings.batch.job_ttl_s)
    if datetime.now(UTC) - begun_at > forgotten:
        return replace(run, state=RunState.UNFINISHED)
    return run
