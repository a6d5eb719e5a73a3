"""Batch: whole jobs beside a bare loop in two processes and the tutorial's ``Pool.map``.

Every subject is warm and has the same model, data and machine; rounds are interleaved, figures are
medians. A job is counted from the call that submits it until its end is known: plan, ledger, parts
and records flushed to the disk, manifest and report included. What a bare loop does, and leaves
undone, is in ``benchmarks/subjects/bare_loop.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import datasets, plot, table
from benchmarks.harness.child_environment import child_environment
from benchmarks.harness.points import Measured, Meter, Point, Subject
from benchmarks.harness.processes import Child, PeakMemory, cpu_s, tree
from benchmarks.harness.table import Row, compared
from celeriac.settings import ModelsSettings, Settings, StackSettings
from workers.stack import Stack
from workers.valkey import free_port

HOME = Path(".celeriac/bench/batch").absolute()
PYTHON = Path(sys.executable)
CELERIAC, BARE, POOL = "Celeriac", "bare loop", "Pool.map"
STATISTICS = "Celeriac with statistics"
PROGRAM = "Celeriac, submitted by a program"
ORDERS = "Celeriac, ordered by a program"
READS = "Celeriac, planned by the program itself"
"""The million rows of numbers are scored with and without the sample that the report's statistics
need; everything else with it."""
PROCESSES = 2
FILE_ROWS = 5
SIDES = (8, 224)
"""Of images, in pixels: as small as scanned digits are, and as large as networks of photos take."""
console = Console(highlight=False, stderr=True)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is scored, and how often."""

    rounds: int = 5
    long_rounds: int = 2
    rows: int = 1_000_000
    large: int = 5
    """So many times ``rows`` for the memory of a large job, and ``reviews`` for one that outlasts
    the calls beside it."""
    trees: int = 700
    chunks: int = 1_000
    files: int = 10_000
    reviews: int = 250_000
    images: int = 5_000
    plan_rows: int = 1_000_000
    alternations: int = 4
    load_s: float = 8.0


QUICK = Effort(rounds=1, long_rounds=1, rows=100_000, large=2, trees=60, chunks=100, files=300,
               reviews=10_000, images=200, plan_rows=100_000, alternations=1, load_s=2.0)


@dataclass(frozen=True)
class Run:
    """One run of one subject."""

    seconds: float
    cpu_s: float = 0.0
    chunks: int = 0
    peak_bytes: int = 0


Results = dict[tuple[str, str], list[Run]]
"""By measure and subject, one of each round."""


def main(words: Sequence[str]) -> int:
    """``scripts/bench batch``. Exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench batch", description=__doc__)
    parser.add_argument("--json", type=Path, default=HOME.parent / "batch.json", help="rows, runs")
    parser.add_argument("--plot", type=Path, default=HOME.parent / "batch.svg")
    parser.add_argument("--markdown", type=Path, default=HOME.parent / "batch.md")
    parser.add_argument("--quick", action="store_true", help="little data: is all in order?")
    parser.add_argument("--only", nargs="*", choices=MEASURES, default=MEASURES)
    options = parser.parse_args(words)
    bench = Bench(QUICK if options.quick else Effort(), options.only)
    try:
        bench.run()
    finally:
        shutil.rmtree(HOME, ignore_errors=True)
    rows = list(goals(bench))
    table.show(rows, "Goals")
    table.save(rows, options.json, {"command": "scripts/bench batch", "runs": runs(bench.found)})
    plot.batch(bench.found, options.plot)
    options.markdown.write_text(document(rows, bench.found), encoding="utf-8")
    console.print(f"\n{options.json}\n{options.markdown}\n{options.plot}")
    return int(any(row.met is False for row in rows))


MEASURES = (
    "numeric", "long", "memory", "chunks", "files", "text", "images", "planning", "realtime",
)


class Bench:
    """One run of all that was asked for."""

    def __init__(self, effort: Effort, only: Sequence[str] = MEASURES) -> None:
        self.effort = effort
        self.found: Results = {}
        self.waits: dict[str, list[Measured]] = {"idle": [], "busy": []}
        self._only = only

    def run(self) -> None:
        """Make the data, then one stack after the other."""
        shutil.rmtree(HOME, ignore_errors=True)
        (HOME / "data").mkdir(parents=True)
        if {"numeric", "long", "memory", "chunks", "files"} & {*self._only}:
            self._numbers()
        if {"text", "images", "realtime"} & {*self._only}:
            self._texts_and_images()
        if "planning" in self._only:
            self._planning()

    # --- numbers ----------------------------------------------------------------------------------

    def _numbers(self) -> None:
        console.print("Making tables of numbers and their models")
        effort, root = self.effort, HOME / "numeric-models"
        source = HOME / "data" / "numbers.parquet"
        datasets.numeric_parquet(source, effort.rows)
        if "memory" in self._only:
            self._memory(source)
        if not {"numeric", "long", "chunks", "files"} & {*self._only}:
            return
        datasets.numeric_models(root, trees=effort.trees if "long" in self._only else 0)
        with Site(root, ("batch.cpu", "maintenance")) as site:
            if "numeric" in self._only:
                for model in ("lr", "rf"):
                    self._compare(site, f"numbers, {model}", "numeric", model, source,
                                  effort.rounds, POOL, STATISTICS)
            if "long" in self._only:
                self._compare(site, "long job", "numeric", "slow", source, 1)
            if "chunks" in self._only:
                self._chunks(site)
            if "files" in self._only:
                self._files(site)

    def _memory(self, source: Path) -> None:
        """Sampling slows a run down, so these runs are not timed. Workers hold the champions of
        their registry, so theirs has the one model that the bare loop holds, too. Who submits is
        the command, then a program that has submitted before: as it comes, by orders, and as one
        that reads each dataset itself, which nobody need do. No bound is set for that."""
        many, root = HOME / "data" / "many", HOME / "memory-models"
        datasets.linked(many, source, self.effort.large)
        datasets.numeric_models(root, ["lr"])
        with (
            Site(root, ("batch.cpu", "maintenance")) as site,
            site.peer("bare_loop", "lr") as bare,
        ):
            sets = (("", source), (f" x {self.effort.large}", many))
            for _ in range(3):
                self._note("memory", BARE, site.bare(bare, "numeric", source, memory=True))
                for name, data in sets:
                    self._note("memory", f"{CELERIAC}{name}", site.command(data, "lr", "id"))
                    run = site.job(data, "lr", ["id"], memory=True, light=True)
                    self._note("memory", f"{PROGRAM}{name}", run)
                    run = site.job(
                        data, "lr", ["id"], memory=True, light=True, planned_by="worker"
                    )
                    self._note("memory", f"{ORDERS}{name}", run)
            with site.peer("batch_client") as reader:
                for name, data in sets * 3:
                    run = site.job(
                        data, "lr", ["id"], memory=True, client=reader, planned_by="client"
                    )
                    self._note("memory", f"{READS}{name}", run)

    def _chunks(self, site: Site) -> None:
        source = HOME / "data" / "small.csv"
        count, remove = self.effort.chunks, self.effort.chunks // 10
        datasets.small_csv(source, count * 20)
        with site.peer("bare_loop", "lr") as bare:
            site.bare(bare, "slices", source)  # warm
            for number in range(3):
                console.print(f"chunks, round {number + 1} of 3")
                kept = HOME / f"kept-{number}"
                self._note("chunks", BARE, site.bare(bare, "slices", source))
                run = site.job(source, "lr", ["id"], chunk_rows=20, keep_as=kept)
                self._note("chunks", CELERIAC, run)
                told = site.client.ask(action="resume", output=str(kept), remove=remove)
                self._note("resume", CELERIAC, Run(told["first_s"], chunks=told["done_before"]))

    def _files(self, site: Site) -> None:
        source = HOME / "data" / "files"
        datasets.small_files(source, self.effort.files, FILE_ROWS)
        for number in range(3):
            console.print(f"small files, round {number + 1} of 3")
            self._note("files", CELERIAC, site.job(source, "lr", ["id"]))

    # --- texts, images, real time -----------------------------------------------------------------

    def _texts_and_images(self) -> None:
        console.print("Making reviews, images and their models")
        effort, data, root = self.effort, HOME / "data", HOME / "models"
        datasets.demo_data(data)
        datasets.text_model(root, data)
        datasets.image_model(root)
        reviews = data / "reviews.csv"
        datasets.reviews_csv(reviews, effort.reviews, data)
        with Site(root, ("realtime.cpu", "batch.cpu", "maintenance")) as site:
            if "text" in self._only:
                self._compare(site, "reviews", "text", "text", reviews, effort.long_rounds)
            if "images" in self._only:
                for side in SIDES:
                    images = data / f"images-{side}"
                    datasets.image_folder(images, effort.images, side)
                    rounds = effort.rounds if side == min(SIDES) else effort.long_rounds
                    self._compare(site, f"images, {side} x {side}", "images", "digits", images,
                                  rounds, STATISTICS)
            if "realtime" in self._only:
                self._realtime(site, reviews)

    def _realtime(self, site: Site, reviews: Path) -> None:
        """Calls of the text model at a steady rate, while nothing or a large job runs beside."""
        items = HOME / "items.json"
        items.write_text(json.dumps(datasets.some_reviews(HOME / "data", 256)))
        many = HOME / "data" / "many-reviews"
        datasets.linked(many, reviews, self.effort.large)
        subject = Subject(name="Celeriac", module="benchmarks.subjects.lane", python=PYTHON,
                          worker=(), model="text", asyncio=True)
        point = Point(kind="open", per_s=100, seconds=self.effort.load_s, warmup_s=1)
        meter = Meter(HOME, site.server_pid, site.env)
        for number in range(self.effort.alternations):
            console.print(f"real time, alternation {number + 1} of {self.effort.alternations}")
            self.waits["idle"] += meter.run(subject, items, [point])
            output = HOME / f"busy-{number}"
            job = site.client.ask(action="begin", source=str(many), output=str(output),
                                  model="text", text_column="review")["job"]
            measured = meter.run(subject, items, [point])
            ended = site.client.ask(action="cancel", job=job)["state"]
            if ended == "in_progress" or self.effort is QUICK:
                self.waits["busy"] += measured
            else:
                console.print(f"the job was {ended} before the measurement: this one is left out")
            shutil.rmtree(output)
        if not self.waits["busy"]:
            raise RuntimeError("no job was as long as the calls beside it: score more reviews")

    # --- plans ------------------------------------------------------------------------------------

    def _planning(self) -> None:
        console.print("Plans of a CSV")
        data = HOME / "data"
        datasets.demo_data(data)
        small, large = data / "mixed.csv", data / "mixed4.csv"
        datasets.mixed_csv(small, self.effort.plan_rows, data)
        datasets.repeated(large, small, 4)
        for _ in range(3):
            for what, path, measure in (
                ("plan", small, "plan"), ("scan", small, "plan"), ("plan", large, "plan x 4"),
            ):
                argv = [PYTHON, "-m", "benchmarks.subjects.planning", what, path]
                done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300)
                told = json.loads(done.stdout)
                run = Run(told["seconds"], told["cpu_s"], peak_bytes=told["grown"])
                self._note(measure, CELERIAC if what == "plan" else "pyarrow", run)

    # --- comparisons ------------------------------------------------------------------------------

    def _compare(  # noqa: PLR0913, PLR0917 - one dataset, its model and the effort
        self, site: Site, measure: str, kind: str, model: str, source: Path, rounds: int,
        *others: str,
    ) -> None:
        """Interleaved rounds of Celeriac and the bare loop, after one that is not counted.

        ``others``: POOL, and STATISTICS if jobs shall run without those, too.
        """
        with contextlib.ExitStack() as stack:
            peers = {BARE: stack.enter_context(site.peer("bare_loop", model))}
            if POOL in others:
                peers[POOL] = stack.enter_context(site.peer("pool_map", model))
            for number in range(rounds + 1):
                console.print(f"{measure}, round {number} of {rounds}" if number
                              else f"{measure}, warm-up")
                clients = {CELERIAC: site.client}
                if STATISTICS in others:
                    clients = {CELERIAC: site.plain_client, STATISTICS: site.client}
                outputs = {name: HOME / name for name in (*clients, *peers)}
                kept = {} if number else outputs
                found = {
                    name: site.bare(peer, kind, source, keep_as=kept.get(name))
                    for name, peer in peers.items()
                }
                for name, client in clients.items():
                    found[name] = site.job(
                        source, model, [ID_COLUMNS[kind]], keep_as=kept.get(name), client=client,
                        **({"text_column": "review"} if kind == "text" else {}),
                    )
                if number == 0:
                    check_alike(outputs)
                    continue
                for name, run in found.items():
                    self._note(measure, name, run)

    def _note(self, measure: str, subject: str, run: Run) -> None:
        self.found.setdefault((measure, subject), []).append(run)


ID_COLUMNS = {"numeric": "id", "text": "review_id", "images": "path"}


class Site:
    """A local stack over one registry, and a client of it, both warm."""

    def __init__(self, root: Path, roles: tuple[str, ...]) -> None:
        stack = StackSettings(state_dir=HOME / "state", metrics_port=0, redis_port=free_port(),
                              batch_processes=PROCESSES)
        settings = Settings(stack=stack, models=ModelsSettings(root=root))
        self._stack = Stack(settings, roles=roles, flower=False, gateway=False)
        self.env = child_environment(self._stack.settings)
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Site:
        self._exits.enter_context(self._stack)
        self.client = self._exits.enter_context(self.peer("batch_client"))
        self.plain_client = self._exits.enter_context(
            self.peer("batch_client", CELERIAC_BATCH_SAMPLE_ROWS="0")
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()
        shutil.rmtree(HOME / "state", ignore_errors=True)

    @property
    def server_pid(self) -> int:
        """Of the embedded Valkey."""
        return self._pids()["valkey"]

    def peer(self, module: str, *words: str, **variables: str) -> Child:
        """A process of the benchmark that serves commands."""
        argv = [PYTHON, "-m", f"benchmarks.subjects.{module}", *words]
        return Child(argv, HOME / "logs" / f"{module}.log", self.env | variables,
                     piped=True)

    def bare(
        self, peer: Child, kind: str, source: Path, *, keep_as: Path | None = None,
        memory: bool = False,
    ) -> Run:
        """One run of a subject that is no stack."""
        output = keep_as or HOME / "bare-out"
        before = peer.cpu_s()
        with _watched([peer.process.pid] if memory else []) as peak:
            told = peer.ask(kind=kind, source=str(source), output=str(output))
        run = Run(told["seconds"], peer.cpu_s() - before, PROCESSES, peak.bytes)
        if keep_as is None:
            shutil.rmtree(output)
        return run

    def job(  # noqa: PLR0913 - one job, and how it is watched
        self, source: Path, model: str, keep: list[str], *, keep_as: Path | None = None,
        memory: bool = False, client: Child | None = None, **options: Any,
    ) -> Run:
        """One whole job."""
        client = client or self.client
        output, pids = keep_as or HOME / "out-of-job", self._pids()
        watched = [client.process.pid, pids["batch.cpu"]] if memory else []
        before = self._cpu_s()
        with _watched(watched) as peak:
            told = client.ask(
                action="score", source=str(source), output=str(output), model=model,
                keep_columns=keep, **options,
            )
        run = Run(told["seconds"], self._cpu_s() - before, told["chunks"], peak.bytes)
        if keep_as is None:
            self.client.ask(action="forget", output=str(output))
        return run

    def command(self, source: Path, model: str, keep: str) -> Run:
        """The memory of one whole job that ``celeriac batch submit --wait`` submits."""
        output = HOME / "out-of-command"
        argv = [PYTHON, "-m", "producer.cli.main", "batch", "submit", str(source),
                "--model", model, "--output", str(output), "--keep", keep, "--wait", "--json"]
        with Child(argv, HOME / "logs" / "command.log", self.env) as child:
            with _watched([child.process.pid, self._pids()["batch.cpu"]]) as peak:
                code = child.process.wait(600)
            if code:
                raise RuntimeError(f"the command ended with {code}:\n{child.end_of_log()}")
        shutil.rmtree(output)
        return Run(0.0, peak_bytes=peak.bytes)

    def _pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in self._stack.status().items() if child.pid}

    def _cpu_s(self) -> float:
        """Of clients, workers, beat and server."""
        clients = (self.client, self.plain_client)
        pids = [*(client.process.pid for client in clients), *self._pids().values()]
        return sum(cpu_s(pid) for root in pids for pid in tree(root))


def _watched(pids: Sequence[int]) -> PeakMemory:
    """To look costs time, so nobody looks at no process."""
    return PeakMemory(lambda: pids, every_s=0.05 if pids else 3_600)


def check_alike(outputs: dict[str, Path]) -> None:
    """Raises RuntimeError unless all subjects have answered all rows alike; removes the outputs."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    counts = {}
    for name, folder in outputs.items():
        parts = sorted(folder.rglob("*.parquet"))
        labels = pa.concat_arrays(
            [chunk for part in parts for chunk in
             pq.read_table(part, columns=["prediction"])["prediction"].chunks]
        )
        counts[name] = sorted(map(str, pc.value_counts(labels).to_pylist()))
        shutil.rmtree(folder)
    if any(count != counts[CELERIAC] for count in counts.values()):
        raise RuntimeError(f"the subjects differ in their answers: {counts}")


# --- what came of it ------------------------------------------------------------------------------


def goals(bench: Bench) -> Iterator[Row]:
    """The rows of the table, with the bounds that Celeriac sets itself."""
    found, effort = bench.found, bench.effort
    for measure, bound in (
        ("numbers, lr", 1.5), ("numbers, rf", 1.5), ("long job", 1.1), ("reviews", 1.15),
        *((f"images, {side} x {side}", 1.2) for side in SIDES),
    ):
        if (measure, CELERIAC) not in found:
            continue
        yield against(found, measure, BARE, bound)
        if (measure, POOL) in found:
            yield against(found, measure, POOL, 0.5)
        if (measure, STATISTICS) in found:
            yield compared(f"{measure}, with statistics", middle(found[measure, STATISTICS]), "s",
                           "without", middle(found[measure, CELERIAC]))
    if ("memory", BARE) in found:
        yield from _memory(found, effort)
    if ("chunks", CELERIAC) in found:
        yield from _chunk(found["chunks", CELERIAC], found["chunks", BARE], effort.chunks)
        first = middle(found["resume", CELERIAC])
        yield bounded(f"resume with {found['resume', CELERIAC][0].chunks} of {effort.chunks} "
                      "chunks done, first new chunk", first, "s", 2)
    if ("files", CELERIAC) in found:
        yield bounded(f"{effort.files:,} CSV files of {FILE_ROWS} rows",
                      middle(found["files", CELERIAC]), "s", 30)
    if ("plan", CELERIAC) in found:
        yield from _plans(found, effort)
    if bench.waits["busy"]:
        yield from _waits(bench.waits)


def middle(runs_: Sequence[Run], what: str = "seconds") -> float:
    """The median."""
    return statistics.median(getattr(run, what) for run in runs_)


def against(found: Results, measure: str, other: str, bound: float) -> Row:
    """Seconds beside those of another subject; the ratio is the median of the rounds' ratios."""
    own, base = found[measure, CELERIAC], found[measure, other]
    ratio = statistics.median(a.seconds / b.seconds for a, b in zip(own, base, strict=True))
    return Row(measure=measure, value=middle(own), unit="s", against=other, baseline=middle(base),
               ratio=ratio, goal=f"<= {bound:g}", met=ratio <= bound)


def bounded(measure: str, value: float, unit: str, bound: float) -> Row:
    """A value with a bound of its own."""
    return Row(measure=measure, value=value, unit=unit, goal=f"<= {bound:g} {unit}",
               met=value <= bound)


def _chunk(jobs: Sequence[Run], loops: Sequence[Run], chunks: int) -> Iterator[Row]:
    """A small chunk, and what it costs beyond the rows that a bare loop answers as well."""
    a_process_ms = 1e3 * PROCESSES / chunks
    beyond = statistics.median(
        job.seconds - loop.seconds for job, loop in zip(jobs, loops, strict=True)
    )
    cpu_ms = middle(jobs, "cpu_s") * 1e3 / chunks
    yield bounded("a chunk of 20 rows, CPU of all processes", cpu_ms, "ms", 10)
    yield compared("a chunk of 20 rows, time of a process", middle(jobs) * a_process_ms, "ms",
                   "bare loop, 20 rows", middle(loops) * a_process_ms)
    yield bounded("the same beyond its computing", beyond * a_process_ms, "ms", 10)


def _memory(found: Results, effort: Effort) -> Iterator[Row]:
    base = middle(found["memory", BARE], "peak_bytes") / 1e6
    for who, by in (
        (CELERIAC, ""), (PROGRAM, ", submitted by a program"),
        (ORDERS, ", ordered by a program"), (READS, ", planned by the program itself"),
    ):
        most = None if who == READS else 1.1
        for suffix, times, bound in (("", 1, None), (f" x {effort.large}", effort.large, most)):
            own = middle(found["memory", f"{who}{suffix}"], "peak_bytes") / 1e6
            yield compared(f"memory, {effort.rows * times:,} rows{by}", own, "MB",
                           f"{BARE}, {effort.rows:,}", base, at_most=bound)


def _plans(found: Results, effort: Effort) -> Iterator[Row]:
    yield compared(
        f"plan of a CSV, {effort.plan_rows:,} rows", middle(found["plan", CELERIAC]), "s",
        "pyarrow, one scan", middle(found["plan", "pyarrow"]), at_most=1.5,
    )
    one, four = (
        middle(found[measure, CELERIAC], "peak_bytes") / 1e6 for measure in ("plan", "plan x 4")
    )
    yield compared(f"memory of a plan, {4 * effort.plan_rows:,} rows", four, "MB",
                   f"{effort.plan_rows:,} rows", one, at_most=1.1)


def _waits(waits: dict[str, list[Measured]]) -> Iterator[Row]:
    for share, bound in ((0.5, None), (0.99, 2.0)):
        idle, busy = (
            statistics.median(one.ms(share) for one in waits[name]) for name in ("idle", "busy")
        )
        yield compared(f"real time beside a job, p{share * 100:g}", busy, "ms", "no job", idle,
                       at_most=bound)


def runs(found: Results) -> list[dict[str, Any]]:
    """Every run, for other programs."""
    return [
        {"measure": measure, "subject": subject, **asdict(run)}
        for (measure, subject), some in found.items() for run in some
    ]


HEADERS = ("measure", "subject", "seconds", "CPU s", "chunks", "peak MB", "runs")


def document(rows: Sequence[Row], found: Results) -> str:
    """Both tables as Markdown."""
    about = table.machine()
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    return "\n".join([
        f"{about['cores']} cores, {about['system']}, Python {about['python']}; {packages}.\n",
        table.markdown(table.HEADERS, [table.cells(row) for row in rows]),
        table.markdown(HEADERS, list(_lines(found))),
    ])


def _lines(found: Results) -> Iterator[list[str]]:
    for (measure, subject), some in found.items():
        peak = middle(some, "peak_bytes") / 1e6
        chunks = some[0].chunks
        yield [
            measure, subject, table.figure(middle(some)), table.figure(middle(some, "cpu_s")),
            str(chunks) if chunks else "", table.figure(peak) if peak else "", str(len(some)),
        ]
