"""From what the caller names (a file, a folder, a pattern, a frame) to files and their columns."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import pyarrow as pa

from celeriac import errors
from celeriac.datasets import arrow_types, images, parquet, partitions
from celeriac.datasets.ahead import in_order
from celeriac.datasets.pandas_periods import frequency_of, periods_as_text
from celeriac.datasets.places import (
    Listed,
    Place,
    S3Path,
    check_name,
    expanded,
    is_hidden,
    is_s3,
    list_below,
    list_files,
    listed,
    match_s3,
)
from celeriac.datasets.records import Compression, DatasetColumn, SourceFormat
from celeriac.datasets.scan import Span, joined
from celeriac.datasets.sharing import SMALL_BYTES
from celeriac.datasets.streams import Head, compression_of, naming, read_head

_FORMATS: dict[str, SourceFormat] = {
    ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
    ".png": "images", ".jpg": "images", ".jpeg": "images", ".webp": "images", ".gif": "images",
}
_KINDS = (
    ".csv, .jsonl or .parquet files (CSV and JSON lines also .gz or .zst), or images "
    "(.png, .jpg, .webp, .gif)"
)

Columns = list[tuple[str, str]]
Seen = TypeVar("Seen")
Check = Callable[[Place], None]
"""Raises DatasetError for a file that may not be read."""


class Whole(NamedTuple):
    """A small file whose head was all of it: a plan need not read it again."""

    sha256: str
    etag: str
    span: Span | None = None
    """CSV and JSON lines: its rows; None if there are none."""


class Found(NamedTuple):
    """One file of a dataset, whose head was read. (A tuple: there may be a million images.)"""

    at: Listed
    data_start: int = 0
    """CSV and JSON lines: byte, after decompression, of the first row."""
    footer: parquet.Footer | None = None
    rows: int = 0
    """Estimated from the head; exact for Parquet."""
    whole: Whole | None = None


@dataclass(frozen=True)
class Source:
    """A dataset that was found and whose heads were read."""

    format: SourceFormat
    files: tuple[Found, ...]
    columns: tuple[DatasetColumn, ...]
    frame: pa.Table | None = None
    """A table of this process, which has no file yet."""
    long: frozenset[str] = frozenset()
    """Columns of ``int`` whose numbers a float would round."""

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def called(self) -> str:
        """What errors about its columns, which all files share, call it: by the first file."""
        if not self.files:
            return "the dataset"
        more = f" (the first of {len(self.files):,} files)" if len(self.files) > 1 else ""
        return f"{self.files[0].at.name}{more}"

    @property
    def in_files(self) -> Source:
        """Without what only the names of folders hold."""
        return replace(self, columns=tuple(one for one in self.columns if not one.in_folders))

    @property
    def in_folders(self) -> tuple[DatasetColumn, ...]:
        """Columns that the names of folders hold."""
        return tuple(column for column in self.columns if column.in_folders)

    @cached_property
    def bytes(self) -> int:
        return sum(found.at.size for found in self.files)

    @property
    def rows(self) -> int:
        """About how many; at least 1."""
        return max(1, sum(found.rows for found in self.files))


def open_source(source: Any, check: Check | None = None) -> Source:
    """Find the files of a dataset and read their columns; quick, whatever the size.

    ``source`` is a file, a folder, or a pattern such as ``data/2026-*.csv``, on a disk or in S3;
    several files are taken in the order of their names. Or it is an Arrow table or a frame
    (pandas, polars) of this process. ``check`` sees each file before it is opened.
    Raises DatasetError if there is none, if one cannot be read, or if their columns differ.
    """
    if not isinstance(source, (str, Path, S3Path)):
        return _open_frame(source)
    with naming(str(source)):
        found = _open(_find(source, check))
    if found.format == "images":  # their paths are a column
        return found
    paths = [file.at.name for file in found.files]
    return replace(found, columns=found.columns + partitions.columns_of(paths, found.names))


def open_files(paths: Sequence[Place]) -> Source:
    """As :func:`open_source`, of files in a given order."""
    return _open([listed(path) for path in paths])


def _open(files: list[Listed]) -> Source:
    kind = _format(files)
    if kind == "images":
        found = tuple(map(Found, files, repeat(0), repeat(None), repeat(1)))
        return Source(kind, found, images.COLUMNS)
    openers: dict[str, Callable[[list[Listed]], tuple[list[Found], Columns]]] = {
        "csv": _open_csv, "jsonl": _open_jsonl, "parquet": _open_parquet,
    }
    opened, columns = openers[kind](files)
    long = frozenset(name for name, dtype in columns if dtype == "long")
    return Source(kind, tuple(opened), _named(columns), long=long)


_NO_TABLE = (
    pa.ArrowException, AttributeError, LookupError, OverflowError, TypeError, ValueError,
)
"""What a frame raises that becomes no table."""


def _open_frame(frame: Any) -> Source:
    try:
        table = _as_table(frame)
    except _NO_TABLE as error:
        raise errors.DatasetError(
            f"{type(frame).__name__}: a dataset is a path, an Arrow table or a frame; this one "
            f"does not become a table: {_blamed(frame)}{errors.told(error)}"
        ) from error
    _check_one_kind(frame, table)
    table = _without_periods(table.replace_schema_metadata(None))
    columns = parquet.columns_of(table.schema, "the frame")
    if table.num_rows == 0:
        raise errors.DatasetError("the frame has no rows")
    return Source("parquet", (), _named(columns), table)


def _blamed(frame: Any) -> str:
    """The column of a frame that becomes no column of a table; empty if that cannot be told."""
    for name in getattr(frame, "columns", ()):
        try:
            pa.array(frame[name], from_pandas=True)
        except _NO_TABLE:
            return f"column {name!r}: "
    return ""


def _check_one_kind(frame: Any, table: pa.Table) -> None:
    """Raises DatasetError for a column of Python's objects that holds dates and times, of which
    Arrow makes dates, or times with a zone and without, of which it makes those of one zone."""
    for at in range(frame.shape[1] if hasattr(frame, "iloc") else 0):
        field, column = table.schema.field(at), frame.iloc[:, at]
        is_time = pa.types.is_date(field.type) or pa.types.is_timestamp(field.type)
        if not (is_time and str(column.dtype) == "object"):
            continue
        kinds = {
            (isinstance(one, datetime), getattr(one, "tzinfo", None) is None)
            for one in column.dropna()
        }
        if len(kinds) > 1:
            raise errors.DatasetError(
                f"column {field.name!r} of the frame holds dates and times, or times with a zone "
                "and without; give all of them one type (pandas.to_datetime)"
            )


def _as_table(frame: Any) -> pa.Table:
    """Of pandas with the index, but for a nameless range: Arrow would leave out every range,
    and of several levels those that are one."""
    names = getattr(getattr(frame, "index", None), "names", None) or [None]
    if len(names) == 1 and names[0] is None:
        return pa.table(frame)
    return pa.Table.from_pandas(frame, preserve_index=True)


def _without_periods(table: pa.Table) -> pa.Table:
    for at, field in enumerate(table.schema):
        if frequency := frequency_of(field):
            table = table.set_column(at, field.name, periods_as_text(table[at], frequency))
    return table


def _named(columns: Columns) -> tuple[DatasetColumn, ...]:
    return tuple(DatasetColumn(name=name, dtype=in_plan(dtype)) for name, dtype in columns)


def in_plan(guess: str) -> str:
    """A guessed type as a plan has it: there are no ``long`` ones."""
    return "int" if guess == "long" else guess


# --- finding -------------------------------------------------------------------------------------


def _find(source: str | Path | S3Path, check: Check | None) -> list[Listed]:
    if not str(source):
        raise errors.DatasetError("no dataset is named: its path is empty")
    path = expanded(source)
    if check:
        check(path)
    if path.is_dir():
        files, problem = _of_folder(path, check)
    elif path.exists():
        files, problem = [listed(_as_named(path, path.resolve()))], ""
    elif glob.has_magic(str(source)):
        files, problem = _of_pattern(source, str(path), check)
    else:
        raise errors.DatasetError(f"{path}: no such file")
    if not files:
        raise errors.DatasetError(f"{path}: {problem}")
    odd = next((at for at in files if not at.is_regular), None)
    if odd:
        raise errors.DatasetError(
            f"{odd.name}: is a pipe, a socket or a device; a dataset is made of ordinary files"
        )
    for at in files:
        check_name(at.name)
    return sorted(files, key=attrgetter("name"))


def _of_folder(path: Place, check: Check | None) -> tuple[list[Listed], str]:
    """The files of a folder, and what is wrong if there are none."""
    _check_no_versions(path.resolve())
    folder = _as_named(path, path.resolve())
    files = _in_folder(list_files(folder, check))
    problem = f"the folder holds no {_KINDS}"
    if all(_format_of(at) == "images" for at in files):  # these are often sorted into folders
        below = _in_folder(list_below(folder, check))
        files += [at for at in below if _format_of(at) == "images"]
        files = files or [at for at in below if _is_partition(at, folder)]
        if below and not files:
            problem += f"; its folders do: {_named_by(glob.escape(str(path)), below)}"
    return files, problem


def _of_pattern(
    source: str | Path | S3Path, pattern: str, check: Check | None
) -> tuple[list[Listed], str]:
    files = _in_folder(_matches(source, pattern, check), known=False)
    problem = "no file matches the pattern"
    if not files and (below := _in_matched(source, pattern, check)):
        problem += f", but folders do: {_named_by(pattern, below)}"
    return files, problem


def _in_matched(
    source: str | Path | S3Path, pattern: str, check: Check | None
) -> list[Listed]:
    """The files of the first folder that a pattern matches and that holds some; for a hint, so
    links to folders, which may run in circles, are not followed below it."""
    if is_s3(source):
        return _in_folder(match_s3(f"{pattern.rstrip('/')}/**/*"))
    for name in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - any pattern
        folder = Path(name)
        if folder.is_dir() and _is_looked_at(f"{name}/", pattern):
            with suppress(OSError, errors.DatasetError):  # it cannot be read, or must not
                if found := _in_folder(list_files(folder, check) + list_below(folder, check)):
                    return found
    return []


def _as_named(path: Place, found: Place) -> Place:
    """``found``, where links lead, since they may soon lead elsewhere; but ``path`` as it is named
    if only its folders hold columns, as where the files of a table are links into a store."""
    if isinstance(path, S3Path) or _columns_of(found):
        return found
    named = Path(os.path.abspath(path))  # noqa: PTH100 - without "..", and links as they are
    holds = _columns_of(named) and named.exists() and named.samefile(str(found))
    return named if holds else found


def _columns_of(path: Place) -> dict[str, Any]:
    """What the folders of a file say, or those of a folder with its own name."""
    return partitions.values_of(f"{path}/" if path.is_dir() else str(path))


def _check_no_versions(folder: Place) -> None:
    """Raises DatasetError for a table, or a partition of one, whose folders keep files that are no
    more part of it."""
    table = folder
    while partitions.is_partition(table.name):
        table = table.parent
    for name, kind in _VERSIONED.items():
        if (table / name).is_dir():
            raise errors.DatasetError(
                f"{folder}: belongs to a table of {kind} ({name}), whose folders also hold rows "
                "that were deleted or replaced; write the version that you mean to a folder "
                "of its own (or, if nothing was ever changed, name the files by a pattern)"
            )


_VERSIONED = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}


def _is_partition(at: Listed, folder: Place) -> bool:
    """True if all folders between ``folder`` and the file hold values of columns."""
    between = at.name[len(str(folder)) :].strip("/").split("/")[:-1]
    return all(map(partitions.is_partition, between))


def _named_by(folders: str, below: list[Listed]) -> str:
    """What to do to get the files below a folder, or below those that a pattern matches."""
    *_, ending, last = min(below, key=attrgetter("name")).own_name.split(".")
    ending = f"{ending}.{last}" if compression_of(Path(f"x.{last}")) else last
    return f"name the pattern {folders.rstrip('/')}/**/*.{ending} (in quotes)"


def _matches(
    source: str | Path | S3Path, pattern: str, check: Check | None
) -> list[Listed]:
    if is_s3(source):
        return [at for at in match_s3(pattern) if _is_looked_at(at.name, pattern)]
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - any pattern
    files = [Path(name) for name in found if _is_looked_at(name, pattern)]
    files = [path for path in files if not path.is_dir()]
    if check:
        for path in files:
            check(path)
    once: dict[Any, Place] = {}  # links may lead to one file by several ways
    for path in sorted(files):
        at = path.resolve() if path.exists() else path
        named = _as_named(path, at)
        once.setdefault((at, tuple(_columns_of(named).items())), named)
    return [listed(path) for path in once.values()]


def _is_looked_at(name: str, pattern: str) -> bool:
    """False in a folder that begins with ``.`` or ``_``, unless the pattern names it.

    >>> _is_looked_at("/data/_new/a.csv", "/data/**/*.csv")
    False
    >>> _is_looked_at("/data/_new/b/a.csv", "/data/_n*/**/*.csv")
    True
    """
    named = [part for part in pattern.split("/") if is_hidden(part)]
    hidden = filter(is_hidden, name.split("/")[:-1])
    return all(any(fnmatch.fnmatchcase(part, one) for one in named) for part in hidden)


def _in_folder(files: Sequence[Listed], *, known: bool = True) -> list[Listed]:
    return [
        at for at in files
        if not is_hidden(at.own_name) and (not known or _format_of(at))
    ]


def _format(files: list[Listed]) -> SourceFormat:
    kinds = {_format_of(at) for at in files}
    if None in kinds:
        odd = next(at for at in files if not _format_of(at))
        raise errors.DatasetError(f"{odd.name}: a dataset is made of {_KINDS}")
    if len(kinds) > 1:
        names = " and ".join(sorted(cast("set[str]", kinds)))
        raise errors.DatasetError(
            f"{files[0].path.parent}: holds files of several kinds ({names}); use one kind, or a "
            "pattern such as folder/*.csv"
        )
    return cast("SourceFormat", kinds.pop())


def _format_of(at: Listed) -> SourceFormat | None:
    _, dot, ending = at.own_name.rpartition(".")
    plain = _FORMATS.get(dot + ending)  # most are: a folder has many files of one kind
    if plain:
        return plain
    compression, kind = _kind_of(*at.own_name.lower().rsplit(".", 2)[1:])
    if compression and kind == "parquet":
        raise errors.DatasetError(
            f"{at.name}: Parquet is compressed inside, column by column, and cannot be read out "
            "of a compressed file; unpack it first"
        )
    return None if compression and kind == "images" else kind


@lru_cache(maxsize=256)
def _kind_of(*suffixes: str) -> tuple[Compression, SourceFormat | None]:
    """Of the last two suffixes of a name: compression and format. A folder has many files of one.

    >>> _kind_of("csv", "gz"), _kind_of("2026", "png"), _kind_of("csv")
    (('gzip', 'csv'), ('', 'images'), ('', 'csv'))
    """
    compression = compression_of(Path("x." + suffixes[-1])) if suffixes else ""
    left = suffixes[:-1] if compression else suffixes
    return compression, _FORMATS.get(f".{left[-1]}") if left else None


# --- columns -------------------------------------------------------------------------------------


def _open_csv(files: list[Listed]) -> tuple[list[Found], Columns]:
    from celeriac.datasets import csv

    found: list[Found] = []
    first: list[str] = []
    types = _CsvTypes()
    for at, (head, whole) in zip(files, _heads(files), strict=True):
        names, start = csv.read_header(head)
        first = first or names
        _check_columns(files[0], [(name, "") for name in first], at, [(name, "") for name in names])
        found.append(_found(at, start, head, whole, whole and csv.whole_span(head, start)))
        types.add(head, names, start, is_small=whole is not None)
    return found, types.columns(first)


class _CsvTypes:
    """The types of columns by the heads of all files; rows of small files are looked at together,
    since a look takes longer than they do."""

    def __init__(self) -> None:
        self._types: list[dict[str, str]] = []
        self._waiting: list[tuple[Head, list[str], int]] = []
        self._bytes = 0

    def add(self, head: Head, names: list[str], data_start: int, *, is_small: bool) -> None:
        """The head of the next file."""
        from celeriac.datasets import csv

        if not is_small:
            self._types.append(csv.infer_types(head, names, data_start))
            return
        self._waiting.append((head, names, data_start))
        self._bytes += len(head.data)
        if self._bytes >= _LOOK_BYTES:
            self._look()

    def columns(self, names: list[str]) -> Columns:
        """What all files have in common."""
        self._look()
        return [(name, _common_type([one[name] for one in self._types])) for name in names]

    def _look(self) -> None:
        from celeriac.datasets import csv

        if not self._waiting:
            return
        first, names, _ = self._waiting[0]
        data = joined(head.data[start:] for head, _, start in self._waiting)
        try:
            self._types.append(csv.infer_types(Head(first.path, data, True), names, 0))
        except errors.DatasetError:  # who is it?
            self._types += [csv.infer_types(*one) for one in self._waiting]
        self._waiting, self._bytes = [], 0


_LOOK_BYTES = 1 << 20


def _open_jsonl(files: list[Listed]) -> tuple[list[Found], Columns]:
    from celeriac.datasets import jsonl

    found, types = [], []
    for at, (head, whole) in zip(files, _heads(files), strict=True):
        start = jsonl.data_start(head)
        found.append(_found(at, start, head, whole, whole and jsonl.whole_span(head)))
        types.append(jsonl.infer_types(head))
    names = dict.fromkeys(name for one in types for name in one)
    return found, [
        (name, _common_type([one[name] for one in types if name in one], "json")) for name in names
    ]


def _open_parquet(files: list[Listed]) -> tuple[list[Found], Columns]:
    found: list[Found] = []
    columns: Columns = []
    for at, (footer, whole) in zip(files, _footers(files), strict=True):
        columns = _in_common(files[0], columns, at, footer.columns) if columns else footer.columns
        rows = sum(group.rows for group in footer.groups)
        found.append(Found(at, footer=footer, rows=rows, whole=whole))
    return found, columns


def _found(at: Listed, start: int, head: Head, whole: Whole | None, span: Span | None) -> Found:
    return Found(
        at, start, rows=_estimated_rows(head, at), whole=whole and whole._replace(span=span)
    )


def _heads(files: list[Listed]) -> Iterator[tuple[Head, Whole | None]]:
    """The head of each file; of small ones that is all."""

    def look(at: Listed) -> tuple[Head, Whole | None]:
        head = read_head(at.path)
        if not head.is_whole or len(head.data) > SMALL_BYTES:
            return head, None
        check_state(at)
        return head, Whole(hashlib.sha256(head.data).hexdigest(), etag_of(at))

    return _each(files, look, lambda at: (read_head(at.path), None))


def _footers(files: list[Listed]) -> Iterator[tuple[parquet.Footer, Whole | None]]:
    def look(at: Listed) -> tuple[parquet.Footer, Whole | None]:
        footer = parquet.read_footer(at)
        check_state(at)
        return footer, Whole(footer.digest, etag_of(at))

    return _each(files, look, lambda at: (parquet.read_footer(at), None))


def _each(
    files: list[Listed], small: Callable[[Listed], Seen], large: Callable[[Listed], Seen]
) -> Iterator[Seen]:
    """What is seen of each file. Of S3 small ones ahead; the head of a large one has its turn."""

    def ahead(at: Listed) -> Seen | None:
        return small(at) if at.size <= SMALL_BYTES else None

    for at, seen in zip(files, in_order(ahead, files, waits=is_s3(files[0].name)), strict=True):
        yield large(at) if seen is None else seen


def check_state(at: Listed) -> None:
    """Raises DatasetError if a file is no more as it was listed."""
    if listed(at.path) != at:
        raise errors.DatasetError(f"{at.path}: was written to while it was read; submit it again")


def etag_of(at: Listed) -> str:
    """What object storage says of the state of a file; empty on a disk."""
    return at.path.etag() if isinstance(at.path, S3Path) else ""


def _in_common(one: Listed, first: Columns, other: Listed, columns: Columns) -> Columns:
    """The columns of Parquet files with the types that take the values of all of them.

    Raises DatasetError if they have other columns, or types that have nothing in common.
    """
    if first == columns:
        return first
    names = [[(name, "") for name, _ in some] for some in (first, columns)]
    _check_columns(one, names[0], other, names[1])
    found = []
    for (name, was), (_, dtype) in zip(first, columns, strict=True):
        both = arrow_types.common(was, dtype)
        if both is None:
            raise errors.DatasetError(
                f"{other.path}: differs from {one.own_name} in: {name} ({dtype} instead of {was})"
            )
        found.append((name, both))
    return found


def _check_columns(one: Listed, first: Columns, other: Listed, columns: Columns) -> None:
    """Raises DatasetError if the columns of another file differ from those of the first."""
    if first != columns:
        odd = sorted(dict.fromkeys(name for name, _ in {*columns} ^ {*first}))
        what = ", ".join(odd[:5]) or "the order of the columns"
        raise errors.DatasetError(f"{other.path}: differs from {one.own_name} in: {what}")


def _common_type(types: list[str], other: str = "text") -> str:
    """``null`` stands for a file without a value, ``long`` for numbers that a float would round."""
    known = {*types} - {"null"}
    if "long" in known:
        return "long" if known <= {"int", "long"} else other
    if len(known) <= 1:
        return next(iter(known), "text")
    return "float" if known == {"int", "float"} else other


def _estimated_rows(head: Head, at: Listed) -> int:
    """From the lines of the head. Compressed, a file is taken for 5 times its size."""
    lines = max(head.data.count(b"\n"), head.data.count(b"\r"), 1)
    size = at.size * (5 if compression_of(at.path) else 1)
    return lines if head.is_whole else lines * size // len(head.data)
