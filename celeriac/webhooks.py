"""Webhooks: whom they may go to, how they are signed, sent, and tried again.

A receiver checks ``X-Celeriac-Signature: t=1764000000,v1=<hex>``: the HMAC-SHA256, under the shared
secret, of the text of ``t``, a dot and the body as it came.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from celeriac import errors
from celeriac.loopback import is_loopback

SIGNATURE_HEADER = "X-Celeriac-Signature"
DELIVERY_HEADER = "X-Celeriac-Delivery"
MAX_ATTEMPTS = 10
"""The last one comes about three and a half hours after the first."""
FIRST_DELAY_S = 5.0
LONGEST_DELAY_S = 3_600.0
_LONGEST_URL = 2_048
_URL = re.compile(r"[!-~]+")
"""Visible ASCII: nothing that could end a line of the request."""
_MOST_ADDRESSES = 4
"""Of a host, that are tried."""
_PORTS = {"https": 443, "http": 80}
_METADATA = frozenset({"fd00:ec2::254", "100.100.100.200", "168.63.129.16"})
"""Where clouds answer their machines, outside of the link-local networks."""


class Undelivered(Exception):
    """A webhook did not arrive; the text says why, in words for the caller who named it."""


@dataclass(frozen=True)
class Target:
    """Where a webhook goes."""

    url: str
    host: str
    """As a name or an address, without brackets."""
    port: int
    is_tls: bool
    path: str
    """With the query."""
    is_operators: bool = False
    """Named in the settings, not by a caller: any address will do."""

    @property
    def place(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"


def check_target(url: str, hosts: Iterable[str]) -> Target:
    """Where ``url`` leads, if ``hosts`` (``host`` or ``host:port``, exactly) has its host.

    A host without a port stands for the scheme's own. Raises RequestError.
    """
    parts = _split(url)
    host, scheme = (parts.hostname or "").lower(), parts.scheme
    port = parts.port or _PORTS[scheme]
    if scheme == "http" and not is_loopback(host):
        raise errors.RequestError(f"the webhook {url!r} is not encrypted; use https")
    listed = {one.strip().lower() for one in hosts}
    shown = f"[{host}]" if ":" in host else host
    if f"{shown}:{port}" not in listed and not (shown in listed and port == _PORTS[scheme]):
        raise errors.RequestError(
            f"webhooks to {shown}:{port} are not allowed here; its operator can add the host to "
            "[gateway] webhook_hosts"
        )
    return Target(url, host, port, scheme == "https", _path(parts))


def operators_target(url: str) -> Target:
    """Where a URL of the settings leads: any host, encrypted or not. Raises RequestError."""
    parts = _split(url)
    return Target(
        url, (parts.hostname or "").lower(), parts.port or _PORTS[parts.scheme],
        parts.scheme == "https", _path(parts), is_operators=True,
    )


def sign(body: bytes, secret: str, unix_s: int) -> str:
    """The value of :data:`SIGNATURE_HEADER`.

    >>> sign(b"{}", "key", 1764000000)[:29]
    't=1764000000,v1=135a1a8c79ff2'
    """
    digest = hmac.new(secret.encode(), f"{unix_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={unix_s},v1={digest}"


def delay_s(attempt: int, jitter: float) -> float | None:
    """Seconds from the failed ``attempt`` (1 for the first) to the next one; None: there is none.

    ``jitter`` is 0 to 1: receivers that come back are not met by all at once.

    >>> delay_s(1, 0.5), delay_s(4, 0.5), delay_s(10, 0.5)
    (5.0, 135.0, None)
    """
    if attempt >= MAX_ATTEMPTS:
        return None
    return min(FIRST_DELAY_S * 3.0 ** (attempt - 1), LONGEST_DELAY_S) * (0.8 + 0.4 * jitter)


def post(target: Target, body: bytes, headers: Mapping[str, str], timeout_s: float) -> int:
    """POST ``body`` (JSON); the status. Follows no redirect, and reads no more than the headers.

    Raises Undelivered, after ``timeout_s`` at the latest.
    """
    end_s = time.monotonic() + timeout_s
    try:
        connection = _connect(target, end_s)
    except OSError as error:
        raise Undelivered(f"no connection to {target.place}: {_words(error)}") from error
    # A timeout of the socket is for each read; a receiver may send one byte a second.
    guard = threading.Timer(max(0.0, end_s - time.monotonic()), _cut, (connection,))
    guard.daemon = True
    guard.start()
    try:
        if isinstance(connection, ssl.SSLSocket):
            connection.do_handshake()
        return _exchange(target, connection, body, headers)
    except (OSError, http.client.HTTPException) as error:
        why = _words(TimeoutError() if time.monotonic() >= end_s else error)  # or it was cut
        raise Undelivered(f"no answer from {target.place}: {why}") from error
    finally:
        guard.cancel()
        connection.close()


def _connect(target: Target, end_s: float) -> socket.socket:
    connection = _reached(target, _addresses(target, end_s), end_s)
    if not target.is_tls:
        return connection
    return ssl.create_default_context().wrap_socket(
        connection, server_hostname=target.host, do_handshake_on_connect=False
    )


def _reached(target: Target, addresses: list[str], end_s: float) -> socket.socket:
    """By the first address that answers: a machine may have no way to the others. Raises OSError.
    """
    for number, address in enumerate(addresses, 1):
        left_s = (end_s - time.monotonic()) / (len(addresses) - number + 1)
        try:
            found = socket.create_connection((address, target.port), timeout=max(0.001, left_s))
        except OSError:
            if number == len(addresses):
                raise
        else:
            found.settimeout(max(0.001, end_s - time.monotonic()))
            return found
    raise AssertionError("a host without an address")


def _exchange(
    target: Target, connection: socket.socket, body: bytes, headers: Mapping[str, str]
) -> int:
    channel = http.client.HTTPConnection(target.host, target.port)
    channel.sock = connection
    if target.is_tls:
        channel.default_port = _PORTS["https"]  # for the header Host
    channel.request("POST", target.path, body, {
        "Content-Type": "application/json", "User-Agent": "celeriac", "Connection": "close",
        **headers,
    })
    return channel.getresponse().status


def _addresses(target: Target, end_s: float) -> list[str]:
    """The addresses to connect to, the best first. Raises Undelivered if there is none that a
    webhook may go to."""
    found = dict.fromkeys(str(one[4][0]) for one in _look_up(target, end_s))
    is_free = target.is_operators or _is_literal(target.host)
    allowed = [one for one in found if is_free or is_allowed(one, target.host)]
    if not allowed:
        raise Undelivered(f"the host {target.host} has an address that webhooks do not go to")
    return allowed[:_MOST_ADDRESSES]


def _look_up(target: Target, end_s: float) -> list[Any]:
    """The addresses of a host. A resolver that hangs cannot be broken off, so that a thread asks
    it, which is left to itself then."""
    answer: Future[list[Any]] = Future()

    def ask() -> None:
        try:
            answer.set_result(
                socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits is told
            answer.set_exception(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        return answer.result(max(0.0, end_s - time.monotonic()))
    except TimeoutError as error:
        raise Undelivered(f"the address of {target.host} was not found in time") from error
    except (OSError, UnicodeError) as error:
        raise Undelivered(f"the host {target.host} has no address") from error


def is_allowed(address: str, host: str) -> bool:
    """False for what a name should not lead to: cloud metadata, link-local, loopback, none.

    >>> is_allowed("169.254.169.254", "hooks.example.org"), is_allowed("10.0.0.7", "hooks.internal")
    (False, True)
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    if found.is_loopback:
        return host == "localhost"
    if str(found) in _METADATA:
        return False
    return not (found.is_link_local or found.is_multicast or found.is_unspecified)


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = (
            len(url) <= _LONGEST_URL and _URL.fullmatch(url) and parts.scheme in _PORTS
            and parts.hostname and parts.port != 0 and parts.username is None
            and not parts.fragment
        )
    except (ValueError, TypeError, AttributeError):
        usable = False
    if not usable:
        raise errors.RequestError(
            "a webhook is an address such as https://example.org/path, without a password and of "
            f"at most {_LONGEST_URL:,} characters"
        )
    return parts


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _cut(connection: socket.socket) -> None:
    try:  # that of ssl.SSLSocket takes its TLS from under the thread that reads
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:  # it has ended by itself
        return


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, ssl.SSLError):
        return "its certificate or its TLS is not acceptable"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "it was cut off, or is no HTTP"
