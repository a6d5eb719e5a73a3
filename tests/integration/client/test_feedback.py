"""Labels by a Python client, and by its asyncio twin."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import redis

from celeriac import errors
from celeriac.drift.feedback import accuracy_since
from celeriac.settings import FeedbackSettings, Settings
from producer.aio import AsyncClient
from producer.client import Client
from workers.lane.lane import Lane


def test_a_label_by_the_id_of_an_answer(
    client: Client, lane: Lane, redis_client: redis.Redis
) -> None:
    answer = client.predict("echo", 20.0)
    first, second = client.prediction_id(answer), client.prediction_id(answer)
    found = client.feedback(first, 17.5)
    assert (found.model, found.version, found.counted) == ("echo", 1, True)
    assert (found.absolute_error, found.right) == (2.5, None)
    assert not client.feedback(first, 17.5).counted
    assert client.feedback(second, np.float32(17.5)).counted
    assert accuracy_since(redis_client, "echo", 1, 0).rows == 2


def test_another_process_takes_it(settings: Settings, client: Client, lane: Lane) -> None:
    kept = client.prediction_id(client.predict("echo", "cat"))
    with Client(settings=settings) as other:
        assert other.feedback(kept, "dog").right is False


def test_asyncio(settings: Settings, registry: object, lane: Lane) -> None:
    async def main() -> None:
        async with AsyncClient(settings=settings) as client:
            kept = await client.prediction_id(await client.predict("echo", "cat"))
            assert (await client.feedback(kept, "cat")).right is True

    asyncio.run(main())


def test_a_secret_of_ones_own_outlives_redis(
    settings: Settings, client: Client, lane: Lane
) -> None:
    own = settings.model_copy(update={"feedback": FeedbackSettings(secret="ours")})
    with Client(settings=own) as first:
        kept = first.prediction_id(first.predict("echo", 1))
    with pytest.raises(errors.PredictionNotFound):
        client.feedback(kept, 1)
    with Client(settings=own) as second:
        assert second.feedback(kept, 1).counted


@pytest.mark.parametrize(("label", "message"), [
    (float("nan"), "NaN"), (object(), "label: an item of type object"), ("five", "with numbers"),
])  # fmt: skip
def test_a_label_that_cannot_be(client: Client, lane: Lane, label: object, message: str) -> None:
    kept = client.prediction_id(client.predict("echo", 4.0))
    with pytest.raises(errors.RequestError, match=message):
        client.feedback(kept, label)


def test_a_version_that_is_gone(client: Client, lane: Lane, redis_client: redis.Redis) -> None:
    from celeriac.registry import catalogue

    kept = client.prediction_id(client.predict("echo", 4.0))
    catalogue.publish(redis_client, {})
    client.models()
    with pytest.raises(errors.PredictionNotFound, match="echo@1, which is not there any more"):
        client.feedback(kept, 4.0)


def test_no_redis(settings: Settings) -> None:
    away = settings.broker.model_copy(update={"url": "redis://127.0.0.1:1/0"})
    with (
        Client(settings=settings.model_copy(update={"broker": away})) as client,
        pytest.raises(errors.BrokerError),
    ):
        client.feedback("p1~AAAA", 1)
