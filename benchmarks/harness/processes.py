"""Child processes of a benchmark: started, measured, and always stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

ROOT = Path(__file__).resolve().parents[2]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Child:
    """A process (with its children) in a group of its own; its log is a file."""

    def __init__(
        self, argv: Sequence[str | Path], log: Path, env: Mapping[str, str], *, piped: bool = False
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [str(word) for word in argv], cwd=ROOT, env=dict(env),
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else file, stderr=file,
                start_new_session=True, text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def stdout(self) -> IO[str]:
        """What it prints, of a piped child."""
        assert self.process.stdout is not None
        return self.process.stdout

    def ask(self, limit_s: float = 600.0, **command: Any) -> dict[str, Any]:
        """Have a piped child that serves commands (``benchmarks.subjects.served``) do one.

        Raises RuntimeError with the end of its log if it ends or takes longer than ``limit_s``.
        """
        assert self.process.stdin is not None
        timer = threading.Timer(limit_s, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            for line in self.stdout:
                if line.startswith("{"):
                    answer: dict[str, Any] = json.loads(line)
                    return answer
        except BrokenPipeError:
            pass
        finally:
            timer.cancel()
        raise RuntimeError(f"{command}: the process ended early:\n{self.end_of_log()}")

    def stop(self, timeout_s: float = 20.0) -> None:
        """TERM, then KILL to the whole group. Bounded."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def cpu_s(self) -> float:
        """CPU seconds that the process and its children have used."""
        return sum(cpu_s(pid) for pid in tree(self.process.pid))

    def memory_bytes(self) -> int:
        """Resident memory of the process and its live children."""
        return sum(resident_bytes(pid) for pid in tree(self.process.pid))

    def end_of_log(self, lines: int = 20) -> str:
        """For an error message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def tree(pid: int) -> Iterator[int]:
    """``pid`` and its live descendants."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))


def cpu_s(pid: int) -> float:
    """CPU seconds of one process and of its children that have ended; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / TICKS_PER_S


def resident_bytes(pid: int | str) -> int:
    """Resident memory of one process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def peak_bytes() -> int:
    """The most resident memory that this process has had. (``ru_maxrss`` has its parent's too.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def pss_bytes(pid: int) -> int:
    """Proportional memory of one process: pages that n processes share count 1/n. 0 if gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


class PeakMemory:
    """The largest sum of PSS over the trees of some processes while the block runs."""

    def __init__(self, pids: Callable[[], Iterable[int]], *, every_s: float = 0.05) -> None:
        self._pids, self._every_s = pids, every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            found = {pid for root in self._pids() for pid in tree(root)}
            self.bytes = max(self.bytes, sum(map(pss_bytes, found)))
