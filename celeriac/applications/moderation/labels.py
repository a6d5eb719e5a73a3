"""What people said, as a dataset to train with: one row for each review."""

from __future__ import annotations

import csv
from collections.abc import Sequence
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


def write_labels(path: Path, labels: Sequence[Label]) -> None:
    """Write a .csv, .jsonl or .parquet file, whole or not at all.

    Raises RequestError for another suffix, StorageError.
    """
    if path.suffix not in SUFFIXES:
        raise errors.RequestError(f"{path.name}: labels are written as {', '.join(SUFFIXES)}")
    rows = [row_of(label) for label in labels]
    with replacing(path) as partial:
        _WRITERS[path.suffix](partial, rows)


def _csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(msgspec.json.Encoder().encode_lines(rows))


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        name: pa.array(
            [row[name] for row in rows], pa.bool_() if name == "cut" else pa.string()
        )
        for name in COLUMNS
    }
    pq.write_table(pa.table(columns), path)


_WRITERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
