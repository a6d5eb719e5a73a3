"""An older catalogue never takes the place of a newer one."""

from __future__ import annotations

import time

import pytest
import redis

import tasks.models
from celeriac.keys import GENERATION_KEY
from celeriac.registry.catalogue import ModelInfo, fetch, fetch_generation, publish
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.placement import as_registered
from celeriac.registry.store import Registry
from celeriac.settings import Settings

DRAFT = ModelDraft(format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any"))
MODELS = {"m": ModelInfo(name="m")}


@pytest.fixture
def registry(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr(tasks.models, "get_settings", lambda: settings)
    registry = Registry(settings.models.root)
    for _ in range(2):
        registry.add("m", lambda folder: DRAFT)
    registry.aliases("m").promote(1, expected=None, who="ann", why="")
    return registry


def test_what_was_read_before_another_published_is_not_published(redis_client: redis.Redis) -> None:
    before = fetch_generation(redis_client)
    first = publish(redis_client, MODELS, seen=before)
    assert publish(redis_client, {}, seen=before) == -1
    assert fetch(redis_client).models == MODELS
    assert publish(redis_client, MODELS, seen=before) == first  # the same, so all is well
    assert publish(redis_client, {}, seen=first) > first


def test_a_generation_that_was_lost_does_not_come_again(redis_client: redis.Redis) -> None:
    lost = publish(redis_client, MODELS)
    time.sleep(0.002)  # its unit
    redis_client.flushall()
    assert publish(redis_client, {}) > lost


def test_a_redis_that_is_set_back_gives_no_number_twice(redis_client: redis.Redis) -> None:
    first = publish(redis_client, MODELS)
    second = publish(redis_client, {})
    time.sleep(0.002)
    publish(redis_client, MODELS)
    redis_client.set(GENERATION_KEY, first)  # as a replica that had not heard of the second
    assert publish(redis_client, {}) > second > first
    redis_client.set(GENERATION_KEY, 2**44)  # by a clock that was set back since
    assert publish(redis_client, MODELS) == 2**44 + 1


def test_a_publisher_that_was_late_reads_again(
    registry: Registry, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = Registry.infos

    def overtaken(read: Registry, known: dict[str, ModelInfo]) -> dict[str, ModelInfo]:
        old = infos(read, known)
        monkeypatch.setattr(Registry, "infos", infos)
        registry.aliases("m").promote(2, expected=1, who="ann", why="")
        tasks.models.publish_registry(redis_client)
        return old

    first = tasks.models.publish_registry(redis_client)
    monkeypatch.setattr(Registry, "infos", overtaken)
    generation = tasks.models.publish_registry(redis_client)
    found = fetch(redis_client)
    assert found.models["m"].aliases["champion"] == 2
    assert found.generation == generation > first


def test_a_publisher_that_is_always_late_gives_up(
    registry: Registry, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = Registry.infos
    reads: list[int] = []

    def overtaken(read: Registry, known: dict[str, ModelInfo]) -> dict[str, ModelInfo]:
        reads.append(publish(redis_client, {f"m{len(reads)}": ModelInfo(name="m")}))
        return infos(read, known)

    monkeypatch.setattr(Registry, "infos", overtaken)
    assert tasks.models.publish_registry(redis_client) == reads[-1]
    assert len(reads) == tasks.models.PUBLISH_TRIES


def test_what_cannot_be_read_stays_published_as_it_was_registered(
    registry: Registry, redis_client: redis.Redis, settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = settings.gpu.model_copy(update={"fallback": "when_absent"})
    there = settings.model_copy(update={"gpu": gpu})
    monkeypatch.setattr(tasks.models, "get_settings", lambda: there)
    large = DRAFT.model_copy(update={"device": "gpu"})
    for _ in range(2):
        registry.add("large", lambda folder: large)
    tasks.models.publish_registry(redis_client)
    before = fetch(redis_client)
    assert before.models["large"].versions[1].device == "cpu"  # no worker of the GPU is there
    for name in ("m", "large"):
        manifest = registry.folder(name, 1) / "model.json"
        manifest.chmod(0o644)
        manifest.write_text("{")
    (registry.root / "m" / "aliases.json").write_text("[]")
    tasks.models.publish_registry(redis_client)
    assert fetch(redis_client) == before
    assert as_registered(before.models)["large"].versions[1].device == "gpu"
    assert as_registered(before.models)["m"] == before.models["m"]
