"""A lost connection of a worker is taken apart as Celery does it, and its messages are not lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection, Exchange, Queue
from kombu.transport import get_transport_cls

import workers.app  # noqa: F401 - where the transport is installed
from producer import wire
from workers.transport import Transport
from workers.valkey import EmbeddedServer, free_port

QUEUE = "spoken-for"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server of this file's own, which can be killed."""
    own = EmbeddedServer(tmp_path / "valkey", free_port())
    own.start()
    yield own
    own.stop()


def test_every_connection_of_a_worker_has_it() -> None:
    assert get_transport_cls("redis") is Transport
    assert get_transport_cls("rediss") is Transport


def test_a_connection_that_is_lost_with_a_message_in_hand(server: EmbeddedServer) -> None:
    client = redis.Redis.from_url(server.url)
    client.lpush(QUEUE, wire.task_message("t", wire.new_id(), QUEUE, {}, shown={}))
    taken: list[Any] = []
    connection = Connection(server.url, transport=Transport)
    consumer = connection.Consumer(
        Queue(QUEUE, exchange="", routing_key=QUEUE), on_message=taken.append, prefetch_count=2
    )
    consumer.consume()
    commands = Queue("commands", Exchange("commands", type="fanout"), auto_delete=True)
    connection.channel().Consumer(commands, on_message=taken.append).consume()
    while not taken:  # what comes first may be the answer to the subscription
        connection.drain_events(timeout=5)
    connection.transport.cycle.on_poll_start()  # it waits for the next one
    assert client.hlen("unacked") == 1
    server.kill()
    connection.collect()  # what Celery does when a connection is lost: both of them
    connection.close()
    server.start()
    taken[0].ack()  # its task has ended meanwhile
    assert (client.hlen("unacked"), client.llen(QUEUE)) == (0, 0)
    client.close()
