"""Bodies of the Open Inference Protocol: bytes to a request, answers to bytes.

Both ways a body is JSON, or JSON followed by the binary data of some tensors; then the header
``Inference-Header-Content-Length`` says how long the JSON is. Pure: no I/O, no clock. Whatever the
bytes are, the only error is RequestError.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from celeriac import errors
from producer.gateway.malformed import reason
from producer.gateway.oip.tensors import (
    Tensor,
    check_shape,
    from_binary,
    from_json,
    to_binary,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Header with the length of the JSON when binary data follows it."""
MAX_TENSORS = 10_000
"""Inputs of one request, or outputs that it names, at most."""


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request for inference."""

    inputs: list[Tensor]
    id: str | None = None
    """Given back as it is."""
    outputs: tuple[str, ...] = ()
    """Names of the outputs that are wanted, in their order; none: all."""
    binary: dict[str, bool] = {}
    """Outputs that say themselves whether they are binary."""
    binary_output: bool = False
    """Whether the others are."""
    timeout_us: int = 0
    """Microseconds that the caller waits; 0: as long as the server says."""

    def is_binary(self, output: str) -> bool:
        return self.binary.get(output, self.binary_output)


class Output(NamedTuple):
    """One tensor of an answer."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]
    """Flat, row-major; texts for ``BYTES``."""


class Body(NamedTuple):
    """A body to send."""

    data: bytes
    json_bytes: int | None
    """The value of :data:`HEADER_LENGTH`; None if all of the body is JSON."""


# --- requests ------------------------------------------------------------------------------------


class _Part(msgspec.Struct, forbid_unknown_fields=True):
    """What JSON says of an output that is wanted."""

    name: str
    parameters: dict[str, Any] | None = None


class _Input(_Part, forbid_unknown_fields=True, kw_only=True):
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Part] | None = None
    model_name: Any = None
    """KServe's client says again what the path says ..."""
    model_version: Any = None
    """... and the path counts."""


_read = msgspec.json.Decoder(_Request).decode


def decode_request(
    body: bytes, header_length: str | None = None, max_items: int = 1_000
) -> InferRequest:
    """The request in ``body``; ``header_length`` is the header's value as it came, if it came.

    Raises RequestError; PayloadTooLarge, which is one, before a value of more than ``max_items``
    items is read.
    """
    json_bytes = json_length(body, header_length)
    view = memoryview(body)
    try:
        request = _read(view[:json_bytes])
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise errors.RequestError(
            f"the body is no inference request of the protocol: {reason(view[:json_bytes], error)}"
        ) from error
    parameters = request.parameters or {}
    _check_parameters(parameters)
    check_items(max((next(iter(one.shape), 0) for one in request.inputs), default=0), max_items)
    inputs = list(_inputs(request.inputs, view[json_bytes:]))
    _check_names("input", [tensor.name for tensor in inputs])
    outputs = request.outputs or []
    _check_names("output", [output.name for output in outputs])
    return InferRequest(
        inputs=inputs, id=request.id, outputs=tuple(output.name for output in outputs),
        binary=dict(_binary_flags(outputs)),
        binary_output=_flag("parameter binary_data_output", parameters.get("binary_data_output")),
        timeout_us=_whole("timeout (microseconds)", parameters.get("timeout")),
    )


def check_items(items: int, max_items: int) -> None:
    """Raises PayloadTooLarge."""
    if items > max_items:
        raise errors.PayloadTooLarge(
            f"{items:,} items; at most {max_items:,} are taken ([gateway] max_items): "
            "score more as a dataset"
        )


def json_length(body: bytes, header_length: str | None) -> int:
    """How many bytes of ``body`` are JSON. Raises RequestError."""
    if header_length is None:
        return len(body)
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 20):
        raise errors.RequestError(
            f"{HEADER_LENGTH} is the length of the JSON in bytes; found {header_length[:30]!r}"
        )
    length = int(header_length)
    if length > len(body):
        raise errors.RequestError(
            f"{HEADER_LENGTH} is {length:,}, but the body has {len(body):,} bytes"
        )
    return length


def _inputs(inputs: Sequence[_Input], data: memoryview) -> Iterable[Tensor]:
    if not inputs:
        raise errors.RequestError("the request has no inputs")
    start = 0
    for tensor in inputs:
        size = _binary_size(tensor)
        if size is None:
            yield from_json(tensor.name, tensor.datatype, tensor.shape, tensor.data)
            continue
        check_shape(tensor.name, tensor.shape)
        part = data[start : start + size]
        start += size
        if len(part) != size:
            raise errors.RequestError(
                f"input {tensor.name[:100]!r}: binary_data_size is {size:,}, but only "
                f"{len(part):,} bytes are left in the body"
            )
        yield from_binary(tensor.name, tensor.datatype, tensor.shape, part)
    if start != len(data):
        raise errors.RequestError(
            f"the body has {len(data) - start:,} bytes of binary data that belong to no input"
        )


def _binary_size(tensor: _Input) -> int | None:
    """Bytes of the tensor's binary data; None if it is JSON."""
    parameters, has_data = tensor.parameters or {}, memoryview(tensor.data).nbytes > 0
    name = tensor.name[:100]
    if "shared_memory_region" in parameters:
        raise errors.RequestError(f"input {name!r}: shared memory is not offered; send the data")
    size = parameters.get("binary_data_size")
    if size is None:
        if not has_data:
            raise errors.RequestError(f"input {name!r}: neither data nor binary_data_size is given")
        return None
    if has_data:
        raise errors.RequestError(f"input {name!r}: give data or binary_data_size, not both")
    if type(size) is not int or size < 0:
        raise errors.RequestError(f"input {name!r}: binary_data_size is a number of bytes")
    return size


def _check_names(kind: str, names: list[str]) -> None:
    if len(names) > MAX_TENSORS:
        raise errors.RequestError(f"at most {MAX_TENSORS:,} {kind}s are allowed")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise errors.RequestError(f"{kind} {name[:100]!r} is there twice")
        seen.add(name)


_SEQUENCES = ("sequence_id", "sequence_start", "sequence_end")


def _check_parameters(parameters: dict[str, Any]) -> None:
    _whole("priority", parameters.get("priority"))
    if any(parameters.get(name) for name in _SEQUENCES):
        raise errors.RequestError("sequences are not offered: models here keep no state")


def _binary_flags(outputs: Sequence[_Part]) -> Iterable[tuple[str, bool]]:
    for output in outputs:
        parameters = output.parameters or {}
        for name in ("classification", "shared_memory_region"):
            if parameters.get(name):
                raise errors.RequestError(f"output {output.name[:100]!r}: {name} is not offered")
        flag = parameters.get("binary_data")
        if flag is not None:
            yield output.name, _flag(f"binary_data of output {output.name[:100]!r}", flag)


def _flag(name: str, value: Any) -> bool:
    if value is None or type(value) is bool:
        return bool(value)
    raise errors.RequestError(f"{name} is true or false")


def _whole(name: str, value: Any) -> int:
    """A whole number from 0; some clients send it as a text. None is 0."""
    if value is None:
        return 0
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not 0 <= value < 2**64:
        raise errors.RequestError(f"parameter {name} is a whole number from 0")
    return value


# --- answers -------------------------------------------------------------------------------------


class _Answered(msgspec.Struct, omit_defaults=True):
    """One output in JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, int] | None = None
    data: Sequence[Any] | None = None


class _Response(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_Answered]
    id: str | None = None


def encode_response(
    request: InferRequest, model: str, version: int, outputs: Sequence[Output]
) -> Body:
    """The answer to ``request``: ``outputs``, each in the form that it asks for."""
    answered: list[_Answered] = []
    binary: list[bytes] = []
    for output in outputs:
        if request.is_binary(output.name):
            data = to_binary(output.datatype, output.values)
            binary.append(data)
            answered.append(
                _Answered(*output[:3], parameters={"binary_data_size": len(data)})
            )
        else:
            answered.append(_Answered(*output[:3], data=output.values))
    head = msgspec.json.encode(_Response(model, str(version), answered, request.id))
    return Body(b"".join((head, *binary)), len(head)) if binary else Body(head, None)
