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
    """Raises NotReady unless a live worker of ``device`` would answer, or BrokerError.

    A champion must be loaded; any other version is loaded when it is asked for.
    """
    workers = await _live_workers(client, device)
    if champion:
        workers = [worker for worker in workers if model in worker.get("serving", {})]
    if not workers:
        raise NotReady(f"no worker serves {model!r} at the moment; `celeriac status` shows them")


async def _live_workers(client: Redis, device: str) -> list[dict[str, Any]]:
    try:
        names: list[Any] = await client.zrangebyscore(
            lanes_key(device), time.time() - WORKER_TTL_S, "+inf"
        )
        said = await client.mget([worker_key(name.decode()) for name in names]) if names else []
    except (RedisError, OSError) as error:
        raise broker_gone() from error
    return [json.loads(one) for one in said if one]
