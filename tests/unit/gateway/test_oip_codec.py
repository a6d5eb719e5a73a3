"""Bodies of the Open Inference Protocol: what goes in comes out, and only one error is raised."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays

from celeriac import errors
from producer.gateway.oip.codec import Output, decode_request, encode_response
from producer.gateway.oip.tensors import DTYPES, Tensor

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def body(*inputs: dict[str, Any], binary: bytes | None = None, **request: Any) -> tuple[bytes, Any]:
    """A body and its header."""
    head = json.dumps({"inputs": list(inputs), **request}).encode()
    return (head, None) if binary is None else (head + binary, str(len(head)))


def as_json(array: Any, datatype: str) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": list(array.shape), "data": array.tolist()}


def as_binary(size: int, datatype: str, shape: tuple[int, ...], name: str = "x") -> dict[str, Any]:
    return {
        "name": name, "datatype": datatype, "shape": list(shape),
        "parameters": {"binary_data_size": size},
    }


def only(request: Any) -> Tensor:
    (tensor,) = request.inputs
    return tensor


def refused(data: bytes, header: str | None = None) -> str:
    with pytest.raises(errors.RequestError) as caught:
        decode_request(data, header)
    return caught.value.message


@st.composite
def numbers(draw: st.DrawFn) -> tuple[str, Any]:
    datatype = draw(st.sampled_from(list(DTYPES)))
    shape = draw(arrays.array_shapes(max_dims=4, min_side=0, max_side=4))
    finite = {} if np.dtype(DTYPES[datatype]).kind != "f" else {
        "elements": {"allow_nan": False, "allow_infinity": False}
    }
    return datatype, draw(arrays.arrays(DTYPES[datatype], shape, **finite))


@given(numbers())
def test_numbers_in_json_nested_and_flat_and_in_binary_are_the_same(made: tuple[str, Any]) -> None:
    datatype, array = made
    spec = as_json(array, datatype)
    flat = spec | {"data": array.ravel().tolist()}
    data = array.tobytes()
    found = [
        only(decode_request(*body(spec))), only(decode_request(*body(flat))),
        only(decode_request(*body(as_binary(len(data), datatype, array.shape), binary=data))),
    ]
    for tensor in found:
        assert tensor.values.dtype == array.dtype
        assert tensor.shape == tensor.values.shape == array.shape
        assert np.array_equal(tensor.values, array)


@given(arrays.arrays("<f4", arrays.array_shapes(max_side=4), elements={"allow_subnormal": False}))
def test_bf16_is_the_upper_half_of_a_float(array: Any) -> None:
    halves = (array.view("<u4") >> 16).astype("<u2")
    tensor = only(decode_request(*body(
        as_binary(halves.nbytes, "BF16", array.shape), binary=halves.tobytes()
    )))
    assert np.array_equal(tensor.values.view("<u4") >> 16, halves)
    finite = np.isfinite(array)
    assert np.allclose(tensor.values[finite], array[finite], rtol=1 / 128)
    assert "binary only" in refused(body(as_json(np.zeros(1), "BF16"))[0])


@given(st.lists(TEXTS, min_size=1))
def test_texts_in_json_and_in_binary_are_the_same(texts: list[str]) -> None:
    encoded = [text.encode() for text in texts]
    data = b"".join(struct.pack("<I", len(one)) + one for one in encoded)
    binary = only(decode_request(*body(
        as_binary(len(data), "BYTES", (len(texts), 1)), binary=data
    )))
    spec = {"name": "x", "datatype": "BYTES", "shape": [len(texts), 1]}
    for given_data in (texts, [[text] for text in texts]):
        tensor = only(decode_request(*body(spec | {"data": given_data})))
        assert [text.encode() for text in tensor.values] == binary.values == encoded


@given(numbers(), st.booleans(), st.one_of(st.none(), TEXTS))
def test_an_answer_can_be_read_as_a_request_is(
    made: tuple[str, Any], binary: bool, request_id: str | None
) -> None:
    datatype, array = made
    request = decode_request(*body(
        as_json(np.zeros(1), "FP64"), id=request_id, parameters={"binary_data_output": binary}
    ))
    outputs = [
        Output("x", datatype, array.shape, array.ravel().tolist()),
        Output("words", "BYTES", (2,), ["ä", ""]),
    ]
    data, json_bytes = encode_response(request, "m", 7, outputs)
    assert (json_bytes is not None) == binary
    head = msgspec.json.decode(data[:json_bytes])
    assert head.get("id") == request_id
    assert (head["model_name"], head["model_version"]) == ("m", "7")
    again = msgspec.json.encode({"inputs": head["outputs"]})
    tail = b"" if json_bytes is None else data[json_bytes:]
    numbers_again, words = decode_request(again + tail, str(len(again))).inputs
    assert np.array_equal(numbers_again.values, array)
    assert words.values == ([b"\xc3\xa4", b""] if binary else ["ä", ""])


@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=5), st.integers(0, 300)))
def test_any_bytes_raise_the_one_error(data: bytes, header: str | int | None) -> None:
    refused(data, None if header is None else str(header))


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3),
                            st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=6,
)


@settings(max_examples=300)
@given(
    st.fixed_dictionaries({}, optional={
        "name": st.one_of(st.text(max_size=3), JSON_VALUES),
        "datatype": st.one_of(st.sampled_from([*DTYPES, "BF16", "BYTES", "?"]), JSON_VALUES),
        "shape": st.one_of(st.lists(st.integers(-1, 3), max_size=3), JSON_VALUES),
        "data": JSON_VALUES,
        "parameters": st.one_of(
            JSON_VALUES, st.fixed_dictionaries({"binary_data_size": st.integers(-1, 20)})
        ),
    }),
    st.dictionaries(st.sampled_from(["id", "parameters", "outputs"]), JSON_VALUES),
    st.binary(max_size=20), st.booleans(),
)
def test_nearly_right_requests_raise_nothing_else(
    tensor: dict[str, Any], request: dict[str, Any], tail: bytes, has_header: bool
) -> None:
    head = json.dumps({"inputs": [tensor], **request}).encode()
    with contextlib.suppress(errors.RequestError):
        found = decode_request(head + tail, str(len(head)) if has_header else None)
        assert found.inputs


ONE = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]}


@pytest.mark.parametrize(("change", "said"), [
    ({"shape": [2]}, "shape [2] has 2 values; data has 1"),
    ({"shape": [-1]}, "found -1"),
    ({"shape": [1, 2**31]}, "found 2147483648"),
    ({"shape": [1, 2**31 - 1, 2**31 - 1]}, "data has 1"),
    ({"shape": [0, 2**31 - 1, 2**31 - 1], "data": []}, "[0, 2147483647, 2147483647] is too large"),
    ({"shape": []}, "1 to 16 dimensions"),
    ({"shape": [1] * 17}, "1 to 16 dimensions"),
    ({"shape": [2, 1], "data": [[1, 2]]}, "nested, but not as shape [2, 1]"),
    ({"shape": [2, 1], "data": [[1], 2]}, "nested, but not as shape"),
    ({"datatype": "FP8"}, "unknown datatype 'FP8'"),
    ({"data": ["a"]}, "not a list of numbers"),
    ({"data": [True]}, "not a list of numbers"),
    ({"data": "1"}, "not a list of numbers"),
    ({"data": None}, "not a list of numbers"),
    ({"data": [1e39]}, "a value does not fit FP32"),
    ({"datatype": "FP16", "data": [70_000]}, "a value does not fit FP16"),
    ({"datatype": "INT8", "data": [128]}, "a value does not fit INT8"),
    ({"datatype": "UINT64", "data": [-1]}, "a value does not fit UINT64"),
    ({"datatype": "INT64", "data": [2**63]}, "a value does not fit INT64"),
    ({"datatype": "INT8"}, "not a list of whole numbers: one has a fraction"),
    ({"datatype": "BOOL"}, "not a list of true and false"),
    ({"datatype": "BOOL", "data": [2]}, "a BOOL is true or false"),
    ({"datatype": "BYTES", "data": [5]}, "not a list of texts"),
    ({"parameters": {"binary_data_size": 4}}, "not both"),
    ({"parameters": {"shared_memory_region": "r"}}, "shared memory is not offered"),
    ({"extra": 1}, "unknown field `extra`"),
])
def test_what_is_wrong_with_an_input_is_said(change: dict[str, Any], said: str) -> None:
    message = refused(body(ONE | change)[0])
    assert said in message
    assert len(message) < 400


@pytest.mark.parametrize(("request_part", "said"), [
    ({"inputs": []}, "no inputs"),
    ({"inputs": [ONE, ONE]}, "input 'x' is there twice"),
    ({"inputs": [ONE], "outputs": [{"name": "y"}, {"name": "y"}]}, "output 'y' is there twice"),
    ({"inputs": [ONE], "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
     "classification is not offered"),
    ({"inputs": [ONE], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
     "true or false"),
    ({"inputs": [ONE], "parameters": {"binary_data_output": "yes"}}, "true or false"),
    ({"inputs": [ONE], "parameters": {"timeout": -1}}, "timeout (microseconds)"),
    ({"inputs": [ONE], "parameters": {"timeout": 1.5}}, "timeout (microseconds)"),
    ({"inputs": [ONE], "parameters": {"priority": True}}, "priority"),
    ({"inputs": [ONE], "parameters": {"sequence_id": 3}}, "sequences are not offered"),
    ({"inputs": [ONE], "id": 5}, "`$.id`"),
    ({"inputs": "x"}, "`$.inputs`"),
    ({}, "missing required field `inputs`"),
    ([], "no inference request"),
])
def test_what_is_wrong_with_a_request_is_said(request_part: Any, said: str) -> None:
    assert said in refused(json.dumps(request_part).encode())


def test_numbers_that_json_cannot_hold_are_refused() -> None:
    for number in ("NaN", "Infinity", "1e400", "9" * 5_000, "-" + "9" * 400):
        for datatype in ("FP64", "INT64", "UINT64", "BOOL"):
            data = json.dumps(ONE | {"datatype": datatype, "data": ["?"]}).replace('"?"', number)
            refused(f'{{"inputs": [{data}]}}'.encode())


def test_nan_is_told_from_other_faults() -> None:
    data = json.dumps(ONE | {"data": [math.nan] * 2})  # as Triton's own client writes it
    assert "no NaN and no Infinity: send null" in refused(f'{{"inputs": [{data}]}}'.encode())


def test_deep_nesting_is_refused() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert "too deep" in refused(f'{{"inputs": [{{"name": "x", "data": {deep}}}]}}'.encode())
    assert "too deep" in refused(f'{{"inputs": [], "parameters": {{"a": {deep}}}}}'.encode())


def test_clients_without_whole_numbers_are_understood() -> None:
    floats = decode_request(*body(
        ONE | {"datatype": "INT32", "data": [3.0]}, ONE | {"name": "b", "datatype": "BOOL"}
        | {"shape": [2], "data": [1.0, False]},
    ))
    assert floats.inputs[0].values.tolist() == [3]
    assert floats.inputs[1].values.tolist() == [True, False]


def test_a_body_may_name_the_model_again_as_kserve_does() -> None:
    data, _ = body(ONE, model_name="m", model_version="1")
    assert only(decode_request(data)).values.tolist() == [1.5]
    assert "unknown field `modelname`" in refused(body(ONE, modelname="m")[0])


def test_null_is_a_missing_number() -> None:
    tensor = only(decode_request(*body(ONE | {"shape": [2], "data": [None, 1]})))
    assert np.array_equal(tensor.values, [np.nan, 1], equal_nan=True)


@pytest.mark.parametrize("header", ["", "-1", "+5", "1e2", "0x10", " 5", "٣", "99999", "9" * 30])
def test_header_lengths_that_are_none_are_refused(header: str) -> None:
    assert "Inference-Header-Content-Length" in refused(body(ONE)[0], header)


def test_a_header_length_within_the_json_is_refused() -> None:
    data, _ = body(ONE)
    for length in range(len(data)):
        refused(data, str(length))
    assert only(decode_request(data, str(len(data)))).values.tolist() == [1.5]


def test_binary_data_must_be_what_the_sizes_say() -> None:
    eight = as_binary(8, "FP32", (2,))
    assert "only 7 bytes are left" in refused(*body(eight, binary=b"1234567"))
    assert "1 bytes of binary data that belong" in refused(*body(eight, binary=b"123456789"))
    assert "has 12 bytes" in refused(*body(as_binary(8, "FP32", (3,)), binary=b"12345678"))
    assert "neither data nor binary_data_size" in refused(*body(eight | {"parameters": {}}))
    assert "a number of bytes" in refused(*body(as_binary(-1, "FP32", (2,)), binary=b""))
    few = as_binary(8, "BYTES", (3,))
    assert "need more than 8 bytes" in refused(*body(few, binary=b"12345678"))
    empty = as_binary(0, "FP32", (0, 2**31 - 1, 2**31 - 1))
    assert "is too large" in refused(*body(empty, binary=b""))
    huge = as_binary(8, "BYTES", (2**31 - 1, 2**31 - 1))
    assert "at most 1,000 are taken" in refused(*body(huge, binary=b"12345678"))


def test_too_many_items_are_refused_before_they_are_read() -> None:
    for shape in ([3], [3, 1], [2**31 - 1]):
        data, _ = body(ONE | {"shape": shape, "data": "not looked at"})
        with pytest.raises(errors.PayloadTooLarge, match="at most 2 are taken"):
            decode_request(data, max_items=2)
    many = as_binary(4 * 1_000_001, "BYTES", (1, 1_000_001))
    assert "at most 1,000,000 elements" in refused(*body(many, binary=bytes(4 * 1_000_001)))


def test_data_in_very_many_lists_is_refused_before_it_is_read() -> None:
    spec = ONE | {"shape": [1, 300_000, 1], "data": ["?"]}
    nested = "[" + ",".join(["[1]"] * 300_000) + "]"
    for datatype in ("FP32", "BYTES"):
        head = json.dumps({"inputs": [spec | {"datatype": datatype}]})
        assert "send it flat" in refused(head.replace('"?"', nested).encode())


@pytest.mark.parametrize("data", [
    struct.pack("<I", 5) + b"abcd", struct.pack("<I", 3) + b"abcd", struct.pack("<I", 2**32 - 1),
    struct.pack("<I", 0) * 2,
])
def test_lengths_of_bytes_must_fit(data: bytes) -> None:
    spec = as_binary(len(data), "BYTES", (1,))
    assert "each with its length in 4 bytes" in refused(*body(spec, binary=data))


def test_several_inputs_lie_one_after_the_other() -> None:
    first, second = np.arange(6, dtype="<f8").reshape(2, 3), np.array([1, 2], "<u2")
    specs = [
        as_binary(first.nbytes, "FP64", (2, 3), "a"), ONE | {"name": "j"},
        as_binary(second.nbytes, "UINT16", (2,), "b"),
    ]
    found = decode_request(*body(*specs, binary=first.tobytes() + second.tobytes()))
    assert [tensor.name for tensor in found.inputs] == ["a", "j", "b"]
    assert np.array_equal(found.inputs[0].values, first)
    assert np.array_equal(found.inputs[2].values, second)


def test_each_output_says_whether_it_is_binary() -> None:
    wanted = [
        {"name": "a"}, {"name": "b", "parameters": {"binary_data": False}},
        {"name": "c", "parameters": {"binary_data": True}},
    ]
    for flag, found in ((None, [0, 0, 1]), (False, [0, 0, 1]), (True, [1, 0, 1])):
        parameters = {} if flag is None else {"parameters": {"binary_data_output": flag}}
        request = decode_request(*body(ONE, outputs=wanted, **parameters))
        assert request.outputs == ("a", "b", "c")
        assert [request.is_binary(name) for name in "abc"] == found


def test_parameters() -> None:
    request = decode_request(*body(
        ONE, id="7", parameters={"timeout": 250_000, "priority": 2, "own": {"x": [1]}}
    ))
    assert request.timeout_us == 250_000
    assert request.id == "7"
    assert decode_request(*body(ONE, parameters={"timeout": "5000"})).timeout_us == 5_000
    assert decode_request(*body(ONE, parameters=None, outputs=None, id=None)).timeout_us == 0
