"""Which requests a browser sends for a page that is not the gateway's own.

A page of anybody, open in a browser on this machine, can send requests to loopback, and by a name
of its own that leads there (DNS rebinding) read the answers. A browser says which page asks
(``Origin``, ``Sec-Fetch-Site``) and by which name (``Host``); a page cannot change these. Programs
send no ``Origin``, and reach loopback by its own names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from producer.gateway.failures import OriginRefused

_LOOPBACK = re.compile(r"localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]")
_PORT = re.compile(r":\d{0,5}$")
_FOREIGN = frozenset({b"cross-site", b"same-site"})
"""A page of another port of this machine is ``same-site``."""
_SHOWN_CHARS = 80


def check_origin(method: str, headers: Mapping[bytes, bytes], allowed: frozenset[str]) -> None:
    """Let a request pass that no foreign page can have sent; ``headers`` by lower-case name.

    ``allowed``: further hosts (``name`` or ``name:port``, in lower case) by which the gateway is
    reached, or whose pages may ask it. A followed link passes, as its answer is shown and not read.
    Raises OriginRefused.
    """
    host = headers.get(b"host", b"")
    if host and not is_own(host, allowed):
        raise OriginRefused(
            f"this gateway does not know itself as {_shown(host)!r}: ask it by 127.0.0.1 or "
            "localhost, or name that host in [gateway] allowed_hosts"
        )
    origin = headers.get(b"origin")
    if origin is not None:
        if not _is_page_of(origin, host, allowed):
            raise OriginRefused(
                f"a page of {_shown(origin)!r} may not ask this gateway; if it is yours, let its "
                "own server pass the requests on (a proxy), and name its host (with its port) in "
                "[gateway] allowed_hosts"
            )
    elif headers.get(b"sec-fetch-site") in _FOREIGN and not _is_link(method, headers):
        raise OriginRefused(
            "a page of another site may not ask this gateway; if it is yours, let its own server "
            "pass the requests on, so that they come from its own host and port"
        )


@lru_cache(maxsize=256)
def is_own(host: bytes, allowed: frozenset[str]) -> bool:
    """True for a ``Host`` by which nobody else's page can reach the gateway.

    >>> is_own(b"localhost:8000", frozenset()), is_own(b"evil.example:8000", frozenset())
    (True, False)
    """
    named = host.decode("latin-1").lower()
    name = _PORT.sub("", named)
    return bool(_LOOPBACK.fullmatch(name)) or name in allowed or named in allowed


def _is_page_of(origin: bytes, host: bytes, allowed: frozenset[str]) -> bool:
    """True for pages of the gateway, by the name that was asked, and for those of allowed hosts."""
    scheme, _, place = origin.decode("latin-1").lower().partition("://")
    if scheme not in ("http", "https"):
        return False  # "null" is a page without an origin: of a file, or locked in a frame
    return place in allowed or (bool(host) and place == host.decode("latin-1").lower())


def _is_link(method: str, headers: Mapping[bytes, bytes]) -> bool:
    return (
        method == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"
        and headers.get(b"sec-fetch-dest") == b"document"
    )


def _shown(value: bytes) -> str:
    return value.decode("latin-1")[:_SHOWN_CHARS]
