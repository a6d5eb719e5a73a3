"""How deep a body is nested, found without decoding it."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, strategies as st

from celeriac import errors
from producer.gateway.nesting import MAX_LISTS, check_nesting

LIMIT = 8


def is_refused(data: bytes) -> bool:
    try:
        check_nesting(data, LIMIT)
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
    else:
        assert is_refused(data)


@pytest.mark.parametrize("data", [b"]" * 100, b"x" * 100, b'"[[[[[[[[[[', b'"\\"[[[[[[[[[['])
def test_what_is_no_json_is_left_to_the_decoder(data: bytes) -> None:
    assert not is_refused(data)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 50, b'["[[", ' + b"[" * 20])
def test_what_is_never_closed_is_deep_too(data: bytes) -> None:
    assert is_refused(data)


def test_blocks_of_the_count_fit_together() -> None:
    text = b'"' + b"[" * 200_000 + b'"'
    assert not is_refused(b"[" * 7 + text + b"]" * 7 + text)
    assert is_refused(b"[" * 5 + b"[]" * 150_000 + text[:-1] + b'\\"", ' + b"[" * 4)


def test_many_lists_are_refused_before_they_take_memory() -> None:
    data = b"[" + b"[]," * MAX_LISTS + b"1]"
    with pytest.raises(errors.RequestError, match="100,000 lists"):
        check_nesting(data, LIMIT)
    check_nesting(data.replace(b"[]", b'"[[["'), LIMIT)


@pytest.mark.parametrize("data", [
    b"[" * 2_000_000 + b"]" * 2_000_000, b'["' + b'\\"' * 2_000_000 + b"[" * 40 + b"]" * 40,
    b'"' * 4_000_000 + b"[" * 40, b'["[[]]",' * 500_000,
])  # fmt: skip
def test_no_body_is_slow_to_count(data: bytes) -> None:
    began = time.process_time()
    is_refused(data)
    assert time.process_time() - began < 1.0  # a twentieth of it, on a quiet machine


def test_a_wide_body_is_not_deep() -> None:
    assert not is_refused(b"[" + b"[1,2]," * 10_000 + b"{}]")
