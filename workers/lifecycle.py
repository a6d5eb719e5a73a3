"""From start to stop of a worker: role from ``-Q``, models loaded and warm, heartbeat, drain."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from typing import Any

from billiard.process import current_process
from celery import Celery, signals

from celeriac import errors, logs
from celeriac.host import ModelHost, get_host, make_host, set_host
from celeriac.messages import MAINTENANCE_QUEUE
from celeriac.niceness import give_way
from celeriac.refused_writes import is_refused_write
from celeriac.registry.store import Registry
from celeriac.release.trying import Trial
from celeriac.settings import get_settings, variables
from producer.broker import check_server, connect
from tasks.models import publish_registry
from workers import exporter, roles, shared_pages, threads, waker
from workers.beat_presence import BeatPresence
from workers.connections import leave_to_parent
from workers.device_loss import LOSS
from workers.exit_limit import ExitLimit
from workers.gathered_events import GatheredEvents
from workers.heartbeat import HeartbeatStep
from workers.lane.step import LaneStep
from workers.lease import Lease
from workers.pool import TaskPool
from workers.roles import Role
from workers.watchdog import Watchdog, WatchdogStep

log = logs.get_logger(__name__)

LET_GO_EVERY_S = 10.0


def install(app: Celery) -> None:
    """Connect the worker's life to Celery's signals and steps."""
    connect_signals()
    app.steps["worker"].add(ExitLimit)
    app.steps["worker"].add(waker.Waker)
    app.steps["worker"].add(WatchdogStep)
    app.steps["worker"].add(LaneStep)
    app.steps["worker"].add(exporter.ExporterStep)
    app.steps["consumer"].add(GatheredEvents)
    app.steps["consumer"].add(Lease)
    app.steps["consumer"].add(HeartbeatStep)


def connect_signals() -> None:
    """Connect this process to Celery's signals."""
    signals.celeryd_init.connect(_take_role, weak=False)
    signals.celeryd_after_setup.connect(_select_queues, weak=False)
    signals.celeryd_after_setup.connect(_leave_out_advice, weak=False)
    signals.worker_init.connect(_load_models, weak=False)
    signals.setup_logging.connect(_configure_logging, weak=False)
    signals.worker_process_init.connect(_start_child, weak=False)
    signals.worker_process_shutdown.connect(_end_child, weak=False)
    signals.beat_init.connect(_announce_beat, weak=False)
    signals.beat_embedded_init.connect(waker.leave_to_parent, weak=False)


def _take_role(instance: Any, conf: Any, options: dict[str, Any], **_: Any) -> None:
    """Settings of the role that ``-Q`` names, before Celery reads them."""
    try:
        _configure_logging(options.get("loglevel"))
        role = roles.role_for(_names(options.get("queues")))
        asked = roles.pool_in(sys.argv)
        if asked:
            roles.check_pool(role, asked)
        _check_options(conf.broker_transport_options)
        _check_server()
    except errors.CeleriacError as error:
        _leave(error)
    instance.celeriac_role = role
    instance.hostname = roles.own_name(instance.hostname, role.name)
    os.environ[variables.ROLE] = role.name  # a spawned child has no other way to know
    conf.worker_concurrency = role.concurrency
    conf.worker_pool_start_method = role.start_method
    if role.start_method == "spawn":
        conf.imports = ["workers.spawned", *conf.imports]
    suffix = f".{role.name}"
    conf.broker_transport_options = conf.broker_transport_options | {
        "visibility_timeout": role.lease_s,
        # The shortest timeout on a shared key would count for every role.
        "unacked_key": f"unacked{suffix}",
        "unacked_index_key": f"unacked_index{suffix}",
        "unacked_mutex_key": f"unacked_mutex{suffix}",
    }
    if role.name.startswith("batch."):
        # A chunk that hangs is ended with its process; Celery's own retry counts it.
        conf.task_time_limit = get_settings().batch.chunk_timeout_s
    give_way(role.niceness)


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises ConfigError for a prefix: clients, which put messages into queues, know of none."""
    if prefix := options.get("global_keyprefix"):
        raise errors.ConfigError(
            f"broker_transport_options has global_keyprefix = {prefix!r}: queues have no prefix "
            "here; leave it out, and give Celeriac a Redis database of its own where names clash"
        )


def _announce_beat(sender: Any, **_: Any) -> None:
    sender.scheduler.presence = BeatPresence(connect(get_settings()))


def _check_server() -> None:
    """Raises BrokerError. For a Redis that refuses writes the worker waits when it connects."""
    try:
        check_server(connect(get_settings()), get_settings().broker_url)
    except errors.BrokerError as error:
        if error.__cause__ is None or not is_refused_write(error.__cause__):
            raise


def _select_queues(instance: Any, **_: Any) -> None:
    """Consume the queues of the role instead of a queue of the role's name."""
    role: Role = instance.celeriac_role
    queues = instance.app.amqp.queues
    if role.lane or role.name not in role.queues:
        queues.deselect([role.name])
    for queue in role.queues:
        queues.select_add(queue)


def _leave_out_advice(**_: Any) -> None:
    """At each lost connection Celery explains a setting that nobody here shall change (083)."""
    warnings.filterwarnings("ignore", message=r"\s*In Celery 5\.1 we introduced")


def _load_models(sender: Any, **_: Any) -> None:
    role: Role = sender.celeriac_role
    if roles.pool_in(sys.argv) is None:
        sender.pool_cls = role.pool
    is_prefork = _is_prefork(sender.pool_cls)
    if is_prefork:
        sender.pool_cls = TaskPool
    LOSS.install()
    set_host(_make_host(role))
    sender.celeriac_predicts = role.warm and not is_prefork
    if role.warm and not (is_prefork and _loads_its_own(role)):
        # A pool's children share these pages.
        _load_champions()
    # Half a million objects of libraries and models live as long as the process: a full collection
    # would look at them all, and everybody who waits for an answer would wait for it.
    if is_prefork:
        shared_pages.prepare(scores=role.warm)
    else:
        gc.collect()
        gc.freeze()
    if role.name == MAINTENANCE_QUEUE:
        _publish_at_start()


def _publish_at_start() -> None:
    try:
        generation = publish_registry(connect(get_settings()))
    except Exception as error:
        log.exception("catalogue not published", reason=str(error))
    else:
        log.info("catalogue published", generation=generation)


def _configure_logging(
    loglevel: int | str | None = None, logfile: str | None = None, **_: Any
) -> None:
    """Our logs in workers and beat, instead of Celery's; ``-l`` and ``-f`` count all the same."""
    is_asked = any(word.startswith(("-l", "--loglevel")) for word in sys.argv)
    logs.configure(get_settings().log, level=loglevel if is_asked else None, file=logfile)


def _start_child(**_: Any) -> None:
    """A pool process has its parent's models, unless it must load its own; no connection.

    Celery's solo pool calls this, too, in the worker itself: that has all it needs.
    """
    if current_process().name == "MainProcess":
        return
    leave_to_parent()
    waker.leave_to_parent()
    role = roles.role_for([os.environ[variables.ROLE]])
    if role.warm and _loads_its_own(role):
        LOSS.install()
        set_host(_make_host(role))
        _load_champions()
    if role.warm:
        threading.Thread(target=_let_go, name="tidy", daemon=True).start()


def _let_go() -> None:
    """Of models that a process of a pool does not need any more, also while it has no work."""
    while True:
        time.sleep(LET_GO_EVERY_S)
        try:
            get_host().note_champions()
        except Exception:
            log.exception("models not looked at")


def _load_champions() -> None:
    """A load that hangs ends the process: the worker's own watchdog starts after this.

    This one has ended before a pool forks.
    """
    limit_s = get_settings().models.load_timeout_s
    watchdog = Watchdog(limit_s, limit_s)
    watchdog.start()
    try:
        get_host().refresh()
    finally:
        watchdog.stop()


def _make_host(role: Role) -> ModelHost:
    settings = get_settings()
    return make_host(
        settings, device=role.device, threads=threads.limited(os.environ),
        trial=Trial(Registry(settings.models.root), settings),
    )


def _loads_its_own(role: Role) -> bool:
    """True if a pool process cannot use its parent's models: neither CUDA nor the threads of a
    library survive a fork."""
    return role.start_method == "spawn" or threads.limited(os.environ) > 1


def _end_child(pid: int | None = None, **_: Any) -> None:
    exporter.forget_child(pid or os.getpid())


def _is_prefork(pool: Any) -> bool:
    return pool == "prefork" or getattr(pool, "__module__", "") == "celery.concurrency.prefork"


def _names(queues: Any) -> list[str]:
    if not queues:
        return []
    names = queues.split(",") if isinstance(queues, str) else list(queues)
    return [name.strip() for name in names if name.strip()]


def _leave(error: errors.CeleriacError) -> None:
    # Celery's signals swallow every exception but this one.
    sys.stderr.write(f"celeriac: {error.message}\n")
    raise SystemExit(error.exit_code)


