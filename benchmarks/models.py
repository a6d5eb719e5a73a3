"""Models: their faster forms beside the originals, and how soon a promotion is served everywhere.

The first part is `celeriac optimize` on a forest and on all models of the demonstration: two text
classifiers, boosted trees of a table, and a network; each form runs in a process of its own, with
one thread. The second part is two real-time workers, a maintenance worker and a model of 100 MB,
promoted and rolled back while a client asks.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import plot, table
from benchmarks.harness.child_environment import ONE_THREAD
from benchmarks.harness.table import Row, compared
from celeriac import release
from celeriac.optimize.optimising import Found, Line, Optimiser, Wanted
from celeriac.optimize.variants import ORIGINAL
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions

HOME = Path(".celeriac/bench/models").absolute()
FOREST, TEXT, FILMS, DELAYS, DIGITS = "forest", "reviews", "films", "delays", "digits"
MOST_SAMPLES = 1_000
"""That forms are compared on, as `celeriac optimize` takes."""
SERVED_S, FLIP_S = 5.0, 20.0
SWAPS_S = 300.0
console = Console(highlight=False, stderr=True)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long and how much is measured."""

    size_s: float = 0.5
    flips: int = 3
    megabytes: int = 100
    """Of the network that is promoted."""


QUICK = Effort(size_s=0.05, flips=1, megabytes=4)


@dataclass(kw_only=True)
class Results:
    """Everything."""

    found: dict[str, Found] = field(default_factory=dict)
    plain_ms: dict[str, float] = field(default_factory=dict)
    """One item with scikit-learn's own ``predict_proba``, nothing around it."""
    swaps: dict[str, Any] = field(default_factory=dict)
    """What ``benchmarks.subjects.swaps`` measured."""


def main(words: Sequence[str]) -> int:
    """``scripts/bench models``. Exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench models", description=__doc__)
    parser.add_argument("--json", type=Path, default=HOME / "models.json", help="rows, figures")
    parser.add_argument("--plot", type=Path, default=HOME / "models.svg")
    parser.add_argument("--markdown", type=Path, default=HOME / "models.md")
    parser.add_argument("--quick", action="store_true", help="a minute: is all in order?")
    options = parser.parse_args(words)
    results = run(QUICK if options.quick else Effort())
    rows = list(goals(results))
    table.show(rows, "Goals")
    table.save(rows, options.json, {
        "command": "scripts/bench models", "plain_ms": results.plain_ms,
        "swaps": results.swaps,
        "forms": [json.loads(found.as_json()) for found in results.found.values()],
    })
    plot.models(results.found, options.plot)
    options.markdown.write_text(document(rows, results), encoding="utf-8")
    console.print(f"\n{options.json}\n{options.markdown}\n{options.plot}")
    return int(any(row.met is False for row in rows))


def run(effort: Effort) -> Results:
    """Both parts."""
    for old in ("state", "models"):
        shutil.rmtree(HOME / old, ignore_errors=True)
    results = Results()
    registry = Registry(HOME / "models")
    console.print("Training the models")
    held_out = make_models(registry, HOME / "data")
    for name, unseen in held_out.items():
        results.found[name] = optimised(registry, name, unseen, effort)
    for name in (FOREST, TEXT):
        results.plain_ms[name] = plain_ms(registry, name, held_out[name].items[0])
    results.swaps = promotions(effort)
    return results


# --- faster forms -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What a model has not seen: items as they travel, and their labels."""

    items: list[Any]
    labels: list[Any]

    @classmethod
    def of(cls, items: Sequence[Any], labels: Sequence[Any]) -> HeldOut:
        """At most so many, from all parts of them."""
        step = max(1, math.ceil(len(items) / MOST_SAMPLES))
        return cls(items=list(items[::step]), labels=list(labels[::step]))


def make_models(registry: Registry, data: Path) -> dict[str, HeldOut]:
    """Register all of them."""
    subprocess.run([sys.executable, "-m", "demo.data", data], check=True, timeout=120)
    return {
        **_models_of_images(registry), **_models_of_texts(registry, data),
        DELAYS: _model_of_flights(registry, data),
    }


def _models_of_images(registry: Registry) -> dict[str, HeldOut]:
    """A forest and a network on the same scanned digits."""
    from sklearn.ensemble import RandomForestClassifier

    from demo import train

    images, others, labels, other_labels = train.digit_images()
    flat, other_rows = (array.reshape(len(array), -1) for array in (images, others))
    forest = RandomForestClassifier(100, random_state=0).fit(flat, labels)
    network = train.digit_classifier(images, labels)
    release.register(FOREST, forest, registry=registry, examples=other_rows[:20])
    release.register(DIGITS, network, registry=registry, examples=others[:20],
                     labels=list(range(10)))
    digits = other_labels.tolist()
    return {FOREST: HeldOut.of(other_rows.tolist(), digits),
            DIGITS: HeldOut.of(others.tolist(), digits)}


def _models_of_texts(registry: Registry, data: Path) -> dict[str, HeldOut]:
    import pandas as pd

    from demo import train

    known, unseen = (pd.read_csv(data / f"reviews_{part}.csv") for part in ("train", "heldout"))
    films, other_films = train.films_in_halves(pd.read_csv(data / "film_reviews.csv"))
    found = {}
    for name, part, other, text, label in (
        (TEXT, known, unseen, "review", "score"), (FILMS, films, other_films, "text", "category"),
    ):
        model = train.text_classifier(part[text], part[label])
        texts = other[text].tolist()
        release.register(name, model, registry=registry, examples=texts[:20])
        found[name] = HeldOut.of(texts, other[label].tolist())
    return found


def _model_of_flights(registry: Registry, data: Path) -> HeldOut:
    import pandas as pd

    from demo import train

    flights = pd.read_parquet(data / "flights.parquet")
    january = flights[flights["month"] == 1]
    unseen = january[january["day"] > train.KNOWN_DAYS]
    rows = unseen[train.FLIGHT_COLUMNS]
    release.register(DELAYS, train.delays(january), registry=registry, examples=rows.head(20))
    items = json.loads(rows.to_json(orient="records"))  # null where there is no number
    return HeldOut.of(items, unseen["arrival"].tolist())


def optimised(registry: Registry, name: str, unseen: HeldOut, effort: Effort) -> Found:
    """As ``celeriac optimize``; the winner becomes version 2."""
    console.print(f"Optimising {name}")
    wanted = Wanted(size_s=effort.size_s, cores=os.cpu_count() or 1)
    return Optimiser(
        registry, name, 1, options=LoadOptions(), wanted=wanted, items=unseen.items,
        labels=unseen.labels,
        tell=lambda form: console.print(f"  {form}"),
    ).run()


_PLAIN = """
import sys, time
from pathlib import Path
from celeriac.runtimes import LoadOptions
from celeriac.runtimes.sklearn import read
import json
model = read(Path(sys.argv[1]), LoadOptions())
for one in (model, *getattr(model, "estimators_", ())):
    if hasattr(one, "n_jobs"):
        one.n_jobs = None
items = [json.loads(sys.argv[2])]
took = []
for _ in range(400):
    started = time.perf_counter()
    model.predict_proba(items)
    took.append(time.perf_counter() - started)
print(sorted(took)[100] * 1e3)
"""


def plain_ms(registry: Registry, name: str, item: Any) -> float:
    """The lower quartile of 400 calls, as the forms are measured."""
    path = registry.folder(name, 1) / "model.skops"
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN, str(path), json.dumps(item)], check=True, timeout=120,
        capture_output=True, text=True,
        env=os.environ | ONE_THREAD,
    )
    return float(done.stdout)


# --- promotions ---------------------------------------------------------------------------------


def promotions(effort: Effort) -> dict[str, Any]:
    """In a process of its own, which makes a server, workers and models and removes them."""
    console.print(f"Promoting a model of {effort.megabytes} MB, {effort.flips} times")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.subjects.swaps", "--megabytes", str(effort.megabytes),
         "--rounds", str(effort.flips)],
        check=True, timeout=SWAPS_S, stdout=subprocess.PIPE, text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return found


# --- what came of it ----------------------------------------------------------------------------


def goals(results: Results) -> Iterator[Row]:
    """The rows of the table, with the bounds that Celeriac sets itself."""
    forest, text, digits = (results.found[name] for name in (FOREST, TEXT, DIGITS))
    yield from _one_item("random forest, 100 trees, one row", form(forest, "onnx"),
                         results.plain_ms[FOREST], 50)
    yield from _one_item("TF-IDF and logistic regression, one text", form(text, "direct"),
                         results.plain_ms[TEXT], 3)
    for size in (1, 32):
        yield _faster(digits, size, at_least=1.5)
    for size in (1, 128):
        for name in (TEXT, FOREST, FILMS, DELAYS):
            yield _faster(results.found[name], size)
    yield from _promoted(results.swaps)


def form(found: Found, name: str) -> Line:
    """A form by its name."""
    return next(line for line in found.lines if line.name == name)


def best(found: Found) -> Line:
    """The winner; what the version is run as anyway, if nothing won."""
    return form(found, found.winner or found.default)


def _one_item(measure: str, line: Line, plain: float, at_least: float) -> Iterator[Row]:
    """Against the estimator alone, in calls per second."""
    yield compared(f"{measure}: {line.name}", 1e3 / line.predict_ms[1], "/s",
                   "plain predict_proba", 1e3 / plain, at_least=at_least)
    assert line.parity is not None
    agreement = line.parity.agreement or 0.0
    yield Row(measure=f"{measure}: equal labels of {line.parity.samples}", value=100 * agreement,
              unit="%", goal="100 %", met=agreement == 1)


def _faster(found: Found, size: int, at_least: float | None = None) -> Row:
    line, original = best(found), form(found, ORIGINAL)
    name = found.model.partition("@")[0]
    return compared(f"{name}, batch of {size}: {line.name}", size * 1e3 / line.predict_ms[size],
                    "items/s", ORIGINAL, size * 1e3 / original.predict_ms[size],
                    at_least=at_least)


def _promoted(swaps: Mapping[str, Any]) -> Iterator[Row]:
    """The slowest of the promotions."""
    size = f"{swaps['megabytes']} MB, {swaps['workers']} workers"
    served, flip, back = (max(one[name] for one in swaps["rounds"])
                          for name in ("spread_s", "command_s", "rollback_s"))
    yield _at_most(f"alias flip to served everywhere, {size}", served, SERVED_S)
    yield _at_most(f"command to flip, {size}", flip, FLIP_S)
    yield _at_most(f"rollback, command to served everywhere, {size}", back, SERVED_S)
    yield Row(measure=f"requests that failed meanwhile, of {swaps['requests']:,}",
              value=swaps["failed"], unit="", goal="0", met=swaps["failed"] == 0)


def _at_most(measure: str, seconds: float, bound: float) -> Row:
    return Row(measure=measure, value=seconds, unit="s", goal=f"<= {bound:g} s",
               met=seconds <= bound)


def document(rows: Sequence[Row], results: Results) -> str:
    """All tables as Markdown."""
    about = table.machine()
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    parts = [
        f"{about['cores']} cores, {about['system']}, Python {about['python']}; {packages}.\n",
        table.markdown(table.HEADERS, [table.cells(row) for row in rows]),
    ]
    for found in results.found.values():
        parts.append(f"`{found.model}`, {found.samples} held-out samples, one thread:\n")
        parts.append(table.markdown(*_forms(found)))
        parts += [f"{line.name} {line.verdict}: {line.why}\n" for line in found.lines
                  if line.verdict in ("failed", "skipped")]
    return "\n".join(parts)


def _forms(found: Found) -> tuple[list[str], list[list[str]]]:
    lines = [line for line in found.lines if line.predict_ms]
    sizes = sorted({size for line in lines for size in line.predict_ms})
    headers = ["form", *(f"ms of {size}" for size in sizes), "gain", "labels", "off by",
               "accuracy", "MB", "verdict"]
    return headers, [_cells(line, sizes) for line in lines]


def _cells(line: Line, sizes: Sequence[int]) -> list[str]:
    parity = line.parity
    agreement = ""
    if parity and parity.agreement is not None:
        agreement = f"{math.floor(1_000 * parity.agreement) / 10:g} %"  # 100 only if all agree
    error = f"{parity.error:.0e}" if parity and parity.error is not None else ""
    right = f"{parity.metric:.4f}" if parity and parity.metric is not None else ""
    times: Mapping[int, float] = line.predict_ms
    return [
        line.name, *(table.figure(times[size]) for size in sizes),
        f"{line.mean_speedup:.2f} x" if line.mean_speedup else "", agreement, error,
        right, table.figure(line.memory_mb or 0),
        f"{line.verdict}{': ' if line.why else ''}{line.why}",
    ]
