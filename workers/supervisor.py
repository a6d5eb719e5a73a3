"""Keeps a set of child processes alive, and leaves none behind.

Each child has its own session, so Ctrl-C reaches the supervisor alone, and a child's own children
can be ended with it. What to do when a child ends is decided by :func:`after_exit`, which is pure.

One thread starts, watches and stops the children: the kernel ends a child together with the
thread that started it, so that thread must be one that lives as long as the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from celeriac import errors

_LEASH = Path(__file__).with_name("leash.py")
_TICK_S = 0.1
MOST_LOG_BYTES = 50_000_000
"""A larger log is moved away when its child dies: one that dies again and again fills no disk."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long a child that died stays down: doubled each time, forgotten after good health."""

    first_s: float = 1.0
    longest_s: float = 30.0
    healthy_s: float = 60.0
    """A child that ran this long starts again at ``first_s``."""


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """One child process."""

    name: str
    argv: Sequence[str]
    log: Path | None = None
    """Takes its output; None: the supervisor's own output does. A child that is started again goes
    on with it, unless it is larger than ``MOST_LOG_BYTES``. One earlier log is kept beside it as
    ``NAME.log.1``: the one that was too large, or that of the run before."""
    makes: Path | None = None
    """A folder that it needs, made before each start."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Its whole environment."""
    cwd: Path = Path()
    drain_s: float = 30.0
    """How long it may take to stop before it is killed."""
    stage: int = 1
    """Children stop in falling order of their stages, those of one stage together."""
    stop_signal: signal.Signals = signal.SIGTERM
    backoff: Backoff = Backoff()


@dataclass(frozen=True, kw_only=True)
class Restart:
    """The decision about a child that died."""

    failures: int
    """How often it died in a row, without good health in between."""
    delay_s: float


def after_exit(backoff: Backoff, failures: int, uptime_s: float) -> Restart:
    """What to do about a child that ended after ``uptime_s`` and ``failures`` earlier deaths."""
    failures = 1 if uptime_s >= backoff.healthy_s else failures + 1
    delay_s = backoff.first_s * 2 ** min(failures - 1, 32)
    return Restart(failures=failures, delay_s=min(delay_s, backoff.longest_s))


def describe_exit(returncode: int) -> str:
    """How a process ended, in words.

    >>> describe_exit(-9)
    'was killed by SIGKILL'
    """
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


@dataclass(frozen=True, kw_only=True)
class ChildStatus:
    """A child as it is now."""

    pid: int | None
    """None while it waits for its restart."""
    deaths: int
    """How often it has died since it was launched."""
    last_exit: str = ""
    """How it ended the last time."""


@dataclass
class _Child:
    spec: ChildSpec
    started_at: float
    process: subprocess.Popen[bytes] | None
    failures: int = 0
    deaths: int = 0
    last_exit: str = ""
    restart_at: float = 0.0
    is_killed: bool = False
    """By a stop; it may take a moment to die."""


class Supervisor:
    """Runs children until it is stopped.

    ``say`` gets a line for people when a child dies or must be killed; ``changed`` is called after
    each start. Both are called from the supervisor's thread.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = say
        self._changed = changed
        self._clock = clock
        self._children: dict[str, _Child] = {}
        self._orders: queue.SimpleQueue[tuple[ChildSpec, Future[int]] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def launch(self, spec: ChildSpec) -> int:
        """Start a child and keep it alive; returns its pid. Raises WorkerError if that fails."""
        if self._stopping.is_set():
            raise errors.WorkerError("the supervisor has stopped")
        if not self._thread.is_alive():
            self._thread.start()
        started: Future[int] = Future()
        self._orders.put((spec, started))
        return started.result(timeout=30)

    def status(self) -> dict[str, ChildStatus]:
        """All children, in the order of their launch."""
        return {
            name: ChildStatus(
                pid=None if child.process is None else child.process.pid,
                deaths=child.deaths, last_exit=child.last_exit,
            )
            for name, child in list(self._children.items())
        }

    def kill(self, name: str, signum: int) -> None:
        """Send a signal to one child, and see it dead after a SIGKILL.

        Raises WorkerError if it is not running, or outlives a SIGKILL by 10 s.
        """
        child = self._children.get(name)
        process = child.process if child else None
        if child is None or process is None:
            raise errors.WorkerError(f"no process named {name!r} runs here")
        _signal(process, signum)
        deadline = time.monotonic() + 10
        while signum == signal.SIGKILL and child.process is process:
            if time.monotonic() >= deadline:
                raise errors.WorkerError(f"{name} (pid {process.pid}) cannot be killed")
            time.sleep(0.01)

    def stop(self) -> None:
        """Drain and stop all children, stage by stage. Waits; bounded by their ``drain_s``."""
        self._stopping.set()
        self._orders.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def hurry(self) -> None:
        """Kill what is left now, instead of waiting for it to drain."""
        self._hurry.set()
        self._stopping.set()

    # --- everything below runs in the supervisor's thread ---------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._take_order()
            for child in self._children.values():
                self._tend(child)
        self._stop_all()
        self._refuse_orders()

    def _take_order(self) -> None:
        try:
            order = self._orders.get(timeout=_TICK_S)
        except queue.Empty:
            return
        if order is None:
            return
        spec, started = order
        try:
            started.set_result(self._launch(spec))
        except (OSError, errors.WorkerError) as error:
            started.set_exception(errors.WorkerError(f"{spec.name} could not start: {error}"))

    def _refuse_orders(self) -> None:
        while not self._orders.empty():
            order = self._orders.get()
            if order is not None:
                order[1].set_exception(errors.WorkerError("the supervisor has stopped"))

    def _launch(self, spec: ChildSpec) -> int:
        if spec.name in self._children:
            raise errors.WorkerError("there is one of this name already")
        if spec.log is not None:
            rotate(spec.log)
        process = _spawn(spec)
        self._children[spec.name] = _Child(spec, self._clock(), process)
        self._changed()
        return process.pid

    def _tend(self, child: _Child) -> None:
        now = self._clock()
        if child.process is None:
            if now >= child.restart_at:
                self._restart(child, now)
        elif (returncode := _reap(child.process)) is not None:
            child.process = None
            self._plan_restart(child, describe_exit(returncode), now)

    def _restart(self, child: _Child, now: float) -> None:
        child.started_at = now
        try:
            child.process = _spawn(child.spec)
        except OSError as error:
            self._plan_restart(child, f"could not be started ({error})", now)
            return
        self._say(f"{child.spec.name} is started again (pid {child.process.pid})")
        self._changed()

    def _plan_restart(self, child: _Child, how: str, now: float) -> None:
        restart = after_exit(child.spec.backoff, child.failures, now - child.started_at)
        child.failures = restart.failures
        child.restart_at = now + restart.delay_s
        child.deaths += 1
        child.last_exit = how
        where = f" (log: {_kept(child.spec.log)})" if child.spec.log else ""
        self._say(f"{child.spec.name} {how}; it starts again in {restart.delay_s:g} s{where}")

    def _say(self, line: str) -> None:
        # A terminal that went away must not end the thread, and with it every child.
        with contextlib.suppress(OSError, ValueError):
            self._tell(line)

    def _stop_all(self) -> None:
        for stage in sorted({child.spec.stage for child in self._children.values()}, reverse=True):
            self._stop_stage([c for c in self._children.values() if c.spec.stage == stage])

    def _stop_stage(self, children: list[_Child]) -> None:
        began = self._clock()
        for child in children:
            if child.process is not None:
                _signal(child.process, child.spec.stop_signal)
        while running := [child for child in children if child.process is not None]:
            for child in running:
                self._check_end(child, self._clock() - began)
            time.sleep(_TICK_S / 4)

    def _check_end(self, child: _Child, waited_s: float) -> None:
        if child.process is None or _reap(child.process) is not None:
            child.process = None
        elif not child.is_killed and (self._hurry.is_set() or waited_s >= child.spec.drain_s):
            if not self._hurry.is_set():
                self._say(f"{child.spec.name} did not stop in {child.spec.drain_s:g} s; killed")
            child.is_killed = True
            _kill_group(child.process.pid)


def _signal(process: subprocess.Popen[bytes], signum: int) -> None:
    # Not Popen.send_signal: it may reap the process before its group has been ended.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signum)


def _spawn(spec: ChildSpec) -> subprocess.Popen[bytes]:
    if spec.makes is not None:
        spec.makes.mkdir(parents=True, exist_ok=True)
    with _output(spec.log) as log:
        return subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *spec.argv],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env=dict(spec.env), cwd=spec.cwd, start_new_session=True,
        )


@contextlib.contextmanager
def _output(log: Path | None) -> Iterator[BinaryIO | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        yield file


def _reap(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a process that ended, after ending what it left in its group."""
    # WNOWAIT: until it is reaped its pid, and so its group's number, cannot belong to others.
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    _kill_group(process.pid)
    return process.wait()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def rotate(log: Path) -> Path:
    """Move a log away to ``NAME.log.1``, so that the next run begins a new one; where it is."""
    kept = log.with_name(log.name + ".1")
    with contextlib.suppress(FileNotFoundError):
        log.replace(kept)
    return kept


def _kept(log: Path) -> Path:
    """Where the log of a child that died is found; one that is too large is moved away first."""
    with contextlib.suppress(OSError):  # deleted, or its folder cannot be written to
        if log.stat().st_size > MOST_LOG_BYTES:
            return rotate(log)
    return log
