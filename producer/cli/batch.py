"""``celeriac batch``: score whole datasets."""

from __future__ import annotations

import shlex
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from celeriac import errors
from celeriac.datasets.places import is_s3
from celeriac.datasets.records import Period
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import JobState
from producer.broker import Broker
from producer.cli import dead, purge, terminal
from producer.cli.jobs import Job, made_aside, open_broker, open_job
from producer.jobs import JobHandle, JobStatus, list_jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, ProgressColumn, TaskID

app = typer.Typer(no_args_is_help=True, help="Score whole datasets, in the background.")

EXIT_CODES = {JobState.COMPLETED: 0, JobState.COMPLETED_WITH_ERRORS: 3}
"""Of a job that has ended; 1 for every other end."""
LONGEST_WAIT_S = 30 * 86_400.0
_LINE_EVERY_S = 5.0
"""Where there is no terminal: the pause between two lines that differ."""
_SAME_LINE_EVERY_S = 60.0
NARROW = 110
"""Columns of a window that has no room for a bar beside what there is to say."""
MaxErrorShare = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Stop when a larger share of the rows has failed, as 0.05."),
]

AsJson = Annotated[
    bool, typer.Option("--json", help="Print each job as one line of JSON, for programs.")
]

app.add_typer(dead.app, name="dead")
app.command()(purge.purge)


def register(main: typer.Typer) -> None:
    """Add ``celeriac batch`` to the command."""
    main.add_typer(app, name="batch")


@app.command()
def submit(
    source: Annotated[str, typer.Argument(help="File, folder or pattern, also s3://...")],
    model: Annotated[str, typer.Option("--model", "-m", help="NAME, NAME@VERSION or NAME@ALIAS.")],
    output: Annotated[str, typer.Option("--output", "-o", help="New folder, or s3://...")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, with progress.")] = False,
    text_column: Annotated[
        str | None, typer.Option(help="Column that a text model reads.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Column to join to the predictions (default: all).")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id", help="Column that names the rows, also those that fail.")
    ] = None,
    chunk_rows: Annotated[int | None, typer.Option(min=1, help="Rows of one chunk.")] = None,
    output_format: Annotated[
        Literal["parquet", "csv", "jsonl"], typer.Option("--format", help="Of the results.")
    ] = "parquet",
    merge: Annotated[
        bool, typer.Option("--merge", help="All results in one file, too.")
    ] = False,
    model_column: Annotated[
        bool, typer.Option("--model-column", help="Add the model's name and version.")
    ] = False,
    error_column: Annotated[
        bool, typer.Option("--error-column", help="Keep rows that fail, with the reason.")
    ] = False,
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Predict equal rows of a chunk once.")
    ] = False,
    max_error_share: MaxErrorShare = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Column whose values group the aggregates.")
    ] = None,
    mean: Annotated[list[str] | None, typer.Option(help="Column to average by group.")] = None,
    share: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE: how often, by group.")
    ] = None,
    quantile: Annotated[
        list[str] | None, typer.Option(help="COLUMN=0.5: this quantile, by group.")
    ] = None,
    std: Annotated[
        list[str] | None, typer.Option(help="Column whose standard deviation is wanted, by group.")
    ] = None,
    period: Annotated[
        list[str] | None, typer.Option(help="COLUMN=month: group the dates of a --by by months.")
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0, help="Longest --wait, in seconds.")
    ] = LONGEST_WAIT_S,
    expires_s: Annotated[
        float | None, typer.Option("--expires-s", help="End the job after so many seconds.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score SOURCE. Exit code with --wait: 0 completed, 3 completed with errors, 1 otherwise."""
    def submitted(broker: Broker) -> JobHandle:
        from producer.datasets import submit_dataset

        with planning(output) as on_progress:
            return submit_dataset(
                broker, source, model, output, chunk_rows=chunk_rows, text_column=text_column,
                keep_columns=keep or None, id_column=id_column, output_format=output_format,
                merge=merge, aggregate=_aggregation(by, mean, share, quantile, std, period),
                model_column=model_column, error_column=error_column, dedupe=dedupe,
                max_error_share=max_error_share, expires_s=expires_s, on_progress=on_progress,
                asks_worker=True,
            )

    if wait:
        with made_aside(submitted) as handle:
            if not as_json:
                say_submitted(handle)
            raise typer.Exit(follow(handle, timeout_s, as_json=as_json))
    with open_broker() as broker:
        handle = submitted(broker)
        terminal.print_json(handle.status()) if as_json else say_submitted(handle)


@app.command()
def status(
    job: Annotated[
        str | None, typer.Argument(help="Id of the job, or its output folder (default: newest).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Where a job stands. Exit code of an ended job as with submit --wait; 0 while it runs."""
    with open_broker() as broker:
        newest = list_jobs(broker, 1) if job is None else []
        if job is None and not newest:
            raise errors.JobNotFound("no jobs yet; `celeriac batch submit` starts one")
        found = newest[0] if newest else open_job(broker, str(job)).status()
    _show(found, as_json)
    if found.state.is_final:
        raise typer.Exit(EXIT_CODES.get(found.state, 1))


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest jobs, each with its counts and its source below it."""
    with open_broker() as broker:
        jobs = list_jobs(broker, limit)
    if as_json:
        for one in jobs:
            terminal.print_json(one)
        return
    if not jobs:
        terminal.console().print("no jobs yet; `celeriac batch submit` starts one")
        return
    for one in jobs:
        terminal.console().print(
            f"{one.id}  {one.state}  {one.model}@{one.version}\n"
            f"    {one.rows_done:,} of {one.rows_total:,} rows, {one.rows_failed:,} failed  "
            f"{one.source}",
            soft_wrap=True,  # ids and paths stay whole, however narrow the window is
        )


@app.command()
def cancel(job: Job) -> None:
    """Stop within seconds. What is done stays, and `resume` goes on."""
    with open_broker() as broker:
        found = open_job(broker, job).cancel()
    if found.state not in (JobState.CANCELLING, JobState.CANCELLED):
        raise errors.RequestError(f"job {found.id} is {found.state}: there is nothing to cancel")
    terminal.console().print(
        f"job {found.id} is {found.state}; parts that are done stay in {found.output}",
        soft_wrap=True,
    )


@app.command()
def resume(
    job: Job,
    max_error_share: MaxErrorShare = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, with progress.")] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0, help="Longest --wait, in seconds.")
    ] = LONGEST_WAIT_S,
    as_json: AsJson = False,
) -> None:
    """Go on with a job that was cancelled, has failed or was lost; done chunks stay done, unless
    files of theirs could not be read."""
    def resumed(broker: Broker) -> JobHandle:
        handle = open_job(broker, job)
        handle.resume(max_error_share)
        return handle

    if wait:
        with made_aside(resumed) as handle:
            if not as_json:
                _print_status(handle.status())
            raise typer.Exit(follow(handle, timeout_s, as_json=as_json))
    with open_broker() as broker:
        _show(open_job(broker, job).resume(max_error_share), as_json)


@app.command()
def report(
    job: Job,
    again: Annotated[bool, typer.Option("--again", help="Make it anew.")] = False,
) -> None:
    """Where the report of a finished job is; it is made if it is missing."""
    with open_broker() as broker:
        found = open_job(broker, job).report(again=again)
    terminal.console().print(str(found), soft_wrap=True)


def _aggregation(
    by: list[str] | None, mean: list[str] | None, share: list[str] | None,
    quantile: list[str] | None, std: list[str] | None, period: list[str] | None,
) -> dict[str, Any] | None:
    """What --by and its companions mean. Raises RequestError."""
    if not by:
        if mean or share or quantile or std or period:
            raise errors.RequestError(
                "--mean, --share, --quantile, --std and --period need --by COLUMN"
            )
        return None
    ranks: dict[str, list[float]] = {}
    for column, text in map(_pair, quantile or []):
        try:
            ranks.setdefault(column, []).append(float(text))
        except ValueError as error:
            raise errors.RequestError(f"--quantile {column}={text}: {text!r} is no rank") from error
    periods = _pairs("--period", period)
    for column, text in periods.items():
        if text not in get_args(Period):
            raise errors.RequestError(
                f"--period {column}={text}: want one of {', '.join(get_args(Period))}"
            )
    return {"by": by, "mean": mean or [], "share": _pairs("--share", share),
            "quantiles": ranks, "std": std or [], "period": periods}


def _pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    """Raises RequestError for a column that comes twice: only one of the two would count."""
    found: dict[str, str] = {}
    for column, value in map(_pair, texts or []):
        if column in found:
            raise errors.RequestError(
                f"{option} {column} is there twice, as {found[column]!r} and {value!r}; "
                "one value of a column can be asked for"
            )
        found[column] = value
    return found


def _pair(text: str) -> tuple[str, str]:
    column, equals, value = text.rpartition("=")
    if not equals:
        raise errors.RequestError(f"{text!r}: write it as COLUMN=VALUE")
    return column, value


def say_submitted(handle: JobHandle) -> None:
    """The line for a job that has just been submitted."""
    found = handle.status()
    again = "continues" if handle.resumed else "submitted"
    if handle.resumed and found.state.is_final:
        again = f"is {found.state} already"
    console = terminal.console()
    console.print(
        f"job {handle.id} {again}: {terminal.counted(found.rows_total, 'row')} in "
        f"{terminal.counted(found.chunks_total, 'chunk')} by "
        f"{found.model}@{found.version}, output in {found.output}",
        soft_wrap=True,
    )
    if found.waits_for:
        console.print(f"  {_waits(found.waits_for)}", soft_wrap=True)


def follow(handle: JobHandle, timeout_s: float, *, as_json: bool = False) -> int:
    """Wait for the end of a job, with progress; the exit code that says how it ended."""
    with waiting(handle), _progress() as progress:
        task = progress.add_task("scoring", total=None, note="")
        found = handle.wait(timeout_s, _Shown(progress, task))
    _show(found, as_json)
    return EXIT_CODES.get(found.state, 1)


@contextmanager
def waiting(handle: JobHandle) -> Iterator[None]:
    """Say of a job whose waiter is interrupted, or loses Redis, that it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\njob {handle.id} goes on; `celeriac batch status {handle.id}` shows it, and "
            "`celeriac batch cancel` ends it\n"
        )
        raise
    except errors.BrokerError as error:
        raise errors.BrokerError(
            f"{error.message}; job {handle.id} goes on when it is back: "
            f"`celeriac batch status {shlex.quote(str(handle.output))}`"
        ) from error


class _Shown:
    """Shows a status as a bar, or, where there is no terminal, or a dumb one, as a line now and
    then."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._line = ""
        self._line_s = 0.0
        """When it was printed."""

    def __call__(self, found: JobStatus) -> None:
        note = describe(found)
        self._progress.update(
            self._task, total=found.rows_total, completed=found.rows_done, note=note,
            description=found.state,
        )
        elapsed_s = self._progress.tasks[self._task].elapsed or 0.0
        if not self._progress.console.is_interactive:
            self._print(f"{found.state}: {note}\n", elapsed_s)

    def _print(self, line: str, elapsed_s: float) -> None:
        every_s = _SAME_LINE_EVERY_S if line == self._line else _LINE_EVERY_S
        if elapsed_s - self._line_s >= every_s:
            self._line, self._line_s = line, elapsed_s
            sys.stderr.write(line)


def describe(found: JobStatus) -> str:
    """Rows, remaining time and rate in one line; the end of it may be cut in a narrow window."""
    parts = [f"{found.rows_done:,} of {found.rows_total:,} rows"]
    if found.rows_failed:
        parts.append(f"{found.rows_failed:,} failed")
    if found.chunks_dead:
        parts.append(f"{found.chunks_dead:,} of {found.chunks_total:,} chunks given up")
    if found.eta_s is not None:
        minutes, seconds = divmod(round(found.eta_s), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    if found.rows_per_s:
        parts.append(f"{_rate(found.rows_per_s)} rows/s")
    if found.waits_for:
        parts.append(f"no worker serves {found.waits_for}")
    if found.chunks_running and not found.state.is_final:
        plural = "" if found.chunks_running == 1 else "s"
        parts.append(f"{found.chunks_running:,} chunk{plural} running")
    return ", ".join(parts)


def _rate(rows_per_s: float) -> str:
    """A job of few rows has a rate, too."""
    return f"{rows_per_s:,.0f}" if rows_per_s >= 10 else f"{rows_per_s:.2g}"


def _waits(role: str) -> str:
    return f"it waits: no worker serves {role} (`celeriac worker {role}` starts one)"


def _show(found: JobStatus, as_json: bool) -> None:
    terminal.print_json(found) if as_json else _print_status(found)


def _print_status(found: JobStatus) -> None:
    console = terminal.console()
    console.print(f"job {found.id} {found.state}: {describe(found)}", soft_wrap=True)
    if found.error:
        console.print(f"  {found.error}", soft_wrap=True)
    if found.waits_for:
        console.print(f"  {_waits(found.waits_for)}", soft_wrap=True)
    console.print(f"  by {found.model}@{found.version}, output in {found.output}", soft_wrap=True)
    if found.state in EXIT_CODES:
        console.print(f"  {_where_report(found)}", soft_wrap=True)
    if found.rows_failed > found.rows_dead:
        console.print(f"  failed rows, with reasons, in {found.output}/errors", soft_wrap=True)
    if found.chunks_dead:
        console.print(
            f"  `celeriac batch dead list {found.id}` says why, `celeriac batch dead requeue "
            f"{found.id}` tries them again", soft_wrap=True,
        )
    is_open = found.state in (JobState.CANCELLED, JobState.FAILED, JobState.EXPIRED)
    if is_open and not _is_deleted(found):
        again = f"celeriac batch resume {shlex.quote(found.output)}"
        once = ", once its cause is gone" if found.state is JobState.FAILED else ""
        console.print(f"  `{again}` goes on{once}", soft_wrap=True)


def _is_deleted(found: JobStatus) -> bool:
    """True if the output was deleted; a place that is not seen from here says nothing."""
    folder = JobFolder(found.output)
    return not is_s3(folder.path) and folder.path.parent.is_dir() and not folder.holds_job()


def _where_report(found: JobStatus) -> str:
    folder = JobFolder(found.output)
    # In S3 a look would cost a connection; a folder that is not seen here says nothing.
    is_missing = not is_s3(folder.path) and folder.path.is_dir() and not folder.report.exists()
    if is_missing:
        return f"no report yet; `celeriac batch report {found.id}` makes it"
    return f"report in {folder.report}"


@contextmanager
def planning(output: str) -> Iterator[Any]:
    """A bar while a dataset is planned: gives what ``submit_dataset`` takes as on_progress."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn

    columns = (TextColumn("planning"), BarColumn(), DownloadColumn())
    try:
        with _bar(*columns) as progress:
            task = progress.add_task("planning", total=None)
            yield lambda read, total: progress.update(task, completed=read, total=total)
    except KeyboardInterrupt:
        holds_job = JobFolder(output).holds_job()
        look = f"celeriac batch status {shlex.quote(output)}"
        sys.stderr.write(
            f"\nstopped; {output} holds a job, `{look}` shows it\n"
            if holds_job else "\nstopped while the dataset was planned; nothing was queued\n"
        )
        raise


def _progress() -> Progress:
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.table import Column

    state = Column(no_wrap=True, min_width=len(JobState.IN_PROGRESS))
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", table_column=state), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    if terminal.console(stderr=True).width < NARROW:
        del columns[1]
    return _bar(*columns)


def _bar(*columns: ProgressColumn) -> Progress:
    """A bar that is gone when it ends; nothing at all where there is no terminal, or a dumb one."""
    from rich.progress import Progress

    console = terminal.console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_interactive)
