"""An archive of posts as files: read, asked, decided, and compared with what was decided before.

An archive is a CSV, JSON-lines or Parquet file with a text column, a column of image files, or
both. What is kept of a run is a folder: ``decisions.parquet`` (no content), ``changes.parquet`` if
it was compared with a run of before, ``summary.json``, and the models' scores.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from celeriac import errors
from celeriac.applications.moderation.decision import (
    Asked,
    Post,
    Question,
    Verdict,
    ask,
)
from celeriac.applications.moderation.policy import Policy

ROWS_AT_ONCE = 5_000
DECISIONS, CHANGES, SUMMARY = "decisions.parquet", "changes.parquet", "summary.json"
_IMAGE_BYTES_AT_ONCE = 32_000_000
_EXACT = 2**53
"""From here on different whole numbers are the same one to a float."""


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """Where in the archive what is; None: nowhere."""

    text: str | None = "text"
    images: str | None = None
    """Paths of image files, relative to the archive: a list, or one text with ``|`` between."""
    id: str | None = None
    """None: the number of the row names it, from 1 on."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One post of an archive, and what its models are to be asked."""

    id: str
    asked: Asked | None
    """None: it cannot be decided."""
    error: str = ""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """``summary.json``: what a run decided, by what, and what has changed."""

    source: str
    rows: int
    failed: int
    """Rows that could not be decided; ``error`` in their decision says why."""
    policy: str
    policy_digest: str
    models: dict[str, str]
    """By the policy's words for it, ``NAME@VERSION``."""
    asked: dict[str, str]
    """By model, the digest of all that it was asked: who asks the same need not ask again."""
    reused: tuple[str, ...]
    """Models whose scores of the run before were taken."""
    decisions: dict[str, int]
    registered: dict[str, str] = {}
    """By model, when that version was registered: another one may have its number later."""
    compared_with: str = ""
    because: tuple[str, ...] = ()
    """What is different from then."""
    changes: dict[str, int] = {}
    """How many went from one decision to another, as ``allow -> block``."""
    added: int = 0
    removed: int = 0


# --- reading -------------------------------------------------------------------------------------


def read_rows(source: Path, columns: Columns, policy: Policy) -> Iterator[Row]:
    """The rows of an archive, asked by a policy. Raises DatasetError."""
    number = 0
    for batch in _batches(source, columns):
        for text, images, given in batch:
            number += 1
            yield _row(source, columns, policy, number, text, images, given)


def _row(  # noqa: PLR0913, PLR0917 - a row, and how it is read
    source: Path, columns: Columns, policy: Policy, number: int, text: Any, images: Any, given: Any
) -> Row:
    row_id = str(number) if columns.id is None else str(given)
    row_id = row_id.encode("utf-8", "replace").decode()  # of JSON, half of a character
    if columns.id is not None and given is None:
        raise errors.DatasetError(f"row {number} of {source.name} has no {columns.id}")
    if isinstance(given, float) and abs(given) >= _EXACT:
        raise errors.DatasetError(
            f"row {number} of {source.name}: {columns.id} is a number that is not read exactly; "
            "write such ids as texts"
        )
    try:
        files = tuple(_image(source, name) for name in _names(images))
        if text is None and columns.text is not None:
            text = ""  # a CSV file has no other way to say so
        post = Post(text=None if text is None else str(text), images=files, id=row_id[:200])
        return Row(id=row_id, asked=ask(post, policy))
    except errors.RequestError as error:
        return Row(id=row_id, asked=None, error=error.message)


def _names(images: Any) -> list[str]:
    if images is None:
        return []
    if not isinstance(images, (str, list)):
        raise errors.RequestError(f"images are paths, not {type(images).__name__}")
    listed = images.split("|") if isinstance(images, str) else images
    return [str(name).strip() for name in listed if str(name).strip()]


def _image(source: Path, name: str) -> bytes:
    """An image that is not there is one that cannot be read. Raises RequestError outside."""
    folder = source.parent.resolve()
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise errors.RequestError(f"the image {name!r} does not lie beside the archive")
        return path.read_bytes() if path.is_file() else b""
    except (OSError, ValueError, RuntimeError):  # no name of a file; links in a circle
        return b""


def _batches(source: Path, columns: Columns) -> Iterator[list[tuple[Any, Any, Any]]]:
    import pyarrow as pa

    wanted = [name for name in (columns.text, columns.images, columns.id) if name is not None]
    if columns.text is None and columns.images is None:
        raise errors.RequestError("name the column of texts, of images, or both")
    places = (columns.text, columns.images, columns.id)
    try:
        if source.suffix in (".jsonl", ".ndjson"):
            for row in _lines(source, wanted):
                text, images, given = (None if name is None else row.get(name) for name in places)
                yield [(text, images, given)]
            return
        for batch in _open(source, wanted):
            missing = [name for name in wanted if name not in batch.schema.names]
            if missing:
                raise _no_column(source, missing[0], batch.schema.names)
            twice = [name for name in wanted if batch.schema.names.count(name) > 1]
            if twice:
                raise errors.DatasetError(f"{source.name} has the column {twice[0]!r} twice")
            none = [None] * batch.num_rows
            values = [
                batch.column(name).to_pylist() if name is not None else none
                for name in places
            ]
            yield list(zip(*values, strict=True))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise errors.DatasetError(f"{source.name} cannot be read: {error}") from error
    except OSError as error:
        raise errors.UnreadableFile(f"{source} cannot be read: {error}") from error


def _open(source: Path, wanted: Sequence[str]) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    if source.suffix == ".parquet":
        with parquet.ParquetFile(source) as file:
            known = [name for name in wanted if name in file.schema_arrow.names]
            yield from file.iter_batches(
                ROWS_AT_ONCE, columns=known if len(known) == len(wanted) else None
            )
    elif source.suffix == ".csv":
        convert = csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()),
                                     strings_can_be_null=True, null_values=[""],
                                     quoted_strings_can_be_null=False)
        options = csv.ParseOptions(newlines_in_values=True)
        with csv.open_csv(source, convert_options=convert, parse_options=options) as file:
            if any(file.schema.names.count(name) != 1 for name in wanted):
                yield from file  # whoever reads says what there is
                return
        convert.include_columns = list(dict.fromkeys(wanted))  # the others may hold anything
        with csv.open_csv(source, convert_options=convert, parse_options=options) as file:
            yield from file
    else:
        raise errors.DatasetError(
            f"{source.name}: an archive is a .csv, .jsonl or .parquet file"
        )


def _lines(source: Path, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of JSON lines, each by itself: a column may have a number here and a text there.

    Raises DatasetError for what is no row, and at last for a column that no row has.
    """
    missing, names = set(wanted), dict[str, None]()
    with source.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(filter(str.strip, file), 1):
            try:
                row = json.loads(line, object_pairs_hook=_once)
            except (ValueError, RecursionError) as error:
                raise errors.DatasetError(
                    f"{source.name} cannot be read: row {number}: {error}"
                ) from error
            if not isinstance(row, dict):
                raise errors.DatasetError(
                    f"{source.name} cannot be read: row {number} is not an object"
                )
            if missing:
                missing -= row.keys()
                names |= dict.fromkeys(row)
            yield row
    if missing:
        raise _no_column(source, min(missing), names)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; ValueError if a name comes twice: which of its values counts?"""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in one object")
    return found


def _no_column(source: Path, name: str, names: Iterable[str]) -> errors.DatasetError:
    return errors.DatasetError(
        f"{source.name} has no column {name!r}; it has {', '.join(names)}"
    )


# --- questions -----------------------------------------------------------------------------------


class QuestionDigest:
    """Of all that one model is asked, in its order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, item: str | bytes) -> int:
        """The bytes of the item."""
        encoded = item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item
        self._digest.update(len(encoded).to_bytes(8, "big") + encoded)
        return len(encoded)

    def hex(self) -> str:
        return self._digest.hexdigest()


class QuestionFile:
    """All that one model is asked about an archive, as a Parquet file in their order."""

    def __init__(self, path: Path, column: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self.column = column
        self.count = 0
        self._type = pa.string() if column == "text" else pa.binary()
        self._schema = pa.schema([("part", pa.string()), (column, self._type)])
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, self._schema)
        self._digest = QuestionDigest()
        self._waiting: list[Question] = []
        self._bytes = 0

    def add(self, question: Question) -> None:
        self._waiting.append(question)
        self._bytes += self._digest.add(question.item)
        self.count += 1
        if len(self._waiting) >= ROWS_AT_ONCE or self._bytes >= _IMAGE_BYTES_AT_ONCE:
            self._write()

    def close(self) -> str:
        """End the file; the digest of all questions."""
        self._write()
        self._writer.close()
        return self._digest.hex()

    def _write(self) -> None:
        import pyarrow as pa

        if not self._waiting:
            return
        items = [question.item for question in self._waiting]
        if self.column == "text":
            items = [item.encode("utf-8", "replace").decode() for item in items]
        parts = pa.array([question.part for question in self._waiting], pa.string())
        table = pa.table([parts, pa.array(items, self._type)], schema=self._schema)
        self._writer.write_table(table)
        self._waiting, self._bytes = [], 0


# --- decisions -----------------------------------------------------------------------------------


class DecisionFile:
    """``decisions.parquet``: one row for each row of the archive, in its order, no content."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema([
            ("id", pa.string()), ("decision", pa.string()), ("score", pa.float64()),
            ("reasons", pa.string()), ("scores", pa.string()), ("error", pa.string()),
        ])
        self._writer = pq.ParquetWriter(path, self._schema)
        self._waiting: list[dict[str, Any]] = []
        self._ids: set[bytes] = set()
        self.counts: Counter[str] = Counter()
        self.failed = 0

    def add(self, row: Row, verdict: Verdict | None) -> None:
        """Raises DatasetError if the id came before: two decisions about one post."""
        key = hashlib.blake2b(row.id.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if key in self._ids:
            raise errors.DatasetError(f"the id {row.id!r} comes twice in the archive")
        self._ids.add(key)
        if verdict is None:
            self.failed += 1
        else:
            self.counts[verdict.decision] += 1
        self._waiting.append(_cells(row, verdict))
        if len(self._waiting) >= ROWS_AT_ONCE:
            self._write()

    def close(self) -> None:
        self._write()
        self._writer.close()

    def _write(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting = []


def _cells(row: Row, verdict: Verdict | None) -> dict[str, Any]:
    scores = verdict.scores if verdict else ()
    return {
        "id": row.id,
        "decision": verdict.decision if verdict else None,
        "score": max((score.score for score in scores), default=None),
        "reasons": msgspec.json.encode(verdict.reasons).decode() if verdict else "[]",
        "scores": msgspec.json.encode(scores).decode(),
        "error": row.error or None,
    }


# --- comparison ----------------------------------------------------------------------------------


def compare(folder: Path, before: Path) -> tuple[dict[str, int], int, int]:
    """Write ``changes.parquet``; how many changed how, were added, and were removed."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    names = ["id", "decision", "score", "reasons"]
    new, old = (pq.read_table(one / DECISIONS, columns=names) for one in (folder, before))
    both = new.join(old, "id", join_type="inner", right_suffix="_before")
    now, then = (
        pc.fill_null(both[name], "failed") for name in ("decision", "decision_before")
    )
    both = both.filter(pc.not_equal(now, then)).sort_by("id")
    order = ["id", "decision_before", "decision", "score_before", "score", "reasons_before",
             "reasons"]
    pq.write_table(both.select(order), folder / CHANGES)
    counts = Counter(
        f"{then or 'failed'} -> {now or 'failed'}" for then, now in zip(
            both["decision_before"].to_pylist(), both["decision"].to_pylist(), strict=True
        )
    )
    kept = new.join(old.select(["id"]), "id", join_type="inner").num_rows
    return dict(sorted(counts.items())), new.num_rows - kept, old.num_rows - kept


def differences(
    summary: Mapping[str, Any], before: Summary
) -> tuple[str, ...]:
    """What is different: the policy, versions of models."""
    found = []
    if summary["policy_digest"] != before.policy_digest:
        found.append(f"policy {before.policy} -> {summary['policy']}")
    models: Mapping[str, str] = summary["models"]
    registered: Mapping[str, str] = summary.get("registered", {})
    for name in sorted(models.keys() | before.models.keys()):
        new, old = models.get(name, "none"), before.models.get(name, "none")
        if new != old:
            found.append(f"model {old} -> {new}")
        elif name in before.registered and registered.get(name) != before.registered[name]:
            found.append(f"model {new}, registered anew")
    return tuple(found)


def read_summary(folder: Path) -> Summary:
    """Raises DatasetError if the folder is not the whole output of a run."""
    try:
        return msgspec.json.decode((folder / SUMMARY).read_bytes(), type=Summary)
    except (OSError, msgspec.MsgspecError) as error:
        raise errors.DatasetError(
            f"{folder} is not the output of a moderated archive, or not whole: {error}"
        ) from error
