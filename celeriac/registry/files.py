"""Files that survive a crash whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from celeriac import errors
from celeriac.disk import sync
from celeriac.registry.manifest import FileRecord


def record(folder: Path, path: Path) -> FileRecord:
    """Size and SHA-256 of one file, named relative to ``folder``."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(
        path=path.relative_to(folder).as_posix(), sha256=digest, size=path.stat().st_size
    )


def unreadable(what: str, error: OSError) -> errors.RegistryError:
    """``what``, as in "m@1: model.json", cannot be read: that says nothing of its content."""
    reason = error.strerror or type(error).__name__
    return errors.RegistryError(
        f"{what} cannot be read ({reason}); all that use the registry need to read it, whoever "
        "registered the model"
    )


def walk(folder: Path) -> Iterator[Path]:
    """Everything below ``folder`` that is not a real folder, in a stable order."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from walk(path)
        else:
            yield path


def write(path: Path, data: bytes) -> None:
    """Write ``path`` and force it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Replace ``path`` in one step: a reader sees the old content or the new one.

    It is as open as its folder, whoever replaces it and however careful that user's umask is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary, data)
        with suppress(OSError):  # not every file system has modes
            temporary.chmod(path.parent.stat().st_mode & 0o666)
        temporary.replace(path)
    except OSError:  # a full disk, say
        with suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def append(path: Path, lines: bytes) -> None:
    """Append whole lines and force them to the disk. A new file is as open as its folder."""
    with path.open("ab") as file:
        if not file.tell():
            with suppress(OSError):
                os.fchmod(file.fileno(), path.parent.stat().st_mode & 0o666)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def drop_cut_line(path: Path) -> None:
    """End a file of JSON lines with a whole line: a crash may have cut its last one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    last = data[data.rfind(b"\n") + 1 :]
    if not last:
        return
    try:
        json.loads(last)
    except ValueError:
        replace(path, data[: len(data) - len(last)])
    else:
        append(path, b"\n")  # whole, but for its end


@contextmanager
def locked(path: Path, timeout_s: float = 10.0) -> Iterator[None]:
    """Hold the lock file ``path``; the lock ends with the process that holds it.

    Raises RegistryError if somebody else holds it longer than ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise errors.RegistryError(
                        f"{path.parent.name}: another process has held {path.name} for "
                        f"{timeout_s:g} s; try again"
                    ) from None
                time.sleep(0.02)
        yield
