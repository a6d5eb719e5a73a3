"""The output folder: home of a job, and the truth about it."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from celeriac import errors
from celeriac.datasets.files import (
    TEMPORARY_PREFIX,
    create_file,
    is_copy,
    remove_file,
    sha256_of,
    write_file,
)
from celeriac.datasets.places import Place, S3Path, expanded, linked, list_files
from celeriac.datasets.records import Chunk, Format
from celeriac.errors import JobNotFound  # in the class below `errors` is a file
from celeriac.jobs.plan import (
    CONTRACT,
    NEW_CONTRACT,
    ChunkRecord,
    JobPlan,
    decode_chunks,
    encode_chunks,
)
from celeriac.jobs.staged import StagedChunk, StagedFiles, StagedObjects

_FOLDERS = ("parts", "errors", "samples")
_DIGITS = 16
_MARKED = f"part-?????-{'?' * _DIGITS}.*"
"""Names of parts and their errors in S3."""
_OWN = re.compile(
    rf"part-\d{{5,}}(-[0-9a-f]{{{_DIGITS}}})?\.(parquet|csv|jsonl|json|dropped|arrow)|profile\.json"
)
"""Names of what a job writes into those folders."""


class JobFolder:
    """Paths and records of one output folder."""

    def __init__(self, path: str | Place) -> None:
        named = expanded(path)
        self.path = linked(named) if isinstance(named, Path) else named
        self.job = self.path / "job.json"
        self.plan = self.path / "plan.jsonl"
        self.manifest = self.path / "manifest.json"
        self.success = self.path / "_SUCCESS"
        self.copies = self.path / "input"
        self._parts, self._errors, self._samples = (self.path / name for name in _FOLDERS)

    def part(self, chunk: int, format: Format, sha256: str = "") -> Place:
        """``sha256``: of its content; in S3 a part's name holds the first digits."""
        return self._parts / f"part-{chunk:05d}{self._mark(sha256)}.{format}"

    def record(self, chunk: int) -> Place:
        return self._parts / f"part-{chunk:05d}.json"

    def errors(self, chunk: int, sha256: str = "") -> Place:
        """The rows of a chunk that failed; ``sha256`` as for :meth:`part`."""
        return self._errors / f"part-{chunk:05d}{self._mark(sha256)}.jsonl"

    def staged(self, plan: JobPlan, chunk: int, epoch: int) -> StagedChunk:
        """What a run writes for a chunk, until its record is there."""
        written_as = plan.scoring.output_format
        if isinstance(self.path, S3Path):
            return StagedObjects(self, chunk, written_as)
        return StagedFiles(self, chunk, written_as, epoch)

    def sample(self, chunk: int) -> Place:
        """A chunk's share of the rows that the report is made of."""
        return self._samples / f"part-{chunk:05d}.arrow"

    @property
    def profile(self) -> Place:
        """What the version was made for, as drift is measured against it."""
        return self.path / "samples" / "profile.json"

    @property
    def report(self) -> Place:
        return self.path / "report.html"

    def summary(self, kind: Literal["json", "html"]) -> Place:
        """What a dataset of reviews is summed up in, for programs and for people."""
        return self.path / f"reviews.{kind}"

    def merged(self, format: Format) -> Place:
        """All parts in one file."""
        return self.path / f"predictions.{format}"

    def aggregates(self, format: Format) -> Place:
        return self.path / f"aggregates.{format}"

    def drop_mark(self, chunk: int) -> Place:
        """Says that nobody wants a chunk any more, and why it was given up."""
        return self._parts / f"part-{chunk:05d}.dropped"

    def holds_job(self) -> bool:
        return self.job.exists()

    def check_free(self) -> None:
        """Raises OutputConflict if the folder can neither take a job nor holds one."""
        try:
            self._check_free()
        except OSError as error:
            raise errors.OutputConflict(
                f"{self.path}: cannot be read: {error.strerror or error}"
            ) from error

    def _check_free(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise errors.OutputConflict(f"{self.path}: is a file; the output is a folder")
        if not self.path.is_dir() or self.holds_job():
            return
        other = [
            file.name for file in self.path.iterdir()
            if not file.name.startswith(TEMPORARY_PREFIX) and not self._is_copies(file)
        ]
        if other and not self.holds_job():  # a job may have come while we looked
            raise errors.OutputConflict(
                f"{self.path}: is not empty and holds no job ({', '.join(sorted(other)[:3])} ...); "
                "choose a new folder"
            )

    def _is_copies(self, path: Place) -> bool:
        """True for what a submitter left who came no further; a dataset may be named so, too."""
        if path.name != self.copies.name or not path.is_dir():
            return False
        return all(is_copy(inside.name) for inside in path.iterdir())

    def create(self, plan: JobPlan, chunks: tuple[Chunk, ...]) -> JobPlan:
        """Make this folder the home of ``plan``, or go on with the same job that lives here.

        Returns the plan that holds: of two callers at once, the first one's.
        Raises OutputConflict if the folder holds something else, and StorageError; then there is
        no new job.
        """
        self.check_free()
        try:
            create_file(self.job, msgspec.json.format(msgspec.json.encode(plan)))
        except FileExistsError:
            held = self.load()
            if held.fingerprint != plan.fingerprint:
                raise errors.OutputConflict(self._conflict(held, plan)) from None
            return self._with_chunks(self._with_files(held, plan), chunks)
        except OSError as error:
            raise errors.OutputConflict(
                f"{self.path}: cannot be written to: {error.strerror or error}"
            ) from error
        try:
            return self._with_chunks(plan, chunks)
        except errors.StorageError:
            if not self.plan.exists():  # else another caller goes on with the job
                remove_file(self.job)
            raise

    def _with_files(self, held: JobPlan, plan: JobPlan) -> JobPlan:
        """The job that is held, with the times of its files as they are now: one that was restored
        or touched has the same content, as its digest says, and is not taken for a changed one."""
        if held.files == plan.files:
            return held
        held = msgspec.structs.replace(held, files=plan.files)
        write_file(self.job, msgspec.json.format(msgspec.json.encode(held)))
        return held

    def _with_chunks(self, plan: JobPlan, chunks: tuple[Chunk, ...]) -> JobPlan:
        write_file(self.plan, encode_chunks(chunks))
        return plan

    def load(self) -> JobPlan:
        """The job that lives here. Raises JobNotFound."""
        try:
            plan = msgspec.json.decode(self.job.read_bytes(), type=JobPlan)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise errors.JobNotFound(f"{self.path}: is not the output of a job") from error
        except msgspec.MsgspecError as error:
            raise errors.JobNotFound(f"{self.job}: is damaged: {error}") from error
        if plan.contract not in (CONTRACT, NEW_CONTRACT):
            raise errors.JobNotFound(
                f"{self.job}: has contract {plan.contract}, and the release on host "
                f"{socket.gethostname()} reads {CONTRACT} and {NEW_CONTRACT}: upgrade it, then "
                f"`celeriac batch resume {plan.job_id}` goes on"
            )
        return self._with_copies(plan)

    def _with_copies(self, plan: JobPlan) -> JobPlan:
        """The plan, with the copies of its source where they are since the folder was moved."""
        files = tuple(
            msgspec.structs.replace(file, copy=str(self.copies / file.copy.rpartition("/")[2]))
            if file.copy else file for file in plan.files
        )
        return msgspec.structs.replace(plan, files=files)

    def load_of(self, job_id: str) -> JobPlan:
        """As :meth:`load`, of this very job. Raises JobNotFound that says what to do if the folder
        was deleted, and JobFailed if another job has its place."""
        try:
            plan = self.load()
        except errors.JobNotFound as error:
            if isinstance(error.__cause__, OSError):
                raise self.gone(job_id) from error
            raise
        if plan.job_id != job_id:
            raise errors.JobFailed(
                f"{self.path}: holds job {plan.job_id} now, not {job_id} any more; if that one is "
                "still wanted, submit its dataset again, to another folder"
            )
        return plan

    def gone(self, job_id: str) -> JobNotFound:
        """What to raise for a job whose folder was deleted."""
        return JobNotFound(
            f"{self.path}: the output of job {job_id} is gone: somebody deleted or moved the "
            f"folder, or it is not reached on host {socket.gethostname()}; if it is lost, submit "
            "the dataset again"
        )

    def chunks(self, plan: JobPlan) -> list[Chunk]:
        """All chunks, in order. Raises JobFailed if the plan is damaged."""
        try:
            chunks = decode_chunks(self.plan.read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            raise errors.JobFailed(
                f"{self.plan}: cannot be read ({error}); submit the dataset again"
            ) from error
        numbers = [chunk.number for chunk in chunks]
        if numbers != list(range(plan.chunks)) or sum(c.rows for c in chunks) != plan.rows:
            raise errors.JobFailed(f"{self.plan}: does not fit job.json; submit the dataset again")
        return chunks

    def read_record(self, chunk: int) -> ChunkRecord | None:
        """What a finished chunk wrote; None if there is nothing readable."""
        try:
            return msgspec.json.decode(self.record(chunk).read_bytes(), type=ChunkRecord)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def valid_record(self, plan: JobPlan, chunk: Chunk) -> ChunkRecord | None:
        """The record of a chunk whose part is whole and belongs to this plan; else None."""
        record = self.read_record(chunk.number)
        if record is None or record.fingerprint != plan.fingerprint:
            return None
        if record.rows_in != chunk.rows or record.rows_in != record.rows_ok + record.rows_failed:
            return None
        part = self.part(chunk.number, plan.scoring.output_format, record.sha256)
        if part.name != record.part:
            return None
        self.staged(plan, chunk.number, record.epoch).settle(record)
        if not _is(part, record.sha256):
            return None
        errors_sha256 = record.errors_sha256
        if errors_sha256 and not _is(self.errors(chunk.number, errors_sha256), errors_sha256):
            return None
        return record

    def unread(self, plan: JobPlan) -> list[int]:
        """The chunks that are done but for rows of files that could not be read."""
        if plan.contract != NEW_CONTRACT:
            return []  # a chunk of one file is read or given up
        records = map(self.read_record, range(plan.chunks))
        code = errors.UnreadableFile.code
        return [one.chunk for one in records if one is not None and code in one.failures]

    def forget(self, chunks: Iterable[int]) -> None:
        """Have chunks scored again; nobody may be at work on the job."""
        for chunk in chunks:
            self.record(chunk).unlink(missing_ok=True)

    def drop(self, chunk: int, reason: str) -> None:
        """Note that a chunk is not to be scored any more."""
        write_file(self.drop_mark(chunk), reason.encode())

    def dropped(self) -> dict[int, str]:
        """The chunks that nobody wants, each with the reason why it was given up."""
        marks: Iterable[Place] = self._parts.glob("part-*.dropped")
        return {int(mark.name[5:-8]): mark.read_bytes().decode() for mark in marks}

    def reopen(self, chunks: Iterable[int]) -> None:
        """Take back that the job has ended, for chunks that are tried again."""
        for file in (*self._ends(self.load()), *self._summaries()):
            file.unlink(missing_ok=True)
        for chunk in chunks:
            self.drop_mark(chunk).unlink(missing_ok=True)

    def remove_debris(self, records: Sequence[ChunkRecord]) -> None:
        """Delete what killed processes left: temporary files, objects without a record."""
        for name in ("", "parts", "errors", "samples"):
            folder = self.path / name if name else self.path
            for file in folder.glob(f"{TEMPORARY_PREFIX}*"):
                file.unlink(missing_ok=True)
        if not isinstance(self.path, S3Path):
            return
        kept = {self.errors(one.chunk, one.errors_sha256 or "").name for one in records}
        kept |= {one.part for one in records}
        for folder in (self._parts, self._errors):
            for file in folder.glob(_MARKED):
                if file.name not in kept:
                    file.unlink(missing_ok=True)

    def purge(self) -> tuple[int, int]:
        """Delete all that the job wrote; how many files, and their bytes. Other files stay.

        First goes what makes the output look finished, last what names the job: a purge that was
        interrupted can be repeated. Raises StorageError.
        """
        files = [*self._ends(self.load()), *self._summaries()]
        inside = [file for name in _FOLDERS for file in _files(self.path / name)]
        files += [file for file in inside if _is_own(file.name)]
        files += [file for file in _files(self.copies) if is_copy(file.name)]
        files += [file for file in _files(self.path) if file.name.startswith(TEMPORARY_PREFIX)]
        count = size = 0
        for file in [*files, self.plan, self.job]:
            found = remove_file(file)
            count, size = count + (found is not None), size + (found or 0)
        self._remove_empty()
        return count, size

    def clear_chunk(self, chunk: int) -> bool:
        """True if the folder was deleted while a run of this chunk wrote; what came back with it
        is removed. Never in S3: a look for each chunk costs too much there."""
        if isinstance(self.path, S3Path) or self.holds_job():
            return False
        parts = [self.part(chunk, kind) for kind in get_args(Format)]
        self._clear(
            [*parts, self.errors(chunk), self.sample(chunk), self.profile, self.record(chunk)]
        )
        return True

    def clear_ends(self, plan: JobPlan) -> bool:
        """As :meth:`clear_chunk`, of a finaliser, and in S3, too."""
        if self.holds_job():
            return False
        self._clear(self._ends(plan))
        return True

    def clear_unfinished(self, plan: JobPlan) -> None:
        """Delete what a finaliser wrote that did not come to its end: another one writes it anew,
        and has no room for both."""
        if not self.success.exists():
            self._clear(self._ends(plan))

    def _clear(self, files: Iterable[Place]) -> None:
        for file in files:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        self._remove_empty()

    def _remove_empty(self) -> None:
        for folder in (*(self.path / name for name in _FOLDERS), self.copies, self.path):
            if isinstance(folder, Path):
                with contextlib.suppress(OSError):  # not there, or not empty: somebody else's
                    folder.rmdir()

    def _ends(self, plan: JobPlan) -> list[Place]:
        """What a finished job has, first what makes it look finished."""
        ends = [self.success, self.manifest, self.report]
        if plan.scoring.merge:
            ends.append(self.merged(plan.scoring.output_format))
        if plan.scoring.aggregate is not None:
            ends += [self.aggregates("parquet"), self.aggregates("csv")]
        return ends

    def _summaries(self) -> list[Place]:
        """Of a job that aggregates: with another one a file of that name is somebody else's."""
        aggregates = self.load().scoring.aggregate is not None
        return [self.summary("json"), self.summary("html")] if aggregates else []

    def _mark(self, sha256: str) -> str:
        return f"-{sha256[:_DIGITS]}" if isinstance(self.path, S3Path) else ""

    def _conflict(self, held: JobPlan, plan: JobPlan) -> str:
        return (
            f"{self.path}: holds job {held.job_id} ({held.source} by {held.scoring.ref}), which "
            f"differs from this one ({plan.source} by {plan.scoring.ref}) in data, model version "
            "or options; choose another output folder"
        )


def _files(folder: Place) -> list[Place]:
    return [at.path for at in list_files(folder)] if folder.is_dir() else []


def _is_own(name: str) -> bool:
    return name.startswith(TEMPORARY_PREFIX) or _OWN.fullmatch(name) is not None


def _is(path: Place, sha256: str) -> bool:
    try:
        return sha256_of(path) == sha256
    except FileNotFoundError:
        return False
