"""What one run of a chunk has written, before and when its record is there.

The record is the commit on storage. It is created, never replaced, so of several runs of a chunk
one wins, and only the files that it vouches for count. On a disk they get their final names then;
in S3, where nothing can be renamed, their names hold the digest of their content from the start.
Callers, who only read records, need no pyarrow; so it is imported late here.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from celeriac.datasets.files import (
    TEMPORARY_PREFIX,
    create_file,
    sha256_of,
    unwritten,
    write_file,
    writing_aside,
)
from celeriac.disk import sync
from celeriac.jobs.plan import ChunkRecord, JobPlan

if TYPE_CHECKING:
    import pyarrow as pa

    from celeriac.datasets.parts import Written
    from celeriac.datasets.places import Place
    from celeriac.datasets.records import Chunk, Format, RowError
    from celeriac.jobs.folder import JobFolder


class StagedChunk(ABC):
    """The files of one run of one chunk."""

    def __init__(self, folder: JobFolder, chunk: int, format: Format) -> None:
        self._folder, self._chunk, self._format = folder, chunk, format

    @abstractmethod
    def write_part(self, table: pa.Table) -> Written:
        """Write the part, for nobody's eyes yet. Raises StorageError."""

    @abstractmethod
    def write_errors(self, rows: Sequence[tuple[str, RowError]]) -> Written | None:
        """Write the failed rows, with their files, likewise; None if there are none. Raises
        StorageError."""

    def publish(self, record: ChunkRecord, plan: JobPlan, chunk: Chunk) -> ChunkRecord:
        """Make this run's files the chunk's; returns the record that holds.

        If another run was first, its record holds and this run's files go. Raises StorageError, and
        JobFailed if another job has taken the folder and was first.
        """
        path, data = self._folder.record(record.chunk), msgspec.json.encode(record)
        try:
            create_file(path, data, durable=False)  # settle makes it so
        except FileExistsError:
            held = self._folder.valid_record(plan, chunk)
            if held is not None:
                self.discard()
                return held
            self._check_ours(plan)
            write_file(path, data)  # what is there is damaged, or of another plan
        except OSError as error:
            self.discard()
            raise unwritten(path, error) from error
        self.settle(record)
        return record

    def _check_ours(self, plan: JobPlan) -> None:
        """This run may be of a job whose output was deleted, and another one's is there now."""
        try:
            self._folder.load_of(plan.job_id)
        except BaseException:
            self.discard()
            raise

    @abstractmethod
    def settle(self, record: ChunkRecord) -> None:
        """Give the files that ``record`` vouches for their final names, if they lack them.

        All of it outlasts a power cut then; after one before that a record may lack its part, and
        does not count. Whoever finds a record does this: the run that wrote it may have been
        killed. Raises StorageError.
        """

    @abstractmethod
    def discard(self) -> None:
        """Remove what was not published."""


class StagedFiles(StagedChunk):
    """On a disk: temporary names with the run's epoch, renamed when the record is there."""

    def __init__(self, folder: JobFolder, chunk: int, format: Format, epoch: int) -> None:
        super().__init__(folder, chunk, format)
        self._final_part = _local(folder.part(chunk, format))
        self._final_errors = _local(folder.errors(chunk))
        self._record = _local(folder.record(chunk))
        self._part = _staged(self._final_part, epoch)
        self._errors = _staged(self._final_errors, epoch)

    def write_part(self, table: pa.Table) -> Written:
        from celeriac.datasets import parts

        with writing_aside(self._part, self._final_part) as file:
            parts.encode_into(table, self._format, file)
        return parts.Written(self._part.stat().st_size, sha256_of(self._part))

    def write_errors(self, rows: Sequence[tuple[str, RowError]]) -> Written | None:
        from celeriac.datasets import parts

        if not rows:
            return None
        data = parts.encode_errors(rows)
        with writing_aside(self._errors, self._final_errors) as file:
            file.write(data)
        return parts.written(data)

    def settle(self, record: ChunkRecord) -> None:
        moves = [(self._part, self._final_part)]
        if record.errors_sha256 is None:
            _remove(self._final_errors)
        else:
            moves.append((self._errors, self._final_errors))
        moved = [target.parent for source, target in moves if _moved(source, target)]
        if not moved:
            return
        try:
            sync(self._record)
            for folder in {*moved, self._record.parent}:
                sync(folder)
        except OSError as error:
            raise unwritten(self._final_part, error) from error

    def discard(self) -> None:
        for path in (self._part, self._errors):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


class StagedObjects(StagedChunk):
    """In S3: names with the digest, so no run can put other content into another's object."""

    def __init__(self, folder: JobFolder, chunk: int, format: Format) -> None:
        super().__init__(folder, chunk, format)
        self._part_sha256 = ""
        self._errors_sha256 = ""

    def write_part(self, table: pa.Table) -> Written:
        from celeriac.datasets import parts

        data = parts.encode_table(table, self._format)
        found = parts.written(data)
        self._part_sha256 = found.sha256
        write_file(self._folder.part(self._chunk, self._format, found.sha256), data)
        return found

    def write_errors(self, rows: Sequence[tuple[str, RowError]]) -> Written | None:
        from celeriac.datasets import parts

        if not rows:
            return None
        data = parts.encode_errors(rows)
        found = parts.written(data)
        self._errors_sha256 = found.sha256
        write_file(self._folder.errors(self._chunk, found.sha256), data)
        return found

    def settle(self, record: ChunkRecord) -> None:
        """Nothing: the names are final."""

    def discard(self) -> None:
        """Without a record an object stays: another run may be about to vouch for the like."""
        with contextlib.suppress(OSError):
            held = self._folder.read_record(self._chunk)
            if held is None:
                return
            if self._part_sha256 not in ("", held.sha256):
                self._folder.part(self._chunk, self._format, self._part_sha256).unlink(
                    missing_ok=True
                )
            if self._errors_sha256 not in ("", held.errors_sha256):
                self._folder.errors(self._chunk, self._errors_sha256).unlink(missing_ok=True)


def _local(path: Place) -> Path:
    return cast("Path", path)


def _staged(path: Path, epoch: int) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}e{epoch}-{path.name}")


def _moved(source: Path, target: Path) -> bool:
    """False if that was done before, or by another. Raises StorageError."""
    try:
        source.replace(target)
    except OSError as error:
        if not source.exists():  # where nothing may be written, that is not what is said
            return False
        raise unwritten(target, error) from error
    return True


def _remove(path: Path) -> None:
    """Have no such file. Raises StorageError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if path.exists():
            raise unwritten(path, error) from error
