"""Files that are either whole or not there: temporary name, fsync, rename; or one PUT."""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from celeriac import errors
from celeriac.datasets.ahead import in_order
from celeriac.datasets.places import Place, S3Path, is_s3, place
from celeriac.datasets.records import SourceFile
from celeriac.disk import FULL, sync

TEMPORARY_PREFIX = ".tmp-"
COPY_DIGITS = 16
"""Of its content's sha256, in the name of a copy."""
_COPY_NAME = re.compile(rf"[0-9a-f]{{{COPY_DIGITS}}}\.(parquet|(csv|jsonl)\.zst)")


def has_changed(file: SourceFile) -> bool:
    """True if a file of a dataset is not as it was planned. Raises OSError."""
    path = place(file.copy or file.path)
    found = path.stat()
    if file.copy:  # it is ours, and named by its content
        return False
    etag = path.etag() if isinstance(path, S3Path) and file.etag else file.etag
    return (found.st_size, found.st_mtime_ns, etag) != (file.size, file.mtime_ns, file.etag)


def check_unchanged(files: Sequence[SourceFile]) -> None:
    """Raises DatasetError if one of these files is not as it was planned. What cannot be seen from
    here, who reads it sees."""

    def is_other(file: SourceFile) -> bool:
        try:
            return has_changed(file)
        except OSError:
            return False

    waits = any(is_s3(file.path) for file in files)
    for file, is_changed in zip(files, in_order(is_other, files, waits=waits), strict=True):
        if is_changed:
            raise changed(file.path)


def changed(path: object) -> errors.DatasetError:
    """What to raise for such a file."""
    return errors.DatasetError(
        f"{path}: has changed since the job was submitted; submit it again with another output"
    )


@contextmanager
def replacing(path: Place) -> Iterator[Path]:
    """A temporary local path; when the block ends well, its content is that of ``path``.

    Raises StorageError that names ``path`` if it cannot be written (a full disk, say).
    """
    with _named(path):
        temporary = _temporary(path)
        try:
            yield temporary
            _move(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def move_into(temporary: Path, path: Place) -> None:
    """Make the content of a local file that of ``path``, whole. Raises StorageError."""
    with _named(path):
        _move(temporary, path)


def write_file(path: Place, data: bytes, *, durable: bool = True) -> None:
    """Write or replace ``path``; a crash leaves the old content or the new, never a part.

    If it need not be ``durable``, a power cut may leave an empty or broken file. Raises
    StorageError as :func:`replacing`.
    """
    if isinstance(path, S3Path):
        with _named(path):
            path.put(io.BytesIO(data))
        return
    if durable:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
        return
    with _named(path):
        temporary = _temporary_name(path)
        try:
            _fill(temporary, data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def writing_aside(path: Path, final: Path) -> Iterator[BinaryIO]:
    """A file to be written under a name that nobody reads yet. When the block ends well, its
    content is on the disk; its name may not be. Raises StorageError that names what it shall be,
    ``final``."""
    with _named(final), _writing(path, durable=True) as file:
        yield file


def create_file(path: Place, data: bytes, *, durable: bool = True) -> None:
    """Write ``path`` whole; raises FileExistsError if it is there already, whoever was first.

    If it is not ``durable``, the caller syncs the file and its folder. In S3 two callers in the
    same moment can both succeed; then the later one's content stays.
    """
    if isinstance(path, S3Path):
        if path.exists():
            raise FileExistsError(17, "exists", str(path))
        path.put(io.BytesIO(data))
        return
    temporary = _temporary_name(path)
    try:
        _fill(temporary, data, durable=durable)
        os.link(temporary, path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_copy(name: str) -> bool:
    """True for the name of a file that a job keeps of its source, done or half done."""
    return name.startswith(TEMPORARY_PREFIX) or _COPY_NAME.fullmatch(name) is not None


def remove_file(path: Place) -> int | None:
    """Delete a file; its bytes, or None if there was none. Raises StorageError."""
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise errors.StorageError(
            f"{path}: cannot be deleted: {error.strerror or error}"
        ) from error
    return size


def sha256_of(path: Place) -> str:
    """Digest of a file's content, in hex."""
    if isinstance(path, S3Path):
        digest = hashlib.sha256()
        with path.open() as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move(temporary: Path, path: Place) -> None:
    if isinstance(path, S3Path):
        with temporary.open("rb") as file:
            path.put(file)
        return
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def _fill(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file that nobody reads yet."""
    with _writing(path, durable=durable) as file:
        file.write(data)


@contextmanager
def _writing(path: Path, *, durable: bool) -> Iterator[BinaryIO]:
    """A file to be written; if its folder is missing, that is made first."""
    try:
        file = path.open("wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    with file:
        yield file
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _temporary(path: Place) -> Path:
    if isinstance(path, S3Path):
        return Path(tempfile.gettempdir()) / _temporary_of(path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _temporary_name(path)


def _temporary_name(path: Path) -> Path:
    return path.with_name(_temporary_of(path.name))


def _temporary_of(name: str) -> str:
    return f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{name}"


@contextmanager
def _named(path: Place) -> Iterator[None]:
    """Arrow's and the system's errors do not say which file they are about."""
    try:
        yield
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Place, error: OSError) -> errors.StorageError:
    """What to raise for it: the system's error does not always say which file it is about."""
    why = error.strerror or str(error)
    if isinstance(path, S3Path) and error.errno in FULL:  # S3 is never full
        why += f" in {tempfile.gettempdir()}, where it is made first"
    return errors.StorageError(f"{path}: cannot be written: {why}")
