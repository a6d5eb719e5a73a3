"""Move the alias ``champion``: after the checks, or back to the version before it."""

from __future__ import annotations

from typing import Any

from celeriac import errors
from celeriac.messages import CHAMPION, ModelRef, check_model_name
from celeriac.registry.aliases import PREVIOUS
from celeriac.registry.store import Registry
from celeriac.release.checking import check
from celeriac.settings import Settings


def promote(
    registry: Registry, ref: ModelRef | str, *, settings: Settings, who: str, why: str = ""
) -> dict[str, Any]:
    """Make a version the champion, after its files verify and its golden examples reproduce.

    Returns ``{"model", "version", "previous", "changed"}``. Raises ModelNotFound,
    VersionNotFound, ModelCorrupt, UntrustedModel, RuntimeMissing or PromotionRefused; then nothing
    has changed.
    """
    ref = ModelRef.parse(ref) if isinstance(ref, str) else ref
    if ref.version is None and ref.alias == CHAMPION:
        newest = max(registry.versions(ref.name))
        raise errors.RequestError(
            f"say which version of {ref.name} to promote; the newest is {ref.name}@{newest}"
        )
    version = registry.resolve(ref)
    aliases = registry.aliases(ref.name)
    champion = aliases.read().get(CHAMPION)
    check(registry, ModelRef(name=ref.name, version=version), settings)
    changed = aliases.promote(version, expected=champion, who=who, why=why)
    return {
        "model": ref.name, "version": version, "changed": changed,
        "previous": aliases.read().get(PREVIOUS),
    }


def rollback(registry: Registry, name: str, *, who: str, why: str = "") -> dict[str, Any]:
    """Make the champion before the last promotion the champion again, after its files verify.

    Returns ``{"model", "version", "from"}``. Raises ModelNotFound, ModelCorrupt, or
    PromotionRefused if there is nothing to go back to.
    """
    aliases = registry.aliases(check_model_name(name))
    before = aliases.read()
    target = before.get(PREVIOUS)
    if target is None:
        raise errors.PromotionRefused(
            f"{name} has no previous champion to go back to; promote a version by its number"
        )
    registry.verify(name, target)
    aliases.rollback(expected=target, who=who, why=why)
    return {"model": name, "version": target, "from": before.get(CHAMPION)}
