"""How deep a body is nested, found without decoding it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from celeriac import errors
from producer.gateway.body import check_depth

LIMIT = 8


def is_refused(data: bytes) -> bool:
    try:
        check_depth(data, LIMIT)
    except errors.RequestError:
        return True
    return False


def depth(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


texts = st.text(alphabet="ab[]{}\"\\\n é", max_size=6)
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=40,
)


@given(values, st.integers(0, 12))
def test_what_is_deep_is_refused_and_nothing_else(value: object, more: int) -> None:
    for _ in range(more):
        value = [value]
    data = json.dumps(value, ensure_ascii=False).encode()
    if depth(value) <= LIMIT:
        assert not is_refused(data)
    elif b'"' not in data:  # strings may hide brackets from the first look; decoding is bounded too
        assert is_refused(data)


@pytest.mark.parametrize("data", [b"[" * 100_000, b"]" * 100, b'{"a":' * 50, b'"[[[[[[[[[['])
def test_what_is_no_json_is_left_to_the_decoder(data: bytes) -> None:
    assert not is_refused(data)


def test_a_wide_body_is_not_deep() -> None:
    assert not is_refused(b"[" + b"[1,2]," * 10_000 + b"{}]")
