"""Where the gateway listens, and for whom."""

from __future__ import annotations

from celeriac import errors
from celeriac.loopback import is_loopback
from celeriac.settings import GatewaySettings

ADMIN_HOST = "127.0.0.1"


def check_binding(gateway: GatewaySettings) -> None:
    """Raises ConfigError if the gateway would be open to everybody."""
    if not gateway.keys and not is_loopback(gateway.host):
        raise errors.ConfigError(
            f"[gateway] host {gateway.host!r} is not this machine alone, and there are no keys: "
            "`celeriac gateway-key NAME` makes one for celeriac.toml, or listen on 127.0.0.1"
        )


def local_url(host: str, port: int) -> str:
    """The address at which this machine reaches a server that listens on ``host``.

    >>> local_url("0.0.0.0", 8000)
    'http://127.0.0.1:8000'
    """
    if host in ("", "0.0.0.0"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    elif host == "::":
        host = "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
