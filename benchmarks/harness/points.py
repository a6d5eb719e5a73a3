"""Points: one load on one subject, and what was measured under it."""

from __future__ import annotations

import contextlib
import json
import statistics
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.load import SHARES
from benchmarks.harness.processes import Child, cpu_s

CLIENT_LIMIT_S = 120.0
"""What a client may take beyond the time of its points."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A system under test."""

    name: str
    module: str
    """Of :mod:`benchmarks.subjects`: the client's side."""
    python: Path
    worker: Sequence[str | Path] = ()
    """Command of the worker; empty if there is none."""
    model: str
    asyncio: bool = False

    @property
    def key(self) -> str:
        return f"{self.name}/{self.model}"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One load: ``closed`` (``in_flight``), ``open`` (``per_s``), ``many`` (``items``), or one
    ``paced`` caller.

    ``overload`` is an open one, while another process makes a paced one on ``calm_model``.
    """

    kind: str
    in_flight: int = 0
    per_s: float = 0.0
    items: int = 0
    calm_model: str = ""
    seconds: float = 2.0
    warmup_s: float = 0.5

    @property
    def label(self) -> str:
        if self.kind == "many":
            return f"{self.items:,} items in one call"
        if self.kind == "paced":
            return "one calm caller"
        return f"{self.in_flight} in flight" if self.kind == "closed" else f"{self.per_s:,.0f}/s"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one point gave."""

    per_s: float
    calls: int
    late: int
    quantiles_ms: Sequence[float]
    cpu_us: Mapping[str, float] = field(default_factory=dict)
    """CPU microseconds per call of ``client``, ``worker`` and ``redis``."""
    worker_bytes: int = 0
    """Resident memory of the worker at the end."""
    refused: int = 0
    """Calls that were refused early."""
    calm_ms: Sequence[float] = ()
    """The calm caller's quantiles."""

    def ms(self, share: float) -> float:
        """The latency below which ``share`` of the calls lies."""
        return self.quantiles_ms[SHARES.index(share)]

    @property
    def tail(self) -> float:
        """p99 / p50."""
        return self.ms(0.99) / self.ms(0.5)


def median(rounds: Sequence[Measured]) -> Measured:
    """Each figure's median over the rounds."""
    middle = statistics.median
    return Measured(
        per_s=middle(one.per_s for one in rounds),
        calls=int(middle(one.calls for one in rounds)),
        late=int(middle(one.late for one in rounds)),
        quantiles_ms=[middle(row) for row in zip(*(r.quantiles_ms for r in rounds), strict=True)],
        cpu_us={who: middle(one.cpu_us[who] for one in rounds) for who in rounds[0].cpu_us},
        worker_bytes=int(middle(one.worker_bytes for one in rounds)),
        refused=int(middle(one.refused for one in rounds)),
        calm_ms=[middle(row) for row in zip(*(r.calm_ms for r in rounds), strict=True)],
    )


def listed(found: Mapping[tuple[str, str, str], Any]) -> list[dict[str, Any]]:
    """What was measured, by subject, model and point, for other programs."""
    return [
        {"subject": name, "model": model, "point": label, "quantiles": SHARES, **asdict(measured)}
        for (name, model, label), measured in found.items()
    ]


class Failed(Exception):
    """A subject did not answer as it should."""


class Meter:
    """Runs the points of one subject, in processes of their own."""

    def __init__(self, home: Path, redis_pid: int, env: Mapping[str, str]) -> None:
        self._home = home
        self._redis_pid = redis_pid
        self._env = env

    def run(self, subject: Subject, items: Path, points: Sequence[Point]) -> list[Measured]:
        """Worker up, client up, every point, both down. Raises Failed."""
        env = {**self._env, "BENCH_MODEL": subject.model}
        plan = self._home / "plan.json"
        plan.write_text(json.dumps({
            "model": subject.model, "asyncio": subject.asyncio,
            "points": [vars(point) for point in points],
        }))
        argv = [subject.python, "-m", "benchmarks.harness.client", subject.module, items, plan]
        limit_s = CLIENT_LIMIT_S + sum(2 * (p.seconds + p.warmup_s) for p in points)
        with contextlib.ExitStack() as stack:
            worker = None
            if subject.worker:
                worker = stack.enter_context(
                    Child(subject.worker, self._log(subject, "worker"), env)
                )
            client = stack.enter_context(Child(argv, self._log(subject, "client"), env, piped=True))
            timer = threading.Timer(limit_s, client.process.kill)
            stack.callback(timer.cancel)
            timer.start()
            return [self._point(subject, client, worker, point) for point in points]

    def _point(
        self, subject: Subject, client: Child, worker: Child | None, point: Point
    ) -> Measured:
        pids = {"client": client, "worker": worker}

        def used() -> dict[str, float]:
            spent = {who: child.cpu_s() for who, child in pids.items() if child is not None}
            return {**spent, "redis": cpu_s(self._redis_pid)}

        self._read(subject, client, "begin")
        before = used()
        result = self._read(subject, client, "end")["result"]
        after = used()
        if result["errors"]:
            raise Failed(f"{subject.key}, {point.label}: {result['errors']} calls failed, "
                         f"first: {result['first_error']}")
        calls = max(result["calls"], 1)
        return Measured(
            per_s=result["per_s"], calls=result["calls"], late=result["late"],
            quantiles_ms=result["quantiles_ms"],
            cpu_us={who: (after[who] - before[who]) / calls * 1e6 for who in after},
            worker_bytes=worker.memory_bytes() if worker else 0,
            refused=result.get("refused", 0), calm_ms=result.get("calm_ms", ()),
        )

    def _read(self, subject: Subject, client: Child, event: str) -> dict[str, Any]:
        for line in client.stdout:
            if line.startswith("{"):
                told: dict[str, Any] = json.loads(line)
                if told["event"] == event:
                    return told
        raise Failed(f"{subject.key}: the client ended early:\n{client.end_of_log()}")

    def _log(self, subject: Subject, what: str) -> Path:
        return self._home / "logs" / f"{subject.key.replace('/', '-')}-{what}.log"

