"""``celeriac drift accuracy`` and ``celeriac drift feedback``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from celeriac.drift.feedback import Labelled, accuracy_since, record
from celeriac.drift.labels import Judged
from celeriac.messages import Prediction
from celeriac.registry import catalogue
from celeriac.registry.catalogue import ModelInfo, VersionInfo
from celeriac.registry.manifest import InputSchema, OutputSchema
from celeriac.settings import Settings
from producer.broker import Broker
from producer.client import Client
from tasks.drift_labels import look
from workers.child_settings import environment


@pytest.fixture
def env(settings: Settings, redis_client: redis.Redis) -> dict[str, str]:
    """With ``reviews``, 0 or 1, and ``price``, a number, in the catalogue."""
    models = {
        name: ModelInfo(name=name, aliases={"champion": 1}, versions={1: VersionInfo(
            version=1, format="fake", device="cpu", input=InputSchema(kind="any"), output=output,
            created_at="2026-01-01T00:00:00+00:00",
        )})
        for name, output in (
            ("reviews", OutputSchema(kind="classifier", labels=(0, 1))),
            ("price", OutputSchema(kind="regressor")),
        )
    }  # fmt: skip
    catalogue.publish(redis_client, models)
    return environment(settings)


def ids(settings: Settings, model: str, count: int, **answer: Any) -> list[str]:
    with Client(settings=settings) as client:
        prediction = Prediction(model=model, version=1, **answer)
        return [client.prediction_id(prediction) for _ in range(count)]


def test_labels_of_a_csv(
    celeriac: Callable[..., Any], env: dict[str, str], settings: Settings, tmp_path: Path,
    redis_client: redis.Redis,
) -> None:
    known = ids(settings, "reviews", 4, label=1)
    (price,) = ids(settings, "price", 1, value=10.0)
    rows = [(known[0], "1"), (known[1], "0"), (known[0], "1"), (known[2], "great"), ("", "1"),
            (price, "12.5")]  # fmt: skip
    path = tmp_path / "labels.csv"
    path.write_text("when,prediction_id,label\n" + "".join(f"x,{i},{one}\n" for i, one in rows))
    said = celeriac("drift", "feedback", str(path), env=env)
    assert said.returncode == 1
    assert said.stdout == "6 labels: 3 counted, 1 of predictions that had one, 2 refused\n"
    assert "line 5: label: 'great' is no class of this version; it knows 0, 1" in said.stderr
    assert "line 6: no prediction has the id" in said.stderr
    assert accuracy_since(redis_client, "reviews", 1, 0).value == 0.5
    assert accuracy_since(redis_client, "price", 1, 0).value == 2.5


def test_labels_of_json_lines(
    celeriac: Callable[..., Any], env: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    known = ids(settings, "reviews", 2, label=1)
    path = tmp_path / "labels.jsonl"
    path.write_text("\n\n".join(json.dumps({"prediction_id": i, "label": 1}) for i in known))
    said = celeriac("drift", "feedback", str(path), env=env)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("2 labels: 2 counted")


def test_labels_of_a_tenant(
    celeriac: Callable[..., Any], env: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    with Client(settings=settings) as client:
        kept = client.feedbacks.id_of(Prediction(model="reviews", version=1, label=1), "shop")
    path = tmp_path / "labels.csv"
    path.write_text(f"prediction_id,label\n{kept},1\n")
    assert "1 refused" in celeriac("drift", "feedback", str(path), env=env).stdout
    said = celeriac("drift", "feedback", str(path), "--tenant", "shop", env=env)
    assert (said.returncode, said.stdout) == (
        0, "1 labels: 1 counted, 0 of predictions that had one, 0 refused\n"
    )


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.csv", "id,label\n1,2\n", "a.csv: has no column prediction_id"),
    ("a.csv", "", "has no column label and no column prediction_id"),
    ("a.jsonl", "prediction_id,label\n", "a.jsonl, line 1: is no JSON object"),
    ("a.jsonl", '{"prediction_id": "x"}\n', "line 1: is no JSON object"),
    ("a.csv", f"prediction_id,label\nx,{'9' * 200_000}\n", "a.csv: is no CSV: field larger"),
    ("b.csv", None, "b.csv: cannot be read"),
])  # fmt: skip
def test_files_that_are_none(
    celeriac: Callable[..., Any], env: dict[str, str], tmp_path: Path, name: str,
    text: str | None, message: str,
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    said = celeriac("drift", "feedback", str(tmp_path / name), env=env)
    assert said.returncode == 1
    assert message in said.stderr


def test_accuracy_over_time(
    celeriac: Callable[..., Any], env: dict[str, str], settings: Settings,
    redis_client: redis.Redis,
) -> None:
    assert "no labels of reviews" in celeriac("drift", "accuracy", "reviews", env=env).stdout
    now_s = time.time()
    for number in range(120):
        record(redis_client, Labelled(
            model="reviews", version=1 + number % 2, made_s=now_s - 86_400 * (number % 3),
            nonce=os.urandom(8), judged=Judged(right=number % 4 > 0),
        ), settings.feedback, now_s=now_s)  # fmt: skip
    record(redis_client, Labelled(
        model="price", version=1, made_s=now_s, nonce=b"price", judged=Judged(absolute_error=1.5),
    ), settings.feedback, now_s=now_s)  # fmt: skip
    said = celeriac("drift", "accuracy", "reviews", env=env).stdout
    assert max(map(len, said.splitlines())) <= 80
    assert said.index("reviews@2") < said.index("reviews@1")
    assert "reviews@1  accuracy 0.500 (0.377 to 0.623) of 60 labels" in said
    assert "not tested yet: labels are looked at every few seconds, if beat" in said
    broker = Broker(settings)
    look(broker, now_s)
    broker.close()
    said = celeriac("drift", "accuracy", "reviews@2", "--by", "hour", env=env).stdout
    assert "reviews@1" not in said
    assert "not tested yet: 60 labels are too few to know what is usual" in said
    assert said.count(":00  ") == 3
    said = celeriac("drift", "accuracy", "price", env=env).stdout
    assert "price@1  mean absolute error 1.5 (1.5 to 1.5) of 1 labels" in said
    said = celeriac("drift", "accuracy", "reviews@champion", env=env)
    assert said.returncode == 1
    assert "give a version by its number" in said.stderr


def test_what_the_test_of_errors_says(
    celeriac: Callable[..., Any], env: dict[str, str], settings: Settings,
    redis_client: redis.Redis,
) -> None:
    def label(right: list[bool]) -> str:
        now_s = time.time()
        for one in right:
            record(redis_client, Labelled(
                model="reviews", version=1, made_s=now_s, nonce=os.urandom(8),
                judged=Judged(right=one),
            ), settings.feedback, now_s=now_s)  # fmt: skip
        broker = Broker(settings)
        look(broker, now_s)
        broker.close()
        return str(celeriac("drift", "accuracy", "reviews", env=env).stdout)

    said = label([True, True, True, True, False] * 60)
    assert "answers are not wrong more often than before (usual is 20.0% by the first labels)" in (
        " ".join(said.split())
    )
    said = label([False] * 40)
    assert "answers are wrong more often than before since 20" in said
    assert max(map(len, said.splitlines())) <= 80
