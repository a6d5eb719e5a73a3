"""Film reviews: sentiments in real time, and a summary of films that the model has not seen.

    .venv/bin/python -m examples.reviews

Trains on half of 508 films (25 reviews each), starts a local stack, scores, sums up, compares with
the critics' own verdicts, and stops.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from celeriac import release
from celeriac.registry.store import Registry
from celeriac.settings import ModelsSettings, Settings, StackSettings
from demo import train
from producer import Client
from producer.applications.reviews import Reviews
from workers.stack import Stack
from workers.valkey import free_port

HOME = Path(".celeriac/examples/reviews").absolute()
say = sys.stdout.write


def main() -> None:
    """Run the example; its files stay in ``.celeriac/examples/reviews``."""
    shutil.rmtree(HOME, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "demo.data", HOME], check=True, timeout=120)  # noqa: S603 - our own program
    settings = Settings(
        stack=StackSettings(state_dir=HOME / "state", redis_port=free_port(), metrics_port=0),
        models=ModelsSettings(root=HOME / "models"),
    )
    unseen = train_on_half(settings)
    roles = ("realtime.cpu", "batch.cpu", "maintenance")
    stack = Stack(settings, roles=roles, flower=False, gateway=False)
    with stack, Client(stack.url) as client:
        reviews = Reviews(client, "films")
        in_real_time(reviews)
        whole_dataset(reviews, unseen)
    say("Done.\n")


def train_on_half(settings: Settings) -> Path:
    """Register and promote ``films``; the reviews of the other films, as a file."""
    films = pd.read_csv(HOME / "film_reviews.csv")
    known, unseen = train.films_in_halves(films)
    model = train.text_classifier(known["text"], known["category"])
    registry = Registry(settings.models.root)
    release.register(
        "films", model, registry=registry, examples=films["text"].head(20).tolist(),
        text_column="text",
    )
    release.promote(registry, "films@1", settings=settings, who="example")
    right = train.accuracy(model.predict(unseen["text"]), unseen["category"])
    say(f"films@1: right about {right:.1%} of {len(unseen):,} reviews of unseen films\n")
    path = HOME / "unseen_films.csv"
    unseen.to_csv(path, index=False)
    return path


def in_real_time(reviews: Reviews) -> None:
    """As another service asks."""
    for text in ("A warm, funny and moving masterpiece", "Dull, predictable and far too long"):
        say(f"  {reviews.score(text).sentiment:+.2f}  {text}\n")


def whole_dataset(reviews: Reviews, unseen: Path) -> None:
    """Every unseen film, and what its critics said."""
    output = HOME / "summary"
    summary = reviews.summarise(unseen, output, product="film", timeout_s=120)
    assert summary.overall is not None  # noqa: S101 - there are reviews
    say(f"{summary.overall.reviews:,} reviews of {len(summary.products)} films\n")
    for one in (*summary.products[:3], *summary.products[-3:]):
        say(f"  {one.mean:+.2f} ({one.low:+.2f} to {one.high:+.2f})  {one.product}\n")
    table = pd.read_csv(unseen)
    verdicts = table["category"].eq("fresh").groupby(table["film"]).mean()
    pairs = [(one.mean, verdicts[one.product]) for one in summary.products if one.reviews >= 20]
    likeness = np.corrcoef(np.array(pairs).T)[0, 1]
    say(f"correlation with the critics' own verdicts, by film: {likeness:.2f}\n")
    say(f"page: {output / 'reviews.html'}\n")


if __name__ == "__main__":
    main()
