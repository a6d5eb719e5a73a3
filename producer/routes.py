"""Where the items of a model go, by the published catalogue."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import NamedTuple

import redis

from celeriac import errors
from celeriac.clocks import clock_ahead_s
from celeriac.messages import ModelRef, predict_queue, realtime_queue
from celeriac.registry.catalogue import (
    Catalogue,
    ModelInfo,
    VersionInfo,
    fetch,
    fetch_generation,
)
from producer import forks
from producer.broker import Broker, broker_error, check_server

POLL_S = 1.0
"""Age from which the catalogue is looked at again, behind the callers' backs."""
_LOST = 0
"""The generation in a Redis without a catalogue, which it will be given again."""


class Route(NamedTuple):
    """Where the items of one model go, and what of it a caller must know."""

    model: str
    """As the caller wrote it: the worker resolves an alias at the time of the prediction."""
    realtime: str
    ordinary: str
    name: str = ""
    version: int = 0
    """What ``model`` means by the catalogue, ..."""
    created_at: str = ""
    """... when that version was registered, ..."""
    cached: bool = False
    """... and whether that version's answers are in the result cache."""


class Held(NamedTuple):
    """A catalogue and the routes that were asked of it."""

    catalogue: Catalogue
    routes: dict[str, Route]


class Routes:
    """The catalogue of this process, read at first use and kept fresh while it is used."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._held: Held | None = None
        self._checked = 0.0
        self.clock_ahead_s = 0.0
        """Of Redis's clock, when the catalogue was last looked at; see :mod:`celeriac.clocks`."""
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        """A child's fresh start; what is in memory stays good."""
        self._lock = threading.Lock()
        self._refresh: Future[Catalogue] | None = None

    def known(self, model: str) -> Route | None:
        """The route by what is in memory, without waiting; None if that does not have it.

        Raises RequestError if ``model`` is not the name of a model.
        """
        held = self._held
        if held is None:
            return None
        if time.monotonic() - self._checked > POLL_S:
            self._start_refresh()
        name = str(model)  # what is no text has no route, and is refused by its own error
        route = held.routes.get(name)
        if route is None:
            try:
                route = held.routes[name] = _route(held.catalogue, model)
            except (errors.ModelNotFound, errors.VersionNotFound):
                return None
        return route

    def find(self, model: str, timeout_s: float) -> Route:
        """The route; asks Redis, at most ``timeout_s``, if memory does not have it.

        Raises RequestError (no model name), ModelNotFound, VersionNotFound, BrokerError, and
        DeadlineExceeded.
        """
        return self.known(model) or _route(self.catalogue(timeout_s), model)

    def described(self, model: str) -> tuple[ModelInfo, VersionInfo] | None:
        """A model and the version of it that ``model`` means, as :meth:`known`."""
        route, held = self.known(model), self._held
        if route is None or held is None:
            return None
        info = held.catalogue.models.get(route.name)
        version = info.versions.get(route.version) if info else None
        return (info, version) if info and version else None

    def catalogue(self, timeout_s: float) -> Catalogue:
        """The catalogue as it is now. Raises BrokerError or DeadlineExceeded."""
        try:
            return self._start_refresh().result(timeout_s)
        except TimeoutError as error:
            raise errors.DeadlineExceeded(
                f"Redis gave no catalogue of the models within {timeout_s:g} s"  # callers read it
            ) from error

    def _start_refresh(self) -> Future[Catalogue]:
        """The refresh that is under way, or a new one: at most one at a time."""
        with self._lock:
            if self._refresh is None:
                refresh: Future[Catalogue] = Future()
                threading.Thread(
                    target=self._run, args=(refresh,), name="celeriac-models", daemon=True
                ).start()
                self._refresh = refresh  # it ends behind the lock that we hold
            return self._refresh

    def _run(self, refresh: Future[Catalogue]) -> None:
        try:
            catalogue = self._fetch()
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            self._finish()
            refresh.set_exception(error)
        else:
            self._finish()
            refresh.set_result(catalogue)

    def _finish(self) -> None:
        self._checked = time.monotonic()
        with self._lock:
            self._refresh = None

    def _fetch(self) -> Catalogue:
        client, held = self._broker.redis, self._held
        try:
            if held is None:
                check_server(client, self._broker.url)
            self._compare_clocks(client)
            if held is not None and fetch_generation(client) == held.catalogue.generation:
                return held.catalogue
            catalogue = fetch(client)
        except redis.RedisError as error:
            raise broker_error(error, self._broker.url) from error
        if held is not None and catalogue.generation == _LOST:
            return held.catalogue
        self._held = Held(catalogue, {})
        return catalogue

    def _compare_clocks(self, client: redis.Redis) -> None:
        before_s = time.time()
        seconds, micros = client.time()
        self.clock_ahead_s = clock_ahead_s(before_s, seconds + micros / 1e6, time.time())


def _route(catalogue: Catalogue, model: str) -> Route:
    ref = ModelRef.parse(model)
    found = catalogue.resolve(ref)
    return Route(
        model, realtime_queue(found.device, ref.name), predict_queue(found.device),
        ref.name, found.version, found.created_at, found.serving.cache,
    )
