"""What counting costs the real-time path: the same load with it and without it, in turn."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import redis

from benchmarks.harness.child_environment import child_environment
from benchmarks.harness.points import Measured, Meter, Point, Subject
from celeriac.registry.catalogue import publish
from celeriac.registry.store import Registry
from celeriac.settings import (
    BrokerSettings,
    DriftSettings,
    ModelsSettings,
    Settings,
    StackSettings,
)
from workers.commands import worker_command
from workers.valkey import EmbeddedServer, free_port

MODELS = ("reviews", "delays")
IN_FLIGHT = 64


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two neighbouring rounds, that without counting and that with it."""

    off: Measured
    on: Measured

    @property
    def throughput(self) -> float:
        """Of the round with counting, as a share of the other."""
        return self.on.per_s / self.off.per_s

    @property
    def cpu(self) -> float:
        """What the worker takes for an item with counting, as a share of what it takes without."""
        return self.on.cpu_us["worker"] / self.off.cpu_us["worker"]


def middle(pairs: Sequence[Pair], what: str) -> float:
    """The median over the pairs of ``throughput`` or ``cpu``."""
    return median(float(getattr(pair, what)) for pair in pairs)


class Counting:
    """One real-time worker at a time, over a server of its own."""

    def __init__(self, data: Path) -> None:
        """``data``: the demonstration's files."""
        self._data = data
        self._home = data / "counting"
        self._registry = Registry(self._home / "models")

    def prepare(self) -> None:
        """The demo's models of texts and of tables, with their references, and items for both."""
        import pandas as pd

        from celeriac import release
        from demo import train

        data = self._data
        reviews = pd.read_csv(data / "reviews_train.csv")
        texts = pd.read_csv(data / "reviews_heldout.csv")["review"]
        release.register(
            "reviews", train.text_classifier(reviews["review"], reviews["score"]),
            registry=self._registry, examples=texts[:5].tolist(), reference=texts.tolist(),
        )
        flights = pd.read_parquet(data / "flights.parquet")
        january = flights[flights["month"] == 1]
        version = release.register(
            "delays", train.delays(january), registry=self._registry,
            **train.delay_reference(january),
        )
        for name in MODELS:
            self._registry.aliases(name).promote(1, expected=None, who="bench", why="measured")
        columns = [column.name for column in version.input.columns]
        rows = json.loads(january[columns].sample(2_000, random_state=1).to_json(orient="records"))
        self._items("reviews").parent.mkdir(parents=True, exist_ok=True)
        self._items("reviews").write_text(json.dumps(texts.tolist()), encoding="utf-8")
        self._items("delays").write_text(json.dumps(rows), encoding="utf-8")

    def _items(self, model: str) -> Path:
        return self._home / "items" / f"{model}.json"

    def measure(self, rounds: int, seconds: float) -> Iterator[tuple[str, list[Pair]]]:
        """Pairs of rounds, by model."""
        server = EmbeddedServer(self._home / "valkey", free_port())
        server.start()
        try:
            for model in MODELS:
                yield model, [
                    self._pair(server, model, seconds, is_first=number % 2 == 0)
                    for number in range(rounds)
                ]
        finally:
            server.stop()

    def _pair(
        self, server: EmbeddedServer, model: str, seconds: float, *, is_first: bool
    ) -> Pair:
        """``is_first``: without counting first, so that what drifts on the machine cancels out."""
        found = {
            is_on: self._round(server, model, seconds, is_on=is_on)
            for is_on in ((False, True) if is_first else (True, False))
        }
        return Pair(off=found[False], on=found[True])

    def _round(
        self, server: EmbeddedServer, model: str, seconds: float, *, is_on: bool
    ) -> Measured:
        client: Any = redis.Redis.from_url(server.url)
        client.flushall()
        publish(client, self._registry.infos())
        client.close()
        assert server.process is not None
        meter = Meter(self._home, server.process.pid, self._environment(server, is_on=is_on))
        subject = Subject(
            name="counting" if is_on else "not counting", module="benchmarks.subjects.lane",
            python=Path(sys.executable), worker=worker_command("realtime.cpu"), model=model,
        )
        load = Point(kind="closed", in_flight=IN_FLIGHT, seconds=seconds, warmup_s=2.0)
        return meter.run(subject, self._items(model), [load])[0]

    def _environment(self, server: EmbeddedServer, *, is_on: bool) -> dict[str, str]:
        settings = Settings(
            broker=BrokerSettings(url=server.url),
            stack=StackSettings(state_dir=self._home / "state", metrics_port=0),
            models=ModelsSettings(root=self._registry.root),
            drift=DriftSettings(enabled=is_on),
        )
        return child_environment(settings) | {"BENCH_REDIS_URL": server.url}
