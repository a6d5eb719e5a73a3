"""A connection of one's own, through outages of its server."""

from __future__ import annotations

import socket

import pytest
import redis

from celeriac.settings import BrokerSettings, Settings
from producer.broker import connect
from producer.channel import Channel
from workers.valkey import EmbeddedServer, free_port


def test_an_outage_of_any_length_uses_up_nothing() -> None:
    client = connect(
        Settings(broker=BrokerSettings(url=f"redis://127.0.0.1:{free_port()}/0")),
        max_connections=3,
    )
    channel = Channel(client)
    for _ in range(10):
        with pytest.raises(redis.ConnectionError, match="refused"):
            channel.ask("PING")
        assert not channel.connected


def test_a_server_that_hangs_is_waited_for_once() -> None:
    """Connections, their first words and commands were repeated, one inside the other."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        client = connect(Settings(broker=BrokerSettings(url=url)))
        client.connection_pool.connection_kwargs["socket_timeout"] = 0.02
        with pytest.raises(redis.TimeoutError):
            client.get("key")
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_lost_connection_is_made_anew(
    server: EmbeddedServer, redis_client: redis.Redis, settings: Settings
) -> None:
    client = connect(settings, max_connections=2)
    channel = Channel(client)
    assert not channel.connected
    for number in range(5):
        assert channel.ask("INCR", "number") == number + 1
        redis_client.client_kill_filter(_type="normal", skipme=True)
    assert channel.exchange(("GET", "number"), ("INCR",), ("PING",))[::2] == [b"5", b"PONG"]
    redis_client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(redis.ConnectionError):
        channel.once(("PING",))
    assert channel.once(("PING",)) == [b"PONG"]
    channel.close()
    assert not channel.connected
    assert channel.ask("PING") == b"PONG"
    channel.close()


def test_what_a_replica_refuses_is_sent_to_who_has_its_name_now(
    own_server: EmbeddedServer, server: EmbeddedServer, redis_client: redis.Redis
) -> None:
    """After a failover connections lead to a server that takes no writes any more."""
    channel = Channel(connect(Settings(broker=BrokerSettings(url=own_server.url))))
    assert channel.exchange(("SET", "place", "old"), ("GET", "place")) == [b"OK", b"old"]
    with redis.Redis.from_url(own_server.url) as admin:
        admin.replicaof("127.0.0.1", free_port())
    channel._connection.port = redis_client.connection_pool.connection_kwargs["port"]

    assert channel.exchange(("SET", "place", "new"), ("GET", "place"))[1] == b"new"
    assert redis_client.get("place") == b"new"
    channel.close()
