"""Whether a live worker would answer for a model, by what the workers say of themselves."""

from __future__ import annotations

import json
import time
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from celeriac.keys import WORKER_TTL_S, lanes_key, worker_key
from producer.gateway.failures import NotReady, broker_gone


async def check_served(client: Redis, device: str, model: str, *, champion: bool) -> None:
    """Raises NotReady unless a live worker of ``device`` would answer, or BrokerError."""
    if not is_served(await live_workers(client, device), model, champion=champion):
        raise NotReady(f"{unserved(model)}; `celeriac status` shows them")


def is_served(workers: list[dict[str, Any]], model: str, *, champion: bool) -> bool:
    """Whether one of these workers would answer. A champion must be loaded; any other version is
    loaded when it is asked for."""
    return any(not champion or model in worker.get("serving", {}) for worker in workers)


def unserved(model: str) -> str:
    """What is said of a model for which nobody would answer."""
    return f"no worker serves {model!r} at the moment"


async def live_workers(client: Redis, device: str) -> list[dict[str, Any]]:
    """What the workers of a device say of themselves. Raises BrokerError."""
    try:
        names: list[Any] = await client.zrangebyscore(
            lanes_key(device), time.time() - WORKER_TTL_S, "+inf"
        )
        said = await client.mget([worker_key(name.decode()) for name in names]) if names else []
    except (RedisError, OSError) as error:
        raise broker_gone() from error
    return [json.loads(one) for one in said if one]
