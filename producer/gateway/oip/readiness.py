"""Whether a live worker would answer for a model, by what the workers say of themselves."""

from __future__ import annotations

import json
import time
from typing import Any

import redis

from celeriac.messages import WORKER_TTL_S, lanes_key, worker_key
from producer.broker import Broker, broker_error
from producer.gateway.failures import NotReady


def is_served(broker: Broker, device: str, model: str, *, champion: bool) -> bool:
    """True if a live worker of ``device`` would answer; any other version than the champion is
    loaded when it is asked for. Blocks for two exchanges with Redis. Raises BrokerError."""
    workers = _live_workers(broker, device)
    if not champion:
        return bool(workers)
    return any(model in worker.get("serving", {}) for worker in workers)


def check_served(broker: Broker, device: str, model: str, *, champion: bool) -> None:
    """Raises NotReady unless :func:`is_served`."""
    if not is_served(broker, device, model, champion=champion):
        raise NotReady(f"no worker serves {model!r} at the moment; `celeriac status` shows them")


def _live_workers(broker: Broker, device: str) -> list[dict[str, Any]]:
    client = broker.redis
    try:
        names = client.zrangebyscore(lanes_key(device), time.time() - WORKER_TTL_S, "+inf")
        if not names:
            return []
        said = client.mget([worker_key(_text(name)) for name in names])
    except redis.RedisError as error:
        raise broker_error(error, broker.url) from error
    return [json.loads(one) for one in said if one]


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
