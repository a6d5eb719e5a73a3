"""Moderation: texts decided in real time, beside the same model called through ``predict``.

Both ways ask with 64 coroutines of one process, in turns, and the median of the rounds' ratios
counts; a decision also reads, compares with lists, applies the policy and is recorded. Besides:
posts with pictures, and an archive that is decided again under another threshold. The models are
the real ones of ``demo.moderation``.
"""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks.harness import datasets
from benchmarks.harness.processes import Child
from benchmarks.harness.site import Site, site
from benchmarks.harness.table import Row, compared
from celeriac.applications.moderation.policy import Policy, read_policy
from demo.moderation import IMAGE_MODEL, TEXT_MODEL
from producer import Client
from producer.applications.moderation import Moderator
from producer.applications.moderation.archive import moderate_archive

ROUNDS, SECONDS, WIDTH, TEXTS = 11, 1.5, 64, 2_000
LEAST = 0.9


def rows(home: Path, quick: bool) -> Iterator[Row]:
    """Real time, then pictures, then the archive."""
    root, data = home / "models", home / "data"
    data.mkdir()
    datasets.demo_data(data)
    texts = pd.read_csv(data / "film_reviews.csv")["text"].head(TEXTS).tolist()
    with site(home, root, "realtime.cpu", "batch.cpu", "maintenance") as running:
        env = {**running.env, "CELERIAC_MODERATION_FOLDER": str(home / "moderation")}
        subprocess.run([sys.executable, "-m", "demo.moderation"], check=True, env=env, timeout=400,
                       stdout=sys.stderr)
        _await_models(running)
        yield _real_time(home, env, texts, quick)
        yield _pictures(running, home, quick)
        yield from _archive(running, home, texts[:200] if quick else texts)


def _await_models(running: Site) -> None:
    """Until the workers answer with both. Raises TimeoutError if they are not published within a
    minute, and DeadlineExceeded."""
    with Client(settings=running.settings, timeout_s=60) as client, _moderator(
        client, running.settings.stack.state_dir
    ) as moderator:
        deadline_s = time.monotonic() + 60
        while set(client.models()) < {TEXT_MODEL, IMAGE_MODEL}:
            if time.monotonic() > deadline_s:
                raise TimeoutError("the models are not published")
            time.sleep(0.2)
        moderator.moderate("hello", [_picture()], timeout_s=60)


def _real_time(home: Path, env: dict[str, str], texts: list[str], quick: bool) -> Row:
    found: dict[str, list[float]] = {"predict": [], "moderate": []}
    with Child(
        [sys.executable, "-m", "benchmarks.subjects.moderation_client"],
        home / "moderation_client.log", env, piped=True,
    ) as client:
        for number in range(1 if quick else ROUNDS + 1):
            for way, rates in sorted(found.items(), reverse=number % 2 == 0):
                told = client.ask(
                    way=way, model=TEXT_MODEL, texts=texts, width=WIDTH,
                    seconds=0.5 if quick else SECONDS,
                )
                if number or quick:
                    rates.append(told["rate"])
    ratio = statistics.median(
        mine / plain for mine, plain in zip(found["moderate"], found["predict"], strict=True)
    )
    return Row(
        measure=f"texts decided, {WIDTH} in flight", value=statistics.median(found["moderate"]),
        unit="1/s", against="predict", baseline=statistics.median(found["predict"]), ratio=ratio,
        goal=f">= {LEAST:g}", met=ratio >= LEAST,
    )


def _pictures(running: Site, home: Path, quick: bool) -> Row:
    """A post of a text and three pictures, against its pictures alone through ``predict_many``."""
    pictures = [_picture(number) for number in range(3)]
    took: dict[str, list[float]] = {"post": [], "pictures": []}
    with Client(settings=running.settings, timeout_s=60) as client, _moderator(
        client, home / "moderation"
    ) as moderator:
        for _ in range(3 if quick else 20):
            began_s = time.perf_counter()
            moderator.moderate("Look at these", pictures)
            between_s = time.perf_counter()
            client.predict_many(IMAGE_MODEL, pictures)
            took["post"].append(between_s - began_s)
            took["pictures"].append(time.perf_counter() - between_s)
    post_s, pictures_s = (statistics.median(took[name]) for name in ("post", "pictures"))
    return compared(
        "a post of a text and 3 pictures", post_s * 1000, "ms", "its pictures alone",
        pictures_s * 1000,
    )


def _archive(running: Site, home: Path, texts: list[str]) -> Iterator[Row]:
    source = home / "archive.parquet"
    pd.DataFrame({"text": texts}).to_parquet(source)
    policy = read_policy(None)
    data = policy.model_dump()
    data["texts"]["toxicity"]["review"] = 0.8
    other = Policy.model_validate({**data, "version": 2})
    with Client(settings=running.settings) as client:
        began_s = time.perf_counter()
        moderate_archive(client, source, home / "first", policy)
        between_s = time.perf_counter()
        found = moderate_archive(client, source, home / "again", other, before=home / "first")
        again_s = time.perf_counter() - between_s
    if found.reused != (TEXT_MODEL,):
        raise RuntimeError("another threshold asked the model again")
    first_s = between_s - began_s
    yield Row(measure=f"an archive of {len(texts):,} texts", value=first_s, unit="s")
    yield compared("again, with another threshold", again_s, "s", "the first time", first_s)


def _moderator(client: Client, folder: Path) -> Moderator:
    settings = client.settings
    moderation = settings.moderation.model_copy(update={"folder": folder})
    client.broker.settings = settings.model_copy(update={"moderation": moderation})
    return Moderator(client)


def _picture(number: int = 0) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (400, 300), (number * 40, 90, 120)).save(file, "JPEG")
    return file.getvalue()
