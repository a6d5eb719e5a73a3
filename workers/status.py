"""What goes on now, read from Redis: workers, queues, models and jobs."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from celeriac.keys import beat_key, gateway_key, worker_key
from celeriac.messages import MAINTENANCE_QUEUE, batch_queue, predict_queue, realtime_queue
from celeriac.registry.catalogue import Catalogue, fetch
from celeriac.settings import Settings
from producer.broker import Broker
from producer.jobs import JobStatus, list_jobs, redis_errors

JOBS_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class WorkerLine:
    """One live worker."""

    hostname: str
    role: str
    pid: int
    up_s: float
    serving: dict[str, int]
    """Versions that it has loaded and answers with, by model."""
    metrics_port: int | None
    device: str = "CPU"
    """``GPU 0, NVIDIA A100-SXM4-40GB`` of a worker that has one."""
    clock_ahead_s: float = 0.0
    """Of Redis's clock; negative: behind. 0 where they differ by less than a second."""
    namesake: int | None = None
    """The pid of another worker that has the same name, which hides one of them here."""


@dataclass(frozen=True, kw_only=True)
class GatewayLine:
    """One live gateway."""

    url: str
    pid: int
    up_s: float


@dataclass(frozen=True, kw_only=True)
class BeatLine:
    """One live beat."""

    host: str
    pid: int
    up_s: float


@dataclass(frozen=True, kw_only=True)
class QueueLine:
    """One queue."""

    name: str
    waiting: int
    oldest_s: float | None
    """Age of the message that waits longest; None if none waits or it does not say."""
    workers: int = 0
    """Live ones that take from it."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What ``celeriac status`` shows."""

    workers: list[WorkerLine]
    beats: list[BeatLine]
    gateways: list[GatewayLine]
    queues: list[QueueLine]
    catalogue: Catalogue
    jobs: list[JobStatus]


def snapshot(settings: Settings, now_s: float) -> Snapshot:
    """Read it all. ``now_s`` is Unix time. Raises BrokerError if Redis does not answer."""
    with Broker(settings) as broker, redis_errors(broker):
        broker.check()
        client = broker.redis
        catalogue = fetch(client)
        workers = _workers(client, now_s)
        return Snapshot(
            workers=workers,
            beats=_beats(client, now_s),
            gateways=_gateways(client, now_s),
            queues=_queues(client, queue_names(catalogue), now_s, workers),
            catalogue=catalogue,
            jobs=list_jobs(broker, JOBS_SHOWN),
        )


def queue_names(catalogue: Catalogue) -> list[str]:
    """Queues in use: those of the CPU, of the models, and of the GPU if a model needs it."""
    versions = [v for model in catalogue.models.values() for v in model.versions.values()]
    devices = ["cpu"] + (["gpu"] if any(v.device == "gpu" for v in versions) else [])
    of_models = sorted({
        realtime_queue(version.device, name)
        for name, model in catalogue.models.items()
        for version in model.versions.values()
    })
    general = [queue(device) for queue in (predict_queue, batch_queue) for device in devices]
    return [*of_models, *general, MAINTENANCE_QUEUE]


def owner_of(queue: str) -> str:
    """The role whose workers take from a queue.

    >>> owner_of("realtime.gpu.reviews"), owner_of("predict.cpu"), owner_of("batch.gpu")
    ('realtime.gpu', 'realtime.cpu', 'batch.gpu')
    """
    kind, _, rest = queue.partition(".")
    return f"realtime.{rest.partition('.')[0]}" if kind in ("realtime", "predict") else queue


def worker_line(text: bytes | str, now_s: float) -> WorkerLine:
    """A worker from what it says of itself; a newer one may say more."""
    said: dict[str, Any] = json.loads(text)
    gpu, ahead_s = said.get("gpu"), float(said.get("clock_ahead_s") or 0.0)
    return WorkerLine(
        device=f"GPU {gpu['label']}, {gpu['name']}" if gpu else "CPU",
        hostname=said["hostname"], role=said["role"], pid=said["pid"],
        up_s=max(0.0, now_s + ahead_s - float(said["started_at"])),
        serving=dict(said.get("serving") or {}), metrics_port=said.get("metrics_port"),
        clock_ahead_s=ahead_s, namesake=said.get("namesake"),
    )


def oldest_s(message: bytes | str | None, now_s: float) -> float | None:
    """How long a message has waited; None if its sender did not stamp it."""
    try:
        sent_ms = json.loads(message or "")["headers"]["sent_ms"]
        return max(0.0, now_s - float(sent_ms) / 1000)
    except (ValueError, KeyError, TypeError):
        return None


def _workers(client: redis.Redis, now_s: float) -> list[WorkerLine]:
    lines = [worker_line(text, now_s) for text in _said(client, worker_key("*"))]
    return sorted(lines, key=lambda line: line.hostname)


def _beats(client: redis.Redis, now_s: float) -> list[BeatLine]:
    lines = []
    for text in _said(client, beat_key("*")):
        said: dict[str, Any] = json.loads(text)
        up_s = max(0.0, now_s - float(said["started_at"]))
        lines.append(BeatLine(host=said["host"], pid=said["pid"], up_s=up_s))
    newest = min(lines, key=lambda line: line.up_s, default=None)
    found = [line for line in lines if line is newest or not _is_gone(line)]
    return sorted(found, key=lambda line: (line.host, line.pid))


def _is_gone(line: BeatLine) -> bool:
    """True of a beat of this host that was killed, and whose last word has not expired yet."""
    return line.host == socket.gethostname() and not Path(f"/proc/{line.pid}").exists()


def _gateways(client: redis.Redis, now_s: float) -> list[GatewayLine]:
    lines = []
    for text in _said(client, gateway_key("*")):
        said: dict[str, Any] = json.loads(text)
        up_s = max(0.0, now_s - float(said["started_at"]))
        lines.append(GatewayLine(url=said["url"], pid=said["pid"], up_s=up_s))
    return sorted(lines, key=lambda line: line.url)


def _said(client: redis.Redis, pattern: str) -> list[bytes]:
    """What those that are alive say of themselves."""
    keys = list(client.scan_iter(match=pattern, count=1_000))
    said: list[Any] = list(client.mget(keys)) if keys else []
    return [text for text in said if text is not None]


def _queues(
    client: redis.Redis, names: Iterable[str], now_s: float, workers: Sequence[WorkerLine]
) -> list[QueueLine]:
    names = list(names)
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(name)
            pipe.lindex(name, -1)
        found = pipe.execute()
    return [
        QueueLine(
            name=name, waiting=waiting, oldest_s=oldest_s(oldest, now_s),
            workers=sum(line.role in (name, owner_of(name)) for line in workers),
        )
        for name, waiting, oldest in zip(names, found[::2], found[1::2], strict=True)
    ]
