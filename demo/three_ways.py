"""The same items by three ways: ordinary Celery tasks, ``predict_many``, and a batch job."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from celery import Celery
from rich.table import Table

from producer import Client

WAIT_S = 120.0


def compare(client: Client, model: str, texts: list[str], folder: Path) -> Table:
    """Score ``texts`` three times; the table says how long each way took."""
    app = Celery(broker=client.settings.broker_url, backend=client.settings.broker_url,
                 set_as_current=False)
    source = folder / "three_ways.csv"
    pd.DataFrame({"text": texts}).to_csv(source, index=False)

    def tasks() -> None:
        sent = [
            app.send_task("celeriac.predict", (model, [text]), queue="predict.cpu")
            for text in texts
        ]
        for result in sent:
            result.get(timeout=WAIT_S)

    def many() -> None:
        client.predict_many(model, texts, timeout_s=WAIT_S)

    def job() -> None:
        client.submit_dataset(
            source, model, folder / "three_ways", text_column="text"
        ).wait(timeout_s=WAIT_S)

    ways: dict[str, Callable[[], None]] = {
        "one Celery task each": tasks, "predict_many": many, "a batch job": job,
    }
    taken_s = {name: seconds(way) for name, way in ways.items()}
    slowest = taken_s["one Celery task each"]
    table = Table(f"{len(texts)} items as", "seconds", "items/s", "", box=None, padding=(0, 2))
    for name, taken in taken_s.items():
        times = "" if taken == slowest else f"{slowest / taken:.1f} x"
        table.add_row(name, f"{taken:.2f}", f"{len(texts) / taken:,.0f}", times)
    app.close()
    return table


def seconds(way: Callable[[], None]) -> float:
    """How long ``way`` takes."""
    started = time.perf_counter()
    way()
    return time.perf_counter() - started
