"""Aliases of one model: names that move from version to version, and the history of their moves.

``champion`` is what the bare name of a model means. ``previous`` is the champion before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from celeriac import errors
from celeriac.messages import CHAMPION
from celeriac.registry import files

PREVIOUS = "previous"
_ALIASES = TypeAdapter(dict[str, int])


class Move(BaseModel):
    """One line of ``history.jsonl``: an alias that moved."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    time: str
    """ISO 8601, UTC."""
    alias: str
    from_: int | None = Field(alias="from")
    to: int | None
    who: str
    why: str


class Aliases:
    """``aliases.json`` and ``history.jsonl`` in the folder of one model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "aliases.json"
        self._history = folder / "history.jsonl"
        self._lock = folder / ".aliases.lock"

    def read(self) -> dict[str, int]:
        """All aliases. Raises ModelCorrupt if the file is not readable."""
        try:
            return _ALIASES.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            raise errors.ModelCorrupt(
                f"{self.folder.name}: aliases.json is damaged; remove it and promote a version "
                f"({self._history.name} beside it tells what served)"
            ) from error

    def history(self) -> list[Move]:
        """All moves, oldest first."""
        try:
            lines = self._history.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [Move.model_validate_json(line) for line in lines]

    def promote(self, version: int, *, expected: int | None, who: str, why: str) -> bool:
        """Make ``version`` the champion and the champion ``previous``; False if it already is.

        ``expected`` is the champion that the caller has seen (None: there was none). Raises
        PromotionRefused if another promotion came in between.
        """
        with files.locked(self._lock):
            old = self.read()
            champion = old.get(CHAMPION)
            if champion != expected:
                raise errors.PromotionRefused(
                    f"{self.folder.name}: the champion changed from {expected or 'none'} to "
                    f"{champion or 'none'} meanwhile; look at it and promote again"
                )
            if champion == version:
                return False
            new = old | {CHAMPION: version}
            if champion is not None:
                new[PREVIOUS] = champion
            self._move(old, new, who, why)
            return True

    def rollback(self, *, expected: int, who: str, why: str) -> None:
        """Make ``previous`` the champion again. There is no ``previous`` after it.

        ``expected`` is the ``previous`` that the caller has seen. Raises PromotionRefused if it
        is no longer that.
        """
        with files.locked(self._lock):
            old = self.read()
            if old.get(PREVIOUS) != expected:
                raise errors.PromotionRefused(
                    f"{self.folder.name}: the aliases changed meanwhile; look at them and try again"
                )
            new = old | {CHAMPION: expected}
            del new[PREVIOUS]
            self._move(old, new, who, why)

    def _move(self, old: Mapping[str, int], new: Mapping[str, int], who: str, why: str) -> None:
        files.replace(self._file, json.dumps(dict(sorted(new.items())), indent=2).encode())
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        for alias in sorted(old.keys() | new.keys()):
            before, after = old.get(alias), new.get(alias)
            if before != after:
                line = {"time": now, "alias": alias, "from": before, "to": after,
                        "who": who, "why": why}
                files.append(self._history, json.dumps(line).encode() + b"\n")
