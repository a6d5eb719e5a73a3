"""A lost connection of a worker is taken apart as Celery does it, and its messages are not lost."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from celeriac.messages import MAINTENANCE_QUEUE
from celeriac.settings import BrokerSettings, Settings
from celeriac.settings.variables import ROLE
from producer import wire
from producer.broker import connect
from producer.channel import Channel
from tests.waiting import wait_until
from workers import connections, lease, lifecycle
from workers.connections import Connection
from workers.refusals import Refusals
from workers.transport import Transport
from workers.valkey import EmbeddedServer, free_port

ROOT = Path(__file__).parents[2]
QUEUE = "spoken-for"


@pytest.fixture
def server(own_server: EmbeddedServer) -> EmbeddedServer:
    """A server of this file's own, which can be killed."""
    return own_server


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with contextlib.closing(redis.Redis.from_url(server.url)) as connected:
        yield connected


def put_two(client: redis.Redis) -> None:
    """The last one of a list is the first that is taken."""
    for name in ("second", "first"):
        client.rpush(QUEUE, wire.task_message(name, wire.new_id(), QUEUE, {}, shown={}))


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


def test_no_connection_reads_the_metadata_of_a_package(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> str:
        raise AssertionError("the metadata were read")

    monkeypatch.setattr("redis.utils.get_lib_version", refused)
    client = connect(Settings(broker=BrokerSettings(url=server.url)))
    name = client.client_info()
    assert (name["lib-name"], name["lib-ver"]) == ("redis-py", redis.__version__)
    connection = Connection(server.url, transport=Transport)
    assert connection.default_channel.client.ping()
    connection.close()
    client.close()


def test_a_connection_that_is_lost_with_a_message_in_hand(
    server: EmbeddedServer, client: redis.Redis
) -> None:
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


def test_a_task_whose_worker_loses_only_its_connection_runs_once(
    server: EmbeddedServer, redis_client: redis.Redis, start_worker: Callable[..., Any],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    worker = start_worker("maintenance", "-c", "1", "-I", "slow_tasks")
    said = {"folder": str(folder)}
    unacked = f"unacked.{MAINTENANCE_QUEUE}"
    for count, eta in enumerate(["2099-01-01T00:00:00+00:00", None]):  # one waits, one runs
        message = wire.task_message(
            "test.slow", wire.new_id(), MAINTENANCE_QUEUE, said, shown={}, ignore_result=True,
            extra={"eta": eta},
        )
        redis_client.lpush(MAINTENANCE_QUEUE, message)
        wait_until(lambda: redis_client.hlen(unacked) > count)  # noqa: B023 - asked at once
    wait_until(lambda: bool(list(folder.iterdir())))
    for kind in ("normal", "pubsub"):
        redis_client.client_kill_filter(_type=kind, skipme=True)
    wait_until(lambda: "Connection to broker lost" in worker.log.read_text())
    assert not (folder / "ended").exists()
    wait_until((folder / "ended").exists)
    assert "In Celery 5.1 we introduced" not in worker.log.read_text()
    wait_until(  # the one that waits was taken again
        lambda: (redis_client.llen(MAINTENANCE_QUEUE), redis_client.hlen(unacked)) == (0, 1)
    )
    time.sleep(1)
    assert len(list(folder.glob("run-*"))) == 1
    assert redis_client.llen(MAINTENANCE_QUEUE) == 0
    assert redis_client.hlen(unacked) == 1
    first = children_of(worker.process.pid)
    os.kill(first[-1], signal.SIGKILL)  # another one is forked, while there are connections
    wait_until(lambda: set(children_of(worker.process.pid)) - set(first))
    assert tcp_of(worker.process.pid)
    wait_until(lambda: not tcp_of(children_of(worker.process.pid)[-1]))


def test_a_worker_without_processes_keeps_its_connections_and_its_champions(
    server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's solo pool tells the worker itself that a process of the pool has begun."""
    monkeypatch.setenv(ROLE, "realtime.cpu")
    connected = client.client_id()
    lifecycle._start_child()
    assert client.client_id() == connected
    assert "tidy" not in [one.name for one in threading.enumerate()]


def test_what_a_forked_process_lets_go_of() -> None:
    for kind, counts in ((socket.SOCK_STREAM, True), (socket.SOCK_DGRAM, False)):
        with socket.socket(socket.AF_INET, kind) as one:
            assert connections._is_tcp(one.fileno()) is counts
            one.getsockname()  # a look closes nothing


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def tcp_of(pid: int) -> set[str]:
    """The TCP connections that a process holds, by their inodes."""
    known = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
    links = (str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir())
    return known & {link[8:-1] for link in links if link.startswith("socket:[")}


def test_a_server_that_refuses_to_be_pinged_is_not_taken_for_a_dead_connection(
    server: EmbeddedServer, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.transport.REFUSALS", Refusals())
    connection = Connection(server.url, transport=Transport)
    commands = Queue("commands", Exchange("commands", type="fanout"), auto_delete=True)
    channel: Any = connection.channel()
    channel.Consumer(commands, on_message=lambda _: None).consume()
    cycle = connection.transport.cycle
    cycle.on_poll_start()
    held = channel.subclient.connection
    assert not channel._receive()  # it is subscribed
    before = held._sock
    in_the_way = server.folder / "dump.rdb"
    in_the_way.mkdir()
    redis_client.config_set("save", "3600 1000000")
    redis_client.bgsave()
    wait_until(lambda: redis_client.info("persistence")["rdb_last_bgsave_status"] == "err")
    for _ in range(4):
        held.next_health_check = 0
        cycle.maybe_check_subclient_health()
        wait_until(lambda: held.can_read(timeout=0))
        with pytest.raises(Empty):
            channel._receive()
    assert held._sock is before
    redis_client.config_set("save", "")
    in_the_way.rmdir()
    connection.close()


def test_what_another_has_taken_meanwhile_is_not_given_back(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    for _ in range(3):
        client.lpush(QUEUE, wire.task_message("t", wire.new_id(), QUEUE, {}, shown={}))
    away, other, again = (Connection(server.url, transport=Transport) for _ in range(3))
    consumers = []
    for connection in (away, other, again):
        consumer = connection.Consumer(Queue(QUEUE, exchange="", routing_key=QUEUE))
        consumer.register_callback(lambda body, message: None)
        consumers.append(consumer)
    lost, others, _ = (consumer.channel.qos for consumer in consumers)
    consumers[0].consume()
    while len(lease.held(lost)) < 3:
        away.drain_events(timeout=5)
    ours_until_s = time.time()
    for tag in list(lease.held(lost))[:2]:
        others.restore_by_tag(tag)
    message = consumers[1].channel.basic_get(QUEUE)

    lease.give_back(SimpleNamespace(task_consumer=consumers[2]), [lost], ours_until_s)

    assert client.hkeys("unacked") == [message.delivery_tag.encode()]
    assert client.llen(QUEUE) == 2  # what was ours, and what another had put back: each once
    assert not lease.held(lost)
    message.ack()
    for connection in (away, other, again):
        connection.close()
    assert client.llen(QUEUE) == 2


def test_a_full_redis_keeps_its_messages_in_their_queue(
    server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = refused_anew(monkeypatch)
    put_two(client)
    waiting = client.lrange(QUEUE, 0, -1)
    connection, taken = consuming(server)
    client.config_set("maxmemory", 1)
    drain_until(connection, lambda: refusals.now)
    assert client.lrange(QUEUE, 0, -1) == waiting
    assert (taken, client.hlen("unacked")) == ([], 0)
    client.config_set("maxmemory", 0)
    drain_until(connection, lambda: len(taken) == 2)
    assert [one.headers["task"] for one in taken] == ["first", "second"]
    connection.close()


def test_what_a_full_redis_does_not_write_down_is_delivered(
    server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two queues, as kombu pops from them: the message has left its queue already."""
    refusals = refused_anew(monkeypatch)
    put_two(client)
    connection, taken = consuming(server, QUEUE, "another")
    client.config_set("maxmemory", 1)
    drain_until(connection, lambda: refusals.now)
    assert [one.headers["task"] for one in taken] == ["first"]
    taken[0].ack()
    client.config_set("maxmemory", 0)
    drain_until(connection, lambda: len(taken) == 2)
    taken[1].ack()
    assert (client.hlen("unacked"), client.llen(QUEUE)) == (0, 0)
    connection.close()


def test_a_connection_that_is_cut_before_the_message_arrives(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    away, _ = asked_unheard(server, client)
    qos = away.default_channel.qos
    client.client_kill_filter(_type="normal", skipme=True)
    again, taken = consuming(server)
    consumer = SimpleNamespace(task_consumer=SimpleNamespace(channel=again.default_channel))
    assert lease.renew(consumer, [qos])
    lease.give_back(consumer, [qos], time.time())
    assert not lease.held(qos)
    drain_until(again, lambda: len(taken) == 1)
    taken[0].ack()
    assert (client.hlen("unacked"), client.llen(QUEUE)) == (0, 0)
    for one in (again, away, client):
        one.close()


def test_a_stale_connection_that_is_replaced_gives_back_what_it_may_have_asked(
    server: EmbeddedServer, client: redis.Redis,
) -> None:
    connection, taken = asked_unheard(server, client)
    before = client.hkeys("unacked")
    connection.default_channel.client.connection.disconnect()  # as kombu's look at its health
    drain_until(connection, lambda: len(taken) == 1)
    assert taken[0].headers["redelivered"]
    assert [taken[0].delivery_tag.encode()] == client.hkeys("unacked") != before
    taken[0].ack()
    assert (client.hlen("unacked"), client.llen(QUEUE)) == (0, 0)
    connection.close()


@pytest.mark.parametrize("queues", [(QUEUE,), (QUEUE, "another")], ids=["one queue", "two"])
def test_a_channel_that_is_closed_does_not_wait_for_a_message(
    server: EmbeddedServer, client: redis.Redis, queues: tuple[str, ...]
) -> None:
    connection, taken = consuming(server, *queues, socket_timeout=20)
    connection.default_channel.brpop_timeout = 10
    connection.transport.cycle.on_poll_start()
    wait_until(lambda: int(client.info("clients")["blocked_clients"]) == 1)
    began = time.monotonic()
    connection.close()
    assert time.monotonic() - began < 5
    assert not taken
    put_two(client)
    assert client.llen(QUEUE) == 2, "nobody waits any more"


def test_a_channel_that_is_closed_hastens_no_answer_that_should_be_there(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    """Where it is not, the server is silent: to ask it would take the timeout once more."""
    connection, _ = consuming(server)
    channel = connection.default_channel
    channel.brpop_timeout = 0.05
    connection.transport.cycle.on_poll_start()
    wait_until(lambda: time.monotonic() - channel._brpop_sent_at > channel.brpop_timeout)
    client.config_resetstat()
    connection.close()
    assert "cmdstat_client|unblock" not in client.info("commandstats")


@pytest.mark.parametrize(
    ("cancels", "ended"), [(False, False), (True, False), (True, True)],
    ids=["connection closed", "cancelled", "cancelled, and read after its lease"],
)
def test_what_comes_when_nobody_consumes_any_more_goes_back_once(
    server: EmbeddedServer, client: redis.Redis, *, cancels: bool, ended: bool
) -> None:
    """A worker that stops cancels first, and reads when its tasks have ended."""
    connection, taken = asked_unheard(server, client)
    connection.channel()
    connection.transport.channels.reverse()  # a channel for something else may be the first
    consumed = connection.default_channel
    for tag in list(consumed._consumers) if cancels else ():
        consumed.basic_cancel(tag)
    if ended:
        consumed.qos.restore_by_tag(consumed.qos.asked)  # as another worker does
    connection.close()
    assert (client.hlen("unacked"), client.llen(QUEUE)) == (0, 1)
    assert not taken


def test_a_process_that_is_killed_before_the_message_arrives(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    program = (
        "import time\n"
        "from kombu import Queue\n"
        "from workers.connections import Connection\n"
        "from workers.transport import Transport\n"
        f"connection = Connection({server.url!r}, transport=Transport,\n"
        "                        transport_options={'priority_steps': [0]})\n"
        f"connection.Consumer(Queue({QUEUE!r}), on_message=print).consume()\n"
        "connection.transport.cycle.on_poll_start()\n"
        "time.sleep(60)\n"
    )
    client.lpush(QUEUE, wire.task_message("t", wire.new_id(), QUEUE, {}, shown={}))
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        wait_until(lambda: client.hlen("unacked") == 1)
    finally:
        process.kill()
    process.wait(10)
    again, taken = consuming(server, visibility_timeout=1, unacked_restore_throttle=1)
    drain_until(again, lambda: len(taken) == 1)
    assert taken[0].headers["redelivered"]
    taken[0].ack()
    assert (client.hlen("unacked"), client.llen(QUEUE)) == (0, 0)
    again.close()


def test_one_of_those_who_wait_gets_the_message(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    waiting = [consuming(server) for _ in range(3)]
    for connection, _ in waiting:
        connection.transport.cycle.on_poll_start()
    wait_until(lambda: client.info("clients")["blocked_clients"] == 3)
    client.lpush(QUEUE, wire.task_message("t", wire.new_id(), QUEUE, {}, shown={}))

    def drained() -> int:
        for connection, _ in waiting:
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.1)
        return sum(len(taken) for _, taken in waiting)

    wait_until(lambda: drained() > 0)
    drained()
    assert sorted(len(taken) for _, taken in waiting) == [0, 0, 1]
    assert client.hlen("unacked") == 1
    for connection, _ in waiting:
        connection.close()
    assert (client.hlen("unacked"), client.llen(QUEUE)) == (0, 1)


def test_what_is_no_message_is_dropped_and_ends_nothing(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    connection, taken = consuming(server, visibility_timeout=1, unacked_restore_throttle=1)
    client.hset("unacked", "unread", "[nonsense, \"\", \"q\"]")  # taken by one that was killed
    client.zadd("unacked_index", {"unread": 1})
    message = wire.task_message("t", wire.new_id(), QUEUE, {}, shown={})
    client.lpush(QUEUE, b"nonsense", b"\xff", b"{}", b"[]", message)
    drain_until(connection, lambda: len(taken) == 1)
    taken[0].ack()
    drain_until(connection, lambda: not client.hlen("unacked"))
    assert (client.zcard("unacked_index"), client.llen(QUEUE)) == (0, 0)
    connection.close()


def test_what_nobody_acknowledges_is_not_written_down(
    server: EmbeddedServer, client: redis.Redis
) -> None:
    connection, taken = consuming(server, no_ack=True)
    client.lpush(QUEUE, wire.task_message("t", wire.new_id(), QUEUE, {}, shown={}))
    drain_until(connection, lambda: len(taken) == 1)
    assert (client.hlen("unacked"), client.llen(QUEUE)) == (0, 0)
    connection.close()


def test_what_a_lost_connection_could_not_acknowledge_the_next_one_does(
    server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_anew(monkeypatch)
    client.lpush(QUEUE, wire.task_message("t", wire.new_id(), QUEUE, {}, shown={}))
    away, taken = consuming(server)
    drain_until(away, lambda: bool(taken))
    monkeypatch.setattr("workers.transport.running_tags", lambda: {taken[0].delivery_tag})
    away.collect()
    again, _ = consuming(server)
    client.replicaof("127.0.0.1", free_port())
    taken[0].ack()  # its task has ended meanwhile
    client.replicaof("NO", "ONE")
    assert client.hlen("unacked") == 1
    drain_until(again, lambda: client.hlen("unacked") == 0)
    assert client.llen(QUEUE) == 0
    again.close()


def test_a_message_whose_acknowledgement_was_lost_takes_no_place(
    server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of one process took nothing more: it held the message for ever, and nobody was told.
    """
    put_two(client)
    connection, taken = consuming(server)
    connection.default_channel.basic_qos(0, 1, False)
    drain_until(connection, lambda: len(taken) == 1)

    def lost(*_: Any) -> None:
        raise redis.ConnectionError("reset")

    with monkeypatch.context() as patch:
        patch.setattr(redis.client.Pipeline, "execute", lost)
        taken[0].ack_log_error(logging.getLogger("test"), connection.connection_errors)
    assert client.hlen("unacked") == 1
    drain_until(connection, lambda: len(taken) == 2)
    assert client.hkeys("unacked") == [taken[1].delivery_tag.encode()]
    taken[1].ack()
    connection.close()
    assert (client.hlen("unacked"), client.llen(QUEUE)) == (0, 0)


def test_what_redis_does_not_take_back_is_given_back_with_the_next_connection(
    server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.lease.REFUSALS", refused_anew(monkeypatch))
    client.lpush(QUEUE, wire.task_message("t", wire.new_id(), QUEUE, {}, shown={}))
    away, taken = consuming(server)
    drain_until(away, lambda: bool(taken))
    again = Connection(server.url, transport=Transport)
    parent = SimpleNamespace(
        app=SimpleNamespace(conf=SimpleNamespace(broker_transport_options={})),
        timer=SimpleNamespace(call_repeatedly=lambda *_: None),
        task_consumer=SimpleNamespace(channel=again.default_channel),
    )
    step = lease.Lease(parent)
    step._lost, step._ours_until_s = [taken[0].channel.qos], time.time()
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.ConnectionError, match="refuses writes"):
        step.start(parent)
    assert client.hlen("unacked") == 1
    client.config_set("maxmemory", 0)
    step.start(parent)
    assert (client.hlen("unacked"), client.llen(QUEUE)) == (0, 1)
    for one in (away, again, client):
        one.close()


def test_a_server_that_has_become_a_replica_is_left(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = refused_anew(monkeypatch)
    admin = redis.Redis.from_url(server.url)
    client = connect(Settings(broker=BrokerSettings(url=server.url)))
    channel = Channel(client)
    connection, _ = consuming(server)
    before = client.client_id(), channel.ask("CLIENT", "ID")
    admin.replicaof("127.0.0.1", free_port())
    with pytest.raises(redis.exceptions.ReadOnlyError):
        client.set("key", "value")
    with pytest.raises(redis.exceptions.ReadOnlyError):
        channel.ask("SET", "key", "value")
    refusals.note(redis.exceptions.ReadOnlyError())
    with pytest.raises(redis.ConnectionError, match="refuses writes"):
        drain_until(connection, lambda: False)
    admin.replicaof("NO", "ONE")
    assert client.client_id() != before[0]
    assert channel.ask("CLIENT", "ID") != before[1]
    channel.close()
    for one in (connection, client, admin):
        one.close()


def refused_anew(monkeypatch: pytest.MonkeyPatch) -> Refusals:
    """Refusals of one test alone."""
    refusals = Refusals()
    monkeypatch.setattr("workers.transport.REFUSALS", refusals)
    return refusals


def consuming(
    server: EmbeddedServer, *queues: str, no_ack: bool = False, **options: Any
) -> tuple[Connection, list[Any]]:
    """A connection as a worker's, and what it has taken."""
    taken: list[Any] = []
    connection = Connection(
        server.url, transport=Transport, transport_options={"priority_steps": [0], **options}
    )
    connection.Consumer(
        [Queue(queue, exchange="", routing_key=queue) for queue in queues or (QUEUE,)],
        on_message=taken.append, no_ack=no_ack, channel=connection.default_channel,
    ).consume()  # fmt: skip
    return connection, taken


def asked_unheard(server: EmbeddedServer, client: redis.Redis) -> tuple[Connection, list[Any]]:
    """A connection for which the server has taken a message that it has not read yet."""
    client.lpush(QUEUE, wire.task_message("t", wire.new_id(), QUEUE, {}, shown={}))
    connection, taken = consuming(server)
    connection.transport.cycle.on_poll_start()
    wait_until(lambda: client.hlen("unacked") == 1)
    assert client.llen(QUEUE) == 0
    return connection, taken


def drain_until(connection: Connection, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=0.2)


def test_a_redis_that_was_away_for_long_is_found_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda seconds: None)
    pauses_s: list[float] = []
    lost = Connection(f"redis://127.0.0.1:{free_port()}/0", transport=Transport)
    with pytest.raises(OperationalError):
        lost.ensure_connection(lambda error, pause_s: pauses_s.append(pause_s), 6)
    assert pauses_s == [2, 4, 5, 5, 5, 5]
    assert not lost.transport._used_channel_ids, "each attempt would use one up, of 65,535"


def test_attempts_that_redis_refuses_leave_nothing(
    server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda seconds: None)
    refusals = refused_anew(monkeypatch)
    client.config_set("maxmemory", 1)
    refused = Connection(server.url, transport=Transport)
    with pytest.raises(OperationalError, match="refuses writes"):
        refused.ensure_connection(max_retries=3)
    assert refusals.now
    assert not refused.transport._used_channel_ids
    client.config_set("maxmemory", 0)
    refused.ensure_connection(max_retries=1)
    assert refused.default_channel.channel_id == 1
    refused.close()
