"""Audit records: why a post was decided as it was, without the post.

Records are lines of JSON in files, ``FOLDER/audit/DAY/WRITER.jsonl``: each process writes its own,
so nobody waits for anybody. A record is in its file before its decision is given: it outlives the
process, though not the power of the machine. The policies that decisions name lie beside them, in
``FOLDER/policies``. :func:`expire` removes the days that are too old.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from celeriac import errors
from celeriac.applications.moderation.decision import PartScore, Reason, Verdict
from celeriac.applications.moderation.policy import Policy
from celeriac.datasets.files import create_file

MOST_FILE_BYTES = 64_000_000
"""Then a writer begins another file: one is looked through to find a record."""
SUFFIX = ".jsonl"
_ID = re.compile(r"(\d{8})-([0-9a-z]{12})-(\d{1,12})")

_encoder = msgspec.json.Encoder()


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why one post was decided as it was."""

    id: str
    """Of the decision: day, writer, number."""
    at: str
    """ISO 8601, UTC."""
    decision: Literal["allow", "review", "block"]
    reasons: tuple[Reason, ...]
    scores: tuple[PartScore, ...]
    policy: str
    policy_digest: str
    digests: dict[str, str]
    """SHA-256 of each part of the post, or its HMAC: by it a post can be recognised, not read."""
    post: str = ""
    """The caller's own name of the post."""
    tenant: str = "default"


class Human(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody decided about a post that was to be reviewed."""

    id: str
    """Of the decision that was reviewed."""
    at: str
    reviewed: Literal["allow", "block"]
    by: str
    categories: tuple[str, ...] = ()
    note: str = ""
    tenant: str = "default"


class Entry(NamedTuple):
    """What is to be recorded."""

    verdict: Verdict
    digests: dict[str, str]
    post: str
    tenant: str


class AuditLog:
    """Where the records of one process go. Safe with threads; after a fork it begins anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._pid = 0
        self._day = ""
        self._writer = ""
        self._file = -1
        self._size = 0
        self._number = 0
        self._kept: set[tuple[str, str]] = set()

    def write(self, entries: Iterable[Entry], now: datetime) -> list[Record]:
        """Records of verdicts, in their order, with one write.

        Raises StorageError: what cannot be recorded is not decided.
        """
        at = now.isoformat(timespec="milliseconds")
        with self._lock:
            self._open(now)
            records = []
            for verdict, digests, post, tenant in entries:
                self._number += 1
                records.append(Record(
                    id=f"{self._day}-{self._writer}-{self._number}", at=at,
                    decision=verdict.decision, reasons=verdict.reasons, scores=verdict.scores,
                    policy=verdict.policy, policy_digest=verdict.policy_digest, digests=digests,
                    post=post, tenant=tenant,
                ))
            self._append(_encoder.encode_lines(records))
        return records

    def keep(self, policy: Policy) -> None:
        """Have the policy beside its records, once.

        Raises Conflict if its version was used with other content, and StorageError.
        """
        known = (policy.ref, policy.digest)
        if known in self._kept:
            return
        keep_policy(self._folder, policy)
        self._kept.add(known)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _open(self, now: datetime) -> None:
        day = now.strftime("%Y%m%d")
        same = day == self._day and self._pid == os.getpid() and self._file >= 0
        if same and self._size < MOST_FILE_BYTES:
            return
        self._close()
        self._writer = secrets.token_hex(6)
        path = self._folder / "audit" / day / f"{self._writer}{SUFFIX}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
            self._file = os.open(path, flags, 0o640)
        except OSError as error:
            raise _not_written(path, error) from error
        self._pid, self._day, self._size, self._number = os.getpid(), day, 0, 0

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                written = os.write(self._file, rest)
                rest, self._size = rest[written:], self._size + written
        except OSError as error:
            self._close()  # half a line may be there: the next record begins another file
            raise _not_written(self._folder, error) from error

    def _close(self) -> None:
        if self._file >= 0 and self._pid == os.getpid():
            os.close(self._file)
        self._file = -1


def find(folder: Path, decision_id: str, tenant: str | None = None) -> tuple[Record, list[Human]]:
    """A record, and what people decided about it since.

    ``tenant``: whose it must be; None: anybody's. Raises RequestError for what is no id, and
    PredictionNotFound if there is no such record, or no more.
    """
    parts = _ID.fullmatch(decision_id)
    if parts is None:
        raise errors.RequestError(
            f"{decision_id[:80]!r} is no id of a decision; it looks like 20261125-0123456789ab-7"
        )
    path = folder / "audit" / parts[1] / f"{parts[2]}{SUFFIX}"
    found = next(_lines(path, decision_id, Record), None)
    if found is None or (tenant is not None and found.tenant != tenant):
        raise errors.PredictionNotFound(f"there is no record of the decision {decision_id}")
    return found, list(_lines(_reviews(folder, decision_id), decision_id, Human))


def add_review(folder: Path, human: Human) -> None:
    """Note what somebody decided, beside the decision's own records. Raises StorageError."""
    path = _reviews(folder, human.id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One write of a short line: lines of several processes do not mix.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            os.write(file, _encoder.encode_lines([human]))
        finally:
            os.close(file)
    except OSError as error:
        raise _not_written(path, error, "the review is settled all the same") from error


def _reviews(folder: Path, decision_id: str) -> Path:
    return folder / "audit" / decision_id[:8] / f"reviews{SUFFIX}"


def _lines(path: Path, decision_id: str, kind: type[Any]) -> Iterator[Any]:
    """The lines of a file that are of this kind and id; one that is cut off counts as none."""
    wanted = f'"id":"{decision_id}"'.encode()
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if wanted in line:
                try:
                    yield msgspec.json.decode(line, type=kind)
                except msgspec.MsgspecError:
                    continue


def keep_policy(folder: Path, policy: Policy) -> None:
    """Write a policy as ``policies/NAME/VERSION.json``, unless it is there.

    Raises Conflict if that version says something else, StorageError.
    """
    path = folder / "policies" / policy.name / f"{policy.version}.json"
    try:
        if not path.exists():
            with suppress(FileExistsError):  # another process was faster
                create_file(path, policy.model_dump_json(indent=2).encode(), durable=False)
        known = Policy.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _not_written(path, error) from error
    except ValueError as error:
        raise errors.StorageError(f"{path} is damaged: remove it") from error
    if known.digest != policy.digest:
        fields = ", ".join(
            name for name in Policy.model_fields if getattr(policy, name) != getattr(known, name)
        )
        newest = max(int(one.stem) for one in path.parent.glob("[0-9]*.json"))
        raise errors.Conflict(
            f"the policy {policy.ref} has been used with other content ({fields}): raise its "
            f"version, which becomes version = {newest + 1}; what it said then is in {path.name} "
            f"of {path.parent}"
        )


def kept_policy(folder: Path, ref: str) -> Policy | None:
    """The policy that a record names (``NAME@VERSION``); None if it is not kept here.

    Raises StorageError if it is damaged.
    """
    name, _, version = ref.partition("@")
    path = folder / "policies" / name / f"{version}.json"
    try:
        return Policy.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise errors.StorageError(f"{path} is damaged: remove it") from error


def expire(folder: Path, today: date, days: int) -> list[str]:
    """Remove the records of days before the last ``days``; which days those were."""
    first = (today - timedelta(days=days)).strftime("%Y%m%d")
    old = [
        path for path in sorted((folder / "audit").glob("[0-9]" * 8)) if path.name < first
    ]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in old]


def now_utc() -> datetime:
    return datetime.now(UTC)


def _not_written(
    path: Path, error: OSError, state: str = "nothing was decided"
) -> errors.StorageError:
    return errors.StorageError(
        f"the record of a decision cannot be written to {path}: {error.strerror or error}; {state}"
    )
