"""The lane and a stock Celery worker give the same answers to the same messages."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import redis
from celery import Celery
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline

from celeriac import release
from celeriac.messages import Prediction
from celeriac.registry.catalogue import publish
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer import Client
from tests.waiting import wait_until

pytestmark = pytest.mark.uncounted

TEXTS = ["good coffee", "bad tea", "good tea", "bad coffee", "very good", "very bad"]
LABELS = ["great", "other", "great", "other", "great", "other"]


@pytest.fixture
def models(settings: Settings, redis_client: redis.Redis) -> Registry:
    registry = Registry(settings.models.root)
    text = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, LABELS)
    numbers = LinearRegression().fit(np.eye(3), [1.0, 2.0, 3.0])
    release.register("text", text, registry=registry, examples=TEXTS)
    release.register("numbers", numbers, registry=registry, examples=np.eye(3))
    for name in ("text", "numbers"):
        registry.aliases(name).promote(1, expected=None, who="test", why="")
    publish(redis_client, registry.infos())
    return registry


def ask(settings: Settings) -> dict[str, list[Any]]:
    with Client(settings=settings) as client:
        options = {"timeout_s": 20, "return_errors": True}
        text = client.predict_many("text", [*TEXTS, 7, "good"] * 12, **options)
        numbers = client.predict_many("numbers", [[1, 0, 0], [0, 1], [0, 0.5, 0.5]], **options)
    return {"text": [plain(answer) for answer in text], "numbers": [plain(a) for a in numbers]}


def plain(answer: Any) -> Any:
    """An answer to compare: a batch of another size may differ in the last digit."""
    if not isinstance(answer, Prediction):
        return answer.to_wire()
    wire = answer.to_wire()
    return {key: round(v, 9) if isinstance(v, float) else v for key, v in wire.items()}


def test_the_same_answers_through_both_doors(
    models: Registry, settings: Settings, redis_client: redis.Redis,
    start_worker: Callable[..., Any],
) -> None:  # fmt: skip
    """One test: starting a worker costs more than all that is asked of it."""
    lane = start_worker("realtime.cpu")
    through_lane = ask(settings)
    check_what_a_worker_shows_of_itself(lane)
    check_that_flower_sees_envelopes_with_their_true_state(settings, redis_client)
    check_that_a_changed_model_is_refused_and_the_old_one_serves(
        models, settings, redis_client, lane
    )
    assert lane.stop() == 0
    models.aliases("text").promote(1, expected=2, who="test", why="")
    publish(redis_client, models.infos())
    stock = start_worker("realtime.cpu.text,realtime.cpu.numbers")
    assert ask(settings) == through_lane
    assert stock.stop() == 0

    labels = [answer.get("label") for answer in through_lane["text"][:6]]
    assert labels == LABELS
    assert through_lane["text"][6]["code"] == "item_invalid"
    assert [round(a["value"], 6) for a in through_lane["numbers"][::2]] == [1.0, 2.5]
    assert through_lane["numbers"][1]["code"] == "item_invalid"


def check_what_a_worker_shows_of_itself(worker: Any) -> None:
    """After one :func:`ask`."""
    shown = worker.describe()
    assert shown["serving"] == {"numbers": 1, "text": 1}
    base = f"http://127.0.0.1:{shown['metrics_port']}"
    with urlopen(f"{base}/health", timeout=5) as answer:
        assert json.load(answer)["status"] == "ok"
    with urlopen(f"{base}/metrics", timeout=5) as answer:
        metrics = dict(
            line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#"
        )
    assert metrics['model_version{model="text"}'] == "1.0"
    assert metrics['inference_requests_total{kind="realtime",model="text"}'] == "96.0"
    assert metrics['celeriac_item_errors_total{code="item_invalid",model="text"}'] == "12.0"
    assert float(metrics['real_time_inference_seconds_sum{model="text"}']) > 0


def check_that_flower_sees_envelopes_with_their_true_state(
    settings: Settings, client: redis.Redis
) -> None:
    with watching(settings, client) as seen:
        with Client(settings=settings) as asking:
            asking.predict("text", "a secret")
            asking.predict_many("text", [7], return_errors=True)
        deadline = time.monotonic() + 15
        while not _has(seen, "task-failed") and time.monotonic() < deadline:
            time.sleep(0.05)
    succeeded = _has(seen, "task-succeeded")
    assert succeeded
    assert succeeded[0]["runtime"] > 0
    assert "item_invalid" in _has(seen, "task-failed")[0]["exception"]
    assert "secret" not in repr(seen)


@contextmanager
def watching(settings: Settings, client: redis.Redis) -> Iterator[list[dict[str, Any]]]:
    """Celery events as any monitor receives them."""
    seen: list[dict[str, Any]] = []
    app = Celery(broker=settings.broker_url, set_as_current=False)
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": seen.append})
        thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False})
        thread.start()
        while not client.exists("_kombu.binding.celeryev"):
            time.sleep(0.02)
        yield seen
        receiver.should_stop = True
        thread.join(10)
        assert not thread.is_alive()
    app.close()


def _has(seen: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in seen if event["type"] == kind]


def check_that_a_changed_model_is_refused_and_the_old_one_serves(
    models: Registry, settings: Settings, client: redis.Redis, worker: Any
) -> None:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, LABELS)
    release.register("text", model, registry=models, examples=TEXTS)
    _flip_a_byte(models.folder("text", 2))
    models.aliases("text").promote(2, expected=1, who="test", why="past the checks")
    publish(client, models.infos())
    wait_until(lambda: "model not loaded" in worker.log.read_text())
    with Client(settings=settings) as asking:
        assert asking.predict("text", "good").version == 1


def _flip_a_byte(folder: Path) -> None:
    file = next(path for path in folder.iterdir() if path.name != "model.json")
    folder.chmod(0o755)
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
