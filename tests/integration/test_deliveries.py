"""Webhooks that are due: taken under a lease, settled once, kept as long as somebody may ask."""

from __future__ import annotations

import msgspec
import redis

from celeriac.messages import WEBHOOK_HOSTS_KEY
from celeriac.submissions.deliveries import Deliveries
from celeriac.submissions.ledger import Limits, Submission, SubmissionLedger, Webhook
from tasks.webhooks import body_of

HOST = "hooks.example.org:443"
LIMITS = Limits(open=100, open_bytes=10_000, known=100)


def end_some(client: redis.Redis, count: int, answer: bytes = b'{"model":"m","version":2}') -> None:
    ledger = SubmissionLedger(client)
    for number in range(count):
        ledger.submit(Submission(
            tenant="t", id=f"p{number}", model="m", queue="q", item=b"1", digest="",
            expires_s=60, kept_s=60,
            webhook=Webhook(delivery=f"d{number}", url="https://hooks.example.org/x", host=HOST),
        ), LIMITS, b"call")
    claims = ledger.claim("q", "m", worker="w", lease_s=60, message=b"call").taken
    assert ledger.commit((claim, answer) for claim in claims).hosts == (HOST,)


def test_taken_by_one_and_again_when_its_taker_has_died(redis_client: redis.Redis) -> None:
    end_some(redis_client, 3)
    deliveries = Deliveries(redis_client)
    assert deliveries.hosts() == [HOST]

    first = deliveries.take(HOST, most=2, lease_s=0)
    second = deliveries.take(HOST, most=9, lease_s=60)

    assert sorted(one.id for one in second) == ["d0", "d1", "d2"]
    assert {one.id: one.attempt for one in second} == {
        one.id: 2 if one.id in {two.id for two in first} else 1 for one in second
    }
    assert deliveries.take(HOST, most=9, lease_s=60) == []
    assert deliveries.hosts() == []  # nothing is due
    assert not deliveries.failed(first[0], "late", 0), "another attempt has begun since"
    assert deliveries.arrived(first[0])  # it did arrive, whoever says so
    assert not deliveries.arrived(first[0])
    rest = [one for one in second if one.id != first[0].id]
    assert deliveries.failed(rest[0], "no", 0)
    assert deliveries.failed(rest[1], "never", None)
    (again,) = deliveries.take(HOST, most=9, lease_s=60)
    assert (again.id, again.attempt) == (rest[0].id, rest[0].attempt + 1)
    assert body_of(again) == body_of(rest[0])
    assert deliveries.arrived(again)
    assert deliveries.hosts() == []
    assert not redis_client.exists(WEBHOOK_HOSTS_KEY)


def test_what_is_left_of_a_delivery_goes_with_its_prediction(redis_client: redis.Redis) -> None:
    end_some(redis_client, 1)
    deliveries = Deliveries(redis_client)
    assert 86_000_000 < redis_client.pttl("celeriac:webhook:d0") <= 86_400_000
    (delivery,) = deliveries.take(HOST, most=1, lease_s=60)
    deliveries.arrived(delivery)
    assert 100_000 < redis_client.pttl("celeriac:webhook:d0") <= 120_000
    assert not redis_client.hexists("celeriac:webhook:d0", "answer")
    record = SubmissionLedger(redis_client).read("t", "p0")
    assert record is not None
    assert (record.webhook_status, record.webhook_attempts) == ("delivered", 1)


def test_a_delivery_that_redis_has_forgotten_is_dropped(redis_client: redis.Redis) -> None:
    end_some(redis_client, 2)
    redis_client.delete("celeriac:webhook:d0")
    deliveries = Deliveries(redis_client)
    (delivery,) = deliveries.take(HOST, most=9, lease_s=60)
    assert delivery.id == "d1"
    assert redis_client.zcard(f"celeriac:webhooks:due:{HOST}") == 1


def test_what_is_told_of_each_end(redis_client: redis.Redis) -> None:
    end_some(redis_client, 1, b'{"error":{"code":"item_invalid","message":"no"}}')
    (delivery,) = Deliveries(redis_client).take(HOST, most=1, lease_s=60)
    told = msgspec.json.decode(body_of(delivery))
    assert told.pop("finished_at").endswith("Z")
    assert told == {
        "id": "p0", "model": "m", "version": None, "state": "failed",
        "error": {"code": "item_invalid", "message": "no"},
    }  # fmt: skip
