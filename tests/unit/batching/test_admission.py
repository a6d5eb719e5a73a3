"""What is refused of a long queue, and what it is told."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from celeriac.batching.admission import Bounds, Refusal, refuse

BOUNDS = Bounds(max_queue_s=2.0, max_queue_items=1_000)


@pytest.mark.parametrize(
    ("messages", "each", "seconds_per_item", "found"),
    [
        (0, 1.0, 0.01, None),
        (200, 1.0, 0.01, None),
        (201, 1.0, 0.01, Refusal(messages=1, retry_after_s=1.0)),
        (300, 1.0, 0.01, Refusal(messages=100, retry_after_s=1.0)),
        (300, 10.0, 0.01, Refusal(messages=280, retry_after_s=1.0)),
        # Nothing is known of the pace: only the number counts, and the time is short.
        (1_000, 1.0, 0.0, None),
        (1_010, 1.0, 0.0, Refusal(messages=10, retry_after_s=0.05)),
        (1_010, 1.0, 0.0001, Refusal(messages=10, retry_after_s=0.05)),
        # A model slower than the bound still gets one message at a time.
        (5, 1.0, 10.0, Refusal(messages=4, retry_after_s=5.0)),
    ],
)
def test_refusals(
    messages: int, each: float, seconds_per_item: float, found: Refusal | None
) -> None:
    refusal = refuse(
        messages=messages, items_per_message=each, seconds_per_item=seconds_per_item, bounds=BOUNDS
    )
    assert refusal == found


@given(st.integers(0, 10**6), st.floats(0, 1000), st.floats(0, 100))
def test_what_is_left_keeps_the_bounds_and_is_never_nothing(
    messages: int, each: float, seconds_per_item: float
) -> None:
    refusal = refuse(
        messages=messages, items_per_message=each, seconds_per_item=seconds_per_item, bounds=BOUNDS
    )
    kept = messages - (refusal.messages if refusal else 0)
    assert kept == messages or kept >= 1
    if kept > 1:
        assert kept * each <= BOUNDS.max_queue_items
        assert kept * each * seconds_per_item <= BOUNDS.max_queue_s * 1.001
    if refusal:
        assert refusal.retry_after_s > 0
