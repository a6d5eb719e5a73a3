"""The local stack: embedded Valkey, workers, beat, Flower, gateway: children of one supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from celeriac import errors
from celeriac.keys import worker_key
from celeriac.settings import (
    Settings,
    hide_password,
)
from producer.broker import check_server, connect
from producer.gateway.binding import check_binding, local_url
from workers import flower, gpu_workers, valkey
from workers.child_settings import absolute, environment, tables_toml
from workers.commands import CELERY, ROOT, drain_s, worker_command
from workers.devices import Gpu
from workers.lock import StateLock
from workers.roles import role_name
from workers.supervisor import ChildSpec, ChildStatus, Supervisor

ROLES = ("realtime.cpu", "batch.cpu", "maintenance")
VALKEY, BEAT, FLOWER, GATEWAY = "valkey", "beat", "flower", "gateway"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One line of the stack's table."""

    name: str
    what: str
    where: str
    pid: int | None


class Stack:
    """A local stack; as a context manager it is started, ready, and stopped at the end.

    ``roles`` are the workers to run, and on each of ``gpus`` one of each gpu role; ``say`` gets
    lines for people (a child died, and the like).
    """

    def __init__(  # noqa: PLR0913 - which parts there are
        self,
        settings: Settings,
        *,
        roles: Sequence[str] = ROLES,
        gpus: Sequence[Gpu] = (),
        flower: bool = True,
        gateway: bool = True,
        beat: bool = True,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = absolute(settings)
        self.roles = tuple(roles)
        self._gpus = tuple(gpus)
        self.state_dir = self.settings.stack.state_dir
        self.logs = self.state_dir / "logs"
        self._flower, self._gateway, self._beat = flower, gateway, beat
        self._started_at = 0.0
        self._lock = StateLock(self.state_dir)
        self._ready = False
        self._supervisor = Supervisor(say or _say_nothing, self._write_state)

    @property
    def url(self) -> str:
        """Address of the broker, password included."""
        return self.settings.broker_url

    @property
    def flower_url(self) -> str:
        """Where Flower answers on this machine."""
        return local_url(self.settings.flower.host, self.settings.stack.flower_port)

    @property
    def gateway_url(self) -> str:
        """Where the gateway answers on this machine."""
        return local_url(self.settings.gateway.host, self.settings.gateway.port)

    def __enter__(self) -> Stack:
        self.start()
        self.wait_ready()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; the broker answers when this returns, the rest is on its way.

        Raises ConfigError (settings, a port in use, a second stack on the state folder),
        BrokerError or WorkerError; then nothing is left running.
        """
        self._lock.acquire()
        try:
            self._check_flower()
            self._check_gateway()
            self._started_at = time.time()
            self._start_broker()
            for spec in self._specs():
                self._supervisor.launch(spec)
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until every worker has its models, and Flower and the gateway answer; by default
        for ``[stack] ready_timeout_s``.

        After :meth:`kill`, wait until what died is back. Raises WorkerError with the end of the
        log of what did not start; then nothing is left running.
        """
        try:
            with contextlib.closing(connect(self.settings)) as client:
                limit_s = self._ready_s if timeout_s is None else timeout_s
                self._await(self._missing(client), limit_s)
            self._ready = True
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Drain and stop everything, the broker last. Workers get 30 s, or as long as the lane."""
        self._supervisor.stop()
        with contextlib.suppress(FileNotFoundError):
            if self._started_at:
                (self.state_dir / "stack.json").unlink()
        self._lock.release()

    def stop_now(self) -> None:
        """Make a stop that is under way kill what is left. Safe in a signal handler."""
        self._supervisor.hurry()

    def kill(self, name: str, signum: int) -> None:
        """Send a signal to one process: a role, ``beat``, ``flower``, ``gateway``, ``valkey``."""
        self._supervisor.kill(name, signum)

    def status(self) -> dict[str, ChildStatus]:
        """The processes of the stack by name, in the order of their start."""
        return self._supervisor.status()

    def parts(self) -> list[Part]:
        """What runs where, for people."""
        lines = [] if self._embedded else [_external(self.url)]
        for name, child in self.status().items():
            what, where = self._describe(name)
            lines.append(Part(name=name, what=what, where=where, pid=child.pid))
        return lines

    # --- what runs ------------------------------------------------------------------------------

    @property
    def _embedded(self) -> bool:
        return self.settings.broker.url is None

    @property
    def _ready_s(self) -> float:
        return self.settings.stack.ready_timeout_s

    def _start_broker(self) -> None:
        if self._embedded:
            self._launch_valkey()
        with contextlib.closing(connect(self.settings)) as client:
            check_server(client, self.url)

    def _launch_valkey(self) -> None:
        port, folder = self.settings.stack.redis_port, self.state_dir / VALKEY
        _check_port(port, "the embedded Valkey", "CELERIAC_STACK_REDIS_PORT")
        # Its output is not ours to drain: a save of a large append-only file takes a while.
        self._supervisor.launch(
            self._spec(VALKEY, valkey.command(port, folder), stage=0, makes=folder)
        )
        with contextlib.closing(connect(self.settings)) as client:
            self._await(lambda: [] if _answers(client) else [VALKEY], self._ready_s)

    def _specs(self) -> list[ChildSpec]:
        self._write_tables()
        specs = [*map(self._worker_spec, self.roles), *self._gpu_specs()]
        if self._beat:
            folder = self.state_dir / BEAT
            specs.append(self._spec(BEAT, _beat_command(folder), stage=2, makes=folder))
        if self._flower:
            specs.append(self._spec(FLOWER, flower.command(), stage=2))
        if self._gateway:
            specs.append(self._spec(GATEWAY, GATEWAY_COMMAND, stage=2))
        return specs

    def _spec(
        self, name: str, argv: Sequence[str], stage: int = 1, makes: Path | None = None
    ) -> ChildSpec:
        return ChildSpec(
            name=name, argv=argv, log=self._log(name), env=self._environment(), cwd=ROOT,
            drain_s=self._drain_s(name, stage), stage=stage, makes=makes,
        )

    def _drain_s(self, name: str, stage: int) -> float:
        if name == GATEWAY:
            limits = self.settings.gateway
            return limits.drain_notice_s + limits.drain_timeout_s + 10
        if stage == 1:
            return drain_s(self.settings)
        return 10.0

    def _worker_spec(self, role: str) -> ChildSpec:
        processes = self.settings.stack.batch_processes if role == "batch.cpu" else 0
        return self._spec(role, worker_command(role, processes))

    def _gpu_specs(self) -> list[ChildSpec]:
        return [
            spec for role in gpu_workers.GPU_ROLES for spec in gpu_workers.specs(
                role, self._gpus, self._environment(), self.settings, self._log
            )
        ]

    def _environment(self) -> dict[str, str]:
        others = {k: v for k, v in os.environ.items() if not k.startswith("CELERIAC_")}
        tables = {"CELERIAC_CONFIG": str(self._tables)}
        return others | environment(self.settings) | tables | {"PYTHONUNBUFFERED": "1"}

    @property
    def _tables(self) -> Path:
        return self.state_dir / "tables.toml"

    def _write_tables(self) -> None:
        """Tables have no place in the environment, so children read them from a file."""
        self._tables.write_text(tables_toml(self.settings), encoding="utf-8")

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _describe(self, name: str) -> tuple[str, str]:
        if name == VALKEY:
            return "broker: Valkey, append-only", hide_password(self.url)
        if name == FLOWER:
            return "what the workers do, as a page", self.flower_url
        if name == GATEWAY:
            return "HTTP, described at /docs", self.gateway_url
        role = role_name(name)
        if role in gpu_workers.GPU_ROLES:
            label = name.removeprefix(f"{role}-")
            gpu = next(gpu.name for gpu in self._gpus if gpu.label == label)
            return f"worker on GPU {label}, {gpu}", f"queues of {role}"
        if name == BEAT:
            return "sends what is due", "-"
        return "worker", f"queues of {name}"

    # --- ready or not ---------------------------------------------------------------------------

    def _check_flower(self) -> None:
        if self._flower:
            flower.options(self.settings)  # refuses to be open to everybody
            _check_port(self.settings.stack.flower_port, "Flower", "CELERIAC_STACK_FLOWER_PORT")

    def _check_gateway(self) -> None:
        if not self._gateway:
            return
        limits = self.settings.gateway
        check_binding(limits)
        for port, setting in ((limits.port, "PORT"), (limits.admin_port, "ADMIN_PORT")):
            if not port:
                raise errors.ConfigError(
                    f"[gateway] {setting.lower()} 0, any free port, is for `celeriac gateway` "
                    "alone: the stack must know where to find it"
                )
            _check_port(port, "the gateway", f"CELERIAC_GATEWAY_{setting}")

    def _missing(self, client: redis.Redis) -> Callable[[], list[str]]:
        workers = [*self.roles, *(spec.name for spec in self._gpu_specs())]

        def missing() -> list[str]:
            children = self.status()
            waiting = [name for name in workers if not is_up(client, name, children[name].pid)]
            if self._flower and not _answers_http(f"{self.flower_url}/healthcheck"):
                waiting.append(FLOWER)
            if self._gateway and not _answers_http(f"{self.gateway_url}/health/ready"):
                waiting.append(GATEWAY)
            return waiting

        return missing

    def _await(self, missing: Callable[[], list[str]], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while waiting := missing():
            for name, child in self.status().items():
                if child.deaths and not self._ready:  # later on it is started again
                    raise self._failure(name, child.last_exit)
            if time.monotonic() >= deadline:
                raise self._failure(
                    waiting[0], f"was not ready after {timeout_s:g} s: if it is only slow (many "
                    "models, a slow disk), raise [stack] ready_timeout_s or "
                    "CELERIAC_STACK_READY_TIMEOUT_S",
                )
            time.sleep(0.05)

    def _failure(self, name: str, what: str) -> errors.WorkerError:
        end = tail(self._log(name))
        return errors.WorkerError(f"{name} {what}; the end of {self._log(name)}:\n{end}")

    def _write_state(self) -> None:
        """``stack.json``: what other programs may want to know. Replaced as a whole."""
        stack = self.settings.stack
        state = {
            "pid": os.getpid(),
            "started_at": self._started_at,
            "broker_url": hide_password(self.url),
            "redis_port": stack.redis_port if self._embedded else None,
            "flower_url": self.flower_url if self._flower else None,
            "gateway_url": self.gateway_url if self._gateway else None,
            "logs": str(self.logs),
            "children": {name: child.pid for name, child in self.status().items()},
        }
        temporary = self.state_dir / f"stack.json.{os.getpid()}"
        with contextlib.suppress(OSError):  # a full disk must not stop what runs
            temporary.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
            temporary.replace(self.state_dir / "stack.json")


GATEWAY_COMMAND = (sys.executable, "-m", "producer.cli.main", "gateway")


def _beat_command(folder: Path) -> list[str]:
    return [*CELERY, BEAT, "-s", str(folder / "schedule"), "--pidfile="]


def is_up(client: redis.Redis, name: str, pid: int | None) -> bool:
    """True if the worker ``name`` of this machine says that it is ready, and is ``pid``."""
    try:
        found: Any = client.get(worker_key(f"{name}@{socket.gethostname()}"))
    except redis.RedisError:
        return False
    return found is not None and pid is not None and json.loads(found).get("pid") == pid


def has_models(settings: Settings) -> bool:
    """True if the registry holds any version of any model."""
    return any(settings.models.root.glob("*/*/model.json"))


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log; of a large one, only its end is read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(no log: {error.strerror})"


def _say_nothing(line: str) -> None:
    del line


def _check_port(port: int, whose: str, setting: str) -> None:
    if not valkey.port_is_free(port):
        raise errors.ConfigError(
            f"port {port}, which {whose} needs, is in use by another program (another stack? "
            f"`celeriac status` shows it): stop that program, or set {setting} to a free port"
        )


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:  # not listening yet, or still loading its file
        return False


def _answers_http(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own http URL
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _external(url: str) -> Part:
    where = hide_password(url)
    return Part(name="broker", what="Redis, not started here", where=where, pid=None)
