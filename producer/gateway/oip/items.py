"""From the tensors of a request to items, and from predictions to the tensors of its answer.

Which tensors a model takes and gives is decided by its version alone: :func:`inputs_of` and
:func:`outputs_of` say it, and the two functions below follow it. docs/oip.md has it in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np

from celeriac import errors
from celeriac.messages import Prediction, decode_base64
from celeriac.registry.manifest import Column, InputSchema, OutputSchema
from producer.gateway.oip.codec import InferRequest, Output
from producer.gateway.oip.tensors import NUMBERS, Tensor


class TensorSpec(NamedTuple):
    """A tensor as the metadata of a model shows it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1: any number, which is that of the items."""


INPUT = "input"
"""Name of the one input of models of arrays, of ``echo``, and of tables as a matrix."""
IMAGE = "image"
TEXT = "text"
"""Name of a text model's input whose column has none."""
LABEL, PROBABILITY, VALUE = "label", "probability", "value"


# --- inputs --------------------------------------------------------------------------------------


def inputs_of(schema: InputSchema) -> list[TensorSpec]:
    """The inputs that the metadata shows. A table takes the other of its two forms as well."""
    if schema.kind == "table":
        by_column = schema.frame or not takes_matrix(schema)
        return table_columns(schema) if by_column else [table_matrix(schema)]
    if schema.kind == "image":
        return [TensorSpec(IMAGE, "BYTES", (-1,))]
    if schema.kind == "array":
        return [TensorSpec(INPUT, _ARRAYS[schema.dtype], (-1, *schema.shape))]
    if schema.kind == "text":
        return [TensorSpec(_text_name(schema), "BYTES", (-1,))]
    return [TensorSpec(INPUT, "BYTES", (-1,))]


_ARRAYS = {"float32": "FP32", "float64": "FP64"}
_COLUMNS = {"float": "FP64", "int": "INT64", "bool": "BOOL", "text": "BYTES"}


def table_columns(schema: InputSchema) -> list[TensorSpec]:
    """One tensor for each column."""
    return [TensorSpec(column.name, _COLUMNS[column.dtype], (-1,)) for column in schema.columns]


def table_matrix(schema: InputSchema) -> TensorSpec:
    """One tensor with a row for each item; only if :func:`takes_matrix`."""
    return TensorSpec(INPUT, _matrix_datatype(schema), (-1, len(schema.columns)))


def takes_matrix(schema: InputSchema) -> bool:
    """Whether the columns of a table fit one tensor, and none has its name."""
    named = any(column.name == INPUT for column in schema.columns)
    return bool(_matrix_datatype(schema)) and not named


def _matrix_datatype(schema: InputSchema) -> str:
    """Empty if the columns are of several datatypes."""
    kinds = {column.dtype for column in schema.columns}
    if len(kinds) == 1:
        kind = kinds.pop()
        return _ARRAYS[schema.dtype] if kind == "float" else _COLUMNS[kind]
    return "FP64" if kinds == {"float", "int"} else ""


def _text_name(schema: InputSchema) -> str:
    return schema.columns[0].name if schema.columns else TEXT


def items_of(request: InferRequest, schema: InputSchema) -> list[Any]:
    """The items of a request, one for each entry along the first axis of its tensors.

    Raises RequestError for tensors that do not fit the model, or without items.
    """
    tensors = {tensor.name: tensor for tensor in request.inputs}
    items = _READERS[schema.kind](tensors, schema)
    if not items:
        raise errors.RequestError("the inputs have no items: the first dimension is 0")
    return items


def _texts(tensors: dict[str, Tensor], schema: InputSchema) -> list[Any]:
    tensor = _only(tensors, _text_name(schema))
    return _strings(_column(tensor, ("BYTES",)))


def _images(tensors: dict[str, Tensor], schema: InputSchema) -> list[Any]:
    tensor = _only(tensors, IMAGE)
    if tensor.datatype != "BYTES":
        return _rows(tensor, schema)
    return [_file(data, number) for number, data in enumerate(_column(tensor, ("BYTES",)).values)]


def _file(data: bytes | str, number: int) -> bytes:
    """JSON has no bytes: there a file is base64."""
    if isinstance(data, bytes):
        return data
    try:
        return decode_base64(data)
    except errors.InvalidItem as error:
        raise errors.RequestError(
            f"item {number}: in JSON, an image is the base64 of its file; this is not base64"
        ) from error


def _arrays(tensors: dict[str, Tensor], schema: InputSchema) -> list[Any]:
    return _rows(_only(tensors, INPUT), schema)


def _rows(tensor: Tensor, schema: InputSchema) -> list[Any]:
    _check_datatype(tensor, NUMBERS)
    if tensor.shape[1:] != schema.shape:
        raise _misshapen(tensor, [-1, *schema.shape])
    return list(tensor.values)


def _table(tensors: dict[str, Tensor], schema: InputSchema) -> list[Any]:
    names = [column.name for column in schema.columns]
    if tensors.keys() == {INPUT} and INPUT not in names:
        return _matrix(tensors[INPUT], schema)
    _check_names(tensors, names, _table_inputs(schema, names))
    columns = [_cells(tensors[column.name], column) for column in schema.columns]
    if len(set(map(len, columns))) > 1:
        raise errors.RequestError(
            "the inputs of a table have one value for each item, so they are of one length; found "
            f"{min(map(len, columns)):,} to {max(map(len, columns)):,}"
        )
    return [list(row) for row in zip(*columns, strict=True)]


def _table_inputs(schema: InputSchema, names: Sequence[str]) -> str:
    """What a table takes, in words: the form that the metadata shows first."""
    columns = _listed(names)
    if not takes_matrix(schema):
        return columns
    if schema.frame:
        return f"{columns}; or {INPUT} with all of them"
    return f"{INPUT}; or one for each column: {columns}"


def _cells(tensor: Tensor, column: Column) -> list[Any]:
    """One value for each item; None for NaN."""
    flat = _column(tensor, _TAKES[column.dtype])
    if column.dtype == "text":
        return _strings(flat)
    return _numbers(flat.values.reshape(-1))


_TAKES = {"float": NUMBERS, "int": NUMBERS, "bool": ("BOOL",), "text": ("BYTES",)}


def _matrix(tensor: Tensor, schema: InputSchema) -> list[Any]:
    if not takes_matrix(schema):
        raise errors.RequestError(
            f"input {INPUT!r}: the model's columns are of several datatypes; send one input for "
            f"each: {_listed([column.name for column in schema.columns])}"
        )
    width = len(schema.columns)
    _check_datatype(tensor, _TAKES[schema.columns[0].dtype])
    if tensor.shape[1:] != (width,):
        raise _misshapen(tensor, [-1, width])
    if tensor.datatype == "BYTES":
        texts = _strings(tensor)
        return [texts[start : start + width] for start in range(0, len(texts), width)]
    return _numbers(tensor.values)


def _numbers(values: Any) -> list[Any]:
    """An array as lists, with None for NaN, which is how a value that is missing travels."""
    missing = np.isnan(values) if values.dtype.kind == "f" else None
    if missing is None or not missing.any():
        found: list[Any] = values.tolist()
        return found
    filled = values.astype(object)
    filled[missing] = None
    return list(filled.tolist())


def _anything(tensors: dict[str, Tensor], _schema: InputSchema) -> list[Any]:
    tensor = _only(tensors, INPUT)
    if tensor.datatype == "BYTES":
        return [_text_or_bytes(value) for value in _column(tensor, ("BYTES",)).values]
    return list(tensor.values.tolist() if tensor.values.ndim == 1 else tensor.values)


def _text_or_bytes(value: str | bytes) -> str | bytes:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


_READERS: dict[str, Callable[[dict[str, Tensor], InputSchema], list[Any]]] = {
    "text": _texts, "image": _images, "array": _arrays, "table": _table, "any": _anything,
}


def _only(tensors: dict[str, Tensor], name: str) -> Tensor:
    _check_names(tensors, [name])
    return tensors[name]


def _check_names(tensors: dict[str, Tensor], wanted: Sequence[str], known: str = "") -> None:
    """``known``: what the model takes, if that is not only what is ``wanted``."""
    unknown = [name for name in tensors if name not in wanted]
    if unknown:
        raise errors.RequestError(
            f"the model has no input {unknown[0][:100]!r}; it has: {known or _listed(wanted)}"
        )
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise errors.RequestError(f"the request lacks the inputs: {_listed(missing)}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def _column(tensor: Tensor, datatypes: Sequence[str]) -> Tensor:
    """A tensor with one value for each item."""
    _check_datatype(tensor, datatypes)
    if len(tensor.shape) > 2 or tensor.shape[1:] not in ((), (1,)):
        raise _misshapen(tensor, [-1])
    return tensor


def _check_datatype(tensor: Tensor, datatypes: Sequence[str]) -> None:
    if tensor.datatype not in datatypes:
        raise errors.RequestError(
            f"input {tensor.name!r}: the model takes {', '.join(datatypes)}; "
            f"found {tensor.datatype}"
        )


def _misshapen(tensor: Tensor, wanted: list[int]) -> errors.RequestError:
    return errors.RequestError(
        f"input {tensor.name!r}: the model takes the shape {wanted}, -1 being the number of items; "
        f"found {list(tensor.shape)}"
    )


def _strings(tensor: Tensor) -> list[str]:
    try:
        return [value if type(value) is str else value.decode() for value in tensor.values]
    except UnicodeDecodeError as error:
        raise errors.RequestError(f"input {tensor.name!r}: a value is not UTF-8 text") from error


# --- outputs -------------------------------------------------------------------------------------


def outputs_of(schema: OutputSchema) -> Mapping[str, TensorSpec]:
    """The outputs that a model gives, by name and in order."""
    known = _known_outputs.get(id(schema))
    if known is None:
        if len(_known_outputs) >= _MOST_KNOWN:
            _known_outputs.clear()
        specs = {spec.name: spec for spec in _outputs_of(schema)}
        known = _known_outputs[id(schema)] = schema, specs
    return known[1]


_known_outputs: dict[int, tuple[OutputSchema, dict[str, TensorSpec]]] = {}
"""Each request asks for them, and a model may have thousands of labels. By the schema's identity,
which is its own as long as the schema is held here."""
_MOST_KNOWN = 1_000


def _outputs_of(schema: OutputSchema) -> list[TensorSpec]:
    shape = (-1,) if schema.outputs == 1 else (-1, schema.outputs)
    if schema.kind == "any":
        return [TensorSpec(VALUE, "BYTES", (-1,))]
    if schema.kind == "regressor":
        return [TensorSpec(VALUE, "FP64", shape)]
    found = [TensorSpec(LABEL, _label_datatype(schema), shape)]
    if schema.probabilities:
        found.append(TensorSpec(PROBABILITY, "FP64", shape))
    return found


def _label_datatype(schema: OutputSchema) -> str:
    labels = schema.labels if schema.outputs == 1 else list(chain(*schema.labels))
    kinds = set(map(type, labels))
    if kinds == {int} and not -(2**63) <= min(labels) <= max(labels) < 2**63:
        return "BYTES"
    return _LABELS.get(kinds.pop(), "BYTES") if len(kinds) == 1 else "BYTES"


_LABELS: dict[type, str] = {bool: "BOOL", int: "INT64", float: "FP64"}


def wanted_outputs(request: InferRequest, schema: OutputSchema) -> list[TensorSpec]:
    """The outputs that ``request`` gets, in its order. Raises RequestError for an unknown one."""
    known = outputs_of(schema)
    for name in request.outputs:
        if name not in known:
            raise errors.RequestError(
                f"the model has no output {name[:100]!r}; it has: {', '.join(known)}"
            )
    return [known[name] for name in request.outputs] or list(known.values())


def tensors_of(predictions: Sequence[Prediction], specs: Sequence[TensorSpec]) -> list[Output]:
    """The outputs ``specs`` of predictions, one entry for each along the first axis."""
    return [_output(predictions, spec) for spec in specs]


def _output(predictions: Sequence[Prediction], spec: TensorSpec) -> Output:
    values = [getattr(prediction, spec.name) for prediction in predictions]
    if len(spec.shape) == 2:
        values = list(chain.from_iterable(values))
    if spec.datatype == "BYTES":
        values = [value if type(value) is str else _as_text(value) for value in values]
    return Output(spec.name, spec.datatype, (len(predictions), *spec.shape[1:]), values)


def _as_text(value: Any) -> str:
    """JSON, for what is no text."""
    return msgspec.json.encode(value).decode()
