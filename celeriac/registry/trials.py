"""Trials of versions: which of them have been loaded in a process of their own, and live.

A version that loads and answers may be loaded by workers that have the same releases of the
libraries. One that did not is refused for a while by the machine that tried it: another may have
what it lacked. Records lie in the folder of one model, as ``.trials/<version>.json`` (it passed,
and with which releases) and ``.trials/<version>.<machine>.json`` (it failed there).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from celeriac import errors
from celeriac.registry import files
from celeriac.registry.manifest import MANIFEST_NAME
from celeriac.registry.surroundings import releases

REFUSED_S = 60.0
"""So long is a version refused after it failed; whoever asks then has it tried again ..."""
MOST_TIMES = 8
"""... after each further failure twice as long, up to so many times: one that hangs takes a
worker's time, and may be asked for without an end."""
MOST_KEPT = 8
"""Sets of releases that a version has passed with, the newest: machines that share a registry need
not be upgraded together."""


class Trials:
    """The records of one model. Safe with threads and processes."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._model = folder
        self._folder = folder / ".trials"
        self._clock = clock

    def is_there(self, version: int) -> bool:
        """True if the version can be read: what failed without it says nothing of it."""
        return bool(self._digest(version))

    def has_passed(self, version: int) -> bool:
        """True of a version that passed as it is now, with the releases that are here."""
        return self._releases(version) in self._passed_with(version)

    def failure(self, version: int) -> errors.CeleriacError | None:
        """Why it was refused on this machine, with the releases that are here, a moment ago."""
        found = self._failed_as_it_is(version)
        age_s = self._clock() - float(found.get("time", 0))
        is_refused = 0 <= age_s < REFUSED_S * min(found.get("times", 1), MOST_TIMES)
        return errors.from_wire(found.get("error", {})) if found and is_refused else None

    def add_passed(self, version: int) -> None:
        """It has loaded and answered. Raises OSError if nothing can be written here."""
        others = self._passed_elsewhere(version)
        self._write_passed(version, [*others, self._releases(version)][-MOST_KEPT:])
        self._failed(version).unlink(missing_ok=True)

    def add_failed(self, version: int, error: errors.CeleriacError) -> None:
        """It has not, on this machine: what passed before with the same releases passes no more.

        Raises OSError.
        """
        others = self._passed_elsewhere(version)
        if others:
            self._write_passed(version, others)
        else:
            self._passed(version).unlink(missing_ok=True)
        times = 2 * self._failed_as_it_is(version).get("times", 0) or 1
        self._write(self._failed(version), {
            "manifest": self._digest(version), "releases": self._releases(version),
            "time": self._clock(), "error": error.to_wire(), "times": min(times, MOST_TIMES),
        })

    def forget(self, version: int) -> None:
        """It is deleted. A record that cannot be (it is another user's) means nothing any more."""
        for path in self._folder.glob(f"{version}.*"):
            with contextlib.suppress(OSError):
                path.unlink()

    @contextlib.contextmanager
    def alone(self, version: int, timeout_s: float) -> Iterator[None]:
        """While one process of this machine tries a version, the others wait for what it finds.

        Raises RegistryError if that takes longer than ``timeout_s``, OSError if there can be no
        lock.
        """
        self._folder.mkdir(exist_ok=True)
        with files.locked(self._folder / f"{version}.{_machine()}.lock", timeout_s):
            yield

    def _passed(self, version: int) -> Path:
        return self._folder / f"{version}.json"

    def _failed(self, version: int) -> Path:
        return self._folder / f"{version}.{_machine()}.json"

    def _failed_as_it_is(self, version: int) -> dict[str, Any]:
        """What this machine has noted of the version, as both are now; empty if nothing."""
        found = _read(self._failed(version)) or {}
        is_same = (found.get("manifest"), found.get("releases")) == (
            self._digest(version), self._releases(version)
        )
        return found if is_same else {}

    def _passed_with(self, version: int) -> list[Any]:
        """The sets of releases with which the version has passed as it is now, oldest first."""
        found = _read(self._passed(version)) or {}
        known = found.get("releases")
        is_same = found.get("manifest") == self._digest(version)
        return known if is_same and isinstance(known, list) else []

    def _passed_elsewhere(self, version: int) -> list[Any]:
        here = self._releases(version)
        return [known for known in self._passed_with(version) if known != here]

    def _releases(self, version: int) -> dict[str, str]:
        """What would load it here."""
        manifest = _read(self._model / str(version) / MANIFEST_NAME) or {}
        wrote = manifest.get("frameworks")
        return releases(*(wrote if isinstance(wrote, dict) else ()))

    def _digest(self, version: int) -> str:
        """Of the manifest, which has those of all files. Empty if there is none."""
        try:
            data = (self._model / str(version) / MANIFEST_NAME).read_bytes()
        except OSError:
            return ""
        return hashlib.sha256(data).hexdigest()

    def _write_passed(self, version: int, known: list[Any]) -> None:
        self._write(self._passed(version), {
            "manifest": self._digest(version), "releases": known,
        })

    def _write(self, path: Path, record: dict[str, Any]) -> None:
        self._folder.mkdir(exist_ok=True)
        files.replace(path, json.dumps(record).encode())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _machine() -> str:
    return platform.node().replace("/", "_") or "localhost"
