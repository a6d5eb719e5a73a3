"""From a dataset to a job: resolve the model, check, plan, enter the job, publish its chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

import redis

from celeriac import errors, inputs
from celeriac.datasets.libraries import require_readers
from celeriac.datasets.places import Place
from celeriac.datasets.records import Aggregation, DatasetPlan, Format
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import JobState
from celeriac.jobs.manifest import read_manifest
from celeriac.jobs.memory import give_back
from celeriac.jobs.plan import DEFAULT_TENANT, Scoring, check_job_id, make_plan, new_job_id
from celeriac.messages import ModelRef
from celeriac.outputs import answer_columns
from celeriac.registry.catalogue import fetch
from celeriac.registry.manifest import InputSchema, OutputSchema
from producer.broker import Broker
from producer.jobs import JobHandle, check_share, open_ledger, publish_missing, redis_errors

if TYPE_CHECKING:
    from celeriac.datasets.copies import Copies
    from celeriac.datasets.sources import Source

MAX_EXPIRES_S = 315_360_000
Progress = Callable[[int, int], None]
"""Called with the bytes that were read so far and the bytes in all."""


@dataclass(frozen=True)
class Ordered:
    """What is special about a dataset that a worker plans for somebody else."""

    tenant: str
    roots: tuple[str, ...] | None
    """Folders that it may be read from; None: any."""
    planner: str
    """As in :meth:`Ledger.enter`."""
    check: Callable[[], None]
    """Raises Cancelled if the job is not to be planned any more."""


class Replaced(errors.Cancelled):
    """Another process plans the job: what is in its folder may be that one's."""


def submit_dataset(  # noqa: PLR0913 - a dataset and its options
    broker: Broker,
    source: Any,
    model: str,
    output: str | Place,
    *,
    chunk_rows: int | None = None,
    text_column: str | None = None,
    keep_columns: Sequence[str] | None = None,
    id_column: str | None = None,
    output_format: Format = "parquet",
    merge: bool = False,
    aggregate: Aggregation | Mapping[str, Any] | None = None,
    model_column: bool = False,
    error_column: bool = False,
    dedupe: bool = False,
    max_error_share: float | None = None,
    job_id: str | None = None,
    expires_s: float | None = None,
    on_progress: Progress | None = None,
    ordered: Ordered | None = None,
) -> JobHandle:
    """Score a dataset: plan it, queue its chunks, and return at once.

    ``source`` is a file (CSV, JSON lines, Parquet), a folder of them or of images, a pattern, or
    an Arrow table or a frame of this process; ``output`` a new folder. The workers reach both
    under the same path, or in S3 (``s3://bucket/...``). ``model`` is pinned to the version that it
    means now. ``keep_columns`` are joined to the predictions (default: all); so is ``id_column``,
    which also names rows that failed. ``merge`` also puts all parts into one file. ``aggregate``
    computes over groups of rows: ``{"by": "product", "mean": ["probability"], "share":
    {"prediction": "positive"}, "quantiles": {"probability": [0.5, 0.95]}}``. ``model_column`` adds
    who answered; ``error_column`` why a row failed, and then such rows stay in their place.
    ``dedupe``: equal rows of a chunk are predicted once. When more than ``max_error_share`` of the
    rows so far have failed (from 0 to 1; at least 1,000 rows, or all), the job fails. Submitting
    the same job to the same folder again continues it (``handle.resumed``). A job that has not
    ended ``expires_s`` from now is ``expired``: nothing more of it runs, unless it is resumed.
    ``ordered``: the job ``job_id`` is shown already, and takes no folder of another one.

    Raises ModelNotFound, VersionNotFound, DatasetError, OutputConflict, BrokerError, and Conflict
    if ``job_id`` is that of a job with another output that has not ended; then nothing was queued.
    """
    check_options(
        output, output_format=output_format, chunk_rows=chunk_rows, aggregate=aggregate,
        max_error_share=max_error_share, job_id=job_id, expires_s=expires_s,
    )
    share = broker.settings.batch.max_error_share if max_error_share is None else max_error_share
    ref = ModelRef.parse(model)
    with redis_errors(broker):
        version = fetch(broker.redis).resolve(ref)
    require_readers()
    from celeriac.datasets import sources
    from celeriac.datasets.copies import Copies

    folder = JobFolder(output)
    folder.check_free()
    if ordered and folder.holds_job():
        _check_ours(folder, str(job_id))
    found = _opened(source, ordered)
    needs = inputs.columns_needed(version.input, found.names, text_column, found.called)
    keeps = _kept(found, keep_columns, needs, id_column)
    _check_types(found, version.input, needs)
    scoring = Scoring(
        model=ref.name, version=version.version, device=version.batch_device, needs=tuple(needs),
        keeps=tuple(keeps), id_column=id_column, text_column=text_column,
        output_format=output_format, model_column=model_column, error_column=error_column,
        dedupe=dedupe, merge=merge,
        aggregate=None if aggregate is None else Aggregation.of(aggregate),
        model_created_at=version.created_at,
    )
    _check_output(found, version.output, scoring)
    now = datetime.now(UTC)
    wanted = job_id or new_job_id(now)
    shown = sources.describe(source)
    copies = Copies(folder.copies)
    validated = ordered is not None or not folder.holds_job()
    shows = nullcontext() if ordered else _validating(broker, folder, wanted, scoring, shown)
    with shows, _discarding(copies):
        dataset = _plan(broker, found, version.input, scoring, copies, chunk_rows, on_progress)
        ours = make_plan(
            dataset, scoring, source=shown, job_id=wanted, now=now, max_error_share=share,
            sample_rows=broker.settings.batch.sample_rows,
            tenant=ordered.tenant if ordered else DEFAULT_TENANT,
        )
        if ordered:
            ordered.check()
        existed = folder.holds_job()
        plan = folder.create(ours, dataset.chunks)
    if ordered:
        _check_ours(folder, wanted)
    if read_manifest(folder) is None:
        expires_ms = round((now.timestamp() + expires_s) * 1_000) if expires_s else 0
        publish_missing(
            broker, folder, plan, list(dataset.chunks), expires_ms=expires_ms,
            max_error_share=share, validated=validated and plan.job_id == wanted,
            planner=ordered.planner if ordered else "",
        )
    else:
        copies.discard()
    return JobHandle(broker, plan.job_id, folder.path, resumed=existed)


def check_options(  # noqa: PLR0913 - what may be wrong whatever the dataset is
    output: str | Place, *, output_format: str = "parquet", chunk_rows: int | None = None,
    aggregate: Any = None, max_error_share: float | None = None, job_id: str | None = None,
    expires_s: float | None = None, **_others: Any,
) -> None:
    """Raises RequestError for what :func:`submit_dataset` takes with no dataset at all."""
    if chunk_rows is not None and chunk_rows < 1:
        raise errors.RequestError(f"chunk_rows is a positive number of rows, not {chunk_rows}")
    if output_format not in get_args(Format):
        raise errors.RequestError(
            f"the output is {', '.join(get_args(Format))}, not {output_format!r}"
        )
    if expires_s is not None and not 0 < expires_s <= MAX_EXPIRES_S:
        raise errors.RequestError(
            f"expires_s is a number of seconds up to {MAX_EXPIRES_S:,} (ten years), not {expires_s}"
        )
    if output == "":  # the usual way to it is a variable that is not set; else it would be "."
        raise errors.RequestError("no output folder is named: its path is empty")
    check_share(max_error_share)
    if aggregate is not None:
        Aggregation.of(aggregate)
    if job_id:
        check_job_id(job_id)


def _opened(source: Any, ordered: Ordered | None) -> Source:
    from celeriac.datasets import roots, sources

    if ordered is None or ordered.roots is None:
        return sources.open_source(source)
    return sources.open_source(source, roots.checking(ordered.roots))


def _check_ours(folder: JobFolder, job_id: str) -> None:
    held = folder.load().job_id
    if held != job_id:
        raise errors.OutputConflict(
            f"{folder.path}: holds another job; resume that one, or choose another output folder"
        )


def _plan(  # noqa: PLR0913, PLR0917 - one source, its model and its options
    broker: Broker, source: Source, schema: InputSchema, scoring: Scoring, copies: Copies,
    chunk_rows: int | None, on_progress: Progress | None,
) -> DatasetPlan:
    from celeriac.datasets import planner

    batch = broker.settings.batch
    dataset = planner.plan(
        source,
        chunk_rows=chunk_rows,
        default_chunk_rows=batch.chunk_rows,
        wanted_chunks=_DEAR_CHUNKS if schema.kind in _DEAR else planner.WANTED_CHUNKS,
        chunk_bytes=batch.chunk_bytes,
        dtypes=_dtypes(schema, scoring.needs),
        nullable=schema.nullable,
        numbers=scoring.aggregate.measured if scoring.aggregate else (),
        reads=scoring.reads,
        copies=copies,
        on_progress=_adding_up(on_progress, source.bytes) if on_progress else None,
    )
    give_back(source.bytes)  # whoever waits for the job now needs none of it
    return dataset


_DEAR = ("text",)
_DEAR_CHUNKS = 24
"""A text costs a hundred times as much as a row of numbers, so the work around a chunk counts less,
and all wait less for the last one to end."""


@contextmanager
def _discarding(copies: Copies) -> Iterator[None]:
    """No job, no copies."""
    try:
        yield
    except Replaced:
        raise
    except BaseException:
        copies.discard()
        raise


@contextmanager
def _validating(
    broker: Broker, folder: JobFolder, job_id: str, scoring: Scoring, source: str
) -> Iterator[None]:
    """Show the job while it is planned; if it comes to nothing, or to another job, forget it."""
    if folder.holds_job():
        yield
        return
    ledger = open_ledger(broker)
    with redis_errors(broker):
        known = ledger.entry(job_id)
        if known and known.state is JobState.VALIDATING and ledger.order_of(job_id):
            raise errors.Conflict(f"job {job_id!r} waits for a worker to plan it: take another id")
        if known and not known.state.is_final and known.output != str(folder.path):
            raise errors.Conflict(
                f"job {job_id!r} is {known.state}, with its output in {known.output}: take another "
                f"id, or wait for its end; `celeriac batch cancel {job_id}` ends it"
            )
        ledger.announce(
            job_id, model=scoring.model, version=scoring.version, source=source,
            output=str(folder.path),
        )
    try:
        yield
    except BaseException:
        with suppress(redis.RedisError):
            ledger.withdraw(job_id)
        raise
    if folder.load().job_id != job_id:  # another submitter was first
        with redis_errors(broker):
            ledger.withdraw(job_id)


def _kept(
    source: Source, keep_columns: Sequence[str] | None, needs: Sequence[str],
    id_column: str | None,
) -> list[str]:
    if id_column is not None and id_column not in source.names:
        raise errors.DatasetError(
            f"no column {id_column!r} to name the rows; {source.called} has: "
            f"{', '.join(source.names)}"
        )
    if keep_columns is None:  # all; but nobody wants a second copy of the images
        images = [inputs.IMAGE_COLUMN] if list(needs) == [inputs.IMAGE_COLUMN] else []
        return [name for name in source.names if name not in images]
    missing = [column for column in keep_columns if column not in source.names]
    if missing:
        raise errors.DatasetError(
            f"no column {', '.join(missing)} to keep; {source.called} has: "
            f"{', '.join(source.names)}"
        )
    named = [id_column] if id_column is not None and id_column not in keep_columns else []
    return list(dict.fromkeys([*named, *keep_columns]))


def _dtypes(schema: InputSchema, needs: Sequence[str]) -> dict[str, str]:
    """Types that the model fixes for columns of a CSV file."""
    if schema.kind == "text":
        return dict.fromkeys(needs, "text")
    if list(needs) == [inputs.IMAGE_COLUMN]:
        return {inputs.IMAGE_COLUMN: "image"}
    if schema.kind in ("array", "image"):
        return dict.fromkeys(needs, "float")
    return {column.name: column.dtype for column in schema.columns}


_NUMBERS = ("int", "uint", "float", "double", "halffloat", "decimal", "null")
_TEXTS = ("string", "large_string", "string_view", "null")
_TAKES = {
    "float": ("numbers", _NUMBERS),
    "int": ("whole numbers", ("int", "uint", "float", "double", "halffloat", "null")),
    "bool": ("true or false", ("bool", "null")),
    "text": ("text", _TEXTS),
    "image": ("the bytes of image files", ("binary", "large_binary")),
}


def _check_types(source: Source, schema: InputSchema, needs: Sequence[str]) -> None:
    """Parquet says what its columns are, so a misfit is found before anything is queued."""
    wanted = _dtypes(schema, needs)
    if source.format not in ("parquet", "images"):
        if "image" in wanted.values():
            raise errors.DatasetError(
                "the model takes images: a folder of image files, or a Parquet file with their "
                f"bytes in a column {inputs.IMAGE_COLUMN!r}"
            )
        return
    for column in source.in_files.columns:
        takes, prefixes = _TAKES[wanted[column.name]] if column.name in wanted else ("", ("",))
        if not column.dtype.startswith(prefixes):
            raise errors.DatasetError(
                f"column {column.name!r} of the dataset is of type {column.dtype}; "
                f"the model takes {takes}"
            )


def _check_output(source: Source, answers: OutputSchema, scoring: Scoring) -> None:
    """Raises DatasetError or RequestError if the output cannot hold what is wanted of it."""
    if source.format == "parquet" and scoring.output_format == "csv":
        _check_flat(source, scoring.keeps)
    if scoring.aggregate is not None:
        _check_aggregate(scoring.aggregate, source, answers, scoring)


def _check_flat(source: Source, keeps: Sequence[str]) -> None:
    from celeriac.datasets.parquet import is_nested

    nested = [one.name for one in source.columns if one.name in keeps and is_nested(one.dtype)]
    if nested:
        raise errors.DatasetError(
            f"column {nested[0]!r} holds lists or records, which CSV cannot; "
            "choose parquet for the output, or keep other columns"
        )


def _check_aggregate(
    wanted: Aggregation, source: Source, schema: OutputSchema, scoring: Scoring
) -> None:
    """Raises RequestError if the output will not hold what is to be aggregated."""
    from celeriac.datasets.aggregates import check_aggregation

    answers = answer_columns(schema)
    numbers = [
        column.name for column in source.columns
        if column.name in scoring.keeps and column.name not in answers
        and column.dtype.startswith((*_NUMBERS, "bool"))
    ]
    kinds = {type(label) for label in schema.labels}
    all_numbers = schema.kind == "regressor" or (kinds and kinds <= {int, bool, float})
    numbers += [name for name in answers if all_numbers or name.startswith("probability")]
    others = {*scoring.keeps, *answers} - {*numbers}
    check_aggregation(wanted, numbers, sorted(others))
    _check_not_hidden(wanted, scoring)
    _check_groups(wanted, source, answers)
    _check_label(wanted, schema)


def _check_not_hidden(wanted: Aggregation, scoring: Scoring) -> None:
    """Raises RequestError for a column whose name in the output is that of one of the job's."""
    from celeriac.jobs.columns import extra_columns

    for name in {*extra_columns(scoring)}.intersection(wanted.reads, scoring.keeps):
        raise errors.RequestError(
            f"column {name!r} of the dataset cannot be aggregated: `{name}_column` adds one of "
            f"that name to the output, where yours is `input_{name}`; rename yours, or do without"
        )


def _check_groups(wanted: Aggregation, source: Source, answers: Sequence[str]) -> None:
    """Raises RequestError for columns whose values cannot be told apart or compared."""
    from celeriac.datasets.parquet import is_nested

    for column in source.columns:
        asked = column.name in (*wanted.by, *wanted.share) and column.name not in answers
        if asked and source.format == "parquet" and is_nested(column.dtype):
            raise errors.RequestError(
                f"column {column.name!r} holds lists or records: they make no groups, and have no "
                "share; choose another column for `by` and `share`"
            )


def _check_label(wanted: Aggregation, schema: OutputSchema) -> None:
    """Raises RequestError for the share of a label that the model never answers: always 0."""
    from celeriac.datasets.aggregates import as_text

    label = wanted.share.get("prediction")
    if label is None or not schema.labels or schema.outputs != 1:
        return
    known = [as_text(one) for one in schema.labels]
    if as_text(label) in known:
        return
    more = " ..." if len(known) > _LABELS_SHOWN else ""
    raise errors.RequestError(
        f"the model never answers {as_text(label)!r}, so its share would always be 0; "
        f"it answers: {', '.join(known[:_LABELS_SHOWN])}{more}"
    )


_LABELS_SHOWN = 20


def _adding_up(on_progress: Progress, total: int) -> Callable[[int], None]:
    read = 0

    def step(count: int) -> None:
        nonlocal read
        read += count
        on_progress(read, total)

    return step
