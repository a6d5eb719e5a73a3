"""``scripts/demo``: train four models, serve them, score datasets with them, look for drift.

Everything here is a public call: this file is meant to be read.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from celeriac import errors, release
from celeriac.registry.manifest import Serving
from celeriac.registry.store import Registry
from celeriac.settings import GatewaySettings, Settings, StackSettings, load_settings
from demo import three_ways, train
from producer import Client
from workers.stack import Stack
from workers.valkey import free_port, port_is_free

HOME = Path(".celeriac/demo").absolute()
SINGLE_ITEMS = 300
COMPARED_ITEMS = 500
console = Console(highlight=False)


def main() -> int:
    """Run the demonstration. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help="leave the stack running until Ctrl-C"
    )
    keep = parser.parse_args().keep
    shutil.rmtree(HOME, ignore_errors=True)
    settings = demo_settings()
    data = prepare_data()
    train_and_promote(settings, data)
    step("Starting the local stack: Valkey, workers, beat, Flower, gateway")
    with Stack(settings) as stack, Client(settings=settings) as client:
        console.print(f"  workers have loaded the models; Flower: {stack.flower_url}")
        single_items(client, data)
        over_http(stack)
        whole_datasets(client, data)
        sentiment_per_film(client, data)
        killed_in_the_middle(stack, client, data)
        ways_compared(client, data)
        drift_in_july(settings, data)
        if keep:
            wait_for_the_user(stack)
        step("Stopping: workers finish what they have begun, then the server")
    console.print("\n[bold green]Done.[/] Everything that was written is in", str(HOME))
    return 0


def demo_settings() -> Settings:
    """The user's settings, with a registry and a state folder that are the demo's own."""
    settings = load_settings()
    ports = free_ports(settings.stack, "redis_port", "flower_port")
    stack = settings.stack.model_copy(update={"state_dir": HOME / "state", **ports})
    ports = free_ports(settings.gateway, "port", "admin_port")
    gateway = settings.gateway.model_copy(update={
        "classify_model": "reviews", "dataset_roots": (str(HOME / "data"),),
        "output_roots": (str(HOME / "out"),), **ports,
    })
    models = settings.models.model_copy(update={"root": HOME / "models"})
    batch = settings.batch.model_copy(update={"lease_s": 3.0})  # a killed worker is missed sooner
    return settings.model_copy(
        update={"stack": stack, "models": models, "batch": batch, "gateway": gateway}
    )


def free_ports(section: StackSettings | GatewaySettings, *names: str) -> dict[str, int]:
    """The usual ports; others where another program uses them."""
    ports: dict[str, int] = {name: getattr(section, name) for name in names}
    taken = {name: free_port() for name, port in ports.items() if not port_is_free(port)}
    if taken:
        console.print(f"Another program uses the usual ports, so the demo takes {taken}")
    return ports | taken


def prepare_data() -> Path:
    """Real reviews and flights as files, written by a program of its own (see ``demo/data.py``)."""
    folder = HOME / "data"
    command = [sys.executable, "-m", "demo.data", str(folder)]
    subprocess.run(command, check=True, timeout=120)  # noqa: S603 - our own program
    return folder


def train_and_promote(settings: Settings, data: Path) -> None:
    """Food reviews, film reviews and flights (scikit-learn), digits (torch)."""
    step("Training, registering and promoting models")
    registry = Registry(settings.models.root)

    reviews, held_out = read(data, "reviews_train"), read(data, "reviews_heldout")
    model = train.text_classifier(reviews["review"], reviews["score"])
    reached = train.accuracy(model.predict(held_out["review"]), held_out["score"])
    release.register(
        "reviews", model, registry=registry, examples=held_out["review"].head(20).tolist(),
        text_column="review", metrics={"accuracy": reached}, serving=Serving(cache=True),
        reference=held_out["review"].tolist(), reference_labels=held_out["score"].tolist(),
    )
    report("reviews", "great or other? 4,000 food reviews", reached, len(held_out))

    films = read(data, "film_reviews")
    known, unseen_films = train.films_in_halves(films)
    model = train.text_classifier(known["text"], known["category"])
    reached = train.accuracy(model.predict(unseen_films["text"]), unseen_films["category"])
    release.register(
        "films", model, registry=registry, examples=films["text"].head(20).tolist(),
        text_column="text", metrics={"accuracy": reached},
        reference=unseen_films["text"].tolist(),
        reference_labels=unseen_films["category"].tolist(),
    )
    report("films", "fresh or rotten? half of 508 films", reached, len(unseen_films))
    unseen_films.to_csv(data / "film_reviews_heldout.csv", index=False)

    flights = pd.read_parquet(data / "flights.parquet")
    january = flights[flights["month"] == 1]
    version = release.register(
        "delays", train.delays(january), registry=registry, **train.delay_reference(january)
    )
    flights[flights["month"] == 7].to_parquet(data / "flights_july.parquet", index=False)
    console.print(f"  {version.name:8} late or on time? flights from New York in January 2013")

    images, unseen, labels, unseen_labels = train.digit_images()
    network = train.digit_classifier(images, labels)
    reached = train.accuracy(train.digits_of(network, unseen), unseen_labels)
    release.register(
        "digits", network, registry=registry, input=train.DIGIT_IMAGE,
        examples=[train.as_png(image) for image in unseen[:20]], labels=list(range(10)),
        reference=[train.as_png(image) for image in unseen],
        reference_labels=unseen_labels.tolist(),
        metrics={"accuracy": reached},
    )
    report("digits", "a CNN on scanned digits", reached, len(unseen))

    for name in registry.names():
        release.promote(registry, f"{name}@1", settings=settings, who="demo")
    console.print("  promoted: each was loaded and checked in a process of its own")


def single_items(client: Client, data: Path) -> None:
    """One item at a time, as another service would ask."""
    step(f"Single items, one after the other ({SINGLE_ITEMS} of each model)")
    texts = read(data, "reviews_heldout")["review"].tolist()
    images = [train.as_png(image) for image in train.digit_images()[1]]
    table = Table("model", "example", "answer", "p50", "p99", box=None, padding=(0, 2))
    for model, items, example in (
        ("reviews", texts, "Best coffee I ever bought"),
        ("digits", images, images[0]),
    ):
        answer = client.predict(model, example)
        waits_ms = [time_ms(client, model, items[i % len(items)]) for i in range(SINGLE_ITEMS)]
        table.add_row(
            f"{answer.model}@{answer.version}",
            example if isinstance(example, str) else "a PNG of 8 x 8",
            f"{answer.label} ({answer.probability:.0%})",
            *(f"{np.percentile(waits_ms, q):.2f} ms" for q in (50, 99)),
        )
    console.print(table)


def over_http(stack: Stack) -> None:
    """The same model for services in any language: a plain POST, here with curl's counterpart."""
    step("The same over HTTP")
    body = json.dumps({"text": "Best coffee I ever bought"})
    console.print(f"  curl {stack.gateway_url}/classify -d '{body}'", soft_wrap=True, markup=False)
    with urlopen(f"{stack.gateway_url}/classify", body.encode(), timeout=10) as answer:  # noqa: S310 - our own
        console.print(f"  {answer.read().decode()}", markup=False)
    console.print(f"  all routes, to be tried in the browser: {stack.gateway_url}/docs")


def whole_datasets(client: Client, data: Path) -> None:
    """The held-out reviews, and a table ten times larger, as batch jobs."""
    step("Whole datasets, as batch jobs")
    reviews = read(data, "reviews_heldout")
    larger = pd.concat([reviews.assign(copy=copy) for copy in range(10)])
    larger.to_parquet(data / "reviews_x10.parquet", index=False)
    for name in ("reviews_heldout.csv", "reviews_x10.parquet"):
        output = HOME / "out" / Path(name).stem
        job = client.submit_dataset(data / name, "reviews", output, text_column="review")
        status = job.wait(timeout_s=120)
        console.print(
            f"  {name}: {status.state}, {status.rows_done:,} rows, {status.rows_per_s:,.0f} rows/s"
        )
    scored = client.job(job.id).results().to_pandas()
    right = train.accuracy(scored["prediction"], scored["score"])
    console.print(f"  accuracy in the job's output: {right:.3f}; its first rows:\n")
    console.print(shortened(scored).head(4).to_string(index=False), markup=False)
    console.print(f"\n  a report for the browser: {job.report()}", soft_wrap=True)


def sentiment_per_film(client: Client, data: Path) -> None:
    """Mean sentiment (-1 to 1) of each held-out film, as the tutorial does per product."""
    step("Mean sentiment per film (films that the model has not seen)")
    output = HOME / "out" / "films"
    job = client.submit_dataset(
        data / "film_reviews_heldout.csv", "films", output, text_column="text"
    )
    job.wait(timeout_s=120)
    scored = job.results().to_pandas()
    fresh = np.where(
        scored["prediction"] == "fresh", scored["probability"], 1 - scored["probability"]
    )
    scored = scored.assign(sentiment=2 * fresh - 1, fresh=scored["category"] == "fresh")
    films = scored.groupby("film").agg(
        reviews=("sentiment", "size"), sentiment=("sentiment", "mean"), fresh=("fresh", "mean")
    )
    films = films[films["reviews"] >= 20].sort_values("sentiment")
    correlation = np.corrcoef(films["sentiment"], films["fresh"])[0, 1]
    console.print(pd.concat([films.tail(3)[::-1], films.head(3)]).round(2).to_string())
    console.print(f"\n  correlation with the critics' own verdicts: {correlation:.2f}")


def killed_in_the_middle(stack: Stack, client: Client, data: Path) -> None:
    """The same job twice; the second time its worker is killed."""
    step("A job whose worker is killed in the middle (kill -9)")
    jobs = []
    for name in ("films_clean", "films_killed"):
        jobs.append(client.submit_dataset(
            data / "film_reviews_heldout.csv", "films", HOME / "out" / name,
            text_column="text", chunk_rows=50,
        ))
        if name == "films_killed":
            deadline = time.monotonic() + 60
            while jobs[-1].status().chunks_done < 10 and time.monotonic() < deadline:
                time.sleep(0.01)
            stack.kill("batch.cpu", signal.SIGKILL)
            status = jobs[-1].status()
            console.print(f"  killed after {status.chunks_done} of {status.chunks_total} chunks")
        status = jobs[-1].wait(timeout_s=120)
    pairs = zip(*(job.parts() for job in jobs), strict=True)
    same = all(one.read_bytes() == other.read_bytes() for one, other in pairs)
    console.print(
        f"  {status.state}, {status.rows_done:,} rows, {status.chunks_done} parts, "
        + ("each identical to the other job's" if same else "[bold red]not the other job's[/]")
    )
    console.print(f"  its report shows the standstill: {jobs[-1].report()}", soft_wrap=True)


def ways_compared(client: Client, data: Path) -> None:
    """What each way of asking is for."""
    step(f"The same {COMPARED_ITEMS} reviews by three ways")
    texts = read(data, "film_reviews_heldout")["text"].head(COMPARED_ITEMS).tolist()
    # of films, whose answers are not kept: all three ways compute
    console.print(three_ways.compare(client, "films", texts, HOME / "out"))


def drift_in_july(settings: Settings, data: Path) -> None:
    """A model of January's flights is asked in July: everything looks different; is it worse?"""
    step("Drift: the model of January's flights in July")
    environment = {**os.environ, "CELERIAC_MODELS_ROOT": str(settings.models.root)}
    command = [
        Path(sys.executable).with_name("celeriac"), "drift", "check", "delays",
        data / "flights_july.parquet", "--label", "arrival", "--output", HOME / "out" / "drift",
    ]
    found = subprocess.run(  # noqa: S603 - our own command
        command, check=False, timeout=120, env=environment, capture_output=True, text=True,
    )
    console.print(found.stdout or found.stderr, markup=False)


def wait_for_the_user(stack: Stack) -> None:
    """Leave everything running, and say what to try."""
    broker = "" if stack.url == Settings().broker_url else f"CELERIAC_BROKER_URL={stack.url} "
    command = f"{broker}.venv/bin/celeriac"
    home = shlex.quote(str(HOME))
    console.print(
        f"\n[bold]The stack is running.[/] Flower: {stack.flower_url}   files: {HOME}\n"
        "Try, in another terminal:\n"
        f'  {command} predict reviews "Best coffee I ever bought"\n'
        f"  {command} batch submit {home}/data/reviews_heldout.csv --model reviews "
        f"--text-column review --output {home}/out/mine --wait\n"
        f"  {command} status\n"
        "Models of yours join these with, before `models register`:\n"
        f"  export CELERIAC_MODELS_ROOT={home}/models\n"
        "Ctrl-C stops it.",
        soft_wrap=True,
    )
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        console.print()


def read(data: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(data / f"{name}.csv")


def time_ms(client: Client, model: str, item: Any) -> float:
    started = time.perf_counter()
    client.predict(model, item)
    return (time.perf_counter() - started) * 1000


def shortened(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns that fit a terminal of 80 columns."""
    short = frame.assign(review=frame["review"].str.slice(0, 24) + "...").round(3)
    return short[["review_id", "review", "score", "prediction", "probability"]]


def step(title: str) -> None:
    console.print(f"\n[bold]{title}[/]")


def report(model: str, what: str, accuracy: float, rows: int) -> None:
    console.print(f"  {model:8} {what}: accuracy {accuracy:.3f} on {rows:,} held out")


if __name__ == "__main__":
    for signum in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores Ctrl-C
        signal.signal(signum, signal.default_int_handler)
    try:
        raise SystemExit(main())
    except errors.CeleriacError as error:
        sys.stderr.write(f"demo: {error.message}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
