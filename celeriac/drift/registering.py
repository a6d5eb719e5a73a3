"""A profile at registration: from what a notebook has to what is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from celeriac import errors
from celeriac.drift import features
from celeriac.drift.performance import is_known, labels_of, misfit, performance
from celeriac.drift.profile import ReferenceProfile
from celeriac.drift.reference import make_profile, rows_taken
from celeriac.inputs import IMAGE_COLUMN, Limits
from celeriac.logs import get_logger
from celeriac.messages import NUMBER_DTYPES
from celeriac.outputs import TableAnswers, together
from celeriac.registry.manifest import InputSchema, OutputSchema

ANSWERS_S = 30.0
"""A slow model answers so long of the reference: its first rows stand for all."""
SLICE_ROWS = 2_000
log = get_logger(__name__)


def profile_of(  # noqa: PLR0913 - the reference, and what answers it
    reference: Any, schema: InputSchema, output: OutputSchema,
    predict: Callable[[pa.Table], TableAnswers], *, truth: Sequence[Any] | None = None,
    limits: Limits | None = None, source: Literal["reference", "examples"] = "reference",
) -> ReferenceProfile:
    """The profile of ``reference``, in its order: a frame, texts, dicts, images or an array, as
    the model takes them. ``truth``: the true labels or numbers, where they are known (else None).

    Raises RegistryError, which names what does not fit.
    """
    if not hasattr(reference, "__len__") or isinstance(reference, (type, str, bytes, dict)):
        raise errors.RegistryError(
            f"a reference is many inputs, in the form of the examples; found {reference!r}"[:200]
        )
    total = len(reference)
    if truth is not None and len(truth) != total:
        raise errors.RegistryError(
            f"the reference has {total:,} rows and {len(truth):,} labels; give one for each row, "
            "None where it is not known"
        )
    _check_truth(truth, output)
    taken = rows_taken(total, schema.kind)
    table = as_table(_take(reference, taken), schema)
    try:
        inputs, texts = features.of_reference(table, schema, limits=limits)
        answers = features.of_answers(_answers(predict, table).columns)
    except errors.DatasetError as error:
        raise errors.RegistryError(
            f"the reference does not fit the model: {error.message}"
        ) from error
    answered = max((len(one.values) for one in answers.values()), default=len(taken))
    known = None if truth is None else [_plain(truth, int(at)) for at in taken[:answered]]
    found = make_profile(
        features.merged(inputs, answers), rows_given=total, texts=texts, source=source,
        performance=None if known is None else performance(answers, known, labels_of(output)),
    )
    if answered == len(taken):
        return found
    said = (
        f"the model answered {answered:,} of its {len(taken):,} rows within {ANSWERS_S:g} s: "
        "answers are compared with those"
    )
    return found.model_copy(update={"warnings": (*found.warnings, said)})


def _check_truth(truth: Sequence[Any] | None, output: OutputSchema) -> None:
    """Labels that no answer can be equal to would make the model seem to be always wrong. Raises
    RegistryError."""
    if truth is None or output.kind == "any" or output.outputs > 1:
        return
    plain = [_plain(truth, at) for at in range(len(truth))]
    why = misfit(plain, labels_of(output)) if any(map(is_known, plain)) else ""
    if why:
        raise errors.RegistryError(f"reference_labels: {why}")


def as_table(rows: Any, schema: InputSchema) -> pa.Table:
    """Rows as a table with the names of the schema. Raises RegistryError."""
    try:
        return _as_table(rows, schema)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise errors.RegistryError(f"the reference is no table: {errors.told(error)}") from error


def _as_table(rows: Any, schema: InputSchema) -> pa.Table:
    if hasattr(rows, "columns"):
        return pa.Table.from_pandas(rows, preserve_index=False)
    if hasattr(rows, "detach"):
        rows = rows.detach().cpu().numpy()
    rows = rows.tolist() if hasattr(rows, "iloc") else rows
    if schema.kind == "text":
        name = schema.columns[0].name if schema.columns else "text"
        return pa.table({name: pa.array(list(rows), pa.string())})
    if len(rows) and isinstance(rows[0], bytes):
        return pa.table({IMAGE_COLUMN: pa.array(list(rows), pa.binary())})
    if len(rows) and isinstance(rows[0], dict):
        return pa.Table.from_pylist(list(rows))
    flat = np.asarray(rows)
    flat = flat.reshape(len(flat), -1)
    is_truth = flat.dtype.kind == "b" and schema.kind == "table"
    if flat.dtype.name not in NUMBER_DTYPES and not is_truth:
        flat = flat.astype(np.float64)
    names = [column.name for column in schema.columns]
    if len(names) != flat.shape[1]:
        names = [f"x{number}" for number in range(flat.shape[1])]
    return pa.table([pa.array(column) for column in flat.T.copy()], names=names)


def _take(rows: Any, taken: Any) -> Any:
    if hasattr(rows, "iloc"):
        return rows.iloc[taken]
    if isinstance(rows, (list, tuple)):
        return [rows[at] for at in taken.tolist()]
    return rows[taken]


def _plain(truth: Any, at: int) -> Any:
    value = truth.iloc[at] if hasattr(truth, "iloc") else truth[at]
    return value.item() if hasattr(value, "item") else value


def _answers(predict: Callable[[pa.Table], TableAnswers], table: pa.Table) -> TableAnswers:
    """Answers to the rows, the first ones as far as the time goes."""
    ends_s = time.monotonic() + ANSWERS_S
    parts: list[TableAnswers] = []
    start, at_once = 0, 64
    while start < table.num_rows and time.monotonic() < ends_s:
        parts.append(predict(table.slice(start, at_once)))
        start, at_once = start + at_once, SLICE_ROWS
    if start < table.num_rows:
        log.warning("the reference was answered in part", rows=table.num_rows, answered=start)
    return together(parts) if parts else TableAnswers({})
