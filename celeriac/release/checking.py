"""Verify, load and try a version in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from celeriac import errors
from celeriac.messages import CHAMPION, ModelRef
from celeriac.registry.manifest import ModelVersion
from celeriac.registry.store import Registry
from celeriac.registry.trials import Trials
from celeriac.release.aside import run_aside
from celeriac.release.latency import Latency, too_slow
from celeriac.runtimes import LoadOptions
from celeriac.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A version that has passed."""

    manifest: ModelVersion
    latency: Latency | None
    """Measured beside the champion's; None: it has no golden items to be measured with, or runs on
    a device that is not here."""
    champion: Latency | None
    """None: there is no other champion, or it could not be measured."""
    uncompared: str = ""
    """Why a champion that should have been measured was not."""

    def figures(self) -> dict[str, Any]:
        """What was measured: ``latency`` and ``champion_latency``, each ``{"one_ms", "batch_ms",
        "batch_items"}`` or None; ``uncompared``, if there is a reason."""
        return {
            "latency": self.latency.figures() if self.latency else None,
            "champion_latency": self.champion.figures() if self.champion else None,
            **({"uncompared": self.uncompared} if self.uncompared else {}),
        }


def check(
    registry: Registry, ref: ModelRef | str, settings: Settings, *,
    timeout_s: float | None = None, slower: bool = False,
) -> Checked:
    """Verify, load and try a version in a process of its own, and measure it beside the champion.

    ``timeout_s`` is ``[models] check_timeout_s`` by default; ``slower``: it may be slower than the
    champion by more than ``[models] max_slowdown``. Raises ModelCorrupt, UntrustedModel,
    RuntimeMissing, or PromotionRefused: also if the process crashes or does not end in time.
    """
    ref = ModelRef.parse(ref) if isinstance(ref, str) else ref
    version = registry.resolve(ref)
    manifest = registry.verify(ref.name, version)
    champion = registry.aliases(ref.name).read().get(CHAMPION)
    wanted = {
        "options": asdict(LoadOptions.of(settings)), "measure": True,
        "factor": settings.models.max_slowdown,
        "champion": champion if champion != version else None,
    }
    timeout_s = settings.models.check_timeout_s if timeout_s is None else timeout_s
    with _recorded(registry, ref.name, version):
        result = run_aside(
            "celeriac.release", [str(registry.root.absolute()), ref.name, str(version)], wanted,
            timeout_s=timeout_s, kind=errors.PromotionRefused,
            what=f"{manifest.ref}: the process that checked it",
            late=f"{manifest.ref}: loading it and answering its golden examples took longer than "
            f"{timeout_s:g} s ([models] check_timeout_s)",
        )
    checked = Checked(
        manifest=manifest, latency=_latency(result.get("latency")),
        champion=_latency(result.get("champion")), uncompared=result.get("uncompared", ""),
    )
    if not slower:
        _check_latency(checked, settings.models.max_slowdown)
    return checked


@contextmanager
def _recorded(registry: Registry, name: str, version: int) -> Iterator[None]:
    """What comes of it is known to workers that are asked for the version, too."""
    trials = Trials(registry.root / name)
    try:
        yield
    except errors.CeleriacError as error:
        with suppress(OSError):
            trials.add_failed(version, error)
        raise
    with suppress(OSError):  # who may only read here may check all the same
        trials.add_passed(version)


def _check_latency(checked: Checked, factor: float) -> None:
    if checked.latency is None or checked.champion is None:
        return
    found = too_slow(checked.latency, checked.champion, factor)
    if found:
        raise errors.PromotionRefused(
            f"{checked.manifest.ref} is slower than the champion by more than {factor:g} times: "
            f"{found}; --force promotes it all the same, [models] max_slowdown sets the factor"
        )


def _latency(found: dict[str, Any] | None) -> Latency | None:
    return Latency(**found) if found else None
