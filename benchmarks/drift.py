"""Drift: false alarms as stated, delays, real data, and the cost of a check.

Streams are simulated, seeded, and looked at every 50 rows in a window of 1,000. A stated rate is
one false alarm in 100,000 rows. The tutorial's test (Kolmogorov and Smirnov's p < .05 at each row)
and an alarm every 100 rows stand beside.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.harness import drift_streams as streams, environments, label_streams, table
from benchmarks.harness.child_environment import ONE_THREAD
from benchmarks.harness.datasets import demo_data
from benchmarks.harness.drift_counting import IN_FLIGHT, Counting, middle
from benchmarks.harness.drift_watch import first_episode, standard_of
from benchmarks.harness.table import Row, compared
from celeriac.drift import concept

HOME = Path(".celeriac/bench/drift").absolute()
STATED = 100_000.0
"""Rows between false alarms."""
SEED = 20_261_125
EVIDENTLY = ("evidently==0.7.23", "pandas<3.1")
"""Its release does not import with pandas 3.1."""
EVIDENTLY_S = 150.0
RIVER = ("river==0.26.1",)
MEASURES = (
    "alarms", "delays", "labels", "checks", "weather", "flights", "cost", "stream",
)
console = Console(highlight=False, stderr=True)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is simulated."""

    references: int = 100
    streams: int = 6
    """For each reference."""
    rows: int = 20_000
    tutorial: int = 60
    watched: int = 120
    """References of streams that go through the watch, which is slower; two streams of each. Of 80
    streams the rate is known to a third, which is no measurement."""
    delays: int = 200
    shapes: int = 30
    pairs: int = 60
    counting_rounds: int = 7
    counting_s: float = 6.0
    table_rows: int = 1_000_000
    columns: int = 50


QUICK = Effort(
    references=20, streams=3, tutorial=10, watched=3, delays=30, pairs=10, table_rows=50_000,
    counting_rounds=1, counting_s=2.0,
)


def main(words: Sequence[str]) -> int:
    """``scripts/bench drift``. Exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench drift", description=__doc__)
    parser.add_argument("--json", type=Path, default=HOME.parent / "drift.json")
    parser.add_argument("--markdown", type=Path, default=HOME.parent / "drift.md")
    parser.add_argument("--quick", action="store_true", help="few streams: is all in order?")
    parser.add_argument("--only", nargs="*", choices=MEASURES, default=MEASURES)
    parser.add_argument("--no-evidently", action="store_true", help="no environment for it")
    options = parser.parse_args(words)
    bench = Bench(QUICK if options.quick else Effort(), peers=not options.no_evidently)
    rows: list[Row] = []
    shutil.rmtree(HOME / "data", ignore_errors=True)
    (HOME / "data").mkdir(parents=True)
    try:
        for name in options.only:
            console.print(f"Measuring {name}")
            rows += getattr(bench, name)()
    finally:
        shutil.rmtree(HOME / "data", ignore_errors=True)
    table.show(rows, "Drift")
    table.save(rows, options.json, {"command": "scripts/bench drift", "seed": SEED})
    options.markdown.write_text(
        table.markdown(table.HEADERS, [table.cells(row) for row in rows]), encoding="utf-8"
    )
    console.print(f"\n{options.json}\n{options.markdown}")
    return int(any(row.met is False for row in rows))


class Bench:
    """One run."""

    def __init__(self, effort: Effort, *, peers: bool = True) -> None:
        self.effort = effort
        self._peers = peers

    # --- false alarms -----------------------------------------------------------------------------

    def alarms(self) -> Iterator[Row]:
        """On clean streams, independent and autocorrelated, of one and of eight features."""
        for phi in (0.0, 0.5, 0.9):
            name = f"false alarms, AR({phi:g})" if phi else "false alarms, independent rows"
            yield compared(
                name, self._celeriac(phi), "in 100,000 rows", "stated", 100_000 / STATED,
                at_most=1.5,
            )
            share = self._tutorial(phi)
            yield Row(
                measure=f"  the tutorial's test, p < .05 (in {share:.0%} of streams)",
                value=streams.rate(share, self.effort.rows), unit="in 100,000 rows, at least",
                against="stated", baseline=1.0,
            )
        yield compared(
            "false alarms, 8 features together", self._together(8), "in 100,000 rows", "stated",
            100_000 / STATED, at_most=1.5,
        )
        yield compared(
            "false alarms, 3 features, through the watch, from its first half window on",
            self._watched(3), "in 100,000 rows", "stated", 100_000 / STATED, at_most=1.5,
        )
        yield Row(measure="  always fire, every 100 rows", value=1_000, unit="in 100,000 rows")

    def _celeriac(self, phi: float) -> float:
        chance, effort = np.random.default_rng((SEED, round(100 * phi))), self.effort
        alarmed = 0
        for _ in range(effort.references):
            feature = streams.profiled(streams.autoregressive(chance, phi, 1, 10_000)[0])
            clean = streams.autoregressive(chance, phi, effort.streams, effort.rows)
            first = streams.first_alarms(
                streams.distances(feature, clean), streams.limit(feature, STATED)
            )
            alarmed += int((first >= 0).sum())
        return streams.rate(alarmed / (effort.references * effort.streams), effort.rows)

    def _tutorial(self, phi: float) -> float:
        chance = np.random.default_rng((SEED, 1, round(100 * phi)))
        found = []
        for _ in range(self.effort.tutorial):
            both = streams.autoregressive(chance, phi, 1, 1_000 + self.effort.rows)[0]
            found += (streams.tutorial_alarms(both[:1_000], both[None, 1_000:]) >= 0).tolist()
        return float(np.mean(found))

    def _together(self, features: int) -> float:
        chance, effort = np.random.default_rng((SEED, 2)), self.effort
        alarmed = np.zeros((max(1, effort.references // 4), 2 * effort.streams), dtype=bool)
        for number in range(len(alarmed)):
            for _ in range(features):
                feature = streams.profiled(chance.standard_normal(10_000))
                clean = chance.standard_normal((alarmed.shape[1], effort.rows))
                first = streams.first_alarms(
                    streams.distances(feature, clean), streams.limit(feature, STATED, features)
                )
                alarmed[number] |= first >= 0
        return streams.rate(float(alarmed.mean()), effort.rows)

    def _watched(self, features: int) -> float:
        chance, effort = np.random.default_rng((SEED, 6)), self.effort
        first = []
        for _ in range(effort.watched):
            standard = standard_of(chance.standard_normal((features, 10_000)))
            first += [
                first_episode(standard, chance.standard_normal((features, effort.rows)), STATED)
                for _ in range(2)
            ]
        return streams.rate(float(np.mean(np.array(first) >= 0)), effort.rows)

    # --- delays -----------------------------------------------------------------------------------

    def delays(self) -> Iterator[Row]:
        """How soon a change is seen, with a window that was full of clean rows."""
        chance = np.random.default_rng((SEED, 3))
        shift = self._delay(chance, self.effort.delays, lambda rows: rows + 0.5)
        yield Row(
            measure="median delay, mean shift of .5 sigma", value=float(np.median(shift)),
            unit="rows", goal="<= 350", met=float(np.median(shift)) <= 350,
        )
        normal = chance.standard_normal

        def twin(rows: Any) -> Any:
            sides = chance.choice([-0.9, 0.9], rows.shape)
            return sides + normal(rows.shape) * np.sqrt(1 - 0.81)

        for name, change in (("scale x 1.5", lambda rows: rows * 1.5), ("two humps", twin)):
            found = self._delay(chance, self.effort.shapes, change)
            seen = found[np.isfinite(found)]
            yield Row(
                measure=f"{name}, same mean: streams in which it is found", value=len(seen),
                unit=f"of {len(found)}", goal=f"= {len(found)}", met=len(seen) == len(found),
            )
            yield Row(measure=f"  median delay, {name}", value=float(np.median(found)), unit="rows")

    def _delay(self, chance: Any, count: int, change: Any) -> Any:
        """Rows from the change to the alarm, of streams without a false one; inf: never."""
        found = []
        while len(found) < count:
            feature = streams.profiled(chance.standard_normal(10_000))
            clean = chance.standard_normal((10, 3_000))
            changed = change(chance.standard_normal((10, self.effort.rows)))
            limit = streams.limit(feature, STATED)
            looks = streams.distances(feature, np.concatenate([clean, changed], axis=1))
            first = streams.first_alarms(looks, limit).astype(float)
            first[first < 0] = np.inf
            found += (first[first > 3_000] - 3_000).tolist()
        return np.array(found[:count])

    # --- labels -----------------------------------------------------------------------------------

    def labels(self) -> Iterator[Row]:
        """Errors of a model that is wrong in a tenth: as ever, and then twice as often."""
        chance, count = np.random.default_rng((SEED, 6)), self.effort.delays
        clean = chance.random((count, self.effort.rows)) < 0.1
        doubled = chance.random((count, 4_000)) < 0.2
        for source, rows in (("reference", 2_000), ("first labels", 300)):
            found = [
                concept.usual_of_classes(wrong / rows, rows, concept.Terms(), source)
                for wrong in chance.binomial(rows, 0.1, count)
            ]
            alarmed = label_streams.first_alarms(found, clean)
            yield compared(
                f"false alarms, 10 % wrong by {rows:,} of the {source}",
                label_streams.in_20_000(alarmed, self.effort.rows), "in 20,000 labels", "stated",
                1.0, at_most=1.5,
            )
            delay = label_streams.median_delay(label_streams.first_alarms(found, doubled))
            yield Row(measure="  median delay, errors double", value=delay, unit="labels",
                      goal="<= 250", met=delay <= 250)
        if self._peers:
            yield from self._adwin(clean, doubled)

    def _adwin(self, clean: Any, doubled: Any) -> Iterator[Row]:
        try:
            python = environments.ensure(HOME.parent / "river", RIVER)
        except RuntimeError as error:
            console.print(f"river: {error}")
            yield Row(measure="  river could not be installed", value=0, unit="")
            return
        quiet, late = (
            _adwin_alarms(python, streams_)
            for streams_ in (clean, np.concatenate([clean[:, :2_000], doubled], axis=1))
        )
        yield Row(
            measure="  false alarms, ADWIN (river's defaults, only what rises)",
            value=label_streams.in_20_000(quiet, clean.shape[1]), unit="in 20,000 labels",
        )
        later = late[(late < 0) | (late > 2_000)]
        yield Row(
            measure="  median delay of ADWIN, after 2,000 labels of before",
            value=label_streams.median_delay(np.where(later < 0, -1, later - 2_000)),
            unit="labels",
        )

    # --- checks -----------------------------------------------------------------------------------

    def checks(self) -> Iterator[Row]:
        """Whole datasets of 20 features that have not changed."""
        from celeriac.drift.check import Current, check
        from celeriac.drift.features import Feature
        from celeriac.drift.reference import make_profile

        chance = np.random.default_rng((SEED, 4))
        for phi in (0.0, 0.9):
            said = 0
            for _ in range(self.effort.pairs):
                rows = streams.autoregressive(chance, phi, 20, 4_000)
                before, now = (
                    {f"x{number}": Feature(one) for number, one in enumerate(half)}
                    for half in (rows[:, :2_000], rows[:, 2_000:])
                )
                found = check(
                    make_profile(before), Current(features=now, source=""), model="m", version=1,
                    now=datetime.now(UTC),
                )
                said += found.state == "drift"
            share = said / self.effort.pairs
            yield Row(
                measure=f"clean datasets of 20 features called drift, AR({phi:g})", value=share,
                unit="", against="level", baseline=0.02, goal="<= 0.02", met=share <= 0.02,
            )

    # --- real data --------------------------------------------------------------------------------

    def weather(self) -> Iterator[Row]:
        """Three stations, 2013: every other week is the reference, so that both halves have all
        seasons, and the other weeks are the clean stream of seven features."""
        found = [self._station(one) for one in _weather_by_station()]
        rows = sum(one[0] for one in found)
        alarmed = sum(one[1] for one in found)
        yield Row(
            measure=f"false alarms, weather of three stations ({rows:,} rows)", value=alarmed,
            unit="alarms", against="stated", baseline=rows / STATED, goal="<= 1", met=alarmed <= 1,
        )
        features = sum(one[3] for one in found)
        yield Row(
            measure="  features with enough independent rows for a threshold", value=features,
            unit="of 21",
        )
        yield Row(
            measure="  stations at which the tutorial's test says drift",
            value=sum(one[2] for one in found), unit="of 3",
        )

    def _station(self, weather: Any) -> tuple[int, bool, bool, int]:
        weeks = np.arange(len(weather)) // 168 % 2
        columns = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "pressure", "visib"]
        alarmed = fired = False
        pairs = [weather[name].to_numpy(dtype=float) for name in columns]
        profiles = [streams.profiled(values[weeks == 0]) for values in pairs]
        watched = sum(one.calibration is not None for one in profiles)
        for values, feature in zip(pairs, profiles, strict=True):
            clean = values[weeks == 1][None]
            limit = streams.limit(feature, STATED, watched)
            alarmed |= bool((streams.distances(feature, clean) > limit).any())
            known = [one[np.isfinite(one)] for one in (values[weeks == 0], clean[0])]
            fired |= bool(streams.tutorial_alarms(known[0][:1_000], known[1][None])[0] >= 0)
        return int((weeks == 1).sum()), alarmed, fired, watched

    def flights(self) -> Iterator[Row]:
        """A model of January's flights, asked in July: through the registry, as a user would."""
        found = _flights_of_july()
        by_name = {one.name: one for one in found.features}
        quality = found.quality
        said = " ".join(one.text for one in found.findings)
        yield _yes("flights, July: temperature flagged", by_name["temp"].state == "drift",
                   by_name["temp"].statistic)
        yield _yes("flights, July: distance not flagged", by_name["distance"].state == "stable",
                   by_name["distance"].statistic)
        yield _yes("flights, July: the page says that AUC did not fall", "did not fall" in said,
                   quality.current if quality is not None else 0.0)

    # --- cost -------------------------------------------------------------------------------------

    def cost(self) -> Iterator[Row]:
        """All rows of a table on one core, without reading the file."""
        paths = _tables(self.effort)
        words = [sys.executable, "-m", "benchmarks.subjects.drift_check", *map(str, paths)]
        ours = float(np.median([_on_one_core(words, 120) for _ in range(3)]))
        what = f"check of {self.effort.table_rows:,} rows x {self.effort.columns} columns"
        yield Row(measure=what, value=ours, unit="s", goal="< 5 s", met=ours < 5)
        if not self._peers:
            return
        try:
            python = environments.ensure(HOME.parent / "evidently", EVIDENTLY)
        except RuntimeError as error:
            console.print(f"Evidently: {error}")
            yield Row(measure="  Evidently could not be installed", value=0, unit="")
            return
        script = Path("benchmarks/subjects/evidently_check.py").absolute()
        theirs = _on_one_core([str(python), str(script), *map(str, paths)], EVIDENTLY_S)
        slow = theirs >= EVIDENTLY_S
        yield compared(
            "  the same, beside Evidently" + (", which had not ended" if slow else ""), ours, "s",
            "Evidently", theirs, at_most=1.0,
        )

    # --- real time --------------------------------------------------------------------------------

    def stream(self) -> Iterator[Row]:
        """A worker under load, which counts its items or does not."""
        demo_data(HOME / "data")
        counting = Counting(HOME / "data")
        counting.prepare()
        for model, pairs in counting.measure(
            self.effort.counting_rounds, self.effort.counting_s
        ):
            lost = 1 - middle(pairs, "throughput")
            yield Row(
                measure=f"cost of counting, {model}, {IN_FLIGHT} in flight", value=lost,
                unit="of throughput", goal="< 0.02", met=lost < 0.02,
            )
            yield Row(
                measure="  more CPU of the worker for an item", value=middle(pairs, "cpu") - 1,
                unit="of what it takes",
            )


def _adwin_alarms(python: Path, wrong: Any) -> Any:
    """First alarms of river's ADWIN on streams of errors."""
    path = HOME / "data" / "labels.npy"
    np.save(path, wrong)
    script = Path("benchmarks/subjects/adwin_labels.py").absolute()
    done = subprocess.run(
        [str(python), str(script), str(path)], capture_output=True, text=True, check=True,
        timeout=120,
    )
    return np.array(done.stdout.split(), dtype=int)


def _yes(measure: str, met: bool, value: float) -> Row:
    return Row(measure=measure, value=value, unit="", goal="yes", met=met)


def _weather_by_station() -> list[Any]:
    import pandas as pd

    demo_data(HOME / "data")
    weather = pd.read_parquet(HOME / "data" / "weather.parquet").sort_values("time_hour")
    return [one.reset_index(drop=True) for _, one in weather.groupby("origin")]


def _flights_of_july() -> Any:
    import pandas as pd

    from celeriac import release
    from celeriac.drift.dataset import check_dataset
    from celeriac.drift.profile import read_profile
    from celeriac.registry.store import Registry
    from celeriac.runtimes import LoadOptions
    from celeriac.scoring import Scorer
    from demo import train

    demo_data(HOME / "data")
    flights = pd.read_parquet(HOME / "data" / "flights.parquet")
    registry = Registry(HOME / "data" / "models")
    january = flights[flights["month"] == 1]
    version = release.register(
        "delays", train.delays(january), registry=registry, **train.delay_reference(january)
    )
    july = HOME / "data" / "july.parquet"
    flights[flights["month"] == 7].to_parquet(july, index=False)
    scorer = Scorer.load(registry, "delays", version.version, LoadOptions())
    profile = read_profile(registry.folder("delays", version.version))
    return check_dataset(
        version, profile, july, now=datetime.now(UTC), predict=scorer.score_table, label="arrival"
    )


def _tables(effort: Effort) -> list[Path]:
    """Two tables of the same normal numbers, but for the first column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    chance = np.random.default_rng((SEED, 5))
    paths = []
    for name, shift in (("reference", 0.0), ("current", 0.5)):
        values = chance.standard_normal((effort.columns, effort.table_rows))
        values[0] += shift
        path = HOME / "data" / f"{name}.parquet"
        columns = {f"x{number}": pa.array(one) for number, one in enumerate(values)}
        pq.write_table(pa.table(columns), path)
        paths.append(path)
    return paths


def _on_one_core(words: Sequence[str], limit_s: float) -> float:
    """Seconds that the program says it took; ``limit_s`` if it did not end."""
    core = min(os.sched_getaffinity(0))
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=limit_s,
            env={**os.environ, **ONE_THREAD}, preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    except subprocess.TimeoutExpired:
        return limit_s
    if done.returncode:
        raise RuntimeError(f"{words[-3]}: {done.stderr[-2_000:]}")
    return float(done.stdout.strip().rpartition("\n")[2])
