"""Try a version in a process of its own before a worker loads it, unless it is known to load.

A request, or a job, may name any version. The champion has passed its checks; any other that has
not passed them as it is now may end the process that loads it, or hang in it, each time that
somebody asks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from celeriac import errors
from celeriac.logs import get_logger
from celeriac.registry.store import Registry
from celeriac.registry.trials import REFUSED_S, Trials
from celeriac.release.aside import run_aside
from celeriac.runtimes import LoadOptions
from celeriac.settings import Settings

log = get_logger(__name__)

_GRACE_S = 10.0
"""Whoever waits for another's trial waits so much longer than one may take."""

_NICENESS = 10
"""Other models are asked meanwhile, and go first; on a core that is idle it costs nothing."""

Run = Callable[[Registry, str, int, Settings], None]


class Trial:
    """What a worker asks before it loads a version. Safe with threads.

    The champion, and versions that a trial or check has passed as they are now, are let through at
    once.
    """

    def __init__(
        self, registry: Registry, settings: Settings, *,
        run: Run | None = None, clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry = registry
        self.settings = settings
        self._run = run or try_aside
        self._clock = clock
        self._found: dict[tuple[str, int], tuple[float, errors.CeleriacError | None]] = {}
        """What this process has found, and when, of versions whose record could not be written."""

    def __call__(self, name: str, version: int) -> None:
        """Raises RegistryError (or a kind of it) if the version is not to be loaded here."""
        if self._is_known(name, version):
            return
        trials = self._trials(name)
        with _alone(trials, name, version, self.settings.models.check_timeout_s + _GRACE_S):
            if self._is_known(name, version):  # another process has just found out
                return
            began_s = time.monotonic()
            failure = self._failure(name, version)
            log.info(
                "version tried", model=name, version=version,
                seconds=round(time.monotonic() - began_s, 2),
                reason=failure.message if failure else None,
            )
            self._note(trials, name, version, failure)
        if failure is not None:
            raise failure

    def _is_known(self, name: str, version: int) -> bool:
        """True if it may be loaded, False if nobody knows. Raises why it was refused just now."""
        if self.registry.aliases(name).is_champion(version):
            return True
        trials = self._trials(name)
        if trials.has_passed(version):
            return True
        failure = trials.failure(version)
        if failure is not None:
            raise failure
        found_s, failure = self._found.get((name, version), (0.0, None))
        if failure is not None and self._clock() - found_s < REFUSED_S:
            raise type(failure)(failure.message)
        return found_s > 0 and failure is None

    def _failure(self, name: str, version: int) -> errors.CeleriacError | None:
        try:
            self._run(self.registry, name, version, self.settings)
        except errors.CeleriacError as error:
            if type(error) not in (errors.RegistryError, errors.PromotionRefused):
                return error  # it says what to do
            return errors.RegistryError(
                f"{error.message}; it is not the champion, and is not loaded by workers "
                f"(celeriac models check {name}@{version} tries it again)"
            )
        except OSError as error:
            return errors.RegistryError(
                f"{name}@{version} is not the champion, and no process can be started here to try "
                f"it ({error.strerror}): `celeriac models check {name}@{version}` on another "
                "machine of this registry, or a promotion, lets it be loaded"
            )
        return None

    def _note(
        self, trials: Trials, name: str, version: int, failure: errors.CeleriacError | None
    ) -> None:
        try:
            if failure is None:
                trials.add_passed(version)
            else:
                trials.add_failed(version, failure)
        except OSError as error:
            if failure is not None and not trials.is_there(version):
                log.warning("trial not counted: the registry is away", model=name, version=version)
                return
            self._found[name, version] = (self._clock(), failure)
            log.warning("trial not recorded: each process tries for itself", model=name,
                        version=version, reason=error.strerror)

    def _trials(self, name: str) -> Trials:
        return Trials(self.registry.root / name, self._clock)


def try_aside(registry: Registry, name: str, version: int, settings: Settings) -> None:
    """Verify, load and try a version in a process of its own, on the CPU.

    It has ``[models] check_timeout_s``. Raises RegistryError and its kinds, also if the process
    crashes or does not end in time, or OSError if none can be started.
    """
    timeout_s = settings.models.check_timeout_s
    wanted: dict[str, Any] = {"options": asdict(LoadOptions.of(settings)), "measure": False}
    run_aside(
        "celeriac.release", [str(registry.root.absolute()), name, str(version)], wanted,
        timeout_s=timeout_s, kind=errors.RegistryError,
        what=f"{name}@{version}: the process that tried to load it",
        late=f"{name}@{version}: loading it and answering its golden examples took longer than "
        f"{timeout_s:g} s ([models] check_timeout_s)", niceness=_NICENESS,
    )


@contextlib.contextmanager
def _alone(trials: Trials, name: str, version: int, timeout_s: float) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(trials.alone(version, timeout_s))
        except errors.RegistryError as error:
            raise errors.RegistryError(
                f"{name}@{version} is not the champion, and another process has been trying it for "
                f"{timeout_s:g} s; try again"
            ) from error
        except OSError as error:  # nothing can be written here
            log.debug("no lock for the trial", version=version, reason=str(error))
        yield
