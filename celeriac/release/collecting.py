"""Delete versions that nobody needs any more, in two steps.

First a version is retired: out of every listing, its files in place. An hour later they are
deleted, unless a job that began before has come to need them. So neither a worker that is loading a
version nor a job that was being planned finds half of it gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from celeriac import errors
from celeriac.logs import get_logger
from celeriac.registry.retired import Retired
from celeriac.registry.store import Registry

log = get_logger(__name__)

GRACE_S = 3_600.0
"""From retired to deleted."""

Ref = tuple[str, int]
"""A model's name and a version."""


def spare(
    versions: Collection[int], named: Collection[int], pinned: Collection[int], keep: int
) -> list[int]:
    """Those of ``versions`` that go: no alias or work names them, nor are they the newest.

    >>> spare([1, 2, 3, 4, 5], named={2}, pinned={3}, keep=1)
    [1, 4]
    """
    newest = sorted(versions)[-max(1, keep) :]
    return sorted(set(versions) - set(named) - set(pinned) - set(newest))


@dataclass(kw_only=True)
class Spare:
    """What is to be done."""

    retire: list[Ref] = field(default_factory=list)
    delete: list[Ref] = field(default_factory=list)
    """Retired for long enough."""
    restore: list[Ref] = field(default_factory=list)
    """Retired, but work has come to need them."""
    waiting: list[Ref] = field(default_factory=list)
    """Retired, and their time is not over."""
    failed: list[Ref] = field(default_factory=list)
    """Could not be deleted, as the log says; they are tried again."""
    skipped: list[str] = field(default_factory=list)
    """Models of which nobody knows what is needed, as the log says: nothing of them goes."""

    def __bool__(self) -> bool:
        return bool(self.retire or self.delete or self.restore)


def find_spare(
    registry: Registry, pinned: Mapping[str, Collection[int]], *, keep: int, now_s: float
) -> Spare:
    """Look at all models; changes nothing. ``now_s`` is Unix time.

    A model whose aliases cannot be read is skipped, and keeps no other.
    """
    found = Spare()
    for name in registry.names():
        needed = pinned.get(name, ())
        try:
            named = registry.aliases(name).read().values()
            gone = spare(registry.versions(name), named, needed, keep)
        except errors.CeleriacError as error:
            _skip(found, name, error)
            continue
        found.retire += [(name, version) for version in gone]
        for version, since_s in sorted(registry.retired(name).items()):
            if version in needed:
                found.restore.append((name, version))
            elif now_s - since_s < GRACE_S:
                found.waiting.append((name, version))
            else:
                found.delete.append((name, version))
    return found


def collect(registry: Registry, found: Spare) -> None:
    """Do it; a version that got an alias meanwhile stays.

    ``found`` then says what was done. A version that cannot be deleted keeps no other, nor does a
    model whose aliases cannot be read any more.
    """
    for name, version in found.restore:
        Retired(registry.root / name).remove(version)
    found.failed = [ref for ref in found.delete if not _is_deleted(registry, *ref)]
    found.delete = [ref for ref in found.delete if ref not in found.failed]
    found.retire = list(_retire(registry, found))


def _is_deleted(registry: Registry, name: str, version: int) -> bool:
    try:
        registry.delete(name, version)
    except errors.CeleriacError as error:
        log.warning("version not deleted", model=name, version=version, reason=error.message)
        return False
    return True


def _retire(registry: Registry, found: Spare) -> Iterator[Ref]:
    for name in sorted({name for name, _ in found.retire}):
        versions = [version for model, version in found.retire if model == name]
        try:
            retired = registry.aliases(name).retire(versions)
        except (errors.CeleriacError, OSError) as error:
            _skip(found, name, error)
        else:
            yield from ((name, version) for version in retired)


def _skip(found: Spare, name: str, error: Exception) -> None:
    reason = error.message if isinstance(error, errors.CeleriacError) else errors.told(error)
    log.warning("nothing collected of a model", model=name, reason=reason)
    found.skipped.append(name)
