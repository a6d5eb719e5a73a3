"""``celeriac batch dead``: the chunks of a job that were given up."""

from __future__ import annotations

from typing import Annotated

import typer

from celeriac import errors
from celeriac.jobs.ledger import DeadChunk
from producer.cli import terminal
from producer.cli.jobs import Job, open_broker, open_job
from producer.jobs import JobHandle

app = typer.Typer(
    no_args_is_help=True,
    help="Chunks that were tried and given up, in part where only some of their files are damaged.",
)

REASON_SHOWN = 300
Chunks = Annotated[list[int], typer.Argument(min=0, help="Numbers of the chunks.")]


@app.command("list")
def list_(job: Job) -> None:
    """The chunks of JOB that were given up, and those that lack rows of damaged files."""
    with open_broker() as broker:
        handle = open_job(broker, job)
        dead, unread = handle.dead(), handle.unread()
    if unread:
        what = f"{len(unread):,} chunks" if len(unread) > 1 else f"chunk {unread[0]}"
        terminal.console().print(
            f"job {handle.id}: files of {what} could not be read: their rows are in "
            f"{handle.output}/errors as {errors.UnreadableFile.code}; "
            f"`celeriac batch dead requeue {handle.id}` tries them again", soft_wrap=True,
        )
    if not dead:
        terminal.console().print(f"job {handle.id}: no chunk was given up")
        return
    terminal.show_rows(("chunk", "attempts", "dropped", "reason"), (
        (str(one.chunk), str(one.attempts), "yes" if one.dropped else "", one.reason[:REASON_SHOWN])
        for one in dead
    ))


@app.command()
def show(job: Job, chunk: Annotated[int, typer.Argument(min=0)]) -> None:
    """All that is known of one of them: its rows, and why it was given up."""
    with open_broker() as broker:
        handle = open_job(broker, job)
        one = _find(handle, chunk)
        planned = handle.planned(chunk)
    lines = [
        f"chunk {chunk} of job {handle.id}",
        f"  rows      {planned.rows:,} from row {planned.first_row:,} of {planned.source}",
        f"  attempts  {one.attempts}",
        f"  worker    {one.worker or '-'}",
        f"  dropped   {'yes' if one.dropped else 'no'}",
        f"  reason    {one.reason}",
        f"`celeriac batch dead requeue {handle.id} {chunk}` tries it again",
    ]
    terminal.console().print("\n".join(lines), soft_wrap=True)


@app.command()
def requeue(
    job: Job,
    chunks: Annotated[
        list[int] | None, typer.Argument(help="Numbers (default: all but the dropped ones).")
    ] = None,
) -> None:
    """Try chunks of JOB again. A job that has ended goes on, and ends anew."""
    with open_broker() as broker:
        handle = open_job(broker, job)
        for chunk in {*(chunks or ())} - {*handle.unread()}:
            _find(handle, chunk)
        count = handle.requeue(chunks or ())
    if not count:
        terminal.console().print(f"job {handle.id}: no chunk was given up that is not dropped")
        return
    what = "1 chunk is" if count == 1 else f"{count:,} chunks are"
    terminal.console().print(f"job {handle.id}: {what} tried again")


@app.command()
def drop(job: Job, chunks: Chunks) -> None:
    """Give chunks of JOB up for good: `requeue` without numbers and `resume` leave them out."""
    with open_broker() as broker:
        handle = open_job(broker, job)
        for chunk in chunks:
            _find(handle, chunk)
        found = handle.drop(chunks)
    terminal.console().print(f"job {handle.id}: {len(found):,} chunks dropped")


def _find(handle: JobHandle, chunk: int) -> DeadChunk:
    for one in handle.dead():
        if one.chunk == chunk:
            return one
    raise errors.RequestError(
        f"chunk {chunk} of job {handle.id} was not given up; "
        f"`celeriac batch dead list {handle.id}` shows those that were"
    )
