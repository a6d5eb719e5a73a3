"""Labels as counts, on a real server."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
import redis

from celeriac import errors
from celeriac.drift import feedback
from celeriac.drift.feedback import Labelled, accuracies, accuracy_since, record
from celeriac.drift.labels import FARTHEST, Judged
from celeriac.keys import feedback_seen_key, feedback_stream_key
from celeriac.settings import FeedbackSettings

NOON = 1_800_000_000 // 86_400 * 86_400 + 43_200.0
SETTINGS = FeedbackSettings()


def label(right: bool | None = None, *, off: float | None = None, **changes: Any) -> Labelled:
    known: dict[str, Any] = {
        "model": "reviews", "version": 3, "made_s": NOON, "nonce": os.urandom(8),
        "judged": Judged(right=right, absolute_error=off),
    }
    return Labelled(**known | changes)


def count(client: redis.Redis, one: Labelled, settings: FeedbackSettings = SETTINGS) -> bool:
    return record(client, one, settings, now_s=NOON)


def test_labels_add_up_by_version_and_time(redis_client: redis.Redis) -> None:
    for right in (True, True, False):
        assert count(redis_client, label(right))
    assert count(redis_client, label(False, made_s=NOON - 86_400))
    assert count(redis_client, label(False, version=4))
    found = accuracy_since(redis_client, "reviews", 3, NOON, NOON)
    assert (found.measure, found.rows) == ("accuracy", 3)
    assert found.value == pytest.approx(2 / 3)
    assert found.interval == pytest.approx((0.2077, 0.9385), abs=1e-3)
    whole = accuracy_since(redis_client, "reviews", 3, NOON - 90_000, NOON)
    assert (whole.rows, whole.value) == (4, 0.5)
    newest, before = accuracies(redis_client, "reviews", NOON - 90_000, 86_400, NOON)
    assert (newest.version, before.version, before.whole) == (4, 3, whole)
    assert [(begin_s - NOON, one.rows) for begin_s, one in before.over_time] == [
        (-129_600.0, 1), (-43_200.0, 3)
    ]
    assert set(feedback.labelled_versions(redis_client)) == {("reviews", 3), ("reviews", 4)}


def test_a_prediction_counts_once(redis_client: redis.Redis) -> None:
    once = label(True, nonce=b"the same")
    assert count(redis_client, once)
    assert not count(redis_client, once)
    assert not count(redis_client, label(False, nonce=b"the same"))
    found = accuracy_since(redis_client, "reviews", 3, NOON, NOON)
    assert (found.rows, found.value) == (1, 1.0)
    assert redis_client.lrange(feedback_stream_key("reviews", 3), 0, -1) == [b"0"]


def test_numbers_have_an_absolute_error(redis_client: redis.Redis) -> None:
    for off in (1.0, 2.0, 6.0):
        count(redis_client, label(off=off))
    found = accuracy_since(redis_client, "reviews", 3, NOON, NOON)
    assert (found.measure, found.rows, found.value) == ("mean absolute error", 3, 3.0)
    assert not found.more_is_better
    assert found.error == pytest.approx(math.sqrt(14 / 3 / 3))
    assert redis_client.lrange(feedback_stream_key("reviews", 3), 0, -1) == [b"1.0", b"2.0", b"6.0"]
    count(redis_client, label(off=0.999 * FARTHEST))  # its square is a number
    assert accuracy_since(redis_client, "reviews", 3, NOON, NOON).rows == 4


def test_errors_of_small_numbers_have_a_spread_too(redis_client: redis.Redis) -> None:
    for off in (1e-10, 2e-10, 6e-10):
        count(redis_client, label(off=off))
    found = accuracy_since(redis_client, "reviews", 3, NOON, NOON)
    assert found.value == pytest.approx(3e-10)
    assert found.error == pytest.approx(1e-10 * math.sqrt(14 / 3 / 3))


def test_of_no_labels_nothing_is_said(redis_client: redis.Redis) -> None:
    found = accuracy_since(redis_client, "reviews", 3, NOON, NOON)
    assert (found.rows, found.interval) == (0, (0.0, 1.0))
    assert accuracies(redis_client, "reviews", NOON, 3_600, NOON) == []


def test_what_is_remembered_is_bounded_and_expires(redis_client: redis.Redis) -> None:
    few = FeedbackSettings(max_per_day=2)
    assert count(redis_client, label(True), few)
    assert count(redis_client, label(True), few)
    with pytest.raises(errors.Overloaded, match="2 predictions that reviews@3 made on one day"):
        count(redis_client, label(True), few)
    assert count(redis_client, label(True, made_s=NOON - 86_400), few)
    seen = feedback_seen_key("reviews", 3, int(NOON // 86_400))
    assert redis_client.expiretime(seen) == NOON + 43_200 + few.accepted_s
    for key in redis_client.keys("celeriac:feedback:*"):
        assert redis_client.ttl(key) > 0, key


def test_a_stream_that_nobody_reads_is_bounded(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "MOST_WAITING", 2)
    for _ in range(4):
        count(redis_client, label(True))
    assert redis_client.llen(feedback_stream_key("reviews", 3)) == 2
    assert accuracy_since(redis_client, "reviews", 3, NOON, NOON).rows == 4


def test_the_key_is_made_once(redis_client: redis.Redis) -> None:
    first = feedback.signing_key(redis_client, SETTINGS)
    assert len(first) == 64
    assert feedback.signing_key(redis_client, SETTINGS) == first
    own = FeedbackSettings(secret="ours")
    assert feedback.signing_key(redis_client, own) == b"ours"
