"""``celeriac gateway``: HTTP in front of everything, in the foreground; and keys for it."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from celeriac import errors
from celeriac.absent import absent
from celeriac.settings import KeySettings, load_settings


def register(main: typer.Typer) -> None:
    """Add ``celeriac gateway`` and ``celeriac gateway-key`` to the command."""
    main.command("gateway")(gateway)
    main.command("gateway-key")(gateway_key)


def gateway(
    host: Annotated[
        str | None, typer.Option(help="Where to listen; beyond loopback it needs keys.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="0 takes any free port.")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Always on loopback.")] = None,
) -> None:
    """Run the HTTP gateway. Ctrl-C drains it."""
    with absent("rich"):  # for tracebacks in frames: 9 MB
        from celeriac import logs
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


def gateway_key(
    name: Annotated[str, typer.Argument(help="What the logs call the key: whose it is.")],
    tenant: Annotated[
        str | None, typer.Option(help="Whose predictions and jobs it sees. Default: NAME.")
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="infer, batch or admin; repeat it for several.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second, at most.")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once, at most.")] = None,
) -> None:
    """Make an API key. It is shown once; celeriac.toml gets its digest alone."""
    from pydantic import ValidationError

    from producer.gateway.keys import digest_of, new_key

    key = new_key()
    try:
        table = KeySettings.model_validate({
            "sha256": digest_of(key), "tenant": tenant or name, "scopes": scope or ["infer"],
            "rate_per_s": rate, "burst": burst,
        })
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"][0] == "tenant":
            raise errors.RequestError(
                f"{tenant or name!r} is no name of a tenant: want lower-case letters, digits, '-' "
                "and '_', at most 63; --tenant gives the key of another name one"
            ) from error
        raise errors.RequestError(f"{first['loc'][0]}: {first['msg']}") from error
    lines = [
        f"{field} = {json.dumps(value)}" for field, value in table.model_dump().items()
        if value is not None
    ]  # fmt: skip
    typer.echo("The key, which is shown only now; its owner keeps it secret:\n")
    typer.echo(f"  {key}\n")
    typer.echo("The lines for celeriac.toml; then start the gateway again:\n")
    typer.echo("\n".join([f"[gateway.keys.{json.dumps(name)}]", *lines]))
