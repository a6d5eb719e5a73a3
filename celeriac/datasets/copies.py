"""What a job keeps of a source that has no place to cut: compressed files, frames, listings.

A copy is named by its content, so the copies of two jobs never meet. The finaliser removes them.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from celeriac.datasets.files import (
    COPY_DIGITS,
    TEMPORARY_PREFIX,
    is_copy,
    move_into,
    sha256_of,
    unwritten,
)
from celeriac.datasets.places import Place, S3Path, list_files, place


@dataclass
class Copy:
    """A copy that is being made."""

    temporary: Path
    path: str = ""
    """Where it is in the end."""
    sha256: str = ""
    size: int = 0

    @classmethod
    def nowhere(cls) -> Copy:
        """No copy: the source itself is read."""
        return cls(Path())

    @property
    def place(self) -> Place:
        return place(self.path)


class Copies:
    """The copies of one job."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._made: list[Place] = []

    @contextmanager
    def making(self, suffix: str) -> Iterator[Copy]:
        """A temporary file to write; its name, digest and size are known after the block.

        What the system raises in the block is StorageError that names the copies' folder.
        """
        copy = Copy(self._temporary(suffix))
        try:
            copy.temporary.parent.mkdir(parents=True, exist_ok=True)
            yield copy
            copy.sha256, copy.size = sha256_of(copy.temporary), copy.temporary.stat().st_size
            target = self._folder / f"{copy.sha256[:COPY_DIGITS]}{suffix}"
            if not target.exists():
                move_into(copy.temporary, target)
                self._made.append(target)
            copy.path = str(target)
        except OSError as error:  # of the source it is a DatasetError already
            raise unwritten(self._folder, error) from error
        finally:
            copy.temporary.unlink(missing_ok=True)

    @property
    def made(self) -> tuple[str, ...]:
        """Those that were not there before."""
        return tuple(map(str, self._made))

    def adopt(self, made: Iterable[str]) -> None:
        """Take over what another process has made for the same job."""
        self._made += map(place, made)

    def discard(self) -> None:
        """Delete the copies that were made for the job: there will be no job."""
        for path in self._made:
            path.unlink(missing_ok=True)
        if isinstance(self._folder, Path):
            with suppress(OSError):  # not empty: another job's, or never made
                self._folder.rmdir()

    def _temporary(self, suffix: str) -> Path:
        name = f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}{suffix}"
        if isinstance(self._folder, S3Path):
            return Path(tempfile.gettempdir()) / name
        return self._folder / name


def remove_copies(folder: Place) -> None:
    """Delete all copies of a job that has ended. Files of anybody else stay."""
    if not folder.is_dir():
        return
    for file in list_files(folder):
        if is_copy(file.own_name):
            file.path.unlink(missing_ok=True)
    if isinstance(folder, Path):
        with suppress(OSError):  # not empty: it is not ours alone
            folder.rmdir()
