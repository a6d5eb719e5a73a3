"""Steps of an adaptation where its registry cannot be written to."""

from __future__ import annotations

import time

import pytest
import redis

from celeriac.drift.events import DriftEvent
from celeriac.registry import files
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from celeriac.settings.adapt import AdaptSettings
from producer.broker import Broker
from tasks import adaptation


def test_the_training_task_is_not_called_again_and_again_while_the_disk_is_full(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    registry = Registry(settings.models.root)
    registry.add("echo", lambda folder: draft)
    registry.aliases("echo").promote(1, expected=None, who="test", why="")
    rule = AdaptSettings.model_validate({
        "retrain": "shop.retrain", "queue": "training", "labelled": "/rows", "label": "y",
    })
    drift = settings.drift.model_copy(update={"adapt": {"echo": rule}})
    broker = Broker(settings.model_copy(update={"drift": drift}))
    adaptation.on_event(broker, DriftEvent(
        kind="data_drift", state="opened", model="echo", version=1, source="stream",
        features=("a",), detail="", at_s=time.time(),
    ))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "append", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                adaptation.carry_on(broker, "echo", owner="one")
            patch.setattr(files, "write", full)  # it was full just after the call
        assert redis_client.llen("training") == 1
    for _ in range(2):
        state = adaptation.carry_on(broker, "echo", owner="two")
    assert state is not None
    assert state.is_asked
    broker.close()
