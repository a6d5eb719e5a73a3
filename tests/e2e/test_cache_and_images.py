"""The cache between doors and jobs, and files of images, on real worker processes."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from celery import Celery
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from celeriac import errors, release
from celeriac.cache import Answerer, Cache, cache_key, open_cache
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import InputSchema, Pixels, Serving
from celeriac.registry.store import Registry
from celeriac.runtimes.architectures import DigitCNN
from celeriac.settings import CacheSettings, Settings
from producer import Client

pytestmark = pytest.mark.uncounted

TEXTS = [f"{word} {thing}" for word in ("good", "bad", "very good") for thing in
         ("coffee", "tea", "bread", "soup")]
LABELS = ["other" if "bad" in text else "great" for text in TEXTS]


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    if request.function is not test_without_its_cache_a_worker_computes:
        return settings
    nowhere = CacheSettings(url="redis://127.0.0.1:1/0")
    return settings.model_copy(update={"cache": nowhere})


def register_texts(settings: Settings, client: redis.Redis) -> None:
    registry = Registry(settings.models.root)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, LABELS)
    for name, serving in (("kept", Serving(cache=True)), ("new", Serving())):
        release.register(name, model, registry=registry, examples=TEXTS, serving=serving)
        registry.aliases(name).promote(1, expected=None, who="test", why="")
    publish(client, registry.infos())


def counted(worker: Any, name: str) -> dict[str, float]:
    """One counter of a worker, by its labels."""
    port = worker.describe()["metrics_port"]
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        found = re.findall(rf"^{name}{{(.*)}} (\S+)$", page.read().decode(), re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def wait_for(cache: Cache, registry: Registry, texts: list[str]) -> list[Any]:
    """What is kept of ``texts``, once all is."""
    who = Answerer.of(registry.get("kept", 1))
    keys = [cache_key(who, text) for text in texts]
    deadline = time.monotonic() + 15
    while None in (found := cache.get_many(keys)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_the_lane_tasks_and_jobs_share_answers(
    settings: Settings, redis_client: redis.Redis, start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    register_texts(settings, redis_client)
    realtime = start_worker("realtime.cpu")
    cache, registry = open_cache(settings), Registry(settings.models.root)
    app = Celery(broker=settings.broker_url, backend=settings.broker_url, set_as_current=False)

    def ask(model: str, items: list[Any]) -> Any:
        task = app.send_task(
            "celeriac.predict", kwargs={"model": model, "items": items}, queue="predict.cpu"
        )
        return task.get(timeout=20)

    with Client(settings=settings) as client:
        by_lane = [answer.to_wire() for answer in client.predict_many("kept", TEXTS[:4])]
        client.predict_many("new", TEXTS)
    assert wait_for(cache, registry, TEXTS[:4]) == by_lane
    by_task = ask("kept", [7, *TEXTS[:8]])
    assert by_task[1:5] == by_lane
    assert by_task[0]["error"]["code"] == "item_invalid"
    assert wait_for(cache, registry, TEXTS[4:8]) == by_task[5:]
    assert counted(realtime, "celeriac_cache_requests_total") == {
        'outcome="hit"': 4, 'outcome="miss"': 5,
    }
    deadline = time.monotonic() + 15
    while counted(realtime, "celeriac_cache_writes_total").get('outcome="kept"') != 8:
        assert time.monotonic() < deadline  # it is counted once it is kept
        time.sleep(0.05)
    assert not redis_client.keys("celeriac:cache:new:*")

    pq.write_table(pa.table({"text": TEXTS * 5}), tmp_path / "in.parquet")
    batch = start_worker("batch.cpu", "-c", "1")
    start_worker("maintenance", "-c", "1")
    with Client(settings=settings) as client:
        outputs = {}
        for name in ("new", "kept"):
            job = client.submit_dataset(
                tmp_path / "in.parquet", name, tmp_path / name, chunk_rows=1_000
            )
            assert job.wait(60).state == "completed"
            outputs[name] = [path.read_bytes() for path in job.parts()]
    assert outputs["kept"] == outputs["new"]
    requests = counted(batch, "celeriac_cache_requests_total")
    assert requests == {'outcome="hit"': 40, 'outcome="miss"': 20}
    assert [answer["label"] for answer in wait_for(cache, registry, TEXTS)] == LABELS


def test_without_its_cache_a_worker_computes(
    settings: Settings, redis_client: redis.Redis, start_worker: Callable[..., Any]
) -> None:
    register_texts(settings, redis_client)
    registry = Registry(settings.models.root)
    schema = InputSchema(
        kind="image", shape=(8, 8), dtype="float32", pixels=Pixels(mode="L", scale=1.0)
    )
    images = np.random.default_rng(3).integers(0, 256, (12, 8, 8)).astype(np.uint8)
    release.register(
        "digits", DigitCNN(), registry=registry, input=schema, labels=list(range(10)),
        examples=list(images),
    )
    registry.aliases("digits").promote(1, expected=None, who="test", why="")
    publish(redis_client, registry.infos())
    worker = start_worker("realtime.cpu")
    app = Celery(broker=settings.broker_url, backend=settings.broker_url, set_as_current=False)

    task = app.send_task(
        "celeriac.predict", kwargs={"model": "kept", "items": TEXTS}, queue="predict.cpu"
    )
    assert [answer["label"] for answer in task.get(timeout=20)] == LABELS
    assert counted(worker, "celeriac_cache_requests_total")['outcome="error"'] == len(TEXTS)

    large = np.zeros((1, 1_200, 1_000), np.uint8)
    patient = settings.model_copy(
        update={"realtime": settings.realtime.model_copy(update={"max_item_bytes": 8_000_000})}
    )
    with Client(settings=patient) as client:
        files = [png(image) for image in images]
        by_file = client.predict_many("digits", files)
        by_array = client.predict_many("digits", list(images))
        assert [answer.label for answer in by_file] == [answer.label for answer in by_array]
        assert np.allclose([a.probability for a in by_file], [a.probability for a in by_array])
        found = client.predict_many(
            "digits", [files[0], b"no image", large, files[1]], return_errors=True
        )
    assert [found[0].label, found[3].label] == [answer.label for answer in by_file[:2]]
    assert isinstance(found[1], errors.InvalidItem)
    assert isinstance(found[2], errors.PayloadTooLarge)
    assert "dataset" in found[2].message


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
