"""HTTP: the gateway and one worker beside FastAPI, LitServe, MLServer, BentoML and Ray Serve.

Every server gets the same models and the same load from the same client process, on the same cores;
a peer that cannot be installed is reported as such. Rounds are interleaved, figures are medians.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import redis
from rich.console import Console

from benchmarks.harness import http_subjects as subjects, plot, table
from benchmarks.harness.child_environment import child_environment
from benchmarks.harness.http_meter import HttpMeasured, HttpMeter, HttpPoint, median
from benchmarks.harness.http_subjects import HttpSubject
from benchmarks.harness.points import Failed, listed
from benchmarks.harness.table import Row, compared
from benchmarks.realtime import make_models, publish
from benchmarks.subjects import portable
from celeriac import release
from celeriac.registry.store import Registry
from celeriac.settings import BrokerSettings, ModelsSettings, Settings, StackSettings
from workers.valkey import EmbeddedServer, free_port

HOME = Path(".celeriac/bench/gateway").absolute()
IN_FLIGHT = (1, 16, 64)
TEXT, DIGITS = "text", "digits"
IDLE = 500
OVERLOAD = 3
ONE, MANY = "1 in flight", "64 in flight"
AT_CAPACITY, BEYOND = "capacity offered", f"{OVERLOAD} x capacity offered"
ALONE, BESIDE_IDLE = "64, no idle connections", f"64, {IDLE} idle connections"
console = Console(highlight=False, stderr=True)

Results = dict[tuple[str, str, str], HttpMeasured]
"""By subject, model and label of the point."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long and how much is measured."""

    rounds: int = 3
    seconds: float = 2.5
    warmup_s: float = 1.0
    models: Sequence[str] = (TEXT, DIGITS)
    peers: bool = True
    idle_pairs: int = 5
    only: Sequence[str] = ()
    """Names of subjects to be measured; all if empty. Celeriac always is."""


QUICK = Effort(rounds=1, seconds=0.7, warmup_s=0.4, models=(TEXT,), peers=False, idle_pairs=1)


def main(words: Sequence[str]) -> int:
    """``scripts/bench gateway``. Exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench gateway", description=__doc__)
    parser.add_argument("--json", type=Path, default=HOME / "gateway.json", help="rows, figures")
    parser.add_argument("--plot", type=Path, default=HOME / "gateway.svg")
    parser.add_argument("--markdown", type=Path, default=HOME / "gateway.md")
    parser.add_argument("--quick", action="store_true", help="a minute, FastAPI the only peer")
    parser.add_argument("--rounds", type=int, help="of each measurement")
    parser.add_argument("--models", nargs="+", choices=(TEXT, DIGITS))
    parser.add_argument("--only", nargs="+", metavar="SUBJECT",
                        help=f"beside {subjects.OWN}, e.g. '{subjects.ASYNC}'")
    options = parser.parse_args(words)
    given = {name: value for name in ("rounds", "models", "only")
             if (value := getattr(options, name)) is not None}
    if options.rounds:
        given["idle_pairs"] = options.rounds
    bench = Bench(replace(QUICK if options.quick else Effort(), **given))
    found = bench.run()
    rows = list(goals(found))
    table.show(rows, "Goals")
    for name, reason in bench.absent.items():
        console.print(f"not measured: {name}: {reason}")
    table.save(rows, options.json, {
        "command": "scripts/bench gateway", "absent": bench.absent, "points": listed(found),
    })
    plot.gateway(found, options.plot)
    options.markdown.write_text(document(rows, found, bench.absent), encoding="utf-8")
    console.print(f"\n{options.json}\n{options.markdown}\n{options.plot}")
    return int(any(row.met is False for row in rows))


class Bench:
    """One run."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._found: dict[tuple[str, str, str], list[HttpMeasured]] = {}
        self.absent: dict[str, str] = {}
        """Peers that were not measured, and why."""

    def run(self) -> Results:
        """Everything, one after the other; new processes and an emptied server each time."""
        for old in ("state", "logs", "models"):
            shutil.rmtree(HOME / old, ignore_errors=True)
        console.print("Training the models")
        text, digits = make_models(HOME)
        portable.save(HOME / "portable", text, digits)
        release.register(TEXT, text, registry=Registry(HOME / "models"), examples=["good"],
                         recipe={"direct": False})
        self._server = EmbeddedServer(HOME / "state" / "valkey", free_port())
        self._server.start()
        try:
            self._prepare()
            self._rounds()
            if TEXT in self._effort.models:
                self._overload()
                self._idle()
        finally:
            self._server.stop()
        return {key: median(rounds) for key, rounds in self._found.items()}

    def _prepare(self) -> None:
        assert self._server.process is not None
        self._meter = HttpMeter(HOME, self._environment(), self._server.process.pid)
        self._items = {}
        for model in self._effort.models:
            items = json.loads((HOME / "items" / f"{model}-0.json").read_text())
            answers = portable.load(model, HOME / "portable")
            self._items[model] = items, [one["label"] for one in answers(items)]

    def _rounds(self) -> None:
        effort = self._effort
        every = [*subjects.own(effort.models), *subjects.fastapi(effort.models)]
        if TEXT in effort.models:
            every += [*subjects.own_plain(), *subjects.own_routes()]
        if effort.peers:
            for name, peer in subjects.PEERS.items():
                if not effort.only or name in effort.only:
                    every += self._installed(name, peer)
        if effort.only:
            chosen = {subjects.OWN, *effort.only}
            every = [subject for subject in every if subject.name in chosen]
        closed = {
            f"{n} in flight": HttpPoint(in_flight=n, seconds=effort.seconds,
                                        warmup_s=effort.warmup_s)
            for n in IN_FLIGHT
        }
        for number in range(effort.rounds):
            for subject in every:
                if subject.name not in self.absent:
                    console.print(f"round {number + 1} of {effort.rounds}: {subject.key}")
                    self._measure(subject, closed)

    def _installed(
        self, name: str, peer: Callable[[Path, Sequence[str]], Iterator[HttpSubject]]
    ) -> list[HttpSubject]:
        try:
            return list(peer(HOME, self._effort.models))
        except RuntimeError as error:
            self.absent[name] = str(error)
            return []

    def _overload(self) -> None:
        """As many requests as the gateway answers with 64 in flight, and three times as many."""
        effort, subject = self._effort, next(subjects.own([TEXT]))
        top = median(self._found[subject.name, TEXT, MANY]).per_s
        loads = {
            label: HttpPoint(kind="open", per_s=top * share, seconds=2 * effort.seconds,
                             warmup_s=2 * effort.warmup_s)
            for label, share in ((AT_CAPACITY, 1), (BEYOND, OVERLOAD))
        }
        for number in range(effort.rounds):
            console.print(f"round {number + 1} of {effort.rounds}: overload")
            self._measure(subject, loads)

    def _idle(self) -> None:
        effort, subject = self._effort, next(subjects.own([TEXT]))
        for number in range(effort.idle_pairs):
            console.print(f"round {number + 1} of {effort.idle_pairs}: idle connections")
            self._measure(subject, {
                label: HttpPoint(in_flight=64, idle=idle, seconds=effort.seconds,
                                 warmup_s=effort.warmup_s)
                for label, idle in ((ALONE, 0), (BESIDE_IDLE, IDLE))
            })

    def _measure(self, subject: HttpSubject, loads: Mapping[str, HttpPoint]) -> None:
        """A peer that fails is left out from then on; Celeriac's failure ends the benchmark."""
        client = redis.Redis.from_url(self._server.url)
        client.flushall()
        publish(client, HOME)
        client.close()
        items, labels = self._items[subject.model]
        try:
            measured = self._meter.run(subject, items, labels, list(loads.values()))
        except Failed as error:
            if subject.name.startswith(subjects.OWN):
                raise
            self.absent[subject.name] = str(error)
            return
        for label, found in zip(loads, measured, strict=True):
            self._found.setdefault((subject.name, subject.model, label), []).append(found)

    def _environment(self) -> dict[str, str]:
        settings = Settings(
            broker=BrokerSettings(url=self._server.url),
            stack=StackSettings(state_dir=HOME / "state", metrics_port=0),
            models=ModelsSettings(root=HOME / "models"),
        )
        return child_environment(settings) | {
            "BENCH_PORTABLE": str(HOME / "portable"), "PYTHONUNBUFFERED": "1",
        }


# --- what came of it --------------------------------------------------------------------------


def goals(found: Results) -> Iterator[Row]:
    """The rows of the table, with the bounds that Celeriac sets itself."""
    if (subjects.OWN, TEXT, MANY) in found:
        yield from _text(found)
    if (subjects.OWN, DIGITS, MANY) in found:
        yield from _digits(found)
    yield from _alone(found)
    if (subjects.OWN, TEXT, MANY) in found:
        yield from _plain(found)
        yield from _pressed(found)
        yield from _routes(found)


def _measured(found: Results, model: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if (name, model, MANY) in found]


def _text(found: Results) -> Iterator[Row]:
    own = found[subjects.OWN, TEXT, MANY]
    peers = _measured(found, TEXT, (*subjects.IN_PROCESS, *subjects.BATCHING))
    peers.sort(key=lambda name: -found[name, TEXT, MANY].per_s)
    for name in peers:
        yield compared("text, 64 in flight", own.per_s, "req/s", name,
                       found[name, TEXT, MANY].per_s, at_least=4 if name == peers[0] else None)
    yield _at_most("text, 64 in flight, p99", own.ms(0.99), 20)
    for name in _measured(found, TEXT, [subjects.TWO]):
        yield compared("text, 64 in flight", own.per_s, "req/s", name,
                       found[name, TEXT, MANY].per_s)


def _at_most(measure: str, milliseconds: float, bound: float) -> Row:
    return Row(measure=measure, value=milliseconds, unit="ms", goal=f"<= {bound:g} ms",
               met=milliseconds <= bound)


def _digits(found: Results) -> Iterator[Row]:
    own = found[subjects.OWN, DIGITS, MANY].per_s
    best = max(_measured(found, DIGITS, subjects.IN_PROCESS), default="",
               key=lambda name: found[name, DIGITS, MANY].per_s)
    for name in _measured(found, DIGITS, (best, *subjects.BATCHING, subjects.TWO)):
        yield compared("digits, 64 in flight", own, "req/s", name,
                       found[name, DIGITS, MANY].per_s, at_least=2.5 if name == best else None)


def _alone(found: Results) -> Iterator[Row]:
    """One request at a time."""
    for model in (TEXT, DIGITS):
        if (subjects.OWN, model, ONE) not in found:
            continue
        own = found[subjects.OWN, model, ONE].ms(0.5)
        best = min(_measured(found, model, subjects.IN_PROCESS), default="",
                   key=lambda name: found[name, model, ONE].ms(0.5))
        bounds = {best: 1.5 if model == TEXT else None} if best else {}
        bounds |= dict.fromkeys(_measured(found, model, subjects.BATCHING), 1.0)
        for name, bound in bounds.items():
            yield compared(f"{model}, 1 in flight, p50", own, "ms", name,
                           found[name, model, ONE].ms(0.5), at_most=bound)


def _plain(found: Results) -> Iterator[Row]:
    """What the shorter way through scikit-learn, the default, is worth."""
    for name in _measured(found, TEXT, [subjects.PLAIN]):
        yield compared("text, 1 in flight, p50", found[subjects.OWN, TEXT, ONE].ms(0.5), "ms",
                       name, found[name, TEXT, ONE].ms(0.5))
        yield compared("text, 64 in flight", found[subjects.OWN, TEXT, MANY].per_s, "req/s", name,
                       found[name, TEXT, MANY].per_s)


def _pressed(found: Results) -> Iterator[Row]:
    """Too many requests, and connections that do nothing."""
    calm, beyond = (found[subjects.OWN, TEXT, label] for label in (AT_CAPACITY, BEYOND))
    yield compared(f"text, {BEYOND}, p99 of accepted", beyond.ms(0.99), "ms", AT_CAPACITY,
                   calm.ms(0.99), at_most=2)
    yield compared(f"text, {BEYOND}, p99 of accepted", beyond.ms(0.99), "ms", MANY,
                   found[subjects.OWN, TEXT, MANY].ms(0.99))
    yield compared(f"text, {BEYOND}, answered", beyond.per_s, "req/s", MANY,
                   found[subjects.OWN, TEXT, MANY].per_s)
    yield _at_most(f"text, {BEYOND}, p99 of refusals", beyond.refused_ms[1], 50)
    alone, beside = (found[subjects.OWN, TEXT, label] for label in (ALONE, BESIDE_IDLE))
    yield compared(f"text, 64 in flight, {IDLE} idle connections, p99", beside.ms(0.99), "ms",
                   "none idle", alone.ms(0.99), at_most=1.2)


def _routes(found: Results) -> Iterator[Row]:
    own = found[subjects.OWN, TEXT, MANY].per_s
    for name in _measured(found, TEXT, (subjects.CLASSIFY, subjects.INFER, subjects.BINARY)):
        route = name.partition(", ")[2]
        yield compared(f"text, 64 in flight, {route}", found[name, TEXT, MANY].per_s, "req/s",
                       "/v1 predict", own)


HEADERS = ("model", "subject", "load", "req/s", "p50 ms", "p99 ms", "server us", "worker us",
           "Redis us", "load us", "refused", "refusal p99 ms")


def document(rows: Sequence[Row], found: Results, absent: Mapping[str, str]) -> str:
    """Both tables as Markdown."""
    about = table.machine()
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    missing = [f"Not measured: {name}: {reason}\n" for name, reason in absent.items()]
    return "\n".join([
        f"{about['cores']} cores, {about['system']}, Python {about['python']}; {packages}.\n",
        *missing,
        table.markdown(table.HEADERS, [table.cells(row) for row in rows]),
        "CPU is per request that was answered.\n",
        table.markdown(HEADERS, list(_lines(found))),
    ])


def _lines(found: Results) -> Iterator[list[str]]:
    for (name, model, label), one in sorted(found.items(), key=lambda entry: entry[0][1]):
        cpu = [table.figure(one.cpu_us.get(who, 0)) for who in ("server", "worker", "redis",
                                                                "load")]
        refused = [f"{one.refused:,}", table.figure(one.refused_ms[1])] if one.refused else ["", ""]
        yield [model, name, label, table.figure(one.per_s), table.figure(one.ms(0.5)),
               table.figure(one.ms(0.99)), *cpu, *refused]
