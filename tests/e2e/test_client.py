"""The client and its command against real workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from celeriac import errors
from celeriac.keys import submission_key
from celeriac.messages import CATALOGUE_PUBLISH, MAINTENANCE_QUEUE, PREDICT
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer.client import Client
from tests.conftest import Ran
from tests.waiting import wait_until

pytestmark = pytest.mark.uncounted

ROOT = Path(__file__).parents[2]
MAIN = "from producer.cli.main import main; main()"


@pytest.fixture
def client(
    settings: Settings, redis_client: redis.Redis, start_worker: Callable[..., Any]
) -> Iterator[Client]:
    """A client of two workers; ``echo`` has two versions, and the first is promoted."""
    registry = Registry(settings.models.root)
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="text"), output=OutputSchema(kind="any")
    )
    for _ in range(2):
        registry.add("echo", lambda folder: draft)
    registry.aliases("echo").promote(1, expected=None, who="test", why="")
    workers = [start_worker(role, wait=False) for role in ("realtime.cpu", "maintenance")]
    for worker in workers:
        worker.wait_ready()
    with Client(settings=settings, timeout_s=20) as client:
        deadline = time.monotonic() + 20
        while "echo" not in client.models() and time.monotonic() < deadline:
            time.sleep(0.1)
        yield client


def by_shell(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", MAIN, *words],
        cwd=ROOT, env=os.environ | {"CELERIAC_BROKER_URL": settings.broker_url},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_whole_client(
    client: Client, settings: Settings, redis_client: redis.Redis, celeriac: Callable[..., Ran]
) -> None:
    """One test: starting workers costs more than all of it."""
    assert client.predict("echo", "a").version == 1
    answers = client.predict_many("echo", ["a", 1, "b"], return_errors=True)
    assert [getattr(answer, "value", None) for answer in answers] == ["a", None, "b"]
    assert isinstance(answers[1], errors.InvalidItem)

    # submitted, fetched by id; what is known of it is kept an hour longer than the handle states
    handle = client.submit("echo", "later", expires_s=3_600)
    assert client.prediction(handle.id).result().value == "later"
    assert handle.done()
    assert 7_100 < redis_client.ttl(submission_key("default", handle.id)) <= 7_200
    with pytest.raises(errors.InvalidItem):
        client.submit("echo", 17).result()

    # promoted through the maintenance role, followed without a restart, rolled back
    assert client.promote("echo@2", "a test")["version"] == 2
    wait_until(lambda: client.predict("echo", "a").version == 2)
    with pytest.raises(errors.VersionNotFound):
        client.promote("echo@9")
    with pytest.raises(errors.ModelNotFound):
        client.rollback("nothing")
    assert client.rollback("echo", "a test")["version"] == 1

    check_a_promotion_on_the_folder(client, settings)
    check_command(settings, celeriac)


def check_a_promotion_on_the_folder(client: Client, settings: Settings) -> None:
    """Workers follow it once any Celery client has had the catalogue published."""
    aliases = Registry(settings.models.root).aliases("echo")
    aliases.promote(2, expected=1, who="test", why="")
    url = settings.broker_url
    with Celery(broker=url, backend=url, set_as_current=False) as app:
        app.send_task(CATALOGUE_PUBLISH, queue=MAINTENANCE_QUEUE)
        wait_until(lambda: client.predict("echo", "a").version == 2)
        asked = {"model": "echo", "items": ["a"]}
        answers = app.send_task(PREDICT, kwargs=asked, queue="predict.cpu").get(timeout=20)
    assert answers[0]["version"] == 2


def check_command(settings: Settings, celeriac: Callable[..., Ran]) -> None:
    env = {"CELERIAC_BROKER_URL": settings.broker_url}
    one = by_shell(settings, "predict", "echo@2", "good coffee")
    assert one.returncode == 0, one.stderr
    answer, summary = one.stdout.splitlines()
    assert answer == "good coffee"
    assert summary.startswith("(echo@2, 1 item, ")
    lines = celeriac(
        "predict", "echo@1", "-", "--output", "json", env=env, stdin="a\nb\n"
    )
    assert [json.loads(line)["value"] for line in lines.stdout.splitlines()] == ["a", "b"]
    mixed = celeriac("predict", "echo", "--json", '"a"', "17", env=env)
    assert mixed.returncode == 1
    assert mixed.stdout.startswith("a\nerror: ")
    assert "1 of 2 items" in mixed.stderr
    unknown = celeriac("predict", "nothing", "x", env=env)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "celeriac: no model named 'nothing'; registered models: echo\n"
