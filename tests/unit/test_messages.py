"""The wire contract: names, references, items."""

from __future__ import annotations

import enum
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as np_st
from PIL import Image

from celeriac import errors, messages
from celeriac.messages import ModelRef

plain_keys = st.text(max_size=8).filter(lambda key: not key.startswith("$"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(plain_keys, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("reviews", ModelRef("reviews", alias="champion")),
        ("reviews@3", ModelRef("reviews", version=3)),
        ("reviews@challenger", ModelRef("reviews", alias="challenger")),
        ("a", ModelRef("a", alias="champion")),
    ],
)
def test_references(text: str, ref: ModelRef) -> None:
    assert ModelRef.parse(text) == ref
    assert ModelRef.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    ["", "Reviews", "a b", "../x", "a/b", "a@", "a@0", "a@-1", "a@1.5", "a@B", "a@b@c", "x" * 65,
     "-a", "a-", "a\n", "a@1\n", "ä", "a@٣", None, 7],
)  # fmt: skip
def test_what_is_no_reference(text: Any) -> None:
    with pytest.raises(errors.RequestError):
        ModelRef.parse(text)


@given(json_values)
def test_json_items_survive_the_wire(item: Any) -> None:
    wire = msgspec.json.decode(msgspec.json.encode(messages.encode_item(item)))
    assert messages.decode_item(wire) == item


@given(st.binary(max_size=200))
def test_bytes_survive_the_wire(data: bytes) -> None:
    wire = msgspec.json.decode(msgspec.json.encode(messages.encode_item(data)))
    assert messages.decode_item(wire) == data


@given(
    np_st.arrays(
        dtype=st.sampled_from(["<f4", "<f8", "<i8", "|u1", "|b1", ">f4", ">i2"]),
        shape=np_st.array_shapes(min_dims=1, max_dims=3, max_side=4),
    )
)
def test_arrays_survive_the_wire(array: Any) -> None:
    wire = msgspec.json.decode(msgspec.json.encode(messages.encode_item(array)))
    back = messages.decode_item(wire)
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    "item",
    [float("nan"), [1.0, float("inf")], {1: 2}, object(), {"a": {1, 2}}, np.array(["text"]),
     np.array([object()])],
    ids=["nan", "infinite", "number as key", "object", "set", "array of text", "array of objects"],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused(item: Any) -> None:
    with pytest.raises(errors.InvalidItem):
        messages.encode_item(item)


@pytest.mark.parametrize(
    "item",
    [
        {"$bytes": "not base64!"},
        {"$bytes": 7},
        {"$array": "AAAA", "dtype": "<f4", "shape": [2]},
        {"$array": "AAAAAA==", "dtype": "O", "shape": [1]},
        {"$array": "AAAAAA==", "dtype": "<f4", "shape": [-1]},
        {"$array": "AAAAAA==", "dtype": "<f4", "shape": "1"},
        {"$array": "AAAAAA==", "dtype": ["<f4"], "shape": [1]},
    ],
)
def test_broken_wrappings_are_refused(item: Any) -> None:
    with pytest.raises(errors.InvalidItem):
        messages.decode_item(item)


@pytest.mark.parametrize(
    ("item", "told"),
    [(pd.Series({"size": 1, "city": "Bonn"}), "to_dict"), (torch.ones(3), "numpy"),
     (pd.DataFrame({"size": [1, 2]}), "predict_many"),
     (Image.new("L", (2, 2)), "bytes or numpy arrays")],
    ids=["row of a frame", "tensor", "frame", "image of PIL"],
)  # fmt: skip
def test_what_people_try_is_refused_with_what_will_do(item: Any, told: str) -> None:
    with pytest.raises(errors.InvalidItem, match=told):
        messages.encode_item(item)


def test_masked_values_are_refused() -> None:
    """numpy fills them with 1e20 in bytes, and with 0 as scalars; they were answered."""
    masked = np.ma.masked_greater(np.array([1.0, 6.0]), 5)
    for item in (masked, list(masked), masked[1], {"size": masked[1]}):
        with pytest.raises(errors.InvalidItem, match="filled"):
            messages.encode_item(item)
    assert messages.encode_item(masked[:1]) == messages.encode_item(np.array([1.0]))
    assert messages.encode_item(list(masked)[:1]) == [1.0]


class Size(enum.IntEnum):
    SMALL = 1


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("item", "wire"),
    [(np.float32(0.5), b"0.5"), ({"a": np.int64(3)}, b'{"a":3}'), (np.bool_(True), b"true"),
     (np.float64(0.1), b"0.1"), (np.str_("a"), b'"a"'), ({np.str_("a"): 1}, b'{"a":1}'),
     (Size.SMALL, b"1"), (Colour.RED, b'"red"')],
)  # fmt: skip
def test_scalars_of_numpy_are_numbers_and_texts(item: Any, wire: bytes) -> None:
    """float64 and str_, which are what they are called, were refused."""
    assert msgspec.json.encode(messages.encode_item(item)) == wire


def test_contract_versions() -> None:
    messages.check_contract(messages.CONTRACT)
    messages.check_contract(messages.CONTRACT - 1)
    for other in (messages.CONTRACT + 1, -1, None, "1"):
        with pytest.raises(errors.ContractMismatch):
            messages.check_contract(other)


@pytest.mark.parametrize("kind", sorted(errors.CeleriacError._by_code))
def test_every_error_crosses_the_wire(kind: str) -> None:
    error = errors.from_wire({"code": kind, "message": "it broke"})
    assert (error.code, error.message) == (kind, "it broke")
    assert errors.from_wire(error.to_wire()).__class__ is error.__class__


def test_an_unknown_code_keeps_its_message() -> None:
    error = errors.from_wire({"code": "from_the_future", "message": "hm"})
    assert type(error) is errors.CeleriacError
    assert error.message == "hm"
