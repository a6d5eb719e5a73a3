"""Equal items have equal keys, on both sides of the wire; others have others."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from celeriac.cache import Answerer, cache_key
from celeriac.messages import encode_item

WHO = Answerer("m", 1, "2026-11-26T00:00:00+00:00")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=200)
@given(JSON)
def test_a_worker_finds_the_clients_key_whichever_json_library_it_reads_with(item: Any) -> None:
    sent = encode_item(item)
    key = cache_key(WHO, sent)
    assert cache_key(WHO, msgspec.json.decode(msgspec.json.encode(sent))) == key
    assert cache_key(WHO, json.loads(json.dumps(sent))) == key


def test_the_order_of_columns_does_not_matter() -> None:
    assert cache_key(WHO, {"a": 1, "b": {"c": 2, "d": 3}}) == cache_key(
        WHO, {"b": {"d": 3, "c": 2}, "a": 1}
    )


def test_different_questions_have_different_keys() -> None:
    array = np.arange(4, dtype="<f4")
    items = [
        None, "null", "", "a", ["a"], {"a": None}, {"a": "null"}, 1, True, [1, 2], [2, 1], 0, False,
        encode_item(b"a"), encode_item(array), encode_item(array.astype("<f8")),
        encode_item(array.reshape(2, 2)),
    ]
    questions = [WHO, WHO._replace(version=2), WHO._replace(name="m2"), WHO._replace(created_at="")]
    keys = [cache_key(question, item) for question, item in itertools.product(questions, items)]
    assert len(set(keys)) == len(keys)
    assert all(key.startswith("celeriac:cache:m") and len(key) < 64 for key in keys)


@pytest.mark.parametrize(
    "item", [math.nan, [1.0, math.inf], {"a": {"b": math.nan}}, {1: 2, "a": math.nan}]
)
def test_what_json_cannot_hold_has_no_key(item: Any) -> None:
    with pytest.raises(ValueError):
        cache_key(WHO, item)
