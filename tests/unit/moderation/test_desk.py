"""What a policy means to the versions that answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac import errors
from celeriac.applications.moderation.decision import Post, ask, digests_of, verdict_of
from celeriac.applications.moderation.policy import Policy
from celeriac.messages import Prediction
from celeriac.registry.catalogue import ModelInfo, VersionInfo
from celeriac.registry.manifest import InputSchema, OutputSchema
from celeriac.settings import ModerationSettings, Settings
from producer.applications.moderation.asking import Case
from producer.applications.moderation.desk import Desk

POLICY = Policy.model_validate({"name": "house", "version": 1, "texts": {
    "toxicity": {"model": "words", "label": "bad", "review": 0.5, "block": 0.9},
}})


def version(number: int, *labels: str) -> VersionInfo:
    return VersionInfo(
        version=number, format="sklearn", device="cpu", input=InputSchema(kind="text"),
        output=OutputSchema(kind="classifier", labels=labels, probabilities=True),
        created_at="2026-11-25T09:00:00+00:00",
    )


def test_a_canary_of_other_labels_lets_nothing_pass(tmp_path: Path) -> None:
    """Its ``toxic`` would else be the rest of ``bad``: next to nothing."""
    broker: Any = SimpleNamespace(
        settings=Settings(moderation=ModerationSettings(folder=tmp_path))
    )
    routes: Any = None
    desk = Desk(broker, routes, POLICY, "default")
    models = {"words": ModelInfo(name="words", aliases={"champion": 1}, versions={
        1: version(1, "good", "bad"), 2: version(2, "fine", "toxic"),
    })}
    asked = [ask(Post(text="hello"), POLICY)]
    champion = [Prediction(model="words", version=1, label="bad", probability=0.9)]
    canary = [Prediction(model="words", version=2, label="toxic", probability=0.99)]
    assert desk.must_check(asked, champion, POLICY)
    desk.check(models, POLICY, asked, champion)
    assert not desk.must_check(asked, champion, POLICY)
    for _ in range(2):
        assert desk.must_check(asked, canary, POLICY)
        with pytest.raises(errors.ConfigError, match="words has no label 'bad'"):
            desk.check(models, POLICY, asked, canary)


def test_with_a_key_records_hold_no_plain_digest(tmp_path: Path) -> None:
    def recorded(key: str) -> dict[str, str]:
        settings = Settings(moderation=ModerationSettings(folder=tmp_path, digest_key=key))
        broker: Any = SimpleNamespace(settings=settings)
        routes: Any = None
        desk = Desk(broker, routes, POLICY, "default")
        post = Post(text="hello")
        asked = ask(post, POLICY)
        case = Case(0, post, asked, [], verdict_of([], (), POLICY))
        (record,) = desk.record(desk.entries([case], POLICY))
        desk.close()
        return record.digests

    assert recorded("") == digests_of(Post(text="hello"))
    assert recorded("secret") == digests_of(Post(text="hello"), b"secret")
