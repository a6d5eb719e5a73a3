"""Labels that turn wrong open one episode, which is told once; on a real server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis

from celeriac import metrics, release
from celeriac.drift.concept import ErrorTest, note_errors
from celeriac.drift.error_tests import read_test, step_version
from celeriac.drift.events import DriftEvent
from celeriac.drift.feedback import Labelled, labelled_versions, record
from celeriac.drift.labels import Judged
from celeriac.drift.profile import Performance
from celeriac.keys import feedback_stream_key, feedback_test_key
from celeriac.messages import DRIFT_LABELS, DRIFT_NOTICE, MAINTENANCE_QUEUE
from celeriac.registry.store import Registry
from celeriac.settings import FeedbackSettings, Settings
from producer.broker import Broker
from tasks import drift_labels
from tasks.drift_labels import look
from tasks.schedule import beat_schedule

NOW = 1_800_000_000.0


@pytest.fixture
def broker(settings: Settings, redis_client: redis.Redis) -> Iterator[Broker]:
    broker = Broker(settings)
    yield broker
    broker.close()


def label(broker: Broker, errors_: Any, *, model: str = "reviews", at_s: float = NOW) -> None:
    for one in errors_:
        judged = (
            Judged(right=not one) if isinstance(one, (bool, np.bool_))
            else Judged(absolute_error=float(one))
        )
        record(broker.redis, Labelled(
            model=model, version=3, made_s=at_s, nonce=os.urandom(8), judged=judged,
        ), broker.settings.feedback, now_s=at_s)  # fmt: skip


def wrong(share: float, labels: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random(labels) < share


def notices(client: redis.Redis) -> list[DriftEvent]:
    found = []
    for message in client.lrange(MAINTENANCE_QUEUE, 0, -1):
        read = json.loads(message)
        assert read["headers"]["task"] == DRIFT_NOTICE
        found.append(DriftEvent.from_dict(json.loads(read["body"])[1]["event"]))
    return found[::-1]


def test_labels_that_turn_wrong_open_one_episode(
    broker: Broker, redis_client: redis.Redis
) -> None:
    label(broker, wrong(0.1, 800))
    assert look(broker, NOW) == []
    label(broker, wrong(0.4, 200, 1))
    (opened,) = look(broker, NOW + 15)
    gauge = metrics.DRIFT_EPISODE.labels("reviews", "3", "concept_drift")
    assert gauge._value.get() == 1
    assert metrics.LABELLED_AT.labels("reviews", "3")._value.get() == pytest.approx(NOW, abs=60)
    label(broker, wrong(0.4, 100, 2))
    assert look(broker, NOW + 30) == []
    label(broker, wrong(0.1, 600, 3))
    (closed,) = look(broker, NOW + 45)
    assert gauge._value.get() == 0
    assert [opened.state, closed.state] == ["opened", "closed"]
    assert (opened.kind, opened.source, opened.ref) == ("concept_drift", "feedback", "reviews@3")
    assert "labelled answers are wrong; usual is" in opened.detail
    assert "(the first labels, 300 rows)" in opened.detail
    assert notices(redis_client) == [opened, closed]
    assert redis_client.llen(feedback_stream_key("reviews", 3)) == 0
    assert redis_client.ttl(feedback_test_key("reviews", 3)) > 0
    test = read_test(redis_client, "reviews", 3)
    assert test is not None
    assert test.labels == 1_700


def test_each_label_is_looked_at_once(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(broker, wrong(0.1, 400))
    place = "celeriac.drift.error_tests.note_errors"

    def interrupted(*given: Any) -> Any:
        """Another process is faster."""
        monkeypatch.setattr(place, note_errors)
        look(broker, NOW)
        return note_errors(*given)

    monkeypatch.setattr(place, interrupted)
    before = metrics.LABELLED.labels("reviews", "3")._value.get()
    assert look(broker, NOW + 1) == []
    test = read_test(redis_client, "reviews", 3)
    assert test is not None
    assert test.labels == 400
    assert metrics.LABELLED.labels("reviews", "3")._value.get() == before + 400
    assert metrics.ACCURACY.labels("reviews", "3")._value.get() == pytest.approx(
        1 - wrong(0.1, 400).mean()
    )


def test_a_reference_says_what_is_usual(
    broker: Broker, redis_client: redis.Redis, settings: Settings
) -> None:
    from sklearn.linear_model import LinearRegression, LogisticRegression

    chance = np.random.default_rng(1)
    rows = chance.normal(size=(2_000, 1))
    noisy = rows[:, 0] + chance.normal(size=2_000) * 0.5
    registry = Registry(settings.models.root)
    for name, model, truth in (
        ("sizes", LogisticRegression(), (noisy > 0).astype(int)),
        ("price", LinearRegression(), noisy),
    ):  # fmt: skip
        release.register(
            name, model.fit(rows, truth), examples=rows[:5], reference=rows,
            reference_labels=truth.tolist(), registry=registry,
        )
    for name, found in (("sizes", wrong(0.5, 60)), ("price", np.full(60, 3.0))):
        for one in found:
            judged = Judged(right=not one) if name == "sizes" else Judged(absolute_error=one)
            record(broker.redis, Labelled(
                model=name, version=1, made_s=NOW, nonce=os.urandom(8), judged=judged,
            ), settings.feedback, now_s=NOW)  # fmt: skip
    events = {event.model: event for event in look(broker, NOW)}
    assert "(the reference, 2,000 rows)" in events["sizes"].detail
    assert "off by more than 0." in events["price"].detail
    test = read_test(redis_client, "price", 1)
    assert test is not None
    assert test.usual is not None
    assert test.usual.far == pytest.approx(0.5 * 1.2816, rel=0.1)


def test_an_episode_that_nobody_labels_any_more_is_given_up(broker: Broker) -> None:
    label(broker, wrong(0.05, 400))
    label(broker, wrong(0.9, 60))
    (opened,) = look(broker, NOW)
    assert opened.state == "opened"
    gauge = metrics.DRIFT_EPISODE.labels("reviews", "3", "concept_drift")
    gauge.set(0)  # a process that has just begun
    assert look(broker, NOW + 86_400) == []
    assert gauge._value.get() == 1
    (closed,) = look(broker, NOW + 8 * 86_400)
    assert (closed.state, closed.detail) == ("closed", "no label has come for 7 days")
    assert look(broker, NOW + 9 * 86_400) == []


def test_versions_without_labels_are_forgotten(broker: Broker, redis_client: redis.Redis) -> None:
    label(broker, wrong(0.1, 3))
    look(broker, NOW + broker.settings.feedback.kept_s + 60)
    assert labelled_versions(redis_client) == {}


def test_a_damaged_test_begins_anew(broker: Broker, redis_client: redis.Redis) -> None:
    redis_client.set(feedback_test_key("reviews", 3), b"{}garbage")
    label(broker, [False, False, True])
    assert look(broker, NOW) == []
    assert read_test(redis_client, "reviews", 3) == ErrorTest(gathered=(0.0, 0.0, 1.0), labels=3)


def test_one_that_is_damaged_asks_the_reference_again(redis_client: redis.Redis) -> None:
    redis_client.set(feedback_test_key("reviews", 3), b"{}garbage")
    redis_client.rpush(feedback_stream_key("reviews", 3), "0")
    step_version(
        redis_client, "reviews", 3, settings=FeedbackSettings(), queue=MAINTENANCE_QUEUE,
        performance=lambda: Performance(measure="accuracy", value=0.9, error=0.01, rows=900),
        message=lambda event: b"", last_label_s=NOW, now_s=NOW,
    )
    test = read_test(redis_client, "reviews", 3)
    assert test is not None
    assert test.usual is not None
    assert test.usual.source == "reference"


def test_beat_has_labels_looked_at(settings: Settings) -> None:
    entry = beat_schedule(settings)["look-at-labels"]
    assert (entry["task"], entry["options"]["queue"]) == (DRIFT_LABELS, MAINTENANCE_QUEUE)


def test_a_version_that_cannot_be_looked_at_keeps_no_other_from_it(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(client: Any, model: str, *given: Any, **more: Any) -> Any:
        if model == "odd":
            raise ZeroDivisionError("odd")
        return step_version(client, model, *given, **more)

    monkeypatch.setattr(drift_labels, "step_version", odd)
    label(broker, wrong(0.1, 800), model="odd")
    label(broker, wrong(0.1, 800))
    assert look(broker, NOW) == []
    label(broker, wrong(0.4, 200, 1))
    assert [event.model for event in look(broker, NOW + 15)] == ["reviews"]
