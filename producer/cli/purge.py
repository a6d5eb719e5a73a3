"""``celeriac batch purge``: delete what jobs left behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from celeriac import errors
from producer.broker import Broker
from producer.cli import terminal
from producer.cli.jobs import open_broker, open_job
from producer.jobs import JobHandle, list_jobs

_MOST = 1_000
"""Jobs that Redis knows, at most."""


def purge(
    jobs: Annotated[
        list[str] | None, typer.Argument(help="Ids of jobs, or their output folders.")
    ] = None,
    older_than_days: Annotated[
        float | None, typer.Option(min=0, max=36_500, help="All jobs that ended so long ago.")
    ] = None,
    finished: Annotated[
        bool, typer.Option("--finished", help="Finished outputs, too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete the output of jobs that were cancelled, have failed or expired, and forget them.

    They cannot be resumed then. Finished outputs are deleted only with --finished.
    """
    if bool(jobs) == (older_than_days is not None):
        raise errors.RequestError("name jobs, or say --older-than-days")
    with open_broker() as broker:
        handles = [open_job(broker, job) for job in jobs or ()]
        if older_than_days is not None:
            handles = _ended(broker, older_than_days, finished=finished)
        for handle in handles:
            handle.check_purge(finished=finished)
        for handle in handles:
            terminal.console().print(f"job {handle.id}: {handle.output}", soft_wrap=True)
        if not handles:
            terminal.console().print("no job to purge")
            return
        if not yes:
            noun = "output" if len(handles) == 1 else "outputs"
            typer.confirm(f"Delete {len(handles):,} {noun}? (--yes does not ask)", abort=True)
        found = [handle.purge(finished=finished) for handle in handles]
    files, size = sum(one.files for one in found), sum(one.bytes for one in found)
    terminal.console().print(f"{files:,} files deleted, {size / 1e6:,.1f} MB")


def _ended(broker: Broker, days: float, *, finished: bool) -> list[JobHandle]:
    """Jobs that ended so many days ago, the newest first."""
    before = datetime.now(UTC) - timedelta(days=days)
    return [
        JobHandle(broker, one.id, one.output) for one in list_jobs(broker, _MOST)
        if one.state.is_final and one.ended_at is not None and one.ended_at < before
        and (finished or not one.state.is_whole)
    ]
