"""What the batch benchmark scores: models and files, made once in a folder, from a seed.

Numbers are random. Texts are the demonstration's food reviews, images its scanned digits; both are
repeated with variations until there are enough, so no two are equal.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from celeriac import release
from celeriac.registry.store import Registry

SEED = 7
COLUMNS = 50
GROUP_ROWS = 10_000
NAMES = [f"x{number}" for number in range(COLUMNS)]
LEARNT_ROWS = 20_000


def numeric_models(
    root: Path, names: Sequence[str] = ("lr", "rf", "slow"), *, trees: int = 0
) -> None:
    """Those ``names`` of ``lr`` (scaler and logistic regression), ``rf`` (30 trees) and ``slow``,
    if it has ``trees``."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    chance = np.random.default_rng(SEED)
    rows = chance.standard_normal((LEARNT_ROWS, COLUMNS), dtype=np.float32)
    noise = chance.standard_normal(LEARNT_ROWS)
    labels = (rows @ chance.standard_normal(COLUMNS) + noise > 0).astype(int)
    models: dict[str, Any] = {
        "lr": make_pipeline(StandardScaler(), LogisticRegression()),
        "rf": RandomForestClassifier(30, max_depth=8, random_state=SEED),
    }
    if trees:
        models["slow"] = RandomForestClassifier(trees, max_depth=8, random_state=SEED, n_jobs=-1)
    for name in names:
        if name in models:
            _register(root, name, models[name].fit(rows, labels), rows[:50])


def numeric_parquet(path: Path, rows: int) -> None:
    """``id`` and 50 columns of float32, in row groups of 10,000."""
    chance = np.random.default_rng(SEED)
    schema = pa.schema([("id", pa.int64()), *((name, pa.float32()) for name in NAMES)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, GROUP_ROWS):
            count = min(GROUP_ROWS, rows - start)
            values = chance.standard_normal((count, COLUMNS), dtype=np.float32)
            ids = pa.array(np.arange(start, start + count))
            writer.write_table(pa.table([ids, *map(pa.array, values.T.copy())], schema=schema))


def linked(folder: Path, path: Path, times: int) -> None:
    """A folder with the same file several times, which takes no room."""
    folder.mkdir()
    for number in range(times):
        (folder / f"{number}{path.suffix}").hardlink_to(path)


def small_csv(path: Path, rows: int) -> None:
    """``id`` and the 50 columns as CSV."""
    values = np.random.default_rng(SEED).standard_normal((rows, COLUMNS)).round(4)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *NAMES])
        writer.writerows([number, *row] for number, row in enumerate(values.tolist()))


def small_files(folder: Path, files: int, rows: int) -> None:
    """A folder of CSV files of a few rows each, with the columns of :func:`small_csv`."""
    whole = folder.with_suffix(".csv")
    small_csv(whole, files * rows)
    header, *lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    folder.mkdir()
    for number in range(files):
        some = lines[number * rows : (number + 1) * rows]
        (folder / f"{number:06d}.csv").write_text(header + "".join(some), encoding="utf-8")


def text_model(root: Path, data: Path) -> None:
    """``text``: TF-IDF of one and two words and logistic regression, on 4,000 food reviews."""
    from demo import train

    reviews = _food_reviews(data, "train")
    model = train.text_classifier(reviews["review"], reviews["score"])
    _register(root, "text", model, reviews["review"].tolist()[:50])


def reviews_csv(path: Path, rows: int, data: Path) -> None:
    """Reviews of all 5,000: each time some sentences in another order, and some line breaks."""
    texts = reviews(data)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["review_id", "review"])
        writer.writerows((number, next(texts)) for number in range(rows))


def mixed_csv(path: Path, rows: int, data: Path) -> None:
    """A table as people export it: ids, six numbers, and 60 characters of a review, quoted."""
    chance = np.random.default_rng(SEED)
    texts = reviews(data)
    block = 100_000
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(["id", *(f"n{column}" for column in range(6)), "text"])
        for start in range(0, rows, block):
            numbers = chance.standard_normal((min(block, rows - start), 6)).round(3).tolist()
            writer.writerows(
                [start + at, *values, next(texts)[:60]] for at, values in enumerate(numbers)
            )


def repeated(path: Path, source: Path, times: int) -> None:
    """A CSV with the rows of another one several times."""
    header, _, rows = source.read_bytes().partition(b"\n")
    with path.open("wb") as file:
        file.write(header + b"\n")
        for _ in range(times):
            file.write(rows)


def some_reviews(data: Path, count: int) -> list[str]:
    """Single items."""
    texts = reviews(data)
    return [next(texts) for _ in range(count)]


def image_model(root: Path) -> None:
    """``digits``: the demonstration's CNN; larger images are made smaller for it."""
    from demo import train

    images, unseen, labels, _ = train.digit_images()
    examples = [train.as_png(image) for image in unseen[:5]]
    _register(
        root, "digits", train.digit_classifier(images, labels), examples,
        labels=list(range(10)), input=train.DIGIT_IMAGE,
    )


def image_folder(folder: Path, count: int, side: int) -> None:
    """PNG files: the 1,797 scanned digits of 8 x 8 pixels, enlarged, each with noise of its own."""
    from sklearn.datasets import load_digits

    from demo import train

    folder.mkdir()
    chance = np.random.default_rng(SEED)
    digits = load_digits().images
    for number in range(count):
        image = np.kron(digits[number % len(digits)], np.ones((side // 8, side // 8)))
        image += chance.integers(-1, 2, (side, side))
        (folder / f"{number:06d}.png").write_bytes(train.as_png(image.clip(0, 16)))


def demo_data(folder: Path) -> None:
    """The demonstration's CSV files."""
    subprocess.run([sys.executable, "-m", "demo.data", folder], check=True, timeout=120)


def reviews(data: Path) -> Iterator[str]:
    """Without end; no two are alike."""
    chance = np.random.default_rng(SEED)
    texts = [*_food_reviews(data, "train")["review"], *_food_reviews(data, "heldout")["review"]]
    while True:
        for number in chance.permutation(len(texts)).tolist():
            sentences = texts[number].split(". ")
            start = int(chance.integers(len(sentences)))
            joint = ".\n" if chance.random() < 0.3 else ". "
            yield joint.join([*sentences[start:], *sentences[:start]])


def _food_reviews(data: Path, name: str) -> Any:
    import pandas as pd

    return pd.read_csv(data / f"reviews_{name}.csv")


def _register(root: Path, name: str, model: Any, examples: Any, **options: Any) -> None:
    registry = Registry(root)
    release.register(name, model, registry=registry, examples=examples, **options)
    registry.aliases(name).promote(1, expected=None, who="bench", why="measured")
