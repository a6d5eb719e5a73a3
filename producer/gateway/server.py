"""The process of the gateway: one event loop, the public port, and the way to its end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Iterator

import uvicorn

from celeriac import errors
from celeriac.logs import get_logger
from celeriac.settings import GatewaySettings, Settings
from producer.gateway.app import build
from producer.gateway.client import GatewayClient
from producer.gateway.context import App

log = get_logger(__name__)

KEEP_ALIVE_S = 75
"""An idle connection is kept so long: longer than balancers keep theirs."""


class Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has two servers and drains by itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: Settings) -> None:
    """Run the gateway until TERM or INT, then drain. Raises ConfigError."""
    check_binding(settings.gateway)
    with (
        listen(settings.gateway.host, settings.gateway.port, "PORT") as public,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        runner.run(run(settings, public))


async def run(settings: Settings, public: socket.socket) -> None:
    """Serve on an open socket until TERM or INT."""
    client = GatewayClient(settings=settings)
    app = build(settings, client)
    server = uvicorn_server(app, settings)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        app.gateway.is_draining = True
        loop.call_later(settings.gateway.drain_notice_s, _end, server)

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop)
    try:
        await server.serve([public])
    finally:
        await client.close()


def check_binding(gateway: GatewaySettings) -> None:
    """Raises ConfigError if the gateway would be open to everybody."""
    if not gateway.keys and not _is_loopback(gateway.host):
        raise errors.ConfigError(
            f"[gateway] host {gateway.host!r} is not this machine alone, and there are no keys: "
            "`celeriac gateway-key NAME` makes one for celeriac.toml, or listen on 127.0.0.1"
        )


def uvicorn_server(app: App, settings: Settings) -> Server:
    """uvicorn as the gateway uses it: nothing of its own in log lines or headers."""
    return Server(uvicorn.Config(
        app, loop="none", http="httptools", ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, date_header=True, proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.gateway.drain_timeout_s)),
    ))


def listen(host: str, port: int, setting: str) -> socket.socket:
    """An open socket. Raises ConfigError if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(2_048)
    except OSError as error:
        opened.close()
        raise errors.ConfigError(
            f"the gateway cannot listen on {host}:{port} ({error.strerror}): stop the program that "
            f"does, or set CELERIAC_GATEWAY_{setting} to a free port"
        ) from error
    return opened


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: where it leads is not known
        return False


def _end(server: Server) -> None:
    server.should_exit = True


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for this platform
        return None
    loop: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return loop
