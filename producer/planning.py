"""What a dataset and a model make of each other: its columns, what is wrong, and the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from celeriac import errors, inputs
from celeriac.datasets.records import Aggregation, DatasetPlan, Format
from celeriac.jobs.memory import give_back
from celeriac.jobs.plan import Scoring
from celeriac.outputs import answer_columns
from celeriac.registry.catalogue import VersionInfo
from celeriac.registry.manifest import InputSchema, OutputSchema

if TYPE_CHECKING:
    from celeriac.datasets.copies import Copies
    from celeriac.datasets.sources import Source

Progress = Callable[[int, int], None]
"""Called with the bytes that were read so far and the bytes in all."""


class Replaced(errors.Cancelled):
    """Another process plans the job: what is in its folder may be that one's."""


class PlanOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that decides a plan, beside the dataset and the version."""

    chunk_rows: int | None
    """None: what is best, at most ``default_chunk_rows``."""
    default_chunk_rows: int
    chunk_bytes: int
    text_column: str | None
    keep_columns: tuple[str, ...] | None
    id_column: str | None
    output_format: Format
    merge: bool
    aggregate: Aggregation | None
    model_column: bool
    error_column: bool
    dedupe: bool


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """How a dataset is scored, and its chunks."""

    scoring: Scoring
    dataset: DatasetPlan


def plan_dataset(  # noqa: PLR0913, PLR0917 - a dataset, its model and its options
    source: Source, model: str, version: VersionInfo, options: PlanOptions, copies: Copies,
    on_progress: Progress | None = None,
) -> Planned:
    """Check that the version can score the dataset as it is wanted, and cut it into chunks.

    ``model`` is its bare name. Raises DatasetError and RequestError, and StorageError for
    ``copies`` that cannot be written.
    """
    needs = inputs.columns_needed(version.input, source.names, options.text_column, source.called)
    keeps = _kept(source, options.keep_columns, needs, options.id_column)
    _check_types(source, version.input, needs)
    scoring = Scoring(
        model=model, version=version.version, device=version.batch_device, needs=tuple(needs),
        keeps=tuple(keeps), id_column=options.id_column, text_column=options.text_column,
        output_format=options.output_format, model_column=options.model_column,
        error_column=options.error_column, dedupe=options.dedupe, merge=options.merge,
        aggregate=options.aggregate, model_created_at=version.created_at,
    )
    _check_output(source, version.output, scoring)
    return Planned(
        scoring=scoring,
        dataset=_cut(source, version.input, scoring, options, copies, on_progress),
    )


def _cut(  # noqa: PLR0913, PLR0917 - one source, its model and its options
    source: Source, schema: InputSchema, scoring: Scoring, options: PlanOptions, copies: Copies,
    on_progress: Progress | None,
) -> DatasetPlan:
    from celeriac.datasets import planner

    dataset = planner.plan(
        source,
        chunk_rows=options.chunk_rows,
        default_chunk_rows=options.default_chunk_rows,
        wanted_chunks=_DEAR_CHUNKS if schema.kind in _DEAR else planner.WANTED_CHUNKS,
        chunk_bytes=options.chunk_bytes,
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
