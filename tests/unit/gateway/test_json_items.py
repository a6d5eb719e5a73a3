"""Items that came as JSON travel as they are, unless they wrap something."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from celeriac import errors
from celeriac.cache import Answerer, cache_key
from celeriac.messages import JsonItem, json_value
from producer.gateway.predict import unwrap_all
from producer.realtime import encode

ITEMS: list[Any] = [
    [[0.0, 1.5], [2.0, 3.0]], {"a": 1, "b": None, "c": [True, "x"]}, "text", 7, None, 0.5, [], {},
]


@pytest.mark.parametrize("item", ITEMS)
def test_json_travels_as_any_other_item(item: Any) -> None:
    (found,) = unwrap_all([item], json.dumps(item).encode())
    assert encode(found, 1_000) == encode(item, 1_000)
    who = Answerer("m", 1, "")
    assert cache_key(who, json_value(found)) == cache_key(who, json_value(item))


def test_lists_and_dicts_are_not_looked_through() -> None:
    assert unwrap_all([[1.0], {"a": 1}], b"[]") == [JsonItem([1.0]), JsonItem({"a": 1})]


@pytest.mark.parametrize("key", ["$bytes", "\\u0024bytes"])
def test_what_wraps_something_is_looked_through(key: str) -> None:
    data = b'[{"' + key.encode() + b'": "AAE="}]'
    assert unwrap_all([json.loads(data)], data) == [[b"\0\1"]]
    wrapped = {"$array": "AAAAAAAA8D8=", "dtype": "<f8", "shape": [1]}
    (array,) = unwrap_all([wrapped], json.dumps(wrapped).encode())
    assert isinstance(array, np.ndarray)
    with pytest.raises(errors.InvalidItem):
        unwrap_all([{"$bytes": 7}], b'{"$bytes": 7}')


def test_its_size_is_bounded() -> None:
    with pytest.raises(errors.PayloadTooLarge):
        encode(JsonItem([1.0] * 1_000), 1_000)
