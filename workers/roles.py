"""Worker roles as frozen data: what ``-Q`` names, and what each means for a worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from celeriac import errors
from celeriac.messages import DEVICES, MAINTENANCE_QUEUE, batch_queue, predict_queue


@dataclass(frozen=True, kw_only=True)
class Role:
    """One kind of worker."""

    name: str
    device: str
    queues: tuple[str, ...]
    """What the worker's main loop consumes."""
    pool: str
    pools: tuple[str, ...]
    """Pools that this role can use."""
    concurrency: int | str
    """Processes of the pool; ``auto``: one per core that the container may use."""
    lane: bool = False
    """Runs the real-time lane beside its main loop."""
    warm: bool = False
    """Loads every champion before it consumes."""
    lease_s: int
    """An un-acked task is delivered again this long after its worker was last alive."""
    niceness: int
    """Batch work yields the cores to real time."""
    start_method: str = "fork"
    """``spawn`` where a model library cannot be used after a fork (CUDA)."""


def _realtime(device: str) -> Role:
    # One process owns the model; the lane's thread is its only heavy user.
    return Role(
        name=f"realtime.{device}", device=device, queues=(predict_queue(device),),
        pool="solo", pools=("solo",), concurrency=1, lane=True, warm=True, lease_s=12, niceness=0,
    )


ROLES: tuple[Role, ...] = (
    _realtime("cpu"),
    _realtime("gpu"),
    Role(
        name="batch.cpu", device="cpu", queues=(batch_queue("cpu"),),
        pool="prefork", pools=("prefork", "solo"), concurrency="auto", warm=True, lease_s=30,
        niceness=10,
    ),
    Role(
        # One process for each GPU; a child of its own, so that a hung chunk can be ended.
        name="batch.gpu", device="gpu", queues=(batch_queue("gpu"),),
        pool="prefork", pools=("prefork", "solo"), concurrency=1, warm=True, lease_s=30,
        niceness=10, start_method="spawn",
    ),
    Role(
        # Two processes: a promotion that checks a large model must not hold up finalisers.
        name=MAINTENANCE_QUEUE, device="cpu", queues=(MAINTENANCE_QUEUE,),
        pool="prefork", pools=("prefork", "solo"), concurrency=2, lease_s=30, niceness=5,
    ),
)

_BY_NAME = {role.name: role for role in ROLES}
_OWNER = {queue: role.name for role in ROLES for queue in role.queues}


def role_for(queues: Sequence[str]) -> Role:
    """The role that ``-Q`` selects.

    Besides the roles, the queue of one model (``realtime.cpu.reviews``) can be named: that is an
    ordinary Celery worker without the lane. Raises ConfigError with the right command.
    """
    names = list(dict.fromkeys(queues))
    if not names:
        raise errors.ConfigError(f"say which role this worker has: {_commands()}")
    if len(names) == 1 and names[0] in _BY_NAME:
        return _BY_NAME[names[0]]
    if all(_is_model_queue(name) for name in names):
        return _plain_worker(names)
    owners = list(dict.fromkeys(_OWNER.get(name, name) for name in names))
    if any(owner not in _BY_NAME and not _is_model_queue(owner) for owner in owners):
        raise errors.ConfigError(f"-Q {','.join(names)} names no role; use one of: {_commands()}")
    if len(owners) > 1:
        raise errors.ConfigError(
            f"-Q {','.join(names)} names two roles, and a worker has one: "
            f"start a worker for each, as in: {_command(owners[0])}"
        )
    raise errors.ConfigError(f"-Q {names[0]} is a queue of the role: {_command(owners[0])}")


def role_name(node: str) -> str:
    """The role that a worker's name begins with; the name itself if that is no role's.

    >>> role_name("realtime.gpu-0@host"), role_name("realtime.cpu@host")
    ('realtime.gpu', 'realtime.cpu')
    """
    name = node.partition("@")[0]
    fitting = (role for role in _BY_NAME if name == role or name.startswith(f"{role}-"))
    return next(fitting, name)


def own_name(node: str, role: str) -> str:
    """A worker's name: its role's in place of Celery's default, which workers of all roles on a
    machine would share, and hide each other by.

    >>> own_name("celery@host", "batch.cpu"), own_name("batch.cpu-2@host", "batch.cpu")
    ('batch.cpu@host', 'batch.cpu-2@host')
    """
    name, _, host = node.partition("@")
    return f"{role}@{host}" if name == "celery" else node


def check_pool(role: Role, pool: str) -> None:
    """Raises ConfigError if ``role`` cannot use a pool that was asked for."""
    if pool not in role.pools:
        raise errors.ConfigError(
            f"the role {role.name} cannot use the pool {pool!r}; "
            f"leave -P out: {_command(role.name)}"
        )


def queues_in(argv: Sequence[str]) -> list[str]:
    """The queues that a ``celery worker`` command line names; [] if it is no worker's.

    >>> queues_in(["celery", "-A", "workers.app", "worker", "-Q", "batch.cpu"])
    ['batch.cpu']
    """
    return _option(argv, "-Q", "--queues").split(",") if _option(argv, "-Q", "--queues") else []


def pool_in(argv: Sequence[str]) -> str | None:
    """The pool that a ``celery worker`` command line asks for."""
    return _option(argv, "-P", "--pool") or None


def concurrency_in(argv: Sequence[str]) -> str:
    """The number of processes that a ``celery worker`` command line asks for; "" if none."""
    return _option(argv, "-c", "--concurrency")


def _option(argv: Sequence[str], short: str, long: str) -> str:
    if "worker" not in argv:
        return ""
    words = [*argv[argv.index("worker") + 1 :], ""]
    for word, following in pairwise(words):
        if word in (short, long):
            return following
        if word.startswith(long + "="):
            return word[len(long) + 1 :]
        if word.startswith(short) and len(word) > len(short) and not word.startswith("--"):
            return word[len(short) :].removeprefix("=")
    return ""


def _is_model_queue(name: str) -> bool:
    return any(name.startswith(f"realtime.{device}.") for device in DEVICES)


def _plain_worker(names: list[str]) -> Role:
    device = names[0].split(".")[1]
    # No prefork: its processes would keep the models of their start when another is promoted.
    return Role(
        name=names[0], device=device, queues=tuple(names), pool="solo",
        pools=("solo", "threads"), concurrency=1, warm=True, lease_s=12, niceness=0,
    )


def _command(role: str) -> str:
    return f"celery -A workers.app worker -Q {role}"


def _commands() -> str:
    return f"{_command('ROLE')} with ROLE one of {', '.join(_BY_NAME)}"
