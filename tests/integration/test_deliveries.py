"""Webhooks that are due: taken under a lease, settled once, kept as long as somebody may ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import redis

from celeriac.keys import WEBHOOK_HOSTS_KEY, WEBHOOKS_SILENT_PREFIX
from celeriac.submissions.deliveries import NEVER_ANSWERED, PAUSES_S, Deliveries, Delivery
from celeriac.submissions.ledger import Limits, Submission, SubmissionLedger, Webhook
from celeriac.submissions.sender import AT_ONCE_OF_HOST, NOT_ENDED, Sender, Sent
from tasks.webhooks import body_of

HOST = "hooks.example.org:443"
LIMITS = Limits(open=100, open_bytes=10_000, known=100)


def end_some(
    client: redis.Redis, count: int, answer: bytes = b'{"model":"m","version":2}',
    host: str = HOST, prefix: str = "",
) -> None:
    ledger = SubmissionLedger(client)
    for number in range(count):
        ledger.submit(Submission(
            tenant="t", id=f"{prefix}p{number}", model="m", queue="q", item=b"1", digest="",
            expires_s=60, kept_s=60, webhook=Webhook(
                delivery=f"{prefix}d{number}", url="https://hooks.example.org/x", host=host
            ),
        ), LIMITS, b"call")
    claims = ledger.claim("q", "m", worker="w", lease_s=60, message=b"call").taken
    assert ledger.commit((claim, answer) for claim in claims).hosts == (host,)


def test_taken_by_one_and_again_when_its_taker_has_died(redis_client: redis.Redis) -> None:
    end_some(redis_client, 3)
    deliveries = Deliveries(redis_client)
    assert deliveries.hosts() == [HOST]

    first = deliveries.take(HOST, most=2, lease_s=0).deliveries
    second = deliveries.take(HOST, most=9, lease_s=60).deliveries

    assert sorted(one.id for one in second) == ["d0", "d1", "d2"]
    assert {one.id: one.attempt for one in second} == {
        one.id: 2 if one.id in {two.id for two in first} else 1 for one in second
    }
    assert not deliveries.take(HOST, most=9, lease_s=60).deliveries
    assert deliveries.hosts() == []  # nothing is due
    assert not deliveries.failed(first[0], "late", 0), "another attempt has begun since"
    assert deliveries.arrived(first[0])  # it did arrive, whoever says so
    assert not deliveries.arrived(first[0])
    rest = [one for one in second if one.id != first[0].id]
    assert deliveries.failed(rest[0], "no", 0)
    assert deliveries.failed(rest[1], "never", None)
    (again,) = deliveries.take(HOST, most=9, lease_s=60).deliveries
    assert (again.id, again.attempt) == (rest[0].id, rest[0].attempt + 1)
    assert body_of(again) == body_of(rest[0])
    assert deliveries.arrived(again)
    assert deliveries.hosts() == []
    assert not redis_client.exists(WEBHOOK_HOSTS_KEY)


def test_what_is_left_of_a_delivery_goes_with_its_prediction(redis_client: redis.Redis) -> None:
    end_some(redis_client, 1)
    deliveries = Deliveries(redis_client)
    assert 86_000_000 < redis_client.pttl("celeriac:webhook:d0") <= 86_400_000
    (delivery,) = deliveries.take(HOST, most=1, lease_s=60).deliveries
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
    (delivery,) = deliveries.take(HOST, most=9, lease_s=60).deliveries
    assert delivery.id == "d1"
    assert redis_client.zcard(f"celeriac:webhooks:due:{HOST}") == 1


def test_what_is_told_of_each_end(redis_client: redis.Redis) -> None:
    end_some(redis_client, 1, b'{"error":{"code":"item_invalid","message":"no"}}')
    (delivery,) = Deliveries(redis_client).take(HOST, most=1, lease_s=60).deliveries
    told = msgspec.json.decode(body_of(delivery))
    assert told.pop("finished_at").endswith("Z")
    assert told == {
        "id": "p0", "model": "m", "version": None, "state": "failed",
        "error": {"code": "item_invalid", "message": "no"},
    }  # fmt: skip


# --- hosts that do not answer ---------------------------------------------------------------------


def wait_over(client: redis.Redis, host: str = HOST) -> None:
    """As if the time were over for which a host is left alone, and for its deliveries' next try."""
    client.hset(WEBHOOKS_SILENT_PREFIX + host, "until_ms", 0)
    found: Any = client.zrange(f"celeriac:webhooks:due:{host}", 0, -1)
    client.zadd(f"celeriac:webhooks:due:{host}", dict.fromkeys(found, 0))


def test_a_silent_host_is_left_alone_longer_and_longer_and_asked_once(
    redis_client: redis.Redis,
) -> None:
    end_some(redis_client, 9)
    deliveries = Deliveries(redis_client)
    assert len(deliveries.take(HOST, most=2, lease_s=60).deliveries) == 2
    for attempts, pause_s in enumerate([*PAUSES_S, PAUSES_S[-1]], 1):
        assert deliveries.silent(HOST) == attempts
        assert deliveries.silent(HOST) == attempts  # another that was under way
        until_ms = int(redis_client.hget(WEBHOOKS_SILENT_PREFIX + HOST, "until_ms") or 0)
        left_s = until_ms / 1_000 - redis_client.time()[0]
        assert pause_s - 3 < left_s < pause_s + 1
        assert deliveries.hosts() == []
        assert not deliveries.take(HOST, most=8, lease_s=60).deliveries
        wait_over(redis_client)
        assert deliveries.hosts() == [HOST]
        assert len(deliveries.take(HOST, most=8, lease_s=60).deliveries) == 1
    assert 0 < redis_client.pttl(WEBHOOKS_SILENT_PREFIX + HOST) < 700_000
    deliveries.answered(HOST)
    assert len(deliveries.take(HOST, most=9, lease_s=60).deliveries) == 8


def test_what_is_too_old_is_given_up(redis_client: redis.Redis) -> None:
    end_some(redis_client, 3)
    for delivery in ("d0", "d2"):
        redis_client.hincrby(f"celeriac:webhook:{delivery}", "ended_ms", -43_200_001)
    taken = Deliveries(redis_client).take(HOST, most=1, lease_s=60)
    assert [one.id for one in taken.deliveries] == ["d1"]
    assert taken.given_up == 2
    record = SubmissionLedger(redis_client).read("t", "p2")
    assert record is not None
    assert (record.webhook_status, record.webhook_reason) == ("given_up", NEVER_ANSWERED)
    assert redis_client.zcard(f"celeriac:webhooks:due:{HOST}") == 1


class Hosts:
    """Receivers: ``hangs:1`` does not answer before it is let go, all others take everything."""

    def __init__(self, client: redis.Redis) -> None:
        self.deliveries = Deliveries(client)
        self.release = threading.Event()
        self.arrived = threading.Event()
        self.problems: dict[str, str] = {}
        self.most_at_once = 0
        self._hanging = 0
        self._lock = threading.Lock()

    def send(self, delivery: Delivery) -> Sent:
        if delivery.host.startswith("breaks"):
            raise ValueError("a defect")
        if not delivery.host.startswith("hangs"):
            return Sent()
        with self._lock:
            self._hanging += 1
            self.most_at_once = max(self.most_at_once, self._hanging)
        self.release.wait(20)
        with self._lock:
            self._hanging -= 1
        return Sent("it took too long", is_silent=True)

    def settle(self, delivery: Delivery, sent: Sent) -> None:
        self.problems[delivery.id] = sent.problem
        if sent.problem:
            self.deliveries.failed(delivery, sent.problem, 60)
        else:
            self.deliveries.arrived(delivery)
            self.arrived.set()

    def sender(self) -> Sender:
        return Sender(self.deliveries, self.send, self.settle)


@pytest.fixture
def hosts(redis_client: redis.Redis) -> Iterator[Hosts]:
    hosts = Hosts(redis_client)
    yield hosts
    hosts.release.set()


def in_thread(run: Callable[[], int]) -> threading.Thread:
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_host_that_hangs_holds_up_no_other(redis_client: redis.Redis, hosts: Hosts) -> None:
    end_some(redis_client, 20, host="hangs:1", prefix="h")
    thread = in_thread(lambda: hosts.sender().run(longest_s=30, patience_s=30))
    try:
        end_some(redis_client, 20, host="good:1", prefix="g")  # while the others hang
        assert hosts.arrived.wait(20)
        assert not hosts.release.is_set()
        assert not any(one.startswith("h") for one in hosts.problems)
    finally:
        hosts.release.set()
        thread.join(30)
    assert hosts.most_at_once == AT_ONCE_OF_HOST
    assert sum(not problem for problem in hosts.problems.values()) == 20
    # It is left alone after its first silence, and the rest of its deliveries have lost nothing.
    hung = [one for one in hosts.problems if one.startswith("h")]
    assert len(hung) == AT_ONCE_OF_HOST
    assert redis_client.zcard("celeriac:webhooks:due:hangs:1") == 20
    wait_over(redis_client, "hangs:1")
    hosts.release.clear()
    hosts.most_at_once = 0
    assert hosts.sender().run(longest_s=0.6, patience_s=0.2) == 0  # looks for more several times
    hosts.release.set()
    assert hosts.most_at_once == 1
    assert redis_client.hget(WEBHOOKS_SILENT_PREFIX + "hangs:1", "attempts") == b"2"
    wait_over(redis_client, "hangs:1")
    assert hosts.sender().run(longest_s=30, patience_s=30) == 0
    assert redis_client.hget(WEBHOOKS_SILENT_PREFIX + "hangs:1", "attempts") == b"3"


def test_an_attempt_that_does_not_end_is_not_waited_for(
    redis_client: redis.Redis, hosts: Hosts
) -> None:
    end_some(redis_client, 1, host="hangs:1", prefix="h")
    assert hosts.sender().run(longest_s=0.2, patience_s=0.2) == 0
    assert hosts.problems == {"hd0": NOT_ENDED}


def test_a_delivery_that_cannot_be_sent_holds_up_no_other(
    redis_client: redis.Redis, hosts: Hosts
) -> None:
    end_some(redis_client, 2, host="breaks:1", prefix="b")
    end_some(redis_client, 2, host="good:1", prefix="g")
    assert hosts.sender().run(longest_s=30, patience_s=30) == 2
    assert hosts.problems["bd0"].startswith("it could not be sent")


def test_nothing_is_taken_once_another_sends(redis_client: redis.Redis, hosts: Hosts) -> None:
    end_some(redis_client, 1, host="good:1", prefix="g")
    assert hosts.sender().run(longest_s=30, patience_s=30, goes_on=lambda: False) == 0
    assert not hosts.problems
