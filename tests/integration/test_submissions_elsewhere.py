"""Submitted items whose version is answered elsewhere by now, or by nobody for a while."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from celeriac import errors
from celeriac.host import ModelHost, set_host
from celeriac.keys import SUBMISSIONS_OPEN_KEY
from celeriac.registry import catalogue
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.settings import Settings
from celeriac.submissions.ledger import SubmissionLedger
from producer import lost_submissions
from producer.broker import Broker
from producer.client import Client
from tasks import submissions as tasks
from tests.integration.gpu.conftest import add_echo

CPU, GPU = "predict.cpu", "predict.gpu"


@pytest.fixture
def registry(settings: Settings, redis_client: redis.Redis) -> Registry:
    registry = Registry(settings.models.root)
    add_echo(registry, "m", "cpu")
    catalogue.publish(redis_client, registry.infos())
    return registry


@pytest.fixture
def broker(settings: Settings) -> Iterator[Broker]:
    with Broker(settings) as broker:
        yield broker


@pytest.fixture
def host(
    registry: Registry, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModelHost]:
    """A worker of the CPU in this process."""
    host = ModelHost(registry, LoadOptions())
    host.refresh()
    set_host(host)
    monkeypatch.setattr(tasks, "kept_broker", lambda: broker)
    yield host
    set_host(None)


def calls(client: redis.Redis, queue: str) -> list[str]:
    """The lines to which messages call."""
    return [json.loads(raw)["headers"]["line"] for raw in client.lrange(queue, 0, -1)]


def test_a_worker_leaves_them_to_the_device_that_answers_now(
    settings: Settings, registry: Registry, redis_client: redis.Redis, host: ModelHost
) -> None:
    with Client(settings=settings) as client:
        handles = [client.submit("m", number) for number in range(40)]
        asked = client.submit("m@1", 1)
        add_echo(registry, "m", "gpu")
        host.refresh()

        tasks.predict_submitted("m", CPU)

        assert {handle.status().state for handle in handles} == {"queued"}
        assert calls(redis_client, GPU) == [f"{GPU}:m"] * 2
        ledger = SubmissionLedger(redis_client)
        found = ledger.claim(GPU, "m", worker="w", lease_s=60, message=b"").taken
        assert [int(claim.item) for claim in found] == list(range(32))  # as they came
        assert {claim.attempt for claim in found} == {1}
        assert handles[39].cancel()
        tasks.predict_submitted("m@1", CPU)
        assert asked.status().state == "done"
        tasks.predict_submitted("m", CPU)  # the second message of before
        assert len(calls(redis_client, GPU)) == 2


def test_the_reconciler_follows_the_catalogue(
    settings: Settings, registry: Registry, redis_client: redis.Redis, broker: Broker
) -> None:
    """As the CPU stands in for GPU workers that are gone."""
    add_echo(registry, "gone", "gpu")
    catalogue.publish(redis_client, registry.infos())
    ledger = SubmissionLedger(redis_client)
    with Client(settings=settings) as client:
        handle, other = client.submit("gone", 1), client.submit("m", 1)
        assert lost_submissions.reconcile(broker, ledger, queued_s=0)[0] == {}
        infos = registry.infos()
        version = infos["gone"].versions[1].model_copy(update={"device": "cpu"})
        infos["gone"] = infos["gone"].model_copy(update={"versions": {1: version}})
        catalogue.publish(redis_client, infos)

        assert lost_submissions.reconcile(broker, ledger, queued_s=60)[0] == {}  # not overdue
        assert lost_submissions.reconcile(broker, ledger, queued_s=0)[0] == {"moved": 1}
        assert lost_submissions.reconcile(broker, ledger, queued_s=0)[0] == {}
        assert calls(redis_client, CPU) == [f"{CPU}:gone", f"{CPU}:m"]
        (claim,) = ledger.claim(CPU, "gone", worker="w", lease_s=60, message=b"").taken
        ledger.commit([(claim, b'{"model":"gone","version":1,"value":1}')])
        assert handle.result(1).value == 1
        assert other.status().state == "queued"
        assert handle.status().submitted_at <= datetime.now(UTC)


def test_a_registry_that_is_away_costs_time_and_no_answer(
    settings: Settings, registry: Registry, redis_client: redis.Redis, broker: Broker,
    host: ModelHost,
) -> None:
    """A network disk, say; the version that was asked for is not in memory."""
    registry.add("m", lambda folder: registry.get("m", 1))
    catalogue.publish(redis_client, registry.infos())
    host.refresh()
    root, aside = Path(settings.models.root), Path(settings.models.root).with_suffix(".away")
    ledger = SubmissionLedger(redis_client)

    def lapse() -> None:
        open_: Any = redis_client.zrange(SUBMISSIONS_OPEN_KEY, 0, -1)
        if open_:
            redis_client.zadd(SUBMISSIONS_OPEN_KEY, dict.fromkeys(open_, 0))
        lost_submissions.reconcile(broker, ledger)
        host._failed.clear()

    with Client(settings=settings) as client:
        for away, state in ((1, "done"), (3, "failed")):
            handle = client.submit("m@2", 1)
            root.rename(aside)
            host._loaded.pop(("m", 2), None)
            for _ in range(away):
                tasks.predict_submitted("m@2", CPU)
                lapse()
            assert handle.status().attempts == away
            aside.rename(root)
            tasks.predict_submitted("m@2", CPU)
            assert handle.status().state == state
        with pytest.raises(errors.RegistryError, match="is its disk mounted"):
            handle.result(1)
