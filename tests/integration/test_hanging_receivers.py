"""Receivers that hang, of webhooks and of alerts, and a job that ends beside them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from celeriac.alerts import Alert, AlertKind
from celeriac.keys import ALERTS_SENDER_KEY, WEBHOOKS_SENDER_KEY
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import AlertSettings, GatewaySettings, Settings
from celeriac.submissions.ledger import Limits, Submission, SubmissionLedger, Webhook
from producer.broker import Broker
from producer.datasets import submit_dataset
from producer.nudges import publish_deliveries
from tasks.alerts import notify, send_pending
from tests.integration.test_batch_worker import wait_for
from tests.waiting import wait_until

pytestmark = pytest.mark.uncounted

HANGS_S = 10.0
"""So long is the receiver of alerts waited for."""


@pytest.fixture
def hanging() -> Iterator[str]:
    """``host:port`` of a receiver that takes what it is sent and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def settings(settings: Settings, hanging: str) -> Settings:
    return settings.model_copy(update={
        "alerts": AlertSettings(webhook=f"http://{hanging}/alert", timeout_s=HANGS_S),
        "gateway": GatewaySettings(webhook_hosts=(hanging,), webhook_secret="key" * 12),
    })


def test_a_job_ends_while_receivers_of_webhooks_and_alerts_hang(
    settings: Settings, redis_client: redis.Redis, start_worker: Callable[..., Any],
    hanging: str, tmp_path: Path,
) -> None:
    registry = Registry(settings.models.root)
    registry.add("echo", lambda folder: ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    ))
    publish(redis_client, registry.infos())
    broker = Broker(settings)
    maintenance = start_worker("maintenance", "-c", "1")
    start_worker("batch.cpu", "-c", "1")
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "in.parquet")

    _make_due(redis_client, hanging)
    notify(broker, Alert(
        kind=AlertKind.LATE, schedule="sales", entry="dataset", date="2026-11-21", reason="slow",
        next="look", at=datetime.now(UTC).isoformat(),
    ))
    send_pending(broker)
    publish_deliveries(redis_client, [hanging])
    wait_until(lambda: redis_client.exists(ALERTS_SENDER_KEY, WEBHOOKS_SENDER_KEY) == 2)
    handle = submit_dataset(broker, tmp_path / "in.parquet", "echo@1", tmp_path / "out")
    assert handle.wait(HANGS_S).state == "completed"
    assert redis_client.exists(ALERTS_SENDER_KEY), "the receiver of alerts has not hung so long"

    wait_for(maintenance, "webhook failed")  # they were sent, as ever
    began_s = time.monotonic()
    maintenance.stop(60)
    assert time.monotonic() - began_s < HANGS_S + 10
    pending = redis_client.lrange("celeriac:alerts:pending", 0, -1)
    assert [json.loads(one)["tries"] for one in pending] == [1]  # what was under way has ended
    broker.close()


def _make_due(client: redis.Redis, host: str) -> None:
    ledger = SubmissionLedger(client)
    for number in range(2):
        ledger.submit(Submission(
            tenant="t", id=f"p{number}", model="m", queue="q", item=b"1", digest="",
            expires_s=60, kept_s=60,
            webhook=Webhook(delivery=f"d{number}", url=f"http://{host}/x", host=host),
        ), Limits(open=100, open_bytes=10_000, known=100), b"call")
    claims = ledger.claim("q", "m", worker="w", lease_s=60, message=b"call").taken
    assert ledger.commit((claim, b'{"model":"m"}') for claim in claims).hosts == (host,)
