"""ModelHost: the loaded versions of one worker process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from celeriac import errors, metrics
from celeriac.logs import get_logger
from celeriac.messages import CHAMPION, ModelRef
from celeriac.registry.catalogue import Catalogue, ModelInfo
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer
from celeriac.settings import Settings, get_settings

log = get_logger(__name__)

MAX_UNALIASED = 4
"""Loaded versions that no alias names (pinned by a request or a job), at most."""


class ModelHost:
    """Loads versions when they are needed and keeps them. Safe with threads.

    What an alias names is decided by the registry on disk; :meth:`refresh` reads it again. A
    version that cannot be loaded never takes the place of one that serves.
    """

    def __init__(self, registry: Registry, options: LoadOptions, *, device: str = "cpu") -> None:
        self.registry = registry
        self.device = device
        self._options = options
        self._loaded: OrderedDict[tuple[str, int], Scorer] = OrderedDict()
        self._serving: dict[str, int] = {}
        self._catalogue = Catalogue(models=registry.infos())
        self._lock = threading.RLock()

    @property
    def catalogue(self) -> Catalogue:
        """The registry as of the last refresh."""
        return self._catalogue

    def models(self) -> list[str]:
        """Names of the models that have a version for this device."""
        return sorted(
            name for name, model in self._catalogue.models.items() if self._is_ours(model)
        )

    def loaded(self) -> dict[str, list[int]]:
        """Versions in memory, by model."""
        with self._lock:
            result: dict[str, list[int]] = {}
            for name, version in sorted(self._loaded):
                result.setdefault(name, []).append(version)
            return result

    def serving(self) -> dict[str, int]:
        """The champion that each model serves with."""
        with self._lock:
            return dict(self._serving)

    def refresh(self) -> None:
        """Read the registry again; load and warm new champions, then let the old ones go.

        A new model is among :meth:`models` once it is loaded: nobody waits for it in a request.
        """
        catalogue = Catalogue(models=self.registry.infos())
        for name, model in catalogue.models.items():
            champion = model.aliases.get(CHAMPION)
            if champion is not None and self._is_ours(model):
                self._take_over(name, champion)
        self._catalogue = catalogue
        with self._lock:
            for name in self._serving.keys() - catalogue.models.keys():
                del self._serving[name]
            self._trim()

    def resolve(self, text: str) -> tuple[str, int]:
        """``(name, version)`` that a reference means here.

        Raises RequestError, ModelNotFound or VersionNotFound. A champion is the one that serves:
        the old one, if the new one could not be loaded.
        """
        ref = ModelRef.parse(text)
        if ref.alias == CHAMPION:
            with self._lock:
                serving = self._serving.get(ref.name)
            if serving is not None:
                return ref.name, serving
        try:
            return ref.name, self._catalogue.resolve(ref).version
        except errors.RequestError:
            # Registered since the last refresh, perhaps.
            return ref.name, Catalogue(models=self.registry.infos()).resolve(ref).version

    def scorer(self, name: str, version: int) -> Scorer:
        """The loaded version. Raises RegistryError (or a kind of it) if it cannot be loaded."""
        key = (name, version)
        with self._lock:
            scorer = self._loaded.get(key)
            if scorer is not None:
                self._loaded.move_to_end(key)
                return scorer
        loaded = self._load(name, version)  # outside the lock: other models go on answering
        with self._lock:
            scorer = self._loaded.setdefault(key, loaded)
            self._trim()
            return scorer

    def _is_ours(self, model: ModelInfo) -> bool:
        return any(version.device == self.device for version in model.versions.values())

    def _take_over(self, name: str, version: int) -> None:
        with self._lock:
            if self._serving.get(name) == version:
                return
        try:
            scorer = Scorer.load(self.registry, name, version, self._options)
        except Exception as error:  # noqa: BLE001 - too little memory, say; the others go on
            metrics.LOAD_FAILURES.labels(name).inc()
            old = self._serving.get(name)
            reason = error.message if isinstance(error, errors.CeleriacError) else repr(error)
            log.warning(
                "model not loaded", model=name, version=version, reason=reason, still_serving=old
            )
            return
        with self._lock:
            self._loaded[name, version] = scorer
            self._serving[name] = version
        metrics.MODEL_VERSION.labels(name).set(version)
        log.info("model serves", model=name, version=version)

    def _load(self, name: str, version: int) -> Scorer:
        try:
            scorer = Scorer.load(self.registry, name, version, self._options)
        except errors.CeleriacError:
            metrics.LOAD_FAILURES.labels(name).inc()
            raise
        log.info("model loaded", model=name, version=version)
        return scorer

    def _trim(self) -> None:
        serving = {(name, version) for name, version in self._serving.items()}
        others = [key for key in self._loaded if key not in serving]
        for key in others[: max(0, len(others) - MAX_UNALIASED)]:
            del self._loaded[key]


_host: ModelHost | None = None
_host_lock = threading.Lock()


def get_host() -> ModelHost:
    """The host of this process, made from the settings at first use."""
    global _host
    with _host_lock:
        if _host is None:
            _host = make_host(get_settings())
        return _host


def make_host(settings: Settings, *, device: str = "cpu", threads: int = 1) -> ModelHost:
    """A host over the configured registry. ``device`` is ``cpu`` or ``gpu``."""
    options = LoadOptions.of(
        settings, device="cuda" if device == "gpu" else "cpu", threads=threads
    )
    return ModelHost(Registry(Path(settings.models.root)), options, device=device)


def set_host(host: ModelHost | None) -> None:
    """Put ``host`` in place of this process's own (None: make a new one at next use)."""
    global _host
    with _host_lock:
        _host = host
