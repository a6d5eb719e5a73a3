"""A lost connection of a worker is taken apart as Celery does it, and its messages are not lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from producer import wire
from workers.connections import Connection
from workers.transport import Transport
from workers.valkey import EmbeddedServer, free_port

ROOT = Path(__file__).parents[2]
QUEUE = "spoken-for"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server of this file's own, which can be killed."""
    own = EmbeddedServer(tmp_path / "valkey", free_port())
    own.start()
    yield own
    own.stop()


def test_every_connection_of_a_worker_is_one_of_these() -> None:
    program = (
        "from workers.app import app\n"
        "for url in ('redis://h/0', 'rediss://h/0'):\n"
        "    connection = app.connection_for_read(url)\n"
        "    for one in (type(connection), connection.get_transport_cls()):\n"
        "        print(one.__module__, one.__name__)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True,
        timeout=60,
    ).stdout
    assert said == 2 * "workers.connections Connection\nworkers.transport Transport\n"


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


def test_a_redis_that_was_away_for_long_is_found_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda seconds: None)
    pauses_s: list[float] = []
    lost = Connection(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(OperationalError):
        lost.ensure_connection(lambda error, pause_s: pauses_s.append(pause_s), 6)
    assert pauses_s == [2, 4, 5, 5, 5, 5]
