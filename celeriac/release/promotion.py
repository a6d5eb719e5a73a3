"""Move aliases: the champion after its checks, or back to the version before; others freely."""

from __future__ import annotations

from typing import Any

from celeriac import errors
from celeriac.messages import CHAMPION, ModelRef, check_model_name
from celeriac.registry.aliases import PREVIOUS, check_free
from celeriac.registry.store import Registry
from celeriac.release.checking import check
from celeriac.settings import Settings


def promote(  # noqa: PLR0913 - a promotion, and what its history says
    registry: Registry, ref: ModelRef | str, *, settings: Settings, who: str, why: str = "",
    force: bool = False,
) -> dict[str, Any]:
    """Make a version the champion, after its checks in a process of its own.

    Its files verify, it loads, its golden examples reproduce, and it is not slower than the
    champion by more than ``[models] max_slowdown``, unless ``force`` says that it may be.

    Returns ``{"model", "version", "previous", "changed", "latency", "champion_latency"}``; the
    latencies are ``{"one_ms", "batch_ms", "batch_items"}`` or None. ``"uncompared"`` is the
    reason, if the champion could not be measured beside it. Raises ModelNotFound,
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
    figures = check(
        registry, ModelRef(name=ref.name, version=version), settings, slower=force
    ).figures()
    changed = aliases.promote(
        version, expected=champion, who=who, why=why, metrics=figures["latency"]
    )
    return {
        "model": ref.name, "version": version, "changed": changed,
        "previous": aliases.read().get(PREVIOUS), **figures,
    }


def rollback(  # noqa: PLR0913 - a rollback, and what its history says
    registry: Registry, name: str, *, who: str, why: str = "", champion: int | None = None,
    to: int | None = None,
) -> dict[str, Any]:
    """Make the champion before the last promotion the champion again, after its files verify.

    ``champion`` and ``to``: only from this version to that one, if somebody has promoted nothing
    else meanwhile. Returns ``{"model", "version", "from"}``. Raises ModelNotFound, ModelCorrupt, or
    PromotionRefused if there is nothing to go back to.
    """
    aliases = registry.aliases(check_model_name(name))
    before = aliases.read()
    target = before.get(PREVIOUS)
    if target is None:
        raise errors.PromotionRefused(
            f"{name} has no previous champion to go back to; promote a version by its number"
        )
    target = to or target
    registry.verify(name, target)
    aliases.rollback(expected=target, who=who, why=why, champion=champion)
    return {"model": name, "version": target, "from": before.get(CHAMPION)}


def assign(
    registry: Registry, ref: ModelRef | str, alias: str, *, who: str, why: str = ""
) -> dict[str, Any]:
    """Give a version a free alias, as ``challenger``, after its files verify.

    Returns ``{"model", "alias", "version", "from", "changed"}``. Raises ModelNotFound,
    VersionNotFound, ModelCorrupt, RequestError if the alias is not free to give, or
    PromotionRefused if it moved meanwhile.
    """
    ref = ModelRef.parse(ref) if isinstance(ref, str) else ref
    version = registry.resolve(ref)
    aliases = registry.aliases(ref.name)
    before = aliases.read().get(check_free(alias))
    registry.verify(ref.name, version)
    changed = aliases.assign(alias, version, expected=before, who=who, why=why)
    return {"model": ref.name, "alias": alias, "version": version, "from": before,
            "changed": changed}


def unassign(
    registry: Registry, name: str, alias: str, *, who: str, why: str = ""
) -> dict[str, Any]:
    """Take a free alias away from the version that has it. Returns and raises as :func:`assign`."""
    aliases = registry.aliases(check_model_name(name))
    before = aliases.read().get(check_free(alias))
    changed = aliases.assign(alias, None, expected=before, who=who, why=why)
    return {"model": name, "alias": alias, "version": None, "from": before, "changed": changed}
