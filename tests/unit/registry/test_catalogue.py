"""An older catalogue never takes the place of a newer one."""

from __future__ import annotations

import pytest
import redis

import tasks.models
from celeriac.registry.catalogue import ModelInfo, fetch, fetch_generation, publish
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
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
    assert publish(redis_client, MODELS, seen=before) == before + 1
    assert publish(redis_client, {}, seen=before) == -1
    assert fetch(redis_client).models == MODELS
    assert publish(redis_client, MODELS, seen=before) == before + 1  # the same, so all is well
    assert publish(redis_client, {}, seen=before + 1) == before + 2


def test_a_publisher_that_was_late_reads_again(
    registry: Registry, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = Registry.infos

    def overtaken(read: Registry) -> dict[str, ModelInfo]:
        old = infos(read)
        monkeypatch.setattr(Registry, "infos", infos)
        registry.aliases("m").promote(2, expected=1, who="ann", why="")
        tasks.models.publish_registry(redis_client)
        return old

    tasks.models.publish_registry(redis_client)
    monkeypatch.setattr(Registry, "infos", overtaken)
    generation = tasks.models.publish_registry(redis_client)
    found = fetch(redis_client)
    assert found.models["m"].aliases["champion"] == 2
    assert found.generation == generation == 2


def test_a_publisher_that_is_always_late_gives_up(
    registry: Registry, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = Registry.infos
    reads: list[int] = []

    def overtaken(read: Registry) -> dict[str, ModelInfo]:
        reads.append(publish(redis_client, {f"m{len(reads)}": ModelInfo(name="m")}))
        return infos(read)

    monkeypatch.setattr(Registry, "infos", overtaken)
    assert tasks.models.publish_registry(redis_client) == reads[-1]
    assert len(reads) == tasks.models.PUBLISH_TRIES
