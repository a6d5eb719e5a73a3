"""The process of the gateway: one event loop, the public port, and the way to its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import resource
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import uvicorn

from celeriac import errors
from celeriac.logs import get_logger
from celeriac.settings import Settings
from producer.gateway.app import build
from producer.gateway.binding import ADMIN_HOST, check_binding
from producer.gateway.client import GatewayClient
from producer.gateway.context import App, Gateway
from producer.gateway.transport import Protocol

log = get_logger(__name__)

KEEP_ALIVE_S = 75
"""An idle connection is kept so long: longer than balancers keep theirs."""
THREADS = 32
"""That exchange something with Redis for cold routes, at most."""
GC_THRESHOLDS = 20_000, 20, 20
"""Requests leave no circles behind, but those under way are looked at by each collection: with a
few hundred of them and Python's own thresholds that was a tenth of the process's time."""
CONNECT_TIMEOUT_S, SOCKET_TIMEOUT_S = 1.0, 2.0
"""Of the gateway's client, at most."""


class Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has two servers and drains by itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: Settings) -> None:
    """Run the gateway until TERM or INT, then drain. Raises ConfigError."""
    check_binding(settings.gateway)
    take_all_descriptors()
    with (
        listen(settings.gateway.host, settings.gateway.port, "PORT") as public,
        listen(ADMIN_HOST, settings.gateway.admin_port, "ADMIN_PORT") as admin,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        runner.run(run(settings, public, admin))


async def run(settings: Settings, public: socket.socket, admin: socket.socket) -> None:
    """Serve on two open sockets until TERM or INT."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, "gateway"))
    client = GatewayClient(settings=impatient(settings))
    apps = build(settings, client, url_of(public))
    server = uvicorn_server(apps.public, settings, lifespan="on")
    freeze()
    admin_server = uvicorn_server(apps.admin, settings)
    _drain_on_signals(apps.public.gateway, server)
    operation = asyncio.create_task(admin_server.serve([admin]))
    log.info("gateway serves", url=url_of(public), admin=url_of(admin), pid=os.getpid())
    try:
        await server.serve([public])
    finally:
        admin_server.should_exit = True
        await operation
        await client.close()
        log.info("gateway has ended")


def freeze() -> None:
    """Take what is loaded out of the garbage collector's sight.

    FastAPI, pydantic and the rest never go, and a full collection looked at all of it each time:
    that held up everybody's request by more than an answer takes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _drain_on_signals(gateway: Gateway, server: Server) -> None:
    """The first TERM or INT drains; another INT ends it at once."""
    loop = asyncio.get_running_loop()

    def stop(signum: int) -> None:
        if gateway.is_draining:
            if signum == signal.SIGINT:
                server.force_exit = server.should_exit = True
            return
        gateway.is_draining = True
        log.info("gateway drains", requests=len(gateway.watches))
        loop.call_later(gateway.limits.drain_notice_s, _end, server)

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop, signum)


def impatient(settings: Settings) -> Settings:
    """``settings`` of a client that gives a silent Redis up sooner: HTTP callers will not wait."""
    broker = settings.broker
    return settings.model_copy(update={"broker": broker.model_copy(update={
        "connect_timeout_s": min(broker.connect_timeout_s, CONNECT_TIMEOUT_S),
        "socket_timeout_s": min(broker.socket_timeout_s, SOCKET_TIMEOUT_S),
    })})


def uvicorn_server(
    app: App, settings: Settings, lifespan: Literal["on", "off"] = "off"
) -> Server:
    """uvicorn as the gateway uses it: nothing of its own in log lines or headers."""
    return Server(uvicorn.Config(
        app, loop="none", http=Protocol, ws="none", lifespan=lifespan, log_config=None,
        log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.gateway.drain_timeout_s),
    ))


def take_all_descriptors() -> None:
    """Raise the number of files and connections that may be open to what the system allows.

    Usually it is 1,024 until somebody does: a thousand idle connections left none to Redis.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def url_of(opened: socket.socket) -> str:
    """Where a socket listens."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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


def _end(server: Server) -> None:
    server.should_exit = True


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for this platform
        return None
    loop: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return loop
