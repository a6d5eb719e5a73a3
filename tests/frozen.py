"""Processes that stand still.

SIGSTOP is taken by one thread of a process, and the others go on until that one has run: on a busy
machine for long enough to answer what a test sends next. So here it is waited for.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

WAIT_S = 20.0
_STILL = "TtZX"
"""States of a thread that runs nothing (proc(5)): stopped, traced, or ended."""


def freeze(pid: int) -> None:
    """Stop one process; returns when each of its threads stands still."""
    os.kill(pid, signal.SIGSTOP)
    _wait_still([pid])


def freeze_group(group: int) -> None:
    """As :func:`freeze`, every process of a group."""
    os.killpg(group, signal.SIGSTOP)
    _wait_still(_members(group))


def _members(group: int) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if (fields := _fields(f"{pid}")) and int(fields[2]) == group]


def _wait_still(pids: Iterable[int]) -> None:
    deadline = time.monotonic() + WAIT_S
    for pid in pids:
        while not _is_still(pid):
            assert time.monotonic() < deadline, f"process {pid} does not stop"
            time.sleep(0.005)


def _is_still(pid: int) -> bool:
    threads = [f"{pid}/task/{path.name}" for path in Path(f"/proc/{pid}/task").glob("*")]
    return all(not (fields := _fields(thread)) or fields[0] in _STILL for thread in threads)


def _fields(name: str) -> list[str]:
    """State, parent, group and so on of a process or thread; none if it is gone."""
    try:
        return Path(f"/proc/{name}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
