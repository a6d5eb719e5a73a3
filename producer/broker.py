"""The one place where the producer half meets Redis and Celery.

Both are made from :mod:`celeriac.settings` alone, so a host project's Celery app and
``celeryconfig`` are never touched. The Celery app has no result backend: a group of a thousand
tasks would otherwise send a thousand SUBSCRIBEs.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.retry import Retry

from celeriac import errors
from celeriac.refused_writes import is_refused_write
from celeriac.settings import Settings, hide_password
from producer import forks
from producer.closing import Closing

if TYPE_CHECKING:
    from celery import Celery

MIN_REDIS = (7, 0)
"""``BLMPOP`` came with Redis 7.0."""

DRIVER = DriverInfo(lib_version=redis.__version__)
"""As what connections name themselves. Without it each reads the version of the library from the
metadata of its package: half a millisecond, and 1 MB of pages that a forked process copies."""

CELERY_CONNECTIONS = 10
"""Connections of the Celery app, at most."""


class Broker(Closing):
    """Connections of one client. Safe with threads; a forked child makes its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = settings.broker_url
        self._lock = threading.Lock()
        self._redis: redis.Redis | None = None
        self._celery: Celery | None = None
        forks.watch(self)

    @property
    def redis(self) -> redis.Redis:
        """A Redis client with a pool of its own, made at first use in this process."""
        with self._lock:
            if self._redis is None:
                self._redis = connect(self.settings)
            return self._redis

    @property
    def celery(self) -> Celery:
        """A Celery app that can only publish, made at first use in this process."""
        with self._lock:
            if self._celery is None:
                self._celery = _publishing_app(self.settings)
            return self._celery

    def check(self) -> None:
        """Raises BrokerError if Redis cannot be reached or is older than 7.0."""
        check_server(self.redis, self.url)

    def close(self) -> None:
        """Close what this process opened. The broker can be used again."""
        with self._lock:
            if self._redis is not None:
                self._redis.close()
            if self._celery is not None:
                self._celery.pool.force_close_all()
                self._celery.close()
            self._redis = self._celery = None

    def after_fork(self) -> None:
        """A child's fresh start: the parent's sockets are neither used nor closed."""
        forks.abandon(self._redis, self._celery)
        self._lock = threading.Lock()
        self._redis = self._celery = None


def connect(settings: Settings, **options: Any) -> redis.Redis:
    """A Redis client that fails soon: no hidden retries, every wait bounded by the settings.

    A server that has become a replica is left: its name may be another's by now.
    """
    return redis.Redis.from_url(
        settings.broker_url,
        socket_connect_timeout=settings.broker.connect_timeout_s,
        socket_timeout=settings.broker.socket_timeout_s,
        socket_keepalive=True,
        health_check_interval=15,
        # Repeated at three places, one in the other: who hangs would be waited for four times.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        retry_on_error=[redis.exceptions.ReadOnlyError],  # once, by a new connection
        driver_info=DRIVER,
        **({"max_connections": 1_024} | options),
    )


def check_server(client: redis.Redis, url: str) -> tuple[int, int]:
    """The server's Redis version; raises BrokerError if it cannot be reached or is too old."""
    try:
        info: Any = client.info("server")
    except redis.RedisError as error:
        raise broker_error(error, url) from error
    # Valkey says here which Redis it is compatible with.
    found = re.match(r"(\d+)\.(\d+)", str(info.get("redis_version", "")))
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < MIN_REDIS:
        raise errors.BrokerError(
            f"the server at {hide_password(url)} is Redis {version[0]}.{version[1]}; "
            "Celeriac needs Redis or Valkey 7.0 or newer"
        )
    return version


def broker_error(error: Exception, url: str) -> errors.BrokerError:
    """What to tell a user of a failed exchange with Redis."""
    if is_refused_write(error):
        return errors.BrokerError(
            f"Redis at {hide_password(url)} refuses writes ({error}): it is full, cannot save to "
            "its disk, or is a replica; workers go on when it accepts them again"
        )
    if isinstance(error, (redis.ResponseError, redis.AuthenticationError)):
        return errors.BrokerError(
            f"Redis at {hide_password(url)} refuses this ({error}). CELERIAC_BROKER_URL, or "
            "[broker] url, names user and password; docs/operations.md says what a user needs"
        )
    return errors.BrokerError(
        f"no answer from Redis at {hide_password(url)} ({error}). Is it running? "
        "CELERIAC_BROKER_URL, or [broker] url, names it; without either `celeriac up` starts one"
    )


def _publishing_app(settings: Settings) -> Celery:
    from celery import Celery
    from kombu.pools import ProducerPool

    # set_as_current=False: the host project's own app stays the current one.
    app = Celery("celeriac.producer", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_protocol=2,
        result_backend=None,
        task_ignore_result=True,
        broker_pool_limit=CELERY_CONNECTIONS,
        broker_pool_acquire_timeout=2,
        broker_connection_timeout=settings.broker.connect_timeout_s,
        broker_connection_retry=False,
        task_publish_retry=True,
        task_publish_retry_policy={
            "max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1,
        },
        broker_transport_options={
            "socket_timeout": settings.broker.socket_timeout_s,
            "socket_connect_timeout": settings.broker.connect_timeout_s,
            "socket_keepalive": True,
            "priority_steps": [0],
        },
    )
    # Celery would take its pools from kombu's globals, where they are found by URL: a host
    # project's app on the same Redis would share them, and a forked child its parent's sockets.
    app._pool = app.connection_for_write().Pool(limit=CELERY_CONNECTIONS)
    pool: Any = ProducerPool
    app.amqp._producer_pool = pool(app._pool, limit=CELERY_CONNECTIONS)
    return app
