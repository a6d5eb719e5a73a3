"""Runs the points of one HTTP server: its processes up, the load, its processes down."""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.http_load import HOST
from benchmarks.harness.http_subjects import HttpSubject
from benchmarks.harness.points import Failed, Measured
from benchmarks.harness.processes import Child, cpu_s
from workers.valkey import free_port

READY_S = 120.0
CLIENT_LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class HttpPoint:
    """One load: ``closed`` (``in_flight``) or ``open`` (``per_s``), beside ``idle`` connections."""

    kind: str = "closed"
    in_flight: int = 0
    per_s: float = 0.0
    idle: int = 0
    seconds: float = 2.0
    warmup_s: float = 0.5


@dataclass(frozen=True, kw_only=True)
class HttpMeasured(Measured):
    """What one point gave; rates and quantiles are of the requests that were not refused."""

    refused: int = 0
    refused_ms: Sequence[float] = field(default_factory=list)
    """p50, p99 and longest, of refusals."""
    late_ms: Sequence[float] = field(default_factory=list)
    """p50, p99 and longest: how much after it was due a request of an open loop was sent."""


def median(rounds: Sequence[HttpMeasured]) -> HttpMeasured:
    """Each figure's median over the rounds."""
    middle = statistics.median
    return HttpMeasured(
        per_s=middle(one.per_s for one in rounds),
        calls=int(middle(one.calls for one in rounds)),
        late=0,
        quantiles_ms=[middle(row) for row in zip(*(r.quantiles_ms for r in rounds), strict=True)],
        cpu_us={who: middle(one.cpu_us[who] for one in rounds) for who in rounds[0].cpu_us},
        refused=int(middle(one.refused for one in rounds)),
        refused_ms=[middle(row) for row in zip(*(r.refused_ms for r in rounds), strict=True)],
        late_ms=[middle(row) for row in zip(*(r.late_ms for r in rounds), strict=True)],
    )


class HttpMeter:
    """Measures subjects one at a time. ``env`` is what all their processes get."""

    def __init__(self, home: Path, env: Mapping[str, str], redis_pid: int) -> None:
        self._home = home
        self._env = env
        self._redis_pid = redis_pid

    def run(
        self, subject: HttpSubject, items: Sequence[Any], labels: Sequence[Any],
        points: Sequence[HttpPoint],
    ) -> list[HttpMeasured]:
        """Every point. Raises Failed."""
        port = free_port()
        plan = self._home / "plan.json"
        plan.parent.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps({
            "port": port,
            "requests": [subject.request(item, port).decode("latin-1") for item in items],
            "answers": [subject.shown(label).decode("latin-1") for label in labels],
            "points": [vars(point) for point in points],
        }))
        limit_s = CLIENT_LIMIT_S + sum(2 * (p.seconds + p.warmup_s) for p in points)
        with contextlib.ExitStack() as stack:
            processes = {
                name: stack.enter_context(self._child(subject, name, port))
                for name in subject.processes
            }
            wait_ready(subject, items[0], port, processes)
            argv = [sys.executable, "-m", "benchmarks.harness.http_load", plan]
            client = stack.enter_context(
                Child(argv, self._log(subject, "load"), self._env, piped=True)
            )
            timer = threading.Timer(limit_s, client.process.kill)
            stack.callback(timer.cancel)
            timer.start()
            everything = {"load": client, **processes}
            return [self._point(subject, client, everything, point) for point in points]

    def _child(self, subject: HttpSubject, name: str, port: int) -> Child:
        given = {"BENCH_MODEL": subject.model, **subject.env}
        env = {**self._env, **{key: value.format(port=port) for key, value in given.items()}}
        argv = [str(word).format(port=port) for word in subject.processes[name]]
        return Child(argv, self._log(subject, name), env)

    def _point(
        self, subject: HttpSubject, client: Child, processes: Mapping[str, Child],
        point: HttpPoint,
    ) -> HttpMeasured:
        def used() -> dict[str, float]:
            spent = {name: child.cpu_s() for name, child in processes.items()}
            return {**spent, "redis": cpu_s(self._redis_pid)}

        _read(subject, client, "begin")
        before = used()
        result = _read(subject, client, "end")["result"]
        after = used()
        if result["errors"]:
            raise Failed(f"{subject.key}, {point}: {result['errors']} requests failed, "
                         f"first: {result['first_error']}")
        calls = max(result["calls"], 1)
        return HttpMeasured(
            per_s=result["per_s"], calls=result["calls"], late=0,
            quantiles_ms=result["quantiles_ms"],
            cpu_us={name: (after[name] - before[name]) / calls * 1e6 for name in after},
            refused=result["refused"], refused_ms=result["refused_ms"],
            late_ms=result["late_ms"],
        )

    def _log(self, subject: HttpSubject, what: str) -> Path:
        name = subject.key.replace("/", "-").replace(" ", "-").replace(",", "")
        return self._home / "logs" / f"{name}-{what}.log"


def wait_ready(
    subject: HttpSubject, item: Any, port: int, processes: Mapping[str, Child]
) -> None:
    """Wait until the first item is answered. Raises Failed after two minutes, or if one ends."""
    body, headers = subject.body(item)
    end_s = time.monotonic() + READY_S
    seen = "no answer"
    while time.monotonic() < end_s:
        for name, child in processes.items():
            if child.process.poll() is not None:
                raise Failed(f"{subject.key}: {name} ended early:\n{child.end_of_log()}")
        connection = http.client.HTTPConnection(HOST, port, timeout=10)
        try:
            connection.request(
                "POST", subject.path, body, {"Content-Type": "application/json", **headers}
            )
            answer = connection.getresponse()
            seen = f"{answer.status} {answer.read()[:300]!r}"
            if answer.status == 200:
                return
        except (OSError, http.client.HTTPException) as error:
            seen = str(error)
        finally:
            connection.close()
        time.sleep(0.1)
    log = next(iter(processes.values())).end_of_log()
    raise Failed(f"{subject.key} was not ready after {READY_S:g} s ({seen}):\n{log}")


def _read(subject: HttpSubject, client: Child, event: str) -> dict[str, Any]:
    for line in client.stdout:
        if line.startswith("{"):
            told: dict[str, Any] = json.loads(line)
            if told["event"] == event:
                return told
    raise Failed(f"{subject.key}: the load ended early:\n{client.end_of_log()}")
