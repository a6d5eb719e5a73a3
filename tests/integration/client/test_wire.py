"""Our messages against the installed Celery's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import redis
from celery import Celery

from celeriac.keys import reply_key
from celeriac.messages import CONTRACT, PREDICT_ENVELOPE, Envelope, Reply, realtime_queue
from celeriac.settings import Settings
from producer import wire

QUEUE = realtime_queue("cpu", "reviews")
ITEMS = ["plain", "\"quoted\" \\ é \u2028 \U0001f600\n", 1.5, None, {"a": [1, {"b": True}]}]


@pytest.fixture
def envelope() -> Envelope:
    return Envelope(
        v=CONTRACT, id=wire.new_id(), model="reviews", reply_to="me", deadline_ms=4_000_000_000_000,
        items=[msgspec.Raw(msgspec.json.encode(item)) for item in ITEMS],
        requests=["a", "b", "c", "d", "e"],
    )  # fmt: skip


def unfold(raw: bytes) -> dict[str, Any]:
    """A message with its body decoded."""
    message = json.loads(raw)
    assert message["properties"]["body_encoding"] == "utf-8"
    return message | {"body": json.loads(message["body"])}


def test_equal_to_what_celery_publishes(
    envelope: Envelope, redis_client: redis.Redis, settings: Settings
) -> None:
    kwargs = msgspec.structs.asdict(envelope) | {"items": ITEMS}
    app = Celery("x", broker=settings.broker_url, set_as_current=False)
    app.conf.broker_transport_options = {"body_encoding": "utf-8"}
    with app.connection_for_write() as connection:
        app.send_task(
            PREDICT_ENVELOPE, kwargs=kwargs, queue=QUEUE, task_id=envelope.id, ignore_result=True,
            headers={"sent_ms": 1}, connection=connection, argsrepr="()",
            kwargsrepr=repr({"model": "reviews", "items": 5, "id": envelope.id}),
        )  # fmt: skip
    (published,) = redis_client.lrange(QUEUE, 0, -1)
    theirs, ours = unfold(published), unfold(wire.envelope_message(envelope, QUEUE))

    for message in (theirs, ours):
        assert message["headers"].pop("origin")
        assert message["headers"].pop("sent_ms") >= 1
        assert message["properties"].pop("delivery_tag")
        message["properties"].pop("reply_to")  # of the publishing thread; no result is replied
    for option in ("argsrepr", "kwargsrepr"):  # Celery repeats them where nothing reads them
        assert theirs["properties"].pop(option) == ours["headers"][option]
    assert ours == theirs


def test_ids_are_random_uuids() -> None:
    ids = {wire.new_id() for _ in range(1_000)}

    assert len(ids) == 1_000
    assert all(str(UUID(one)) == one and UUID(one).version == 4 for one in ids)


def test_the_expiry_as_celery_writes_it() -> None:
    from datetime import UTC, datetime

    at = datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC)
    raw = wire.task_message("t", "1", "q", {"a": 1}, shown={}, expires_at=at)

    assert unfold(raw)["headers"]["expires"] == "2026-11-22T12:00:00.250000+00:00"
    assert unfold(raw)["headers"]["ignore_result"] is False


def test_flower_sees_no_payload(envelope: Envelope) -> None:
    headers = json.loads(wire.envelope_message(envelope, QUEUE))["headers"]

    assert "quoted" not in json.dumps(headers)
    assert headers["kwargsrepr"] == f"{{'model': 'reviews', 'items': 5, 'id': '{envelope.id}'}}"


STOCK = """
import os, msgspec, redis
from celery import Celery

app = Celery("stock", broker=os.environ["URL"])

@app.task(name="celeriac.predict.envelope")
def predict(**kwargs):
    answers = [{"value": item} for item in kwargs["items"]]
    reply = {"v": kwargs["v"], "id": kwargs["id"], "answers": answers}
    key = "celeriac:reply:" + kwargs["reply_to"]
    redis.Redis.from_url(os.environ["URL"]).rpush(key, msgspec.json.encode(reply))
"""


def test_a_stock_celery_worker_takes_it(
    envelope: Envelope, redis_client: redis.Redis, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "stock.py").write_text(STOCK)
    redis_client.lpush(QUEUE, wire.envelope_message(envelope, QUEUE))
    command = [
        sys.executable, "-m", "celery", "-A", "stock", "worker", "-P", "solo", "-Q", QUEUE,
        "--without-gossip", "--without-mingle", "-l", "warning",
    ]  # fmt: skip
    worker = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"URL": settings.broker_url, "PYTHONPATH": "."}
    )
    try:
        popped: Any = redis_client.blpop([reply_key("me")], timeout=20)
    finally:
        worker.terminate()
        worker.wait(20)

    assert popped is not None
    reply = msgspec.json.decode(popped[1], type=Reply)
    assert reply.id == envelope.id
    assert [answer["value"] for answer in reply.answers or []] == ITEMS
