"""Which version a reference means; the same words for a folder and for the published catalogue."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from celeriac import errors
from celeriac.messages import CHAMPION, ModelRef


def pick(ref: ModelRef, versions: Collection[int], aliases: Mapping[str, int]) -> int:
    """The number of the version that ``ref`` means. Raises VersionNotFound."""
    number = ref.version if ref.version is not None else aliases.get(ref.alias or "")
    if number is None:
        raise errors.VersionNotFound(_no_alias(ref, versions, aliases))
    if number not in versions:
        raise unknown_version(ref.name, number, versions)
    return number


def unknown_model(
    name: str, known: Iterable[str], none: str = "none yet"
) -> errors.ModelNotFound:
    """The error for a name that nobody registered; ``none``: what to say if ``known`` is empty."""
    names = ", ".join(sorted(known)[:10]) or none
    return errors.ModelNotFound(f"no model named {name!r}; registered models: {names}")


def unknown_version(name: str, number: int, versions: Iterable[int]) -> errors.VersionNotFound:
    """The error for a number that the model does not have."""
    have = ", ".join(map(str, sorted(versions))) or "none"
    return errors.VersionNotFound(f"{name} has no version {number}; it has: {have}")


def _no_alias(ref: ModelRef, versions: Iterable[int], aliases: Iterable[str]) -> str:
    if ref.alias == CHAMPION:
        return (
            f"{ref.name} has no promoted version; promote one: "
            f"celeriac models promote {ref.name}@{max(versions, default=1)}"
        )
    have = ", ".join(sorted(aliases)) or "none"
    return f"{ref.name} has no alias {ref.alias!r}; it has: {have}"
