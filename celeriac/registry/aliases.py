"""Aliases of one model: names that move from version to version, and the history of their moves.

``champion`` is what the bare name of a model means. ``previous`` is the champion before it. Both
move by promotion and rollback; any other name (``challenger``) is given and taken freely.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from celeriac import errors
from celeriac.logs import get_logger
from celeriac.messages import CHAMPION, ModelRef
from celeriac.registry import files
from celeriac.registry.retired import Retired

log = get_logger(__name__)

PREVIOUS = "previous"
CHALLENGER = "challenger"
MOST_WORDS = 1_000
"""Characters of a reason that are kept."""
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
    metrics: dict[str, float] = {}
    """What was measured for the move: ``one_ms``, ``batch_ms``."""


class Aliases:
    """``aliases.json`` and ``history.jsonl`` in the folder of one model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "aliases.json"
        self._history = folder / "history.jsonl"
        self._lock = folder / ".aliases.lock"

    def read(self) -> dict[str, int]:
        """All aliases. Raises ModelCorrupt if they are damaged, RegistryError if they cannot be
        read."""
        try:
            return _ALIASES.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise files.unreadable(f"{self.folder.name}: {self._file.name}", error) from error
        except ValidationError as error:
            raise errors.ModelCorrupt(
                f"{self.folder.name}: aliases.json is damaged; remove it and promote a version "
                f"({self._history.name} beside it tells what served)"
            ) from error

    def is_champion(self, version: int) -> bool:
        """True of the version that is the champion: it has passed its checks. Aliases that cannot
        be read say nothing of it."""
        with contextlib.suppress(errors.RegistryError):
            return self.read().get(CHAMPION) == version
        return False

    def history(self) -> list[Move]:
        """All moves, oldest first. A line that a crash has cut is left out."""
        try:
            lines = self._history.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        moves = []
        for number, line in enumerate(lines, start=1):
            try:
                moves += [Move.model_validate_json(line)] if line else []
            except ValidationError:
                log.warning("a line of history.jsonl is damaged", model=self.folder.name,
                            line=number)
        return moves

    def promote(
        self, version: int, *, expected: int | None, who: str, why: str,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Make ``version`` the champion and the champion ``previous``; False if it already is.

        ``expected`` is the champion that the caller has seen (None: there was none). Raises
        PromotionRefused if another promotion came in between, or the version is retired.
        """
        with self._changing():
            old = self.read()
            self._check(CHAMPION, old.get(CHAMPION), expected)
            self._check_kept(version)
            if old.get(CHAMPION) == version:
                return False
            new = old | {CHAMPION: version}
            if expected is not None:
                new[PREVIOUS] = expected
            self._move(old, new, who, why, metrics)
            return True

    def rollback(
        self, *, expected: int, who: str, why: str, champion: int | None = None
    ) -> None:
        """Make ``previous`` the champion again. There is no ``previous`` after it.

        ``expected`` is the ``previous`` that the caller has seen, ``champion`` the version that is
        to go, if it is only to be that one. Raises PromotionRefused if they are other ones.
        """
        with self._changing():
            old = self.read()
            if champion is not None:
                self._check(CHAMPION, old.get(CHAMPION), champion)
            self._check(PREVIOUS, old.get(PREVIOUS), expected)
            new = old | {CHAMPION: expected}
            del new[PREVIOUS]
            self._move(old, new, who, why)

    def assign(
        self, alias: str, version: int | None, *, expected: int | None, who: str, why: str
    ) -> bool:
        """Give ``version`` a free alias, or take the alias away (None); False if it is so already.

        ``expected`` is the version that the caller has seen it at (None: at none). Raises
        RequestError for ``champion``, ``previous`` or what is no alias, PromotionRefused if the
        alias moved meanwhile or the version is retired.
        """
        check_free(alias)
        with self._changing():
            old = self.read()
            self._check(alias, old.get(alias), expected)
            if old.get(alias) == version:
                return False
            new = {name: number for name, number in old.items() if name != alias}
            if version is not None:
                self._check_kept(version)
                new[alias] = version
            self._move(old, new, who, why)
            return True

    def retire(self, versions: Iterable[int]) -> list[int]:
        """Retire those of ``versions`` that no alias names; nothing can name them any more."""
        with self._changing():
            named = set(self.read().values())
            unnamed = [version for version in versions if version not in named]
            for version in unnamed:
                Retired(self.folder).add(version)
            return unnamed

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            with files.locked(self._lock):
                yield
        except OSError as error:
            raise errors.RegistryError(
                f"{self.folder.name}: its aliases cannot be changed "
                f"({error.strerror or errors.told(error)}); they are as they were"
            ) from error

    def _check(self, alias: str, found: int | None, expected: int | None) -> None:
        if found != expected:
            raise errors.PromotionRefused(
                f"{self.folder.name}: the {alias} changed from {expected or 'none'} to "
                f"{found or 'none'} meanwhile; look at it and try again"
            )

    def _check_kept(self, version: int) -> None:
        if version in Retired(self.folder):
            raise errors.PromotionRefused(
                f"{self.folder.name}@{version} is retired and about to be deleted; "
                "register the model again"
            )

    def _move(
        self, old: Mapping[str, int], new: Mapping[str, int], who: str, why: str,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        files.drop_cut_line(self._history)
        lines = _moves(self._replayed(), old, "", "found so: the move itself was not recorded")
        files.replace(self._file, json.dumps(dict(sorted(new.items())), indent=2).encode())
        lines += _moves(old, new, _words(who), _words(why), metrics)
        try:
            files.append(self._history, b"".join(lines))
        except OSError as error:  # it has happened; the next move says that it was found so
            log.warning("move not recorded", model=self.folder.name, reason=error.strerror)

    def _replayed(self) -> dict[str, int]:
        """The aliases as the history tells them."""
        last = {move.alias: move.to for move in self.history()}
        return {alias: version for alias, version in last.items() if version is not None}


def check_free(alias: str) -> str:
    """``alias`` itself. Raises RequestError unless it is one that anybody may give."""
    if ModelRef.parse(f"model@{alias}").alias != alias:
        raise errors.RequestError(
            f"{alias[:80]!r} is no alias: use a letter, then letters, digits, '-' and '_'"
        )
    if alias == CHAMPION:
        raise errors.RequestError("champion moves by `celeriac models promote`, after its checks")
    if alias == PREVIOUS:
        raise errors.RequestError("previous moves by itself, with promotion and rollback")
    return alias


def _words(text: str) -> str:
    """Of a caller, as one line that every reader can read."""
    return "".join(one if one.isprintable() else " " for one in text[:MOST_WORDS]).strip()


def _moves(
    old: Mapping[str, int], new: Mapping[str, int], who: str, why: str,
    metrics: Mapping[str, float] | None = None,
) -> list[bytes]:
    """A line of the history for each alias that moved; the figures are the champion's."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    lines = []
    for alias in sorted(old.keys() | new.keys()):
        before, after = old.get(alias), new.get(alias)
        if before != after:
            line: dict[str, Any] = {"time": now, "alias": alias, "from": before, "to": after,
                                    "who": who, "why": why}
            if metrics and alias == CHAMPION:
                line["metrics"] = dict(metrics)
            lines.append(json.dumps(line).encode() + b"\n")
    return lines
