"""Submitted predictions: fetched by id, cancelled, expired."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from celeriac import errors
from celeriac.messages import (
    MAINTENANCE_QUEUE,
    PREDICT,
    predict_queue,
    result_key,
    submission_key,
)
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer.client import Client

QUEUE = predict_queue("cpu")
ANSWER = {"model": "echo", "version": 1, "value": "a"}


def store(client: redis.Redis, task_id: str, status: str, result: Any) -> None:
    """As Celery's Redis result backend does."""
    client.set(result_key(task_id), json.dumps({"status": status, "result": result}))


def test_the_task_that_is_queued(client: Client, redis_client: redis.Redis) -> None:
    handle = client.submit("echo@1", {"a": 1}, expires_s=120)

    (raw,) = redis_client.lrange(QUEUE, 0, -1)
    message = json.loads(raw)
    assert message["headers"]["task"] == PREDICT
    assert message["headers"]["id"] == handle.id
    assert message["headers"]["ignore_result"] is False
    assert datetime.fromisoformat(message["headers"]["expires"]) == handle.expires_at
    assert json.loads(message["body"])[1] == {
        "model": "echo@1", "items": [{"a": 1}], "submission": handle.id, "v": 1,
    }  # fmt: skip
    assert 118_000 < redis_client.pttl(submission_key(handle.id)) <= 120_000
    assert 118 < (handle.expires_at - datetime.now(UTC)).total_seconds() <= 120


def test_another_process_fetches_the_result(
    client: Client, settings: Settings, redis_client: redis.Redis
) -> None:
    handle = client.submit("echo", "a")
    assert not handle.done()
    with pytest.raises(errors.DeadlineExceeded, match="asked again until"):
        handle.result(0.05)
    store(redis_client, handle.id, "SUCCESS", [ANSWER])

    with Client(settings=settings) as other:
        again = other.prediction(handle.id)
        assert again.done()
        assert again.result(0.05).value == "a"
        assert (again.model, again.expires_at) == (handle.model, handle.expires_at)
    assert not handle.cancel()
    assert handle.result().value == "a"


@pytest.mark.parametrize(
    ("status", "result", "error"),
    [
        ("FAILURE", {"exc_type": "VersionNotFound", "exc_message": ["gone"]},
         errors.VersionNotFound),
        ("FAILURE", {"exc_type": "KeyError", "exc_message": ["x"]}, errors.WorkerError),
        ("REVOKED", {"exc_type": "TaskRevokedError", "exc_message": ["revoked"]},
         errors.Cancelled),
        ("SUCCESS", [{"error": {"code": "item_invalid", "message": "x"}}], errors.InvalidItem),
        ("SUCCESS", [], errors.WorkerError),
        ("SUCCESS", "text", errors.WorkerError),
    ],
)  # fmt: skip
def test_errors(
    client: Client, redis_client: redis.Redis, status: str, result: Any,
    error: type[errors.CeleriacError],
) -> None:
    handle = client.submit("echo", "a")
    store(redis_client, handle.id, status, result)

    assert handle.done()
    with pytest.raises(error):
        handle.result(1)


def test_cancelled_stays_cancelled_whatever_a_worker_stores_later(
    client: Client, redis_client: redis.Redis
) -> None:
    handle = client.submit("echo", "a")
    store(redis_client, handle.id, "STARTED", None)

    assert handle.cancel()
    assert handle.cancel()
    assert redis_client.hget(submission_key(handle.id), "state") == b"cancelled"
    assert redis_client.ttl(submission_key(handle.id)) > 0
    store(redis_client, handle.id, "SUCCESS", [ANSWER])

    assert handle.done()
    assert handle.cancel()
    with pytest.raises(errors.Cancelled):
        handle.result(1)


def test_an_expired_or_unknown_id(client: Client, redis_client: redis.Redis) -> None:
    handle = client.submit("echo", "a", expires_s=1)
    time.sleep(1.05)

    for act in (handle.done, handle.result, handle.cancel, lambda: client.prediction(handle.id)):
        with pytest.raises(errors.PredictionNotFound):
            act()
    with pytest.raises(errors.PredictionNotFound):
        client.prediction("never-given")
    assert not redis_client.exists(submission_key(handle.id))


def test_nothing_is_queued_for_an_item_that_cannot_be_sent(
    client: Client, redis_client: redis.Redis
) -> None:
    with pytest.raises(errors.InvalidItem):
        client.submit("echo", object())
    with pytest.raises(errors.PayloadTooLarge):
        client.submit("echo", "x" * 1_000_001)

    assert not redis_client.exists(QUEUE)
    assert not redis_client.keys("celeriac:submission:*")


def test_promotion_is_asked_of_the_maintenance_role(
    client: Client, registry: Registry, redis_client: redis.Redis
) -> None:
    with pytest.raises(errors.DeadlineExceeded, match=r"celeriac\.models\.promote has no result"):
        client.promote("echo@1", "better", timeout_s=0.1)
    with pytest.raises(errors.RequestError):
        client.rollback("echo@1")

    (raw,) = redis_client.lrange(MAINTENANCE_QUEUE, 0, -1)
    message = json.loads(raw)
    sent = json.loads(message["body"])[1]
    assert (sent["ref"], sent["why"]) == ("echo@1", "better")
    assert "@" in sent["who"]
    assert message["headers"]["expires"] is not None


def test_a_refused_promotion(client: Client, redis_client: redis.Redis) -> None:
    import threading

    def worker() -> None:
        popped: Any = redis_client.blpop([MAINTENANCE_QUEUE], timeout=10)
        task_id = json.loads(popped[1])["headers"]["id"]
        failure = {"exc_type": "PromotionRefused", "exc_message": ["golden example 2 differs"]}
        store(redis_client, task_id, "FAILURE", failure)

    thread = threading.Thread(target=worker)
    thread.start()
    with pytest.raises(errors.PromotionRefused, match="golden example 2"):
        client.promote("echo@1", timeout_s=10)
    thread.join(10)
