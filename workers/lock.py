"""One stack for each state folder: a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from celeriac import errors


class StateLock:
    """``<state folder>/lock``, held by the supervisor of a stack. It holds the holder's pid."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "lock"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Raises ConfigError if a stack runs on this folder, naming its holder, or if nothing can
        be written there.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise errors.ConfigError(
                f"the state folder {self.path.parent} cannot be written to ({error.strerror}): "
                "name another one in CELERIAC_STACK_STATE_DIR"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            holder = self._read_pid() or "unknown"
            raise errors.ConfigError(
                f"a stack already runs on {self.path.parent} (pid {holder}): "
                "stop it with `celeriac down`, or name another folder in CELERIAC_STACK_STATE_DIR"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Give the lock up. Nothing happens if it is not held."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def holder(self) -> int | None:
        """The pid of whoever holds the lock now; None if nobody does."""
        try:
            fd = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._read_pid()
        finally:
            os.close(fd)
        return None

    def _read_pid(self) -> int | None:
        text = self.path.read_text(encoding="ascii", errors="replace").strip()
        return int(text) if text.isdigit() else None
