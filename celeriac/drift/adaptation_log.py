"""State and history of a model's adaptation: lines that are only added, beside its versions.

The last whole line has the state. A line is added only by who has seen the one before it (compare
and set under a lock), so two workers never take the same step. Redis may forget everything.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from celeriac.drift.adaptation import Adaptation, Step
from celeriac.logs import get_logger
from celeriac.registry import files

log = get_logger(__name__)
NAME = "adaptation.jsonl"
TAIL_BYTES = 256 * 1_024
"""A hundred steps at least."""
_ROOM_BYTES = 64 * 1_024
"""More than a step takes."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One step."""

    number: int
    at_s: float
    """Unix time."""
    what: str
    who: str
    why: str
    state: Adaptation
    """After it."""


class AdaptationLog:
    """``adaptation.jsonl`` in the folder of one model."""

    def __init__(self, root: Path, model: str) -> None:
        self._model = model
        self._file = root / model / NAME
        self._lock = root / model / ".adaptation.lock"

    def lines(self) -> list[Line]:
        """All steps, the oldest first. A line that a crash has cut is left out."""
        try:
            return self._decoded(self._file.read_bytes())
        except FileNotFoundError:
            return []

    def newest(self) -> list[Line]:
        """The steps at the end, the oldest first: at least one, if there is any. However long the
        history has become, it takes no longer."""
        try:
            file = self._file.open("rb")
        except FileNotFoundError:
            return []
        with file:
            end, reach = file.seek(0, os.SEEK_END), TAIL_BYTES
            while True:
                start = file.seek(max(0, end - reach))
                found = file.read(end - start)
                lines = self._decoded(found.partition(b"\n")[2] if start else found)
                if lines or not start:
                    return lines
                reach *= 4

    def _decoded(self, data: bytes) -> list[Line]:
        lines = []
        for text in data.split(b"\n"):
            try:
                lines += [msgspec.json.decode(text, type=Line)] if text else []
            except msgspec.MsgspecError:
                log.warning(
                    "a line of adaptation.jsonl is damaged", model=self._model,
                    line=text[:80].decode(errors="replace"),
                )
        return lines

    def read(self) -> tuple[Adaptation, int]:
        """The state, and the number of the line that has it; 0 if there is none."""
        lines = self.newest()
        return (lines[-1].state, lines[-1].number) if lines else (Adaptation(model=self._model), 0)

    def check_room(self) -> None:
        """Before what should be done once: a step that was done and cannot be written down is done
        again at each look. Raises OSError if the disk is full."""
        trial = self._file.with_name(f".{NAME}.room")
        try:
            files.write(trial, bytes(_ROOM_BYTES))
        finally:
            trial.unlink(missing_ok=True)

    def add(self, step: Step, *, seen: int, now_s: float) -> bool:
        """Add a step; False if another line than ``seen`` is the last one.

        Raises RegistryError if the lock is held too long, OSError if the disk is full.
        """
        with files.locked(self._lock):
            files.drop_cut_line(self._file)
            _, last = self.read()
            if last != seen:
                return False
            line = Line(
                number=seen + 1, at_s=now_s, what=step.what, who=step.who, why=step.why[:1_000],
                state=step.state,
            )
            files.append(self._file, msgspec.json.encode(line) + b"\n")
            return True
