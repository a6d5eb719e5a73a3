"""Which requests of browsers are refused."""

from __future__ import annotations

import pytest

from celeriac import errors
from celeriac.settings import GatewaySettings
from producer.gateway.failures import OriginRefused
from producer.gateway.origin import check_origin, is_own

NONE: frozenset[str] = frozenset()
ALLOWED = frozenset({"ml.example.org", "localhost:5173"})


def headers(host: str, **named: str) -> dict[bytes, bytes]:
    found = {name.replace("_", "-").encode(): value.encode() for name, value in named.items()}
    return found | {b"host": host.encode()} if host else found


@pytest.mark.parametrize("host", [
    "localhost", "localhost:8000", "LOCALHOST:8000", "127.0.0.1:8000", "127.8.9.1", "[::1]:8000",
    "[::1]", "localhost:",
])
def test_this_machine_is_our_own(host: str) -> None:
    assert is_own(host.encode(), NONE)


@pytest.mark.parametrize("host", [
    "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example:8000",
    "evil.example:8000@localhost", "[::2]:8000", "0.0.0.0:8000", "192.168.1.7:8000",
    "127.0.0.1:80:80",
    "localhost:8000.evil.example", "ml.example.org", "\xe9vil",
])
def test_any_other_host_is_not(host: str) -> None:
    assert not is_own(host.encode("latin-1"), NONE)


@pytest.mark.parametrize(("host", "is_known"), [
    ("ml.example.org", True), ("ml.example.org:8443", True), ("ML.Example.org", True),
    ("a.ml.example.org", False), ("localhost:5173", True), ("localhost:8000", True),
])
def test_further_hosts_have_names(host: str, is_known: bool) -> None:
    assert is_own(host.encode(), ALLOWED) is is_known


@pytest.mark.parametrize("asked", [
    headers("127.0.0.1:8000"),
    headers(""),
    headers("", origin="http://localhost:5173"),
    headers("127.0.0.1:8000", origin="http://127.0.0.1:8000", sec_fetch_site="same-origin"),
    headers("localhost:9000", origin="http://localhost:9000"),
    headers("[::1]:8000", origin="http://[::1]:8000"),
    headers("Localhost:8000", origin="http://localhost:8000"),
    headers("ml.example.org", origin="https://ml.example.org"),
    headers("127.0.0.1:8000", origin="https://ml.example.org", sec_fetch_site="cross-site"),
    headers("127.0.0.1:8000", sec_fetch_site="none"),
    headers("127.0.0.1:8000", sec_fetch_site="same-origin"),
])
def test_what_passes(asked: dict[bytes, bytes]) -> None:
    check_origin("POST", asked, ALLOWED)


@pytest.mark.parametrize("asked", [
    headers("evil.example:8000"),
    headers("evil.example:8000", origin="http://evil.example:8000", sec_fetch_site="same-origin"),
    headers("127.0.0.1:8000", origin="http://evil.example"),
    headers("127.0.0.1:8000", origin="http://127.0.0.1:8888"),
    headers("127.0.0.1:8000", origin="http://127.0.0.1:8000.evil.example"),
    headers("127.0.0.1:8000", origin="null"),
    headers("127.0.0.1:8000", origin=""),
    headers("", origin="http://"),
    headers("127.0.0.1:8000", origin="chrome-extension://127.0.0.1:8000"),
    headers("127.0.0.1:8000", sec_fetch_site="cross-site"),
    headers("127.0.0.1:8000", sec_fetch_site="same-site", sec_fetch_mode="no-cors"),
    headers("127.0.0.1:8000", sec_fetch_site="cross-site", sec_fetch_mode="navigate",
            sec_fetch_dest="document"),  # a form
])
def test_what_is_refused(asked: dict[bytes, bytes]) -> None:
    with pytest.raises(OriginRefused, match=r"allowed_hosts|own host and port"):
        check_origin("POST", asked, NONE)


def test_a_link_may_be_followed_but_not_framed() -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    check_origin("GET", headers("localhost:8000", **link, sec_fetch_dest="document"), NONE)
    with pytest.raises(OriginRefused):
        check_origin("GET", headers("localhost:8000", **link, sec_fetch_dest="iframe"), NONE)


def test_hosts_of_the_settings() -> None:
    hosts = ("ML.example.org", "a_b:8443", "[fd00::1]:80", "10.0.0.7")
    assert GatewaySettings(allowed_hosts=hosts).allowed_hosts[0] == "ml.example.org"
    for bad in ("*", "*.example.org", "http://ml.example.org", "ml.example.org/x", "", "a:b"):
        with pytest.raises((ValueError, errors.ConfigError), match="is no host"):
            GatewaySettings(allowed_hosts=(bad,))
