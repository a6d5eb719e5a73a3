"""The users of Redis that ``docs/operations.md`` has, and what others are told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from celeriac import errors
from celeriac.settings import BrokerSettings, Settings
from producer.client import Client

DOCS = Path(__file__).resolve().parents[2] / "docs"
OPERATIONS = (DOCS / "operations.md").read_text(encoding="utf-8")
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")
TABLE = ARCHITECTURE.partition("Who owns what in Redis")[2]
NAMES = re.findall(r"`([^`]+)`", "".join(re.findall(r"^\|([^|]+)\|", TABLE, re.MULTILINE)))
KEYS = [re.sub(r"<[^>]*>|\*|\.\.\.", "x", name) for name in NAMES if name[0] != ":"]
NOT_OF_SERVICES = ("maintenance", "unacked.x", "unacked_index.x")


@pytest.fixture
def users(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """A server that has them, with the password ``PASSWORD``."""
    for name, rules in re.findall(r"^  user (\w+) (.*)$", OPERATIONS, re.MULTILINE):
        acl(redis_client, "SETUSER", name, "reset", *rules.split())
    yield redis_client
    acl(redis_client, "DELUSER", "celeriac", "shop")


def acl(client: redis.Redis, *words: str) -> None:
    client.execute_command("ACL", *words)  # type: ignore[no-untyped-call]


def settings_of(user: str, client: redis.Redis) -> Settings:
    port = client.get_connection_kwargs()["port"]
    return Settings(broker=BrokerSettings(url=f"redis://{user}:PASSWORD@127.0.0.1:{port}/0"))


def may(client: redis.Redis, user: str, *command: str) -> bool:
    answer: Any = client.acl_dryrun(user, *command)
    return bool(answer == b"OK")


def test_they_reach_the_keys_that_they_need(users: redis.Redis) -> None:
    assert len(KEYS) > 80
    assert not [key for key in KEYS if not may(users, "celeriac", "SET", key, "x")]
    for user in ("celeriac", "shop"):
        assert not may(users, user, "SET", "elsewhere", "x")
        assert not may(users, user, "FLUSHALL")
    assert not any(may(users, "shop", "LPUSH", key, "x") for key in NOT_OF_SERVICES)


def test_who_may_not_is_told_so(users: redis.Redis) -> None:
    with Client(settings=settings_of("shop", users)) as client:
        client.broker.check()
        with pytest.raises(errors.ModelNotFound):
            client.predict("m", "x")
    with Client(settings=settings_of("nobody", users)) as client, pytest.raises(
        errors.BrokerError, match=r"nobody:\*\*\*@.* refuses this .*invalid username"
    ):
        client.predict("m", "x")
