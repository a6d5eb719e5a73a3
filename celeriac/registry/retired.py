"""Versions that are about to be deleted: out of sight, and still readable for whoever began.

A retired version is in no listing, so no alias, request or job can come to name it. Its files stay
until its time is over: who resolved it before can load it to the end. Its mark stays for good, and
keeps its number from being given again: labels, counts and ids of predictions go by the number.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from celeriac.disk import sync
from celeriac.registry import files


class Retired:
    """The marks in the folder of one model: ``.retired/<version>``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ".retired"

    def __contains__(self, version: int) -> bool:
        return (self._folder / str(version)).exists()

    def since_s(self) -> dict[int, float]:
        """All retired versions, deleted ones too, with the Unix time at which each was retired."""
        found = {}
        for number in self.numbers():
            with contextlib.suppress(FileNotFoundError):  # taken away meanwhile
                found[number] = (self._folder / str(number)).stat().st_mtime
        return found

    def numbers(self) -> list[int]:
        """Of all versions that are retired or deleted. Raises RegistryError if nobody can tell."""
        try:
            marks = [mark.name for mark in self._folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            what = f"{self._folder.parent.name}: {self._folder.name}"
            raise files.unreadable(what, error) from error
        return [int(mark) for mark in marks if mark.isascii() and mark.isdigit()]

    def add(self, version: int) -> None:
        """Retire a version; its time begins now, unless it has begun before."""
        self._folder.mkdir(exist_ok=True)
        mark = self._folder / str(version)
        if not mark.exists():
            files.write(mark, b"")
            sync(self._folder)

    def remove(self, version: int) -> None:
        """Take the mark away: the version is back."""
        (self._folder / str(version)).unlink(missing_ok=True)
