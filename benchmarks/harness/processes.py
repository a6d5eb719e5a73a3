"""Child processes of a benchmark: started, measured, and always stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

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
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if piped else file, stderr=file,
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

    def stop(self, timeout_s: float = 20.0) -> None:
        """TERM, then KILL to the whole group. Bounded."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def cpu_s(self) -> float:
        """CPU seconds that the process and its live children have used."""
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
    """CPU seconds of one process; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_bytes(pid: int) -> int:
    """Resident memory of one process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0
