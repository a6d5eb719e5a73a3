"""Real time: Celeriac beside plain Celery, a raw Redis consumer, huey and dramatiq.

Every subject gets a worker of one process, the same model, and the same load from one client
process; server, worker and client share the machine. Rounds are interleaved, figures are medians.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from rich.console import Console

from benchmarks.harness import environments, plot, table
from benchmarks.harness.child_environment import child_environment
from benchmarks.harness.load import SHARES
from benchmarks.harness.points import Measured, Meter, Point, Subject, listed, median
from benchmarks.harness.table import Row, compared
from celeriac.registry.store import Registry
from celeriac.settings import (
    BrokerSettings,
    ModelsSettings,
    RealtimeSettings,
    Settings,
    StackSettings,
)
from workers.commands import worker_command
from workers.valkey import EmbeddedServer, free_port

HOME = Path(".celeriac/bench").absolute()
PYTHON = Path(sys.executable)
SUBJECTS = "benchmarks.subjects"
PLAIN, RAW, ONE_ITEM = "plain Celery", "raw consumer", "Celeriac, single items"
THREADS, ASYNCIO = "Celeriac, threads", "Celeriac, asyncio"
ALONE = "model alone"
MODELS = ("echo", "text", "digits")
OVERLOAD = "open, 300 %"
OVERLOAD_WARMUP_S = 3.0
"""So long the queue grows to its bound."""
OVERLOAD_S = 4.0
"""A call may wait for half of this."""
SLOW, CALM = "slow-text", "calm-echo"
BATCHES = (1, 32, 256)
CLOSED = (1, 64, 256)
console = Console(highlight=False, stderr=True)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long and how much is measured."""

    rounds: int = 3
    seconds: float = 2.0
    warmup_s: float = 0.7
    models: Sequence[str] = MODELS
    peers: bool = True
    memory_items: Sequence[int] = (10_000, 990_000)


QUICK = Effort(rounds=1, seconds=0.5, warmup_s=0.3, models=("echo",), peers=False,
               memory_items=(2_000, 10_000))


def main(words: Sequence[str]) -> int:
    """``scripts/bench realtime``. Exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench realtime", description=__doc__)
    parser.add_argument("--json", type=Path, default=HOME / "realtime.json", help="rows, figures")
    parser.add_argument("--plot", type=Path, default=HOME / "realtime.svg")
    parser.add_argument("--markdown", type=Path, default=HOME / "realtime.md")
    parser.add_argument("--quick", action="store_true", help="a minute: is all in order?")
    options = parser.parse_args(words)
    results = Bench(QUICK if options.quick else Effort()).run()
    rows = list(goals(results))
    table.show(rows, "Goals")
    table.save(rows, options.json, {"command": "scripts/bench realtime", "points": listed(results)})
    plot.realtime(results, options.plot)
    options.markdown.write_text(document(rows, results), encoding="utf-8")
    console.print(f"\n{options.json}\n{options.markdown}\n{options.plot}")
    return int(any(row.met is False for row in rows))


Results = dict[tuple[str, str, str], Measured]
"""By subject, model and label of the point."""


class Bench:
    """One run."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._found: dict[tuple[str, str, str], list[Measured]] = {}

    def run(self) -> Results:
        """Everything, one after the other; a new worker and an emptied server each time."""
        for old in ("state", "logs", "models"):
            shutil.rmtree(HOME / old, ignore_errors=True)
        console.print("Training the models")
        make_models(HOME)
        self._server = EmbeddedServer(HOME / "state" / "valkey", free_port())
        self._server.start()
        try:
            assert self._server.process is not None
            self._meter = Meter(HOME, self._server.process.pid, self._environment())
            self._rounds()
            self._open_loop()
            self._overload()
            self._memory()
            self._cache()
        finally:
            self._server.stop()
        return {key: median(rounds) for key, rounds in self._found.items()}

    def _rounds(self) -> None:
        effort = self._effort
        closed = [
            Point(kind="closed", in_flight=n, seconds=effort.seconds, warmup_s=effort.warmup_s)
            for n in CLOSED
        ]
        for number in range(effort.rounds):
            for subject in self._subjects():
                console.print(f"round {number + 1} of {effort.rounds}: {subject.key}")
                alone = subject.name == ALONE
                for size in BATCHES if alone else (0,):
                    self._measure(subject, closed[:1] if alone else closed, batch=size)

    def _subjects(self) -> Iterator[Subject]:
        lane = worker_command("realtime.cpu")
        for model in self._effort.models:
            def own(name: str, module: str, *worker: str | Path, asyncio: bool = False,
                    model: str = model) -> Subject:
                return Subject(name=name, module=f"{SUBJECTS}.{module}", python=PYTHON,
                               worker=worker, model=model, asyncio=asyncio)

            yield own(PLAIN, "plain_celery", *PLAIN_WORKER)
            yield own(RAW, "raw", PYTHON, "-m", f"{SUBJECTS}.raw")
            yield own(THREADS, "lane", *lane)
            yield own(ASYNCIO, "lane", *lane, asyncio=True)
            yield own(ONE_ITEM, "one_item", *lane)
            if model != "echo":
                yield own(ALONE, "inprocess")
        if self._effort.peers:
            yield from peers()

    def _open_loop(self) -> None:
        """Half and four fifths of what each reached with 64 in flight."""
        for subject in self._subjects():
            if subject.model == "digits" or subject.name not in (PLAIN, RAW, ASYNCIO):
                continue
            top = median(self._found[subject.name, subject.model, "64 in flight"]).per_s
            loads = [
                Point(kind="open", per_s=top * share, seconds=2 * self._effort.seconds,
                      warmup_s=self._effort.warmup_s)
                for share in (0.5, 0.8)
            ]
            console.print(f"open loop: {subject.key}")
            self._measure(subject, loads, labels=("open, 50 %", "open, 80 %"))

    def _overload(self) -> None:
        """Three times what a slow model can do, beside one caller who asks another."""
        seconds = self._effort.seconds
        slow, calm = (
            Subject(name=name, module=f"{SUBJECTS}.lane", python=PYTHON, model=model,
                    worker=worker_command("realtime.cpu"), asyncio=name == ASYNCIO)
            for name, model in ((ASYNCIO, SLOW), (THREADS, CALM))
        )
        for number in range(self._effort.rounds):
            console.print(f"round {number + 1} of {self._effort.rounds}: overload")
            self._measure(calm, [Point(kind="paced", seconds=seconds)])
            self._measure(slow, [Point(kind="closed", in_flight=64, seconds=max(2.0, seconds))])
            top = self._found[ASYNCIO, SLOW, "64 in flight"][-1].per_s
            self._measure(slow, [Point(
                kind="overload", per_s=3 * top, calm_model=CALM,
                seconds=max(OVERLOAD_S, 2 * seconds), warmup_s=OVERLOAD_WARMUP_S,
            )], labels=(OVERLOAD,))

    def _memory(self) -> None:
        subject = next(s for s in self._subjects() if s.name == THREADS and s.model == "echo")
        console.print(f"memory: {sum(self._effort.memory_items):,} items")
        loads = [Point(kind="many", items=n, seconds=60) for n in self._effort.memory_items]
        self._measure(subject, loads, labels=("memory, begin", "memory, end"))

    def _cache(self) -> None:
        for number in range(self._effort.rounds):
            console.print(f"round {number + 1} of {self._effort.rounds}: cache")
            for model in ("cached", "cached:get"):
                subject = Subject(
                    name="cache", module=f"{SUBJECTS}.cache", python=PYTHON,
                    worker=worker_command("realtime.cpu"), model=model,
                )
                self._measure(subject, [Point(kind="closed", in_flight=1,
                              seconds=self._effort.seconds, warmup_s=self._effort.warmup_s)])

    def _measure(
        self, subject: Subject, loads: Sequence[Point], *,
        labels: Sequence[str] = (), batch: int = 0,
    ) -> None:
        client = redis.Redis.from_url(self._server.url)
        client.flushall()
        publish(client, HOME)
        client.close()
        items = HOME / "items" / f"{subject.model.partition(':')[0]}-{batch}.json"
        if batch:
            labels = [f"batches of {batch}"]
        for label, found in zip(
            labels or [load.label for load in loads],
            self._meter.run(subject, items, loads), strict=True,
        ):
            self._found.setdefault((subject.name, subject.model, label), []).append(found)

    def _environment(self) -> dict[str, str]:
        settings = Settings(
            broker=BrokerSettings(url=self._server.url),
            stack=StackSettings(state_dir=HOME / "state", metrics_port=0),
            models=ModelsSettings(root=HOME / "models"),
        )
        return child_environment(settings) | {"BENCH_REDIS_URL": self._server.url}


PLAIN_WORKER = (
    PYTHON, "-m", "celery", "-A", f"{SUBJECTS}.plain_celery", "worker", "-P", "solo",
    "-l", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat",
)


def peers() -> Iterator[Subject]:
    """Other task queues, in environments of their own."""
    huey = environments.ensure(HOME / "huey", ["huey==3.5.4", "redis[hiredis]==8.1.0"])
    yield Subject(
        name="huey", module=f"{SUBJECTS}.huey_app", python=huey, model="echo",
        worker=(huey, huey.with_name("huey_consumer"), f"{SUBJECTS}.huey_app.huey",
                "-k", "thread", "-w", "4", "-q"),
    )
    dramatiq = environments.ensure(
        HOME / "dramatiq", ["dramatiq[redis]==2.2.1", "redis[hiredis]==8.1.0"]
    )
    yield Subject(
        name="dramatiq", module=f"{SUBJECTS}.dramatiq_app", python=dramatiq, model="echo",
        worker=(dramatiq, "-m", "dramatiq", f"{SUBJECTS}.dramatiq_app", "-p", "1", "-t", "8"),
    )


def make_models(home: Path) -> tuple[Any, Any]:
    """Register echo, text (food reviews), digits (a CNN) and a cached echo; write their items.

    Returns the models of text and of digits.
    """
    from celeriac import release
    from celeriac.registry.manifest import Serving
    from demo import train

    data = home / "data"
    subprocess.run([PYTHON, "-m", "demo.data", data], check=True, timeout=120)
    registry = Registry(home / "models")
    reviews = read_csv(data / "reviews_train.csv")
    texts = read_csv(data / "reviews_heldout.csv")["review"].tolist()
    images, unseen, labels, _ = train.digit_images()
    release.register("echo", "echo", registry=registry, examples=["hello"])
    release.register(CALM, "echo", registry=registry, examples=["hello"])
    release.register(SLOW, slow_classifier(reviews["review"], reviews["score"]),
                     registry=registry, examples=texts[:5])
    release.register("cached", "echo", registry=registry, examples=["hello"],
                     serving=Serving(cache=True))
    text = train.text_classifier(reviews["review"], reviews["score"])
    digits = train.digit_classifier(images, labels)
    release.register("text", text, registry=registry, examples=texts[:5])
    release.register(
        "digits", digits, registry=registry, examples=unseen[:5], labels=list(range(10))
    )
    for name in registry.names():
        registry.aliases(name).promote(1, expected=None, who="bench", why="measured")
    write_items(home / "items", "echo", ["x" * 200] * 256)
    write_items(home / "items", "cached", ["x" * 200])
    write_items(home / "items", CALM, ["x"])
    for name in ("text", SLOW):
        write_items(home / "items", name, texts)
    write_items(home / "items", "digits", unseen.tolist())
    return text, digits


def slow_classifier(texts: Any, labels: Any) -> Any:
    """A model that takes about a millisecond for each text, so that a client can offer more."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(analyzer="char", ngram_range=(1, 5), max_features=2_000)
    return make_pipeline(words, LogisticRegression(max_iter=200)).fit(texts[:500], labels[:500])


def read_csv(path: Path) -> Any:
    import pandas as pd

    return pd.read_csv(path)


def write_items(folder: Path, name: str, items: list[Any]) -> None:
    """Items one by one, and in batches for the model alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-0.json").write_text(json.dumps(items), encoding="utf-8")
    for size in BATCHES:
        many = items * (1 + size // len(items))
        batches = [many[i : i + size] for i in range(0, len(many) - size + 1, size)]
        (folder / f"{name}-{size}.json").write_text(json.dumps(batches), encoding="utf-8")


def publish(client: redis.Redis, home: Path) -> None:
    """What the maintenance role does: tell clients of the models."""
    from celeriac.registry import catalogue

    catalogue.publish(client, Registry(home / "models").infos())


# --- what came of it --------------------------------------------------------------------------


def goals(found: Results) -> Iterator[Row]:
    """The rows of the table, with the bounds that Celeriac sets itself."""
    models = {model for _, model, _ in found}
    yield from _one_in_flight(found)
    for model, plain, raw in (("echo", 25, 1.8), ("text", 22, 1.2), ("digits", 15, 1.15)):
        if model in models:
            yield from _throughput(found, model, plain, raw)
    if "text" in models:
        yield from _one_item(found)
    yield from _shape(found)
    yield from _overloaded(found)
    yield from _cached_and_memory(found)


def _best(found: Results, model: str, label: str = "64 in flight") -> tuple[str, Measured]:
    """The faster of the two ways to wait."""
    ways = [(name, found[name, model, label]) for name in (THREADS, ASYNCIO)]
    return max(ways, key=lambda way: way[1].per_s)


def _one_in_flight(found: Results) -> Iterator[Row]:
    own = found[THREADS, "echo", "1 in flight"].ms(0.5)
    others = [(PLAIN, 0.35), ("huey", 1.0), (RAW, None)]
    for name, bound in others:
        if (name, "echo", "1 in flight") in found:
            base = found[name, "echo", "1 in flight"].ms(0.5)
            yield compared("echo, 1 in flight, p50", own, "ms", name, base, at_most=bound)


def _throughput(found: Results, model: str, plain: float, raw: float) -> Iterator[Row]:
    name, best = _best(found, model)
    way = name.partition(", ")[2]
    for base, bound in ((PLAIN, plain), (RAW, raw)):
        yield compared(f"{model}, 64 in flight ({way})", best.per_s, "items/s", base,
                       found[base, model, "64 in flight"].per_s, at_least=bound)
    other = found[ASYNCIO if name == THREADS else THREADS, model, "64 in flight"].per_s
    yield compared(f"{model}, 64 in flight, other way", other, "items/s", way, best.per_s)
    if model != "echo":
        yield compared(f"{model}, 64 in flight ({way})", best.per_s, "items/s",
                       "alone, 32 a batch", found[ALONE, model, "batches of 32"].per_s * 32)
    queues = [q for q in ("huey", "dramatiq") if (q, model, "64 in flight") in found]
    if queues:
        top = max(queues, key=lambda queue: found[queue, model, "64 in flight"].per_s)
        yield compared(f"{model}, 64 in flight ({way})", best.per_s, "items/s", top,
                       found[top, model, "64 in flight"].per_s, at_least=5)


def _one_item(found: Results) -> Iterator[Row]:
    own = found[ONE_ITEM, "text", "64 in flight"].per_s
    for base, bound in ((PLAIN, 15), (RAW, 0.9)):
        yield compared("text, 64 of one item a message", own, "items/s", base,
                       found[base, "text", "64 in flight"].per_s, at_least=bound)


def _shape(found: Results) -> Iterator[Row]:
    for model in MODELS:
        if (THREADS, model, "64 in flight") not in found:
            continue
        name, best = _best(found, model)
        yield compared(f"{model}, 64 in flight, p99", best.ms(0.99), "ms", "p50", best.ms(0.5),
                       at_most=2)
        yield compared(
            f"{model}, 256 in flight", found[name, model, "256 in flight"].per_s, "items/s",
            "64 in flight", best.per_s, at_least=1.1 if model == "echo" else None,
        )


def _overloaded(found: Results) -> Iterator[Row]:
    own = found[ASYNCIO, SLOW, OVERLOAD]
    bound_ms = RealtimeSettings().max_queue_s * 1000
    yield compared("slow text, 3 x offered, answered", own.per_s, "items/s", "64 in flight",
                   found[ASYNCIO, SLOW, "64 in flight"].per_s)
    yield compared("slow text, 3 x offered, p99 of what is answered", own.ms(0.99), "ms",
                   "max_queue_s", bound_ms, at_most=1)
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        calm_ms = own.calm_ms[SHARES.index(share)]
        yield compared(f"echo beside it, {name}", calm_ms, "ms", "alone",
                       found[THREADS, CALM, "one calm caller"].ms(share))


def _cached_and_memory(found: Results) -> Iterator[Row]:
    hit = found["cache", "cached", "1 in flight"].ms(0.5)
    get = found["cache", "cached:get", "1 in flight"].ms(0.5)
    yield compared("cache hit, p50", hit, "ms", "one GET", get, at_most=2)
    begin, end = (found[THREADS, "echo", f"memory, {at}"] for at in ("begin", "end"))
    yield compared(f"worker memory after {begin.calls + end.calls:,} items",
                   end.worker_bytes / 1e6, "MB", f"after {begin.calls:,}",
                   begin.worker_bytes / 1e6, at_most=1.05)
    yield Row(measure="echo, predict_many", value=end.per_s, unit="items/s")


HEADERS = ("model", "subject", "load", "calls/s", "p50 ms", "p99 ms", "p99.9 ms",
           "client us", "worker us", "server us")


def document(rows: Sequence[Row], found: Results) -> str:
    """Both tables as Markdown."""
    about = table.machine()
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    return "\n".join([
        f"{about['cores']} cores, {about['system']}, Python {about['python']}; {packages}.\n",
        table.markdown(table.HEADERS, [table.cells(row) for row in rows]),
        "CPU is per call, of client, worker and server.\n",
        table.markdown(HEADERS, list(_lines(found))),
    ])


def _lines(found: Results) -> Iterator[list[str]]:
    for (name, model, label), one in sorted(found.items(), key=lambda entry: entry[0][1]):
        if not one.quantiles_ms:
            continue
        waits = [table.figure(one.ms(share)) for share in (0.5, 0.99, 0.999)]
        cpu = [table.figure(one.cpu_us.get(who, 0)) for who in ("client", "worker", "redis")]
        yield [model, name, label, table.figure(one.per_s), *waits, *cpu]
