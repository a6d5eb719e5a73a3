"""A worker process's environment, set before any library reads it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from celeriac import errors
from celeriac.memory import one_heap
from celeriac.settings import get_settings
from workers import devices, roles, threads

MULTIPROC_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
ALLOCATOR_VARIABLE = "ARROW_DEFAULT_MEMORY_POOL"


def prepare(queues: Sequence[str], pool: str | None, concurrency: str = "") -> None:
    """Set up this process as the worker that its command line asks for.

    Each process has its share of the cores as compute threads (``workers/threads.py``). A batch
    worker has one heap, and the allocator for Arrow whose memory can be given back (decision 244).
    A prefork worker keeps its metrics in a folder of its own, emptied at its start. A worker of a
    gpu role has one GPU, any other none. Raises ConfigError, or NoGpu.
    """
    if not queues:
        return  # beat, Flower, inspect, or a program that imports the app
    try:
        role = roles.role_for(queues)
    except errors.ConfigError:
        return  # celeryd_init says so, in one line
    _limit_threads(role, pool or role.pool, concurrency)
    if role.name.startswith("batch.") and sys.platform == "linux":
        # What the others keep cannot be asked for.
        os.environ.setdefault(ALLOCATOR_VARIABLE, "system")
        one_heap()
    if role.device == "gpu":
        devices.pin(os.environ, get_settings().gpu.devices)
    else:
        devices.hide(os.environ)  # a model for the CPU must not take memory of a GPU
    if (pool or role.pool) == "prefork" and not _is_spawned_child(role.name):
        folder = metrics_folder(role.name, os.getpid())
        try:
            _remove_leftovers(folder.parent)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.ConfigError(
                f"{folder} cannot be made ({error.strerror}); it holds the worker's metrics: "
                "name a folder that can be written in CELERIAC_STACK_STATE_DIR"
            ) from error
        share_metrics(folder)


def _limit_threads(role: roles.Role, pool: str, concurrency: str) -> None:
    cores = threads.cores()
    count = threads.processes(role, concurrency, pool, cores)
    share = threads.share(
        role, processes=count, cores=cores, realtime=get_settings().realtime.threads
    )
    threads.limit(os.environ, share)


def share_metrics(folder: Path) -> None:
    """Keep the metrics that are made from now on in ``folder``, where all processes add theirs."""
    os.environ[MULTIPROC_VARIABLE] = str(folder)
    from prometheus_client import values

    from workers.reserved_values import ReservedValues

    values.MmapedDict = ReservedValues  # type: ignore[attr-defined]
    # The library chooses at its first import, and that is over: Flower is a plug-in of `celery`.
    values.ValueClass = values.get_value_class()


def _is_spawned_child(role: str) -> bool:
    """True in a pool process that was not forked: it reads its worker's command line too."""
    return os.environ.get(MULTIPROC_VARIABLE) == str(metrics_folder(role, os.getppid()))


def metrics_folder(role: str, pid: int) -> Path:
    """Where the worker ``pid`` of a role keeps its children's metrics."""
    return Path(get_settings().stack.state_dir).absolute() / "metrics" / f"{role}-{pid}"


def _remove_leftovers(folder: Path) -> None:
    """Remove the folders of workers that are gone, this process id's among them."""
    if not folder.is_dir():
        return
    for leftover in folder.iterdir():
        pid = leftover.name.rpartition("-")[2]
        if pid.isdigit() and (int(pid) == os.getpid() or not is_alive(int(pid))):
            shutil.rmtree(leftover, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """True if a process of this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
