"""What is known of a column, as data: no library is needed to read it."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal[
    "number", "boolean", "text", "time", "list", "bytes", "image", "other", "empty", "mixed"
]


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """Some numbers in nine."""

    min: float
    p5: float
    p25: float
    median: float
    p75: float
    p95: float
    max: float
    mean: float
    std: float


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """How many values lie between neighbouring edges; the last bin holds its upper edge."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: bool = False
    """The first bin also holds everything below it."""
    above: bool = False


class Category(msgspec.Struct, frozen=True, kw_only=True):
    """A value, and how often it comes."""

    value: str
    count: int


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Statistics of one column of a sample."""

    name: str
    kind: Kind
    """``empty``: no value at all. ``mixed``: its type differs within the dataset."""
    rows: int
    nulls: int
    not_finite: int = 0
    """NaN and infinity; they count in nothing else."""
    distinct: int | None = None
    """Different values; of texts, as far as their beginning and length tell them apart."""
    numbers: Numbers | None = None
    """Of the values, or what ``unit`` says of each."""
    unit: Literal["", "characters", "items", "bytes"] = ""
    width: Numbers | None = None
    """Of images, in pixels."""
    height: Numbers | None = None
    first: str = ""
    """The earliest time."""
    last: str = ""
    histogram: Histogram | None = None
    top: tuple[Category, ...] = ()
    """The commonest values, where they are short and none stands for a single row."""
    others: int = 0
    """Values that are in no category of ``top``."""

    @property
    def values(self) -> int:
        """Rows that have a value."""
        return self.rows - self.nulls

    @property
    def is_constant(self) -> bool:
        return self.distinct == 1 and self.values > 1

    @property
    def null_share(self) -> float:
        return self.nulls / self.rows if self.rows else 0.0
