"""Reviews: how right, and how fast beside a bare loop and the tutorial's ``Pool.map``.

Speed: food reviews in a CSV, with a product each; from the file to the table of products, rounds
interleaved, medians. Celeriac's time is from the call until the summary and its page are written.
Right: half of 508 films are learnt, the reviews of the others are scored by a job and summed up.
"""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.harness import datasets
from benchmarks.harness.processes import Child
from benchmarks.harness.site import Site, site
from benchmarks.harness.table import Row, at_least
from celeriac import release
from celeriac.registry.store import Registry
from demo import train
from producer import Client
from producer.applications.reviews import Reviews

ROUNDS, REVIEWS, PRODUCTS = 3, 150_000, 500
QUICK_REVIEWS = 5_000
BARE, TUTORIAL, CELERIAC = "bare loop", "Pool.map", "Celeriac"
LEAST_RIGHT, LEAST_LIKE = 0.75, 0.85
TIMEOUT_S = 300.0


def rows(home: Path, quick: bool) -> Iterator[Row]:
    """Accuracy first, then speed."""
    root, data = home / "models", home / "data"
    data.mkdir()
    datasets.demo_data(data)
    datasets.text_model(root, data)
    unseen = film_model(root, data)
    source = data / "products.csv"
    products_csv(source, QUICK_REVIEWS if quick else REVIEWS, data)
    with site(home, root, "realtime.cpu", "batch.cpu", "maintenance") as running:
        yield from _right(running, unseen, home / "films")
        yield from _fast(running, home, source, 1 if quick else ROUNDS)


def film_model(root: Path, data: Path) -> Path:
    """``films``, on every second film; the reviews of the others."""
    films = pd.read_csv(data / "film_reviews.csv")
    known, unseen = train.films_in_halves(films)
    model = train.text_classifier(known["text"], known["category"])
    registry = Registry(root)
    examples = films["text"].head(20).tolist()
    release.register("films", model, registry=registry, examples=examples, text_column="text")
    registry.aliases("films").promote(1, expected=None, who="bench", why="measured")
    unseen.to_csv(data / "unseen.csv", index=False)
    return data / "unseen.csv"


def products_csv(path: Path, count: int, data: Path) -> None:
    """Food reviews, no two alike, of products of which some have many."""
    chance = np.random.default_rng(datasets.SEED)
    products = np.minimum(chance.geometric(8 / PRODUCTS, count), PRODUCTS)
    texts = datasets.reviews(data)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["product", "review"])
        writer.writerows((f"P{number:04}", next(texts)) for number in products.tolist())


def _right(running: Site, unseen: Path, output: Path) -> Iterator[Row]:
    truth = pd.read_csv(unseen)
    with Client(settings=running.settings) as client:
        films = Reviews(client, "films")
        summary = films.summarise(unseen, output, product="film", timeout_s=TIMEOUT_S,
                                  keep_columns=["category"])
        some = truth.head(500)
        single = films.score_many(some["text"], timeout_s=60)
    right = _scored(output)
    yield at_least(f"accuracy on {len(right):,} reviews of {len(summary.products)} unseen films",
                   float(right.mean()), "", LEAST_RIGHT)
    labels = [one.label for one in single]
    yield at_least("the same in real time, the first 500",
                   train.accuracy(labels, some["category"]), "", LEAST_RIGHT - 0.05)
    fresh = truth["category"].eq("fresh").groupby(truth["film"]).mean()
    pairs = [(one.mean, fresh[one.product]) for one in summary.products if one.reviews >= 20]
    yield at_least("correlation with the critics' verdicts, by film",
                   float(np.corrcoef(np.array(pairs).T)[0, 1]), "", LEAST_LIKE)


def _fast(running: Site, home: Path, source: Path, rounds: int) -> Iterator[Row]:
    took: dict[str, list[float]] = {BARE: [], TUTORIAL: [], CELERIAC: []}
    tables = {name: home / f"{way}.csv" for name, way in ((BARE, "bare"), (TUTORIAL, "tutorial"))}
    with contextlib.ExitStack() as stack:
        peer, client = (
            stack.enter_context(Child(
                [sys.executable, "-m", f"benchmarks.subjects.{module}", *words],
                home / "logs" / f"{module}.log", running.env, piped=True,
            )) for module, words in (("reviews_loop", ("text", "great")), ("reviews_client", ()))
        )
        for number in range(rounds + 1):
            output = home / "out"
            told = {
                name: peer.ask(way=table.stem, source=str(source), output=str(table))
                for name, table in tables.items()
            }
            told[CELERIAC] = client.ask(
                model="text", source=str(source), output=str(output), product="product",
                text_column="review",
            )
            if number == 0:
                _check_alike(tables, output)
            shutil.rmtree(output)
            if number:
                for name, one in told.items():
                    took[name].append(one["seconds"])
    for other, bound in ((BARE, 1.15), (TUTORIAL, 1.0)):
        ratio = statistics.median(
            mine / theirs for mine, theirs in zip(took[CELERIAC], took[other], strict=True)
        )
        yield Row(
            measure=f"{told[CELERIAC]['rows']:,} reviews summed up by product",
            value=statistics.median(took[CELERIAC]), unit="s", against=other,
            baseline=statistics.median(took[other]), ratio=ratio, goal=f"<= {bound:g}",
            met=ratio <= bound,
        )


def _check_alike(tables: dict[str, Path], output: Path) -> None:
    """Raises RuntimeError unless all ways have come to the same table."""
    told = json.loads((output / "reviews.json").read_text())["products"]
    mine = pd.DataFrame(told).set_index("product")[["reviews", "mean", "spread"]].sort_index()
    for name, path in tables.items():
        theirs = pd.read_csv(path, index_col="product").sort_index()
        if not (mine.index.equals(theirs.index) and np.allclose(
            mine.astype(float), theirs[mine.columns], atol=1e-6, equal_nan=True
        )):
            raise RuntimeError(f"{name} and Celeriac differ in their summaries")


def _scored(output: Path) -> Any:
    files = sorted((output / "parts").glob("*.parquet"))
    parts = pd.concat([pd.read_parquet(file) for file in files])
    return parts["prediction"] == parts["category"]
