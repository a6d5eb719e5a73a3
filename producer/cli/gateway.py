"""``celeriac gateway``: HTTP in front of everything, in the foreground."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from celeriac import errors, logs
from celeriac.settings import load_settings


def register(main: typer.Typer) -> None:
    """Add ``celeriac gateway`` to the command."""
    main.command("gateway")(gateway)


def gateway(
    host: Annotated[
        str | None, typer.Option(help="Where to listen; beyond loopback it needs keys.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="0 takes any free port.")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Always on loopback.")] = None,
) -> None:
    """Run the HTTP gateway. Ctrl-C drains it."""
    try:
        from producer.gateway.server import serve
    except ImportError as error:
        raise errors.ConfigError(
            f"the gateway needs {error.name}: pip install 'celeriac[gateway]'"
        ) from error
    given = {"HOST": host, "PORT": port, "ADMIN_PORT": admin_port}
    chosen = {f"CELERIAC_GATEWAY_{k}": str(v) for k, v in given.items() if v is not None}
    settings = load_settings(environ=os.environ | chosen)
    logs.configure(settings.log)
    serve(settings)
