"""From items of every kind to named features: a number or a category for each row.

Columns of a table are features as they are. Of free text, images and large arrays, a few measures
are: how long, how many new words, how bright.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from celeriac import errors, images
from celeriac.drift.bins import CATEGORY_CHARS, MOST_KNOWN
from celeriac.drift.profile import Known, ReferenceProfile, TextProfile
from celeriac.inputs import ARRAYS, IMAGE_COLUMN, Limits, collate_table, columns_needed
from celeriac.registry.manifest import InputSchema, Pixels

Array = np.ndarray[Any, Any]
Role = Literal["input", "answer"]
MOST_CATEGORIES = 1_000
"""Texts with more different values, and long ones, are free text."""
MOST_VALUES = 64
"""An array of more values is measured as a whole."""
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Feature:
    """One feature of some rows."""

    values: Array
    """Floats with NaN for null, or texts (dtype object) with None for null."""
    unit: str = ""
    role: Role = "input"
    wrong: str = ""
    """Why there are no values, in words: what the column holds is not what is looked at."""


Features = dict[str, Feature]
"""By name; all of the same rows."""


def of_reference(
    table: pa.Table, schema: InputSchema, text_column: str | None = None,
    limits: Limits | None = None,
) -> tuple[Features, tuple[TextProfile, ...]]:
    """The features of a reference, and what its texts leave behind to measure others by."""
    found: Features = {}
    texts: list[TextProfile] = []
    for name, column in _columns(table, schema, text_column).items():
        values = from_arrow(column)
        if values is None:
            continue
        if values.dtype != object or not _is_free_text(values, schema):
            found[name] = Feature(values)
            continue
        known = _words_of(values)
        texts.append(TextProfile(column=name, words=known.text()))
        found |= _text_features(name, values, known)
    found |= _of_arrays(table, schema, limits)
    return found, tuple(texts)


def of_table(
    profile: ReferenceProfile, table: pa.Table, schema: InputSchema,
    text_column: str | None = None, limits: Limits | None = None,
) -> Features:
    """The same features of other rows. What the table lacks is left out."""
    found: Features = {}
    texts = {text.column: text.known_words for text in profile.texts}
    columns = _columns(table, schema, text_column)
    if schema.kind == "text" and texts and columns:  # wherever the text stands now
        columns = {next(iter(texts)): next(iter(columns.values()))}
    for name, column in columns.items():
        values = from_arrow(column)
        if name in texts:
            found |= _measured_text(name, values, column, texts[name])
        elif values is not None:
            found[name] = Feature(values)
        else:
            found[name] = Feature(np.full(len(column), np.nan), wrong=_other_type(column))
    try:
        return found | _of_arrays(table, schema, limits)
    except errors.DatasetError as error:  # a column is missing or of another type
        return found | _unmeasured(profile, table, error.message)


def of_inputs(profile: ReferenceProfile, inputs: Any, schema: InputSchema) -> Features:
    """The same features of collated inputs, as a model is given them: texts, frame or array.

    Sizes of image files are not among them.
    """
    if hasattr(inputs, "columns"):
        return of_table(profile, pa.Table.from_pandas(inputs, preserve_index=False), schema)
    if schema.kind == "text":
        texts = np.array(inputs, dtype=object)
        return {
            name: feature for text in profile.texts
            for name, feature in _text_features(text.column, texts, text.known_words).items()
        }
    if not hasattr(inputs, "ndim"):
        return {}
    if schema.kind == "image":
        return image_features(inputs, schema)
    if schema.kind == "table":
        columns = zip(schema.columns, np.asarray(inputs, dtype=np.float64).T, strict=True)
        return {
            column.name: Feature(_as_truth(values) if column.dtype == "bool" else values)
            for column, values in columns
        }
    return array_features(inputs, _array_names(schema))


def of_answers(columns: Mapping[str, Any]) -> Features:
    """The answers of a model to the rows, as :class:`celeriac.outputs.TableAnswers` has them."""
    found: Features = {}
    for name, column in columns.items():
        values = answer_values(column)
        if values is not None:
            found[name] = Feature(values, role="answer")
    return found


def answer_values(column: Any) -> Array | None:
    """As :func:`from_arrow`; whole numbers are labels, so categories."""
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    return from_arrow(column)


def merged(inputs: Features, answers: Features, named: Collection[str] = ()) -> Features:
    """Both together; an input with the name of an answer becomes ``input.NAME``.

    ``named``: other answers that a profile has, though they are not at hand.
    """
    taken = {*answers, *named}
    renamed = {f"input.{name}" if name in taken else name: one for name, one in inputs.items()}
    return renamed | answers


def measured_names(profile: ReferenceProfile) -> set[str]:
    """Features that whole texts, images or arrays are needed for: the rest are plain columns."""
    texts = {f"{text.column}.{measure}" for text in profile.texts for measure in _TEXT_UNITS}
    return texts | {f.name for f in profile.features if f.name.startswith(_MEASURED_PREFIXES)}


_MEASURED_PREFIXES = ("image.", "array.")


def from_arrow(column: Any) -> Array | None:
    """Values as floats or texts; None for what is neither (lists, times, bytes)."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind, is_type = column.type, pa.types
    if is_type.is_boolean(kind):
        column = pc.if_else(column, "true", "false")
        kind = column.type
    if is_type.is_string(kind) or is_type.is_large_string(kind) or is_type.is_string_view(kind):
        return np.array([*column.to_pylist(), None], dtype=object)[:-1]
    if is_type.is_null(kind):
        return np.full(len(column), np.nan)
    if is_type.is_integer(kind) or is_type.is_floating(kind) or is_type.is_decimal(kind):
        numbers: Array = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return numbers
    return None


def _as_truth(values: Array) -> Array:
    return np.where(values != 0, "true", "false").astype(object)


def _columns(table: pa.Table, schema: InputSchema, text_column: str | None) -> dict[str, Any]:
    """The columns of the table that are features, or texts, by name."""
    if schema.kind == "image" and IMAGE_COLUMN in table.column_names:
        return {}
    wanted = _wanted(table, schema, text_column)
    if schema.kind in ARRAYS and len(wanted) > MOST_VALUES:
        return {}
    columns = {name: table[name] for name in wanted if name in table.column_names}
    bools = {column.name for column in schema.columns if column.dtype == "bool"}
    return {
        name: pc.equal(column, 1) if name in bools and pa.types.is_floating(column.type) else column
        for name, column in columns.items()
    }


def _wanted(table: pa.Table, schema: InputSchema, text_column: str | None) -> Sequence[str]:
    if schema.kind == "table":
        return [column.name for column in schema.columns]
    if schema.kind == "text" and text_column is None and schema.columns:
        return [schema.columns[0].name]
    if schema.kind == "text" and text_column is not None:
        return [text_column]
    return columns_needed(schema, table.column_names, text_column)


# --- texts ---------------------------------------------------------------------------------------

LEAST_TEXTS = 20
"""A word that fewer texts of the reference have counts as new. So a text of the reference is
measured as any other: that it is one hardly matters."""
_TEXT_UNITS = {
    "characters": "characters", "new_words": "share of words that hardly any reference text has",
}


def _is_free_text(values: Array, schema: InputSchema) -> bool:
    present = [value for value in values.tolist() if value is not None]
    if not present:
        return schema.kind == "text"
    distinct = len(set(present))
    length = sum(map(len, present)) / len(present)
    few = distinct <= max(20, min(MOST_CATEGORIES, len(present) // 2))
    return schema.kind == "text" or not few or length > CATEGORY_CHARS


def _words_of(texts: Array) -> Known:
    """The words that come in several texts."""
    counts = Counter(
        word for text in texts.tolist() if text is not None for word in set(_words(text))
    )
    return Known.of(
        word for word, count in counts.most_common(MOST_KNOWN) if count >= LEAST_TEXTS
    )


def _text_features(name: str, texts: Array, known: Known) -> Features:
    listed = texts.tolist()
    lengths = np.array([math.nan if text is None else len(text) for text in listed], dtype=float)
    shares = np.array([_new_share(text, known) for text in listed], dtype=float)
    return {
        f"{name}.characters": Feature(lengths, _TEXT_UNITS["characters"]),
        f"{name}.new_words": Feature(shares, _TEXT_UNITS["new_words"]),
    }


def _measured_text(name: str, values: Array | None, column: Any, known: Known) -> Features:
    """Also of a column that holds no texts, or nothing at all: then with nulls."""
    if values is not None and values.dtype == object:
        return _text_features(name, values, known)
    is_empty = column.null_count == len(column)
    missing = _text_features(name, np.full(len(column), None), known)
    wrong = "" if is_empty else _other_type(column)
    return {measure: replace(one, wrong=wrong) for measure, one in missing.items()}


def _other_type(column: Any) -> str:
    return f"has changed its type: now it is {column.type}"


def _new_share(text: str | None, known: Known) -> float:
    words = [] if text is None else _words(text)
    if not words:
        return math.nan
    return sum(word not in known for word in words) / len(words)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


# --- arrays and images ---------------------------------------------------------------------------


def _of_arrays(table: pa.Table, schema: InputSchema, limits: Limits | None) -> Features:
    """Measures of images and of large arrays; a row that is none has nulls."""
    if schema.kind not in ARRAYS:
        return {}
    is_image = schema.kind == "image" and IMAGE_COLUMN in table.column_names
    if not is_image and math.prod(schema.shape) <= MOST_VALUES:
        return {}
    collated = collate_table(table, schema, limits=limits)
    if schema.kind == "image":
        found = image_features(collated.inputs, schema)
    else:
        found = array_features(collated.inputs, ())
    index = np.asarray(collated.index, dtype=np.int64)
    found = {
        name: Feature(_spread(one.values, index, table.num_rows), one.unit)
        for name, one in found.items()
    }
    return found | (_sizes(table[IMAGE_COLUMN]) if is_image else {})


def _unmeasured(profile: ReferenceProfile, table: pa.Table, why: str) -> Features:
    """The measures of images and arrays that cannot be read, with nulls."""
    is_empty = (
        IMAGE_COLUMN in table.column_names
        and table[IMAGE_COLUMN].null_count == table.num_rows
    )
    wrong = "" if is_empty else f"cannot be measured: {why}"
    return {
        one.name: Feature(np.full(table.num_rows, np.nan), one.unit, wrong=wrong)
        for one in profile.features if one.name.startswith(_MEASURED_PREFIXES)
    }


def _spread(values: Array, index: Array, rows: int) -> Array:
    whole = np.full(rows, np.nan)
    whole[index] = values
    return whole


def image_features(arrays: Any, schema: InputSchema) -> Features:
    """Brightness, contrast and colour of images ``(n, *shape)`` as a model is given them."""
    pixels = images.pixels_of(np.asarray(arrays), schema) / 255
    flat = pixels.reshape(len(pixels), math.prod(pixels.shape[1:-1]), pixels.shape[-1])
    grey = flat.mean(axis=2)
    found = {
        "image.brightness": Feature(grey.mean(axis=1), "0 black, 1 white"),
        "image.contrast": Feature(grey.std(axis=1), "standard deviation of the brightness"),
    }
    if (schema.pixels or Pixels()).mode == "RGB":
        found["image.colour"] = Feature(
            (flat.max(axis=2) - flat.min(axis=2)).mean(axis=1), "0 grey, 1 most colourful"
        )
        found["image.warmth"] = Feature(
            (flat[:, :, 0] - flat[:, :, 2]).mean(axis=1), "red minus blue"
        )
    return found


def _sizes(column: pa.ChunkedArray) -> Features:
    sizes = [None if data is None else images.size_of(data) for data in column.to_pylist()]
    found = np.array([size or (math.nan, math.nan) for size in sizes], dtype=float).reshape(-1, 2)
    return {
        "image.width": Feature(found[:, 0], "pixels"),
        "image.height": Feature(found[:, 1], "pixels"),
    }


def array_features(arrays: Any, names: Sequence[str]) -> Features:
    """Each value of arrays ``(n, *shape)`` by its name; of large ones, what they hold together."""
    flat = np.asarray(arrays, dtype=np.float64)
    flat = flat.reshape(len(flat), math.prod(flat.shape[1:]))
    if flat.shape[1] == len(names):
        return {name: Feature(values) for name, values in zip(names, flat.T, strict=True)}
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            "array.mean": Feature(flat.mean(axis=1)), "array.spread": Feature(flat.std(axis=1)),
            "array.least": Feature(flat.min(axis=1)), "array.most": Feature(flat.max(axis=1)),
        }


def _array_names(schema: InputSchema) -> list[str]:
    if schema.columns:
        return [column.name for column in schema.columns]
    size = math.prod(schema.shape)
    return [f"x{number}" for number in range(size)] if size <= MOST_VALUES else []
