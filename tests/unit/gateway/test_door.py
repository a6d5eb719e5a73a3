"""Who may come in: keys, scopes, addresses."""

from __future__ import annotations

import pytest

from celeriac import errors
from celeriac.settings import GatewaySettings, KeySettings
from producer.gateway.auth import Keys, check_scope, is_open, scope_for
from producer.gateway.binding import check_binding
from producer.gateway.context import ANYBODY, RequestContext
from producer.gateway.failures import Forbidden, Unauthenticated
from producer.gateway.keys import digest_of, new_key

KEY, OTHER = new_key(), new_key()
SETTINGS = GatewaySettings(keys={
    "shop": KeySettings(sha256=digest_of(KEY), tenant="acme", scopes=("infer", "batch")),
    "other": KeySettings(sha256=digest_of(OTHER)),
})


async def nothing() -> dict[str, str]:
    return {}


def request(*headers: tuple[bytes, bytes]) -> RequestContext:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": list(headers)}
    return RequestContext(scope, nothing, "id", 0.0)


@pytest.mark.parametrize("header", [
    (b"authorization", b"Bearer " + KEY.encode()),
    (b"authorization", b"bearer  " + KEY.encode()),
    (b"x-api-key", KEY.encode()),
])
def test_a_key_names_its_caller(header: tuple[bytes, bytes]) -> None:
    caller = Keys(SETTINGS).caller(request(header))
    assert (caller.name, caller.tenant) == ("shop", "acme")
    check_scope(caller, "batch")
    with pytest.raises(Forbidden, match="'shop' does not have the scope 'admin'"):
        check_scope(caller, "admin")


@pytest.mark.parametrize("headers", [
    (),
    ((b"authorization", b"Bearer"),),
    ((b"authorization", b"Bearer "),),
    ((b"authorization", b"Basic " + KEY.encode()),),
    ((b"authorization", b"Bearer " + KEY[:-1].encode()),),
    ((b"x-api-key", digest_of(KEY).encode()),),
    ((b"x-api-key", b"\xff" * 100_000),),
])
def test_anything_else_is_refused(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    with pytest.raises(Unauthenticated):
        Keys(SETTINGS).caller(request(*headers))


def test_without_keys_everybody_may_do_everything() -> None:
    assert Keys(GatewaySettings()).caller(request()) is ANYBODY


def test_one_key_for_two_names_is_an_error() -> None:
    twice = {name: KeySettings(sha256=digest_of(KEY)) for name in ("a", "b")}
    with pytest.raises(errors.ConfigError, match=r"gateway\.keys\.b.*another key"):
        Keys(GatewaySettings(keys=twice))


def test_keys_are_long_and_never_the_same() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) == 47 and key.startswith("clr_") for key in keys)


def test_which_paths_need_what() -> None:
    assert is_open("/")
    assert is_open("/health/live")
    assert is_open("/docs/swagger-ui.css")
    assert not is_open("/v1/models")
    assert not is_open("/metrics")
    assert scope_for("/v1/jobs") == "batch"
    assert scope_for("/v1/models") == "infer"
    assert scope_for("/v1/moderation") == scope_for("/v1/moderation/batch") == "infer"
    for posts_of_people in ("reviews", "reviews/20261125-0123456789ab-7", "labels"):
        assert scope_for(f"/v1/moderation/{posts_of_people}") == "batch"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_alone_needs_no_key(host: str) -> None:
    check_binding(GatewaySettings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_any_other_address_needs_one(host: str) -> None:
    with pytest.raises(errors.ConfigError, match="gateway-key"):
        check_binding(GatewaySettings(host=host))
    check_binding(GatewaySettings(host=host, keys=SETTINGS.keys))
