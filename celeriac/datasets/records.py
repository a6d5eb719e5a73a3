"""What a plan says of a dataset. Plain records, written as JSON; no reader is imported here."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from celeriac import errors

Format = Literal["parquet", "csv", "jsonl"]
"""Of an output."""
SourceFormat = Literal["parquet", "csv", "jsonl", "images"]
Compression = Literal["", "gzip", "zstd"]
"""Around a whole file; what Parquet compresses inside is its own affair."""
COMPRESSIONS: dict[str, Compression] = {
    ".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd",
}
"""By the suffix of a file's name."""
Period = Literal["day", "week", "month", "quarter", "year"]
"""A week begins on Monday."""


MAX_ROW_BYTES = 4_000
"""How much of a row that failed is kept."""


class Aggregation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a job computes of its output, by groups of rows."""

    by: tuple[str, ...]
    """Columns whose values make a group."""
    mean: tuple[str, ...] = ()
    share: dict[str, str | int | bool] = {}
    """Of the rows in which a column has this value: ``{"prediction": "positive"}``."""
    quantiles: dict[str, tuple[float, ...]] = {}
    """Ranks from 0 to 1: ``{"probability": [0.5, 0.95]}``."""
    std: tuple[str, ...] = ()
    """Standard deviation of a sample (divided by n - 1)."""
    period: dict[str, Period] = {}
    """Columns of ``by`` that hold dates, and how long the stretches are that make a group."""

    @property
    def measured(self) -> list[str]:
        """Columns of numbers that are read."""
        return list(dict.fromkeys((*self.mean, *self.quantiles, *self.std)))

    @property
    def reads(self) -> list[str]:
        """All columns that are read."""
        return list(dict.fromkeys((*self.by, *self.measured, *self.share)))

    @classmethod
    def of(cls, value: Any) -> Aggregation:
        """From a dict; a single name stands for a list of one. Raises RequestError."""
        if isinstance(value, cls):
            return value
        try:
            fields = {
                name: [one] if name in ("by", "mean", "std") and isinstance(one, str) else one
                for name, one in dict(value).items()
            }
            return msgspec.convert(fields, cls)
        except (TypeError, ValueError, msgspec.ValidationError) as error:
            raise errors.RequestError(
                f"an aggregation looks like {{'by': 'product', 'mean': ['probability'], "
                f"'share': {{'prediction': 'positive'}}, "
                f"'quantiles': {{'probability': [0.5]}}, 'std': ['probability'], "
                f"'period': {{'date': 'month'}}}}: {error}"
            ) from error


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the dataset, as it was when the plan was made."""

    path: str
    """Absolute, or ``s3://bucket/key``; for messages only, if there is a copy."""
    size: int
    mtime_ns: int
    sha256: str
    """Of the content; of Parquet, of its footer and of when the file was written."""
    rows: int
    """Rows of data, the unreadable ones among them."""
    etag: str = ""
    """What object storage says of this state of the file."""
    copy: str = ""
    """File in the job's folder that chunks read instead, where ``path`` has no place to cut."""


class DatasetColumn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One column of the dataset."""

    name: str
    dtype: str
    """CSV and JSON lines: ``int``, ``float``, ``bool`` or ``text``, in JSON lines also ``json``
    (anything, as JSON text). Others: the Arrow type."""
    in_folders: bool = False
    """Its values are in the names of the files' folders, as ``region=eu``, not in the files. Its
    type is ``text``, or what the model takes: ``int``, ``float`` or ``bool``."""
    empty_is_null: bool = False
    """CSV: a text of no characters is no value, for the model takes null."""


class Chunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Consecutive rows of one file: a range of bytes, or row groups of a Parquet file. Or small
    files one after the other, each of them whole."""

    number: int
    file: int
    """Index into the plan's files; of several, the first."""
    first_row: int
    """Rows of the file before this chunk."""
    rows: int
    start: int = 0
    """CSV and JSON lines: first byte."""
    end: int = 0
    """CSV and JSON lines: byte after the last one."""
    group: int = 0
    """Parquet: first row group."""
    groups: int = 0
    """Parquet: how many row groups are read."""
    skip: int = 0
    """Parquet: rows of the first group that belong to the chunk before."""
    pieces: tuple[Chunk, ...] = ()
    """The small files that share the chunk, each as it would be in one of its own. Their rows are
    counted on through the chunk. Empty: the chunk is of one file."""


class DatasetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset cut into chunks: each row is in exactly one of them, in order."""

    format: SourceFormat
    files: tuple[SourceFile, ...]
    columns: tuple[DatasetColumn, ...]
    chunks: tuple[Chunk, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


class RowError(msgspec.Struct, frozen=True, kw_only=True):
    """One row that could not be read or answered."""

    row: int
    """Number of the row in its file; the first row of data is 1. While a chunk that files share is
    read: in the chunk; ``sharing.located`` says in which file it is."""
    id: Any = None
    """Its value in the column that names rows, where there is one and it could be read."""
    code: str
    message: str
    data: str
    """The row, at most 4 kB."""


def clip(text: str) -> str:
    """At most 4 kB of ``text``."""
    data = text.encode("utf-8", "backslashreplace")
    return data[:MAX_ROW_BYTES].decode("utf-8", "ignore")
