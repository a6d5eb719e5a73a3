"""The adviser: what it predicts of a model, beside what workers then do.

Models are measured as users do it (``celeriac optimize``) and promoted; the adviser is asked with
their profiles. Then one real-time worker gets Poisson streams of items, from one client at rates at
which the client itself is far from its limit, and as many items as it can take, in bulk; and the
batch worker gets a night's dataset. A prediction is right within 30 % of what was measured; of
percentiles, in the calmest of three rounds, and the worst is shown with it.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness import datasets
from benchmarks.harness.points import Measured, Meter, Point, Subject
from benchmarks.harness.site import PROCESSES, Site, site
from benchmarks.harness.table import Row
from celeriac.advisor.advice import BUSY, Advice, run
from celeriac.advisor.queueing import Service
from celeriac.advisor.requirement import DAY_S, Requirement
from celeriac.optimize.optimising import Optimiser, Wanted
from celeriac.registry.manifest import Profile
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from producer import Client
from producer.advice import advise_for

WITHIN = 0.3
NIGHT_ROWS, QUICK_ROWS = 150_000, 5_000
TREES = 1_000
BULK_S = 3.0
"""Worth of items in one bulk."""
ROUNDS = 3
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Case:
    """One model and its items."""

    name: str
    form: str
    """The faster one that is tried."""
    items: list[Any]
    loads: tuple[float, ...]
    """Shares of the capacity that the adviser sees in one process."""
    night: Path | None = None
    """A dataset for the batch worker."""


def rows(home: Path, quick: bool) -> Iterator[Row]:
    """Each model: latency, capacity, workers, and the night."""
    root, data = home / "models", home / "data"
    data.mkdir()
    cases = make(root, data, QUICK_ROWS if quick else NIGHT_ROWS)
    for case in cases:
        optimise(root, case, 0.05 if quick else 0.4)
    with site(home, root, "realtime.cpu", "batch.cpu", "maintenance") as running:
        for case in cases:
            yield from _served(home, running, case, quick)
            if case.night is not None:
                yield from _nightly(home, running, case, 1 if quick else ROUNDS)


def make(root: Path, data: Path, night_rows: int) -> list[Case]:
    """The text classifier, which costs next to nothing, and a forest that costs much more."""
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    from celeriac import release

    datasets.demo_data(data)
    datasets.text_model(root, data)
    night = data / "night.csv"
    datasets.reviews_csv(night, night_rows, data)
    pixels, digits = load_digits(return_X_y=True)
    forest = RandomForestClassifier(TREES, random_state=0, n_jobs=-1)
    forest.fit(pixels[:1_200], digits[:1_200])
    registry = Registry(root)
    release.register("forest", forest, registry=registry, examples=pixels[1_200:1_250])
    registry.aliases("forest").promote(1, expected=None, who="bench", why="measured")
    return [
        Case("text", "direct", datasets.some_reviews(data, 500), (0.05, 0.1), night),
        Case("forest", "onnx", pixels[1_200:].tolist(), (0.2, 0.5)),
    ]


def optimise(root: Path, case: Case, size_s: float) -> None:
    """As the command does with ``--profile``; what it registers is promoted."""
    registry = Registry(root)
    found = Optimiser(
        registry, case.name, 1, options=LoadOptions(), items=case.items,
        wanted=Wanted(size_s=size_s, only=(case.form,)),
    ).run(profile=True)
    assert found.version is not None
    registry.aliases(case.name).promote(
        found.version.version, expected=1, who="bench", why="measured"
    )


def _served(home: Path, running: Site, case: Case, quick: bool) -> Iterator[Row]:
    _, profile = advised(running, case.name, per_s=1.0)
    capacity = Service.of(profile, running.settings.realtime.max_batch_items).capacity_per_s
    file = home / f"{case.name}.json"
    file.write_text(json.dumps(case.items))
    seconds, rounds = (1.5, 1) if quick else (6.0, ROUNDS)
    subject = Subject(name="Celeriac", module="benchmarks.subjects.lane",
                      python=Path(sys.executable), model=case.name, asyncio=True)
    meter = Meter(home, running.server_pid, running.env)
    rates = [share * capacity for share in case.loads]
    streams = [Point(kind="open", per_s=rate, seconds=seconds, warmup_s=1)
               for rate in rates for _ in range(rounds)]
    found = meter.run(subject, file, streams)
    for number, rate in enumerate(rates):
        advice, _ = advised(running, case.name, per_s=rate)
        yield from _latencies(case.name, rate, advice, found[number * rounds :][:rounds])
    bulk = Point(kind="many", items=math.ceil(BULK_S * capacity))
    bulks = meter.run(replace(subject, asyncio=False), file, [bulk] * rounds)
    reached = statistics.median(one.per_s for one in bulks)
    yield within(f"{case.name}: items a second of one process", capacity, "/s", reached)
    wanted = 10 * reached
    advice, _ = advised(running, case.name, per_s=wanted)
    assert advice.real_time is not None
    yield within(f"{case.name}: processes for {wanted:,.0f} items/s", advice.real_time.processes,
                 "", math.ceil(wanted / (BUSY * reached)))


def _latencies(
    name: str, per_s: float, advice: Advice, found: list[Measured]
) -> Iterator[Row]:
    assert advice.real_time is not None
    waits = advice.real_time.waits
    # What others do on the machine only adds, to the tail above all.
    calmest = min(found, key=lambda one: one.ms(0.99))
    for share, predicted in ((0.5, waits.p50_ms), (0.95, waits.p95_ms), (0.99, waits.p99_ms)):
        row = within(
            f"{name}: p{share * 100:g} at {per_s:,.0f} items/s", predicted, "ms", calmest.ms(share)
        )
        worst_ms = max(one.ms(share) for one in found)
        yield replace(row, against=f"the calmest round; worst {worst_ms:.3g}")


def _nightly(home: Path, running: Site, case: Case, rounds: int) -> Iterator[Row]:
    assert case.night is not None
    count = 0
    took: list[float] = []
    with Client(settings=running.settings) as client:
        for number in range(rounds + 1):
            handle = client.submit_dataset(
                case.night, case.name, home / f"night-{number}", text_column="review",
                keep_columns=["review_id"],
            )
            status = handle.wait(TIMEOUT_S)
            assert status.created_at is not None
            assert status.ended_at is not None
            count = status.rows_done
            if number:  # the first one loads the model
                took.append((status.ended_at - status.created_at).total_seconds())
    _, profile = advised(running, case.name, per_s=1.0)
    night = Requirement(latency_ms=3_600_000, volume=count, update_frequency="daily")
    predicted = run(night, profile, PROCESSES).duration_s
    yield within(f"{case.name}: a night of {count:,} rows on {PROCESSES} cores", predicted, "s",
                 statistics.median(took))


def advised(running: Site, name: str, *, per_s: float) -> tuple[Advice, Profile]:
    """What the adviser says of a served model at a rate, and the profile that it rests on."""
    wanted = Requirement(latency_ms=100, volume=max(1, math.ceil(per_s * DAY_S / 5)),
                         update_frequency="continuous", peak_per_s=per_s)
    with Client(settings=running.settings) as client:
        catalogue = client.realtime.routes.catalogue(10)
        advice, profile = advise_for(wanted, catalogue, name, running.settings, PROCESSES)
    assert profile is not None
    return advice, profile


def within(measure: str, predicted: float, unit: str, measured: float) -> Row:
    """A prediction beside what was measured: right within 30 %."""
    ratio = predicted / measured if measured else math.inf
    return Row(
        measure=measure, value=predicted, unit=unit, against="measured", baseline=measured,
        ratio=ratio, goal=f"{1 - WITHIN:g} to {1 + WITHIN:g}", met=abs(ratio - 1) <= WITHIN,
    )
