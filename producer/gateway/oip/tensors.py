"""Tensors of the Open Inference Protocol: their datatypes, and their two forms, JSON and binary.

Everything that is wrong with a tensor raises RequestError, which names the tensor.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np

from celeriac import errors
from producer.gateway.malformed import reason

MAX_RANK = 16
"""Dimensions of a tensor, at most."""
MAX_SIDE = 2**31 - 1
"""Of one dimension, at most."""
MAX_STRINGS = 1_000_000
"""Elements of one binary ``BYTES`` tensor, at most: they are taken apart one by one."""

MAX_LISTS = 100_000
"""Lists of nested JSON data, at most."""

DTYPES: dict[str, str] = {
    "BOOL": "|b1", "UINT8": "|u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "|i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
"""Datatypes that numpy has, little-endian as they travel. Besides: ``BYTES`` and ``BF16``."""
FLOATS = ("FP16", "FP32", "FP64", "BF16")
NUMBERS = (*[name for name in DTYPES if name != "BOOL"], "BF16")


class Tensor(NamedTuple):
    """One tensor: ``shape`` has at least one dimension, whose entries are the items."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Any
    """A numpy array of ``shape`` (of ``BF16``: as float32). For ``BYTES``, a flat list in row-major
    order: bytes if the tensor was binary, texts if it was JSON."""


def check_shape(name: str, shape: Sequence[int]) -> int:
    """How many values ``shape`` has. Raises RequestError."""
    if not 1 <= len(shape) <= MAX_RANK:
        raise _wrong(name, f"a shape has 1 to {MAX_RANK} dimensions; found {len(shape)}")
    for side in shape:
        if not 0 <= side <= MAX_SIDE:
            raise _wrong(name, f"a dimension is 0 to {MAX_SIDE:,}; found {str(side)[:30]}")
    return math.prod(shape)


# --- binary --------------------------------------------------------------------------------------


def from_binary(name: str, datatype: str, shape: Sequence[int], data: memoryview) -> Tensor:
    """A tensor from its bytes, row-major and little-endian. Raises RequestError."""
    count = check_shape(name, shape)
    sides = tuple(shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, sides, _split_bytes(name, data, count))
    size = 2 if datatype == "BF16" else np.dtype(_dtype(name, datatype)).itemsize
    if len(data) != count * size:
        raise _wrong(
            name, f"{datatype} of shape {list(shape)} has {count * size:,} bytes; "
            f"binary_data_size says {len(data):,}"
        )
    if datatype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    elif datatype == "BOOL":  # whatever is not 0 is true
        values = np.frombuffer(data, "|u1") != 0
    else:
        values = np.frombuffer(data, DTYPES[datatype])
    return Tensor(name, datatype, sides, _shaped(name, values, sides))


def _split_bytes(name: str, data: memoryview, count: int) -> list[bytes]:
    """Elements that have their length before them, in 4 bytes."""
    if count > MAX_STRINGS:
        raise _wrong(name, f"at most {MAX_STRINGS:,} elements of BYTES are taken; found {count:,}")
    if len(data) < 4 * count:
        raise _wrong(name, f"{count:,} elements of BYTES need more than {len(data):,} bytes")
    found: list[bytes] = []
    start, end = 0, len(data)
    while start + 4 <= end and len(found) < count:
        (size,) = _LENGTH.unpack_from(data, start)
        start += 4
        if start + size > end:
            break
        found.append(bytes(data[start : start + size]))
        start += size
    if len(found) < count or start != end:
        raise _wrong(
            name, f"the binary data is not {count:,} elements of BYTES, each with its length in 4 "
            "bytes (little-endian) before it"
        )
    return found


_LENGTH = struct.Struct("<I")


def to_binary(datatype: str, values: Sequence[Any]) -> bytes:
    """The bytes of flat ``values``: texts for ``BYTES``, numbers for the others."""
    if datatype != "BYTES":
        return np.array(values, DTYPES[datatype]).tobytes()
    parts: list[bytes] = []
    for text in values:
        element = text.encode()
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)


# --- JSON ----------------------------------------------------------------------------------------


def from_json(name: str, datatype: str, shape: Sequence[int], data: msgspec.Raw) -> Tensor:
    """A tensor from its JSON ``data``, flat or nested as ``shape`` says. Raises RequestError."""
    count = check_shape(name, shape)
    if datatype == "BF16":
        raise _wrong(name, "BF16 is sent in binary only")
    kind = "BYTES" if datatype == "BYTES" else np.dtype(_dtype(name, datatype)).kind
    try:
        flat = _flat(name, kind, shape, data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        wanted = _READERS[kind].wanted
        why = reason(memoryview(data), error)
        raise _wrong(name, f"data is not a list of {wanted}: {why}") from error
    if len(flat) != count:
        raise _wrong(name, f"shape {list(shape)} has {count:,} values; data has {len(flat):,}")
    sides = tuple(shape)
    if kind == "BYTES":
        return Tensor(name, datatype, sides, flat)
    return Tensor(name, datatype, sides, _shaped(name, _array(name, datatype, flat), sides))


def _flat(name: str, kind: str, shape: Sequence[int], data: msgspec.Raw) -> list[Any]:
    values: Any = data
    if _NESTED.match(data):
        _check_lists(name, kind, shape, bytes(data).count(b"["))
        values = _flattened(name, msgspec.json.decode(data), shape)
    try:
        return _read(_READERS[kind], values)
    except msgspec.ValidationError:
        if kind not in _LOOSE:
            raise
    found = _read(_LOOSE[kind], values)
    whole = list(map(int, found))
    if whole != found:
        raise ValueError("one has a fraction")
    return whole


def _read(reader: _Reader, values: Any) -> list[Any]:
    found: list[Any] = (
        msgspec.convert(values, reader.kind) if isinstance(values, list) else reader.decode(values)
    )
    return found


def _check_lists(name: str, kind: str, shape: Sequence[int], brackets: int) -> None:
    """Many small lists are slow to read, so they are counted before."""
    lists = sum(math.prod(shape[:depth]) for depth in range(len(shape)))
    if kind != "BYTES" and brackets != lists:
        raise _wrong(name, f"data is nested, but not as shape {list(shape)} says")
    if lists > MAX_LISTS or brackets > 10 * MAX_LISTS:  # texts may have brackets too
        raise _wrong(name, f"data is nested in more than {MAX_LISTS:,} lists: send it flat")


_NESTED = re.compile(rb"\s*\[\s*\[")


class _Reader(NamedTuple):
    """Reads lists of one kind of values."""

    wanted: str
    kind: Any
    decode: Callable[[Any], Any]


def _reader(wanted: str, values: Any) -> _Reader:
    return _Reader(wanted, list[values], msgspec.json.Decoder(list[values]).decode)


_READERS = {
    "f": _reader("numbers", float | None),  # null is NaN, which JSON does not have
    "i": _reader("whole numbers", int),
    "u": _reader("whole numbers", int),
    "b": _reader("true and false", bool),
    "BYTES": _reader("texts", str),
}
_LOOSE = {
    "i": _reader("whole numbers", int | float),  # 3.0 is one: some clients know no other numbers
    "u": _reader("whole numbers", int | float),
    "b": _reader("true and false", bool | int | float),
}


def _flattened(name: str, nested: Any, shape: Sequence[int]) -> list[Any]:
    """``nested``, which has lists of lists as ``shape`` says, as one list."""
    level = [nested]
    for side in shape:
        if any(type(one) is not list or len(one) != side for one in level):
            raise _wrong(name, f"data is nested, but not as shape {list(shape)} says")
        level = list(chain.from_iterable(level))
    return level


def _array(name: str, datatype: str, values: list[Any]) -> Any:
    dtype = np.dtype(DTYPES[datatype])
    if datatype == "BOOL" and not set(values) <= {False, True}:  # 0 and 1 are equal to them
        raise _wrong(name, "a BOOL is true or false (or 1 or 0)")
    try:
        if datatype not in FLOATS:
            return np.array(values, dtype)
        array = np.array(values, "<f8")
    except (OverflowError, ValueError) as error:
        raise _wrong(name, f"a value does not fit {datatype}") from error
    with np.errstate(over="ignore"):
        array = array.astype(dtype, copy=False)
    if np.isinf(array).any():
        raise _wrong(name, f"a value does not fit {datatype}")
    return array


def _shaped(name: str, values: Any, sides: tuple[int, ...]) -> Any:
    """An array of as many values as ``sides`` say. Without any, the other sides may be too large
    for numpy."""
    try:
        return values.reshape(sides)
    except ValueError as error:
        raise _wrong(name, f"shape {list(sides)} is too large") from error


def _dtype(name: str, datatype: str) -> str:
    try:
        return DTYPES[datatype]
    except KeyError:
        known = ", ".join([*DTYPES, "BF16", "BYTES"])
        raise _wrong(name, f"unknown datatype {datatype[:20]!r}; known: {known}") from None


def _wrong(name: str, what: str) -> errors.RequestError:
    return errors.RequestError(f"input {name[:100]!r}: {what}")
