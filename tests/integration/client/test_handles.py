"""Submitted predictions: entered once, fetched by id, cancelled, expired, forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import redis

from celeriac import errors
from celeriac.keys import result_key, submission_key
from celeriac.messages import MAINTENANCE_QUEUE, PREDICT_SUBMITTED, predict_queue
from celeriac.registry.store import Registry
from celeriac.settings import GatewaySettings, Settings, SubmissionSettings
from celeriac.submissions.ledger import SubmissionLedger
from producer.broker import Broker
from producer.client import Client
from producer.handles import find, submit
from tests.waiting import wait_until

QUEUE = predict_queue("cpu")
ANSWER = {"model": "echo", "version": 1, "value": "a"}


def answer(client: redis.Redis, *answers: Any, model: str = "echo") -> list[str]:
    """As a worker does: claim what waits and commit answers; the names of those that ended."""
    ledger = SubmissionLedger(client)
    claims = ledger.claim(
        QUEUE, model, worker="w", lease_s=60, message=b"more", most=len(answers)
    ).taken
    encoded = [msgspec.json.encode(one) for one in answers]
    ledger.commit(zip(claims, encoded, strict=False))
    return [claim.name for claim in claims]


def store(client: redis.Redis, task_id: str, status: str, result: Any) -> None:
    """As Celery's Redis result backend does."""
    client.set(result_key(task_id), json.dumps({"status": status, "result": result}))


@pytest.fixture
def small(settings: Settings, registry: Registry) -> Iterator[Client]:
    """A client that may keep two open, and ten altogether."""
    limits = SubmissionSettings(
        max_open=2, max_open_bytes=1_024, max_known=10, kept_s=2, max_tenant_share=1
    )
    with Client(settings=settings.model_copy(update={"submissions": limits})) as client:
        yield client


def test_what_is_entered_and_published(client: Client, redis_client: redis.Redis) -> None:
    handle = client.submit("echo@1", {"a": 1}, expires_s=120)

    (raw,) = redis_client.lrange(QUEUE, 0, -1)
    message = json.loads(raw)
    assert message["headers"]["task"] == PREDICT_SUBMITTED
    assert message["headers"]["line"] == "predict.cpu:echo@1"
    assert message["headers"]["ignore_result"] is True
    assert json.loads(message["body"])[1] == {"model": "echo@1", "queue": QUEUE, "v": 1}
    key = submission_key("default", handle.id)
    assert redis_client.hget(key, "item") == b'{"a":1}'
    assert redis_client.pttl(key) == -1  # as long as it is open, the reconciler owns it
    assert 118 < (handle.expires_at - datetime.now(UTC)).total_seconds() <= 120
    assert handle.status().state == "queued"

    answer(redis_client, ANSWER, model="echo@1")
    assert not redis_client.hexists(key, "item")
    assert 3_700_000 < redis_client.pttl(key) <= 3_720_000
    status = handle.status()
    assert (status.state, status.attempts) == ("done", 1)
    assert status.submitted_at <= status.started_at <= status.ended_at <= status.expires_at  # type: ignore[operator]


def test_one_message_calls_for_a_batch(client: Client, redis_client: redis.Redis) -> None:
    for number in range(65):
        client.submit("echo", number)
    client.submit("texts", "a")

    messages = [json.loads(raw)["headers"]["line"] for raw in redis_client.lrange(QUEUE, 0, -1)]
    assert messages == ["predict.cpu:texts", *["predict.cpu:echo"] * 3]


def test_one_exchange_with_redis(client: Client, redis_client: redis.Redis) -> None:
    client.submit("echo", "a")  # the script is known now

    def calls() -> dict[str, int]:
        stats: Any = redis_client.info("commandstats")
        return {name: stats[name]["calls"] for name in stats if name != "cmdstat_info"}

    before = calls()
    client.submit("echo", "b", id="mine")
    after = calls()
    assert after["cmdstat_evalsha"] == before["cmdstat_evalsha"] + 1
    assert after.get("cmdstat_eval") == before.get("cmdstat_eval")


def test_another_process_fetches_the_result(
    client: Client, settings: Settings, redis_client: redis.Redis
) -> None:
    handle = client.submit("echo", "a")
    assert not handle.done()
    with pytest.raises(errors.DeadlineExceeded, match="asked again until"):
        handle.result(0.05)
    answer(redis_client, ANSWER)

    with Client(settings=settings) as other:
        again = other.prediction(handle.id)
        assert again.done()
        assert again.result(0.05).value == "a"
        assert (again.model, again.expires_at) == (handle.model, handle.expires_at)
    assert not handle.cancel()
    assert handle.result().value == "a"


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        ({"error": {"code": "version_not_found", "message": "gone"}}, errors.VersionNotFound),
        ({"error": {"code": "item_invalid", "message": "x"}}, errors.InvalidItem),
        ({"error": {"code": "worker_failed", "message": "x"}}, errors.WorkerError),
        ({"no": "prediction"}, errors.WorkerError),
    ],
)  # fmt: skip
def test_errors(
    client: Client, redis_client: redis.Redis, stored: Any, error: type[errors.CeleriacError]
) -> None:
    handle = client.submit("echo", "a")
    answer(redis_client, stored)

    assert handle.done()
    assert handle.status().state == ("failed" if "error" in stored else "done")
    with pytest.raises(error):
        handle.result(1)


def test_the_same_id_is_entered_once(client: Client, redis_client: redis.Redis) -> None:
    first = client.submit("echo", {"a": 1, "b": [2]}, id="order-7", expires_s=60)
    again = client.submit("echo", {"b": [2], "a": 1}, id="order-7", expires_s=60)

    assert (again.id, again.expires_at) == ("order-7", first.expires_at)
    assert redis_client.llen(QUEUE) == 1
    for model, item, options in (
        ("echo", {"a": 2}, {}), ("echo@1", {"a": 1, "b": [2]}, {}),
        ("echo", {"a": 1, "b": [2]}, {"expires_s": 61}),
    ):  # fmt: skip
        with pytest.raises(errors.Conflict, match="order-7"):
            client.submit(model, item, id="order-7", **{"expires_s": 60, **options})  # type: ignore[arg-type]
    answer(redis_client, ANSWER)
    assert client.submit("echo", {"a": 1, "b": [2]}, id="order-7", expires_s=60).done()
    for bad in ("", "a/b", "x" * 65, "a:b", "ä", "a\n"):
        with pytest.raises(errors.RequestError, match="1 to 64"):
            client.submit("echo", 1, id=bad)
        with pytest.raises(errors.PredictionNotFound):
            client.prediction(bad)


def test_many_who_submit_the_same_at_once(client: Client, redis_client: redis.Redis) -> None:
    with ThreadPoolExecutor(8) as pool:
        handles = list(pool.map(lambda _: client.submit("echo", 1, id="one"), range(40)))
    assert {handle.expires_at for handle in handles} == {handles[0].expires_at}
    assert answer(redis_client, ANSWER, ANSWER) == ["default:one"]
    assert client.prediction("one").done()


def test_each_tenant_has_ids_of_its_own(
    client: Client, settings: Settings, redis_client: redis.Redis
) -> None:
    broker = Broker(settings)
    route = client.realtime.routes.find("echo", 5)
    for tenant, item in (("a", b"1"), ("b", b"2")):
        _, is_new = submit(
            broker, route, item, prediction_id="same", tenant=tenant, expires_s=60, timeout_s=5
        )
        assert is_new
    with pytest.raises(errors.PredictionNotFound):
        client.prediction("same")
    assert find(broker, "same", 5, "a").cancel()
    assert find(broker, "same", 5, "b").status().state == "queued"
    with pytest.raises(errors.PredictionNotFound):
        find(broker, "same", 5, "c")
    broker.close()


def test_cancelled_stays_cancelled_whatever_a_worker_brings_later(
    client: Client, redis_client: redis.Redis
) -> None:
    handle = client.submit("echo", "a")
    ledger = SubmissionLedger(redis_client)
    (claim,) = ledger.claim(QUEUE, "echo", worker="w", lease_s=60, message=b"").taken

    assert handle.cancel()
    assert handle.cancel()
    ended = ledger.commit([(claim, msgspec.json.encode(ANSWER))])

    assert ended.outcomes == ("ended",)
    assert handle.done()
    with pytest.raises(errors.Cancelled):
        handle.result(1)
    assert redis_client.ttl(submission_key("default", handle.id)) > 0
    assert answer(redis_client) == []


def test_one_whose_time_is_over_has_expired_and_is_forgotten_later(
    small: Client, redis_client: redis.Redis
) -> None:
    handle = small.submit("echo", "a", expires_s=1)
    wait_until(lambda: handle.status().state == "expired")
    assert handle.done()
    assert not handle.cancel()
    with pytest.raises(errors.Expired, match="submit the item again"):
        handle.result(1)
    assert SubmissionLedger(redis_client).overview().open == 0
    wait_until(lambda: not redis_client.exists(submission_key("default", handle.id)))
    for act in (handle.done, handle.result, handle.status, handle.cancel,
                lambda: small.prediction(handle.id)):
        with pytest.raises(errors.PredictionNotFound):
            act()
    with pytest.raises(errors.PredictionNotFound):
        small.prediction("never-given")


def test_more_than_may_be_open_is_refused(small: Client, redis_client: redis.Redis) -> None:
    small.submit("echo", 1)
    second = small.submit("echo", 2, id="second")
    with pytest.raises(errors.Overloaded, match="max_open") as caught:
        small.submit("echo", 3)
    assert caught.value.retry_after_s == 60  # nothing ends
    assert small.submit("echo", 2, id="second").id == second.id  # what is there is not refused
    assert second.cancel()
    with pytest.raises(errors.Overloaded, match="max_open"):
        small.submit("echo", "x" * 1_100)
    for _ in range(8):
        small.submit("echo", 3).cancel()
    with pytest.raises(errors.Overloaded, match="max_known") as caught:
        small.submit("echo", 4)
    assert caught.value.retry_after_s > 80_000  # when the first one is forgotten


def test_webhooks_go_to_listed_hosts_only(settings: Settings, registry: Registry) -> None:
    with Client(settings=settings) as client, pytest.raises(errors.RequestError, match="operator"):
        client.submit("echo", 1, webhook="https://example.org/done")
    gateway = GatewaySettings(webhook_hosts=("example.org",), webhook_secret="s" * 32)
    with Client(settings=settings.model_copy(update={"gateway": gateway})) as client:
        handle = client.submit("echo", 1, id="w", webhook="https://example.org/done")
        assert handle.status().webhook == "https://example.org/done"
        with pytest.raises(errors.Conflict):
            client.submit("echo", 1, id="w")


def test_nothing_is_entered_for_an_item_that_cannot_be_sent(
    client: Client, redis_client: redis.Redis
) -> None:
    with pytest.raises(errors.InvalidItem):
        client.submit("echo", object())
    with pytest.raises(errors.PayloadTooLarge):
        client.submit("echo", "x" * 1_000_001)

    assert not redis_client.exists(QUEUE)
    assert not redis_client.keys("celeriac:submission*")


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


def test_a_rollback_is_asked_once_where_the_answer_of_redis_is_lost(
    client: Client, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that run at the same time one is refused, and that was what the caller was told."""
    sender = client.broker.redis
    read, lost = sender.parse_response, []

    def lost_once(connection: Any, *args: Any, **options: Any) -> Any:
        answer = read(connection, *args, **options)
        if not lost and redis_client.llen(MAINTENANCE_QUEUE):
            lost.append(answer)
            raise redis.ConnectionError("lost")
        return answer

    monkeypatch.setattr(sender, "parse_response", lost_once)
    with pytest.raises(errors.DeadlineExceeded):
        client.rollback("echo", timeout_s=0.05)
    assert lost
    assert redis_client.llen(MAINTENANCE_QUEUE) == 1


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
