"""ModelHost: the loaded versions of one worker process."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from celeriac import errors, metrics
from celeriac.loaders import RETRY_AFTER_S, Begin, Key, may_begin
from celeriac.logs import get_logger
from celeriac.memory import give_back
from celeriac.messages import CHAMPION, ModelRef
from celeriac.registry.catalogue import Catalogue, ModelInfo
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer
from celeriac.settings import Settings, get_settings

log = get_logger(__name__)

MAX_UNALIASED = 4
"""Loaded versions that do not serve as champion (pinned by a request or a job), at most."""
IDLE_S = 60.0
"""So long after its last use such a version is dropped. The champion before a promotion is one, so
that what is under way ends, and a rollback soon after needs no load."""
FAILED_S = 5.0
"""A version that could not be loaded is not tried again before."""
LOAD_WAIT_S = 600.0
"""Longest wait for another thread that loads the same version."""


class ModelHost:
    """Loads versions when they are needed and keeps them. Safe with threads.

    What an alias names is decided by the registry on disk; :meth:`refresh` reads it again. A
    version that cannot be loaded never takes the place of one that serves.
    """

    def __init__(
        self, registry: Registry, options: LoadOptions, *, device: str = "cpu",
        trial: Callable[[str, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``trial`` is asked before a version is loaded, and raises if it must not be."""
        self.registry = registry
        self.device = device
        self.threads = options.threads
        self.adopts = False
        """Answers for models of the GPU, too, because no GPU worker is there."""
        self._options = options
        self._clock = clock
        self._loaded: OrderedDict[Key, Scorer] = OrderedDict()
        self._used_s: dict[Key, float] = {}
        """Last use of what is loaded."""
        self._held: Counter[Key] = Counter()
        """How many long uses of a version have not ended."""
        self._made_room: dict[Key, float] = {}
        """When versions went that were not idle: there were too many."""
        self._loading: dict[Key, Future[Scorer]] = {}
        self._failed: dict[Key, tuple[float, errors.CeleriacError]] = {}
        self._trial = trial
        self._loaders: dict[Key, float] = {}
        """Threads that try and load versions for requests: when each began."""
        self._loaders_turn = threading.Lock()
        """Loaders try versions beside each other, and load them one after the other."""
        self._serving: dict[str, int] = {}
        self._kept_back: dict[str, tuple[int, str]] = {}
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

    def registered(self) -> dict[str, str]:
        """When the champion that each model serves with was registered."""
        with self._lock:
            return {
                name: self._loaded[name, number].manifest.created_at
                for name, number in self._serving.items() if (name, number) in self._loaded
            }

    def kept_back(self) -> dict[str, tuple[int, str]]:
        """Champions that could not be loaded, by model, each with the reason."""
        with self._lock:
            return dict(self._kept_back)

    def refresh(self, *, adopts: bool | None = None) -> None:
        """Read the registry again; load and warm new champions, then let the old ones go.

        ``adopts``: from now on a host for the CPU also answers for models that ask for a GPU.

        A new model is among :meth:`models` once it is loaded: nobody waits for it in a request.
        """
        if adopts is not None:
            self.adopts = adopts
        catalogue = Catalogue(models=self.registry.infos(self._catalogue.models))
        ours = {
            name: champion for name, model in catalogue.models.items()
            if (champion := self._champion_of(model)) is not None
        }
        self._let_go_replaced(catalogue, ours)
        for name, champion in ours.items():
            self._take_over(name, champion)
        self._catalogue = catalogue
        with self._lock:
            for name in self._serving.keys() - ours.keys():
                del self._serving[name]
                metrics.forget_version(name)
            for name in self._kept_back.keys() - ours.keys():
                del self._kept_back[name]
        self.tidy()

    def resolve(self, text: str) -> Key:
        """Name and version of a reference. Raises ModelNotFound, VersionNotFound, or ModelCorrupt.

        The champion is the one that serves: the old one, if the new one could not be loaded.
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
            return ref.name, self._on_disk(ref.name).resolve(ref).version

    def placed(self, text: str) -> tuple[Key, str]:
        """As :meth:`resolve`, with the device whose workers answer for that version.

        A sender may know of a promotion to another device sooner, or later, than this process: so
        the registry is read again before another device than this one is named.
        """
        key = self.resolve(text)
        if self._takes(self._device_of(self._catalogue, key)):
            return key, self.device
        ref = ModelRef.parse(text)
        found = self._on_disk(ref.name).resolve(ref)
        return (ref.name, found.version), (
            self.device if self._takes(found.device) else found.device
        )

    def _on_disk(self, name: str) -> Catalogue:
        """That model alone, as it is now: a request waits for it."""
        return Catalogue(models={name: self.registry.info(name)})

    def _device_of(self, catalogue: Catalogue, key: Key) -> str:
        model = catalogue.models.get(key[0])
        version = model.versions.get(key[1]) if model else None
        return version.device if version else self.device  # unknown or damaged: loading says why

    def is_ready(self, name: str, version: int) -> bool:
        """True if :meth:`scorer` answers at once; if not, a thread begins to load the version, as
        soon as there is room.

        One that could not be loaded a moment ago is ready, too: to raise the reason. Raises
        Overloaded if others are tried or loaded that may take long.
        """
        key = (name, version)
        with self._lock:
            if key in self._loaded or self._failure(key) is not None:
                return True
            if not (key in self._loading or key in self._loaders):
                self._start_loader(key)
            return False

    def has_made_room(self, name: str, version: int) -> bool:
        """True of a version that went a moment ago because too many others were asked for.

        It loads; who comes back for it time and again might never find it in memory.
        """
        with self._lock:
            went_s = self._made_room.get((name, version))
            return went_s is not None and self._clock() - went_s < IDLE_S

    def _start_loader(self, key: Key) -> None:
        now_s = self._clock()
        begin = may_begin(key[0], {key: now_s - at_s for key, at_s in self._loaders.items()})
        if begin is Begin.REFUSED:
            raise errors.Overloaded(
                f"{key[0]}@{key[1]} is not in memory, and the {len(self._loaders)} versions that "
                f"are loaded before it take long; try again in {RETRY_AFTER_S:g} s",
                retry_after_s=RETRY_AFTER_S,
            )
        if begin is Begin.NOW:
            threading.Thread(
                target=self._load_aside, args=(key,), name="loader", daemon=True
            ).start()
            self._loaders[key] = now_s  # it ends behind the lock that we hold

    def scorer(self, name: str, version: int) -> Scorer:
        """The loaded version. Raises RegistryError (or a kind of it) if it cannot be loaded."""
        key = (name, version)
        with self._lock:
            scorer = self._loaded.get(key)
            if scorer is not None:
                self._loaded.move_to_end(key)
                self._used_s[key] = self._clock()
                return scorer
            failure = self._failure(key)
            if failure is not None:
                raise type(failure)(failure.message)
        return self._load(key)

    @contextmanager
    def held(self, name: str, version: int, created_at: str = "") -> Iterator[Scorer]:
        """As :meth:`scorer`, for a long use: the version is not idle before its end, and is tried
        again however short ago it could not be loaded.

        ``created_at``: when the version that is meant was registered. Raises VersionNotFound if
        another one has its number now.
        """
        key = (name, version)
        with self._lock:
            self._held[key] += 1
            self._failed.pop(key, None)  # who holds one counts attempts, and waits between them
        try:
            yield self._made_at(key, created_at)
        finally:
            with self._lock:
                self._held[key] -= 1
                if key in self._loaded:
                    self._used_s[key] = self._clock()
            self.tidy()

    def _made_at(self, key: Key, created_at: str) -> Scorer:
        scorer = self.scorer(*key)
        if not created_at or scorer.manifest.created_at == created_at:
            return scorer
        self._forget(key)  # what is in memory may be of a registry that was deleted
        scorer = self.scorer(*key)
        if scorer.manifest.created_at != created_at:
            raise errors.VersionNotFound(
                f"{scorer.ref} was registered at {scorer.manifest.created_at}, and the one of "
                f"{created_at} is meant, which is gone; submit the dataset again, with another "
                "output folder"
            )
        return scorer

    def _let_go_replaced(self, catalogue: Catalogue, champions: Mapping[str, int]) -> None:
        """Let go of versions whose number others have now: the registry was deleted and filled
        anew. A champion answers until the other one is loaded."""
        with self._lock:
            loaded = {key: scorer.manifest.created_at for key, scorer in self._loaded.items()}
        for (name, number), created_at in loaded.items():
            model = catalogue.models.get(name)
            version = model.versions.get(number) if model else None
            if version is not None and version.created_at != created_at:
                log.warning("version replaced", model=name, version=number)
                if champions.get(name) == number:
                    self._replace((name, number))
                else:
                    self._forget((name, number))

    def _replace(self, key: Key) -> None:
        try:
            scorer = self._read(key, None)
        except Exception:  # noqa: BLE001 - who asks for it next is told why
            self._forget(key)
            return
        with self._lock:
            self._loaded[key] = scorer
            self._used_s[key] = self._clock()

    def _forget(self, key: Key) -> None:
        with self._lock:
            self._loaded.pop(key, None)
            self._used_s.pop(key, None)
            if self._serving.get(key[0]) == key[1]:
                del self._serving[key[0]]

    def note_champions(self) -> None:
        """See which of the loaded versions are champions now, and load none: one that no longer is
        goes when it is idle. For processes of a pool, which load what a chunk asks for."""
        with self._lock:
            names = {name for name, _ in self._loaded}
        for name in names:
            try:
                champion = self.registry.aliases(name).read().get(CHAMPION)
            except (errors.RegistryError, errors.ModelNotFound):
                continue  # nobody knows; who promotes the next version is told
            with self._lock:
                old = self._serving.pop(name, None)
                if champion is not None and (name, champion) in self._loaded:
                    self._serving[name] = champion
                if old is not None and old != champion and (name, old) in self._loaded:
                    self._used_s[name, old] = self._clock()
        self.tidy()

    def tidy(self) -> None:
        """Let go of versions that do not serve and that nobody has used for a while."""
        with self._lock:
            now_s = self._clock()
            serving = set(self._serving.items())
            self._held = +self._held  # without those that nobody holds
            others = [key for key in self._loaded if key not in serving | self._held.keys()]
            late = [key for key in others if now_s - self._used_s[key] > IDLE_S]
            kept = [key for key in others if key not in late]
            surplus = kept[: max(0, len(kept) - MAX_UNALIASED)]
            gone = late + surplus
            for key in gone:
                del self._loaded[key], self._used_s[key]
            self._made_room = {
                key: went_s for key, went_s in self._made_room.items() if now_s - went_s < IDLE_S
            } | dict.fromkeys(surplus, now_s)
            self._failed = {
                key: failure for key, failure in self._failed.items()
                if now_s - failure[0] < FAILED_S
            }
        if gone:
            log.info("versions let go", versions=[f"{name}@{number}" for name, number in gone])
            give_back()

    def _is_ours(self, model: ModelInfo) -> bool:
        return any(self._takes(version.device) for version in model.versions.values())

    def _takes(self, device: str) -> bool:
        return device == self.device or (self.adopts and self.device == "cpu")

    def _champion_of(self, model: ModelInfo) -> int | None:
        """The champion, if it is one for this device."""
        champion = model.aliases.get(CHAMPION)
        if champion is None:
            return None
        version = model.versions.get(champion)
        if version is None:  # damaged: loading it says why
            return champion if self._is_ours(model) else None
        return champion if self._takes(version.device) else None

    def _take_over(self, name: str, version: int) -> None:
        with self._lock:
            if self._serving.get(name) == version:
                self._kept_back.pop(name, None)
                return
        try:
            self._load((name, version))
            if self.registry.aliases(name).read().get(CHAMPION) != version:
                return  # rolled back while it was loaded; the next refresh follows
        except Exception as error:  # noqa: BLE001 - too little memory, say; the others go on
            reason = (
                error.message if isinstance(error, errors.CeleriacError) else errors.told(error)
            )
            with self._lock:
                self._kept_back[name] = (version, reason)
                old = self._serving.get(name)
            log.warning(
                "model not loaded", model=name, version=version, reason=reason, still_serving=old
            )
            return
        with self._lock:
            old_key = (name, self._serving.get(name, 0))
            if old_key in self._loaded:
                self._used_s[old_key] = self._clock()  # what is under way with it ends
            self._serving[name] = version
            self._kept_back.pop(name, None)
        metrics.MODEL_VERSION.labels(name).set(version)
        log.info("model serves", model=name, version=version)

    def _failure(self, key: Key) -> errors.CeleriacError | None:
        """Why a version could not be loaded a moment ago."""
        at_s, error = self._failed.get(key, (-FAILED_S, None))
        return error if self._clock() - at_s < FAILED_S else None

    def _load_aside(self, key: Key) -> None:
        try:
            self._load(key, self._loaders_turn)
        except Exception as error:  # noqa: BLE001 - whoever asks next is told
            log.warning("model not loaded", model=key[0], version=key[1], reason=str(error))
        finally:
            with self._lock:
                del self._loaders[key]

    def _load(self, key: Key, turn: AbstractContextManager[Any] | None = None) -> Scorer:
        """Load a version outside the lock, after its trial; threads that want the same one wait.

        ``turn`` is held while it is loaded.
        """
        with self._lock:
            if key in self._loaded:
                return self._loaded[key]
            under_way = self._loading.get(key)
            if under_way is None:
                mine = self._loading[key] = Future()
        if under_way is not None:
            return _result(under_way, key)
        try:
            scorer = self._read(key, turn)
        except BaseException as error:
            self._end_load(key, mine, error)
            raise
        with self._lock:
            self._loaded[key] = scorer
            self._used_s[key] = self._clock()
            del self._loading[key]
        mine.set_result(scorer)
        log.info("model loaded", model=key[0], version=key[1], form=scorer.form)
        self.tidy()
        return scorer

    def _read(self, key: Key, turn: AbstractContextManager[Any] | None) -> Scorer:
        """As its trial and its files have it. Raises RegistryError where no registry is, whatever
        of the version was missed there."""
        try:
            if self._trial is not None:
                self._trial(*key)
            with turn or nullcontext():
                return Scorer.load(self.registry, *key, self._options)
        except errors.CeleriacError:
            self.registry.check_there()
            raise

    def _end_load(self, key: Key, future: Future[Scorer], error: BaseException) -> None:
        metrics.LOAD_FAILURES.labels(key[0]).inc()
        told = error if isinstance(error, errors.CeleriacError) else errors.WorkerError(
            f"{key[0]}@{key[1]} could not be loaded: {errors.told(error)}"
        )
        with self._lock:
            del self._loading[key]
            self._failed[key] = (self._clock(), told)
        future.set_exception(told)


def _result(future: Future[Scorer], key: Key) -> Scorer:
    try:
        return future.result(LOAD_WAIT_S)
    except TimeoutError:
        raise errors.RegistryError(
            f"{key[0]}@{key[1]} has been loading for {LOAD_WAIT_S:g} s"
        ) from None
    except errors.CeleriacError as error:
        raise type(error)(error.message) from error


_host: ModelHost | None = None
_host_lock = threading.Lock()


def get_host() -> ModelHost:
    """The host of this process, made from the settings at first use."""
    global _host
    with _host_lock:
        if _host is None:
            _host = make_host(get_settings())
        return _host


def make_host(
    settings: Settings, *, device: str = "cpu", threads: int = 1,
    trial: Callable[[str, int], None] | None = None,
) -> ModelHost:
    """A host over the configured registry. ``device`` is ``cpu`` or ``gpu``."""
    options = LoadOptions.of(
        settings, device="cuda" if device == "gpu" else "cpu", threads=threads
    )
    return ModelHost(Registry(Path(settings.models.root)), options, device=device, trial=trial)


def set_host(host: ModelHost | None) -> None:
    """Put ``host`` in place of this process's own (None: make a new one at next use)."""
    global _host
    with _host_lock:
        _host = host
