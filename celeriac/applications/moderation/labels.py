"""What people said, as a dataset to train with: one row for each review."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from celeriac import errors
from celeriac.applications.moderation.reviews import Label
from celeriac.datasets.files import replacing

COLUMNS = (
    "id", "post", "text", "cut", "label", "categories", "scores", "policy", "by", "at", "note",
)  # fmt: skip
SUFFIXES = (".csv", ".jsonl", ".parquet")


def row_of(label: Label) -> dict[str, Any]:
    """One row: the text, what the models thought of it, and what is true."""
    record = label.review.record
    return {
        "id": label.id,
        "post": record.post,
        "text": label.review.text or "",
        "cut": label.review.cut,
        "label": label.decision,
        "categories": ",".join(label.categories),
        "scores": msgspec.json.encode({
            f"{score.part}.{score.category}": round(score.score, 6) for score in record.scores
        }).decode(),
        "policy": record.policy,
        "by": label.by,
        "at": datetime.fromtimestamp(label.at_ms / 1_000, UTC).isoformat(timespec="milliseconds"),
        "note": label.note,
    }


def write_labels(path: Path, labels: Iterable[Sequence[Label]]) -> int:
    """Write blocks of labels as a .csv, .jsonl or .parquet file, whole or not at all; how many.

    Raises RequestError for another suffix, StorageError, and what ``labels`` raises.
    """
    if path.suffix not in SUFFIXES:
        raise errors.RequestError(f"{path.name}: labels are written as {', '.join(SUFFIXES)}")
    count = 0
    with replacing(path) as partial, _WRITERS[path.suffix](partial) as write:
        for block in labels:
            write([row_of(label) for label in block])
            count += len(block)
    return count


_Write = Callable[[list[dict[str, Any]]], Any]


@contextmanager
def _csv(path: Path) -> Iterator[_Write]:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        yield writer.writerows


@contextmanager
def _jsonl(path: Path) -> Iterator[_Write]:
    encode = msgspec.json.Encoder().encode_lines
    with path.open("wb") as file:
        yield lambda rows: file.write(encode(rows))


@contextmanager
def _parquet(path: Path) -> Iterator[_Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([
        (name, pa.bool_() if name == "cut" else pa.string()) for name in COLUMNS
    ])
    with pq.ParquetWriter(path, schema) as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema))


_WRITERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
