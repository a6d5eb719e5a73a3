"""Redis that is absent, silent, too old or restarted: a clear error in time, never a hang."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from celeriac import errors
from celeriac.registry import catalogue
from celeriac.registry.catalogue import ModelInfo, VersionInfo
from celeriac.registry.manifest import InputSchema, OutputSchema
from celeriac.settings import BrokerSettings, Settings
from producer.client import Client
from producer.testing import FakeClient
from tests.frozen import freeze
from workers.valkey import EmbeddedServer, free_port


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server that the test may stop; its catalogue has the model ``echo``, nobody serves it."""
    embedded = EmbeddedServer(tmp_path / "own", free_port())
    embedded.start()
    version = VersionInfo(
        version=1, format="echo", device="cpu", input=InputSchema(kind="any"),
        output=OutputSchema(kind="any"), created_at="2026-11-22T00:00:00+00:00",
    )  # fmt: skip
    info = ModelInfo(name="echo", aliases={"champion": 1}, versions={1: version})
    with redis.Redis.from_url(embedded.url) as connection:
        catalogue.publish(connection, {"echo": info})
    yield embedded
    if embedded.process is not None and embedded.process.poll() is None:
        embedded.process.send_signal(signal.SIGCONT)
    embedded.stop()


def make_client(url: str, **options: Any) -> Client:
    return Client(settings=Settings(broker=BrokerSettings(url=url)), **options)


def test_redis_is_not_running() -> None:
    started = time.monotonic()
    with make_client(f"redis://127.0.0.1:{free_port()}/0") as client:
        for act in (
            lambda: client.predict("echo", 1),
            lambda: client.predict_many("echo", [1]),
            lambda: client.submit("echo", 1),
            lambda: client.prediction("some-id"),
            client.models,
            lambda: client.promote("echo@1"),
        ):
            with pytest.raises(errors.BrokerError, match="celeriac up"):
                act()
    assert time.monotonic() - started < 3


def test_a_host_that_does_not_answer_at_all() -> None:
    with socket.socket() as silent:  # connections wait in its queue for ever
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        started = time.monotonic()
        with (
            make_client(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout_s=0.5) as client,
            pytest.raises(errors.DeadlineExceeded, match=r"within 0\.5 s"),
        ):
            client.predict("echo", 1)
        assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    "url", ["localhost:6379", "http://localhost:6379", "redis://", "redis://:99999", "amqp://x"]
)
def test_a_wrong_url(url: str) -> None:
    with pytest.raises(errors.ConfigError, match="redis://host:6379/0"):
        Client(url)


def test_a_password_is_not_in_the_error() -> None:
    with (
        make_client(f"redis://:secret-word@127.0.0.1:{free_port()}/0") as client,
        pytest.raises(errors.BrokerError) as caught,
    ):
        client.predict("echo", 1)
    assert "secret-word" not in caught.value.message


def test_a_server_that_is_too_old() -> None:
    info = b"# Server\r\nredis_version:6.2.14\r\n"

    def reply(command: bytes) -> bytes:
        if b"\r\nINFO\r\n" in command:
            return b"$%d\r\n%s\r\n" % (len(info), info)
        return b"+PONG\r\n" if b"\r\nPING\r\n" in command else b"+OK\r\n"

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65_536):
                for command in data.split(b"*")[1:]:
                    connection.sendall(reply(command))

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0?protocol=2"
        with (
            make_client(url) as client,
            pytest.raises(errors.BrokerError, match=r"is Redis 6\.2; Celeriac needs"),
        ):
            client.predict("echo", 1)
        thread.join(10)


def test_redis_stops_while_a_caller_waits_and_comes_back(own_server: EmbeddedServer) -> None:
    with make_client(own_server.url) as client:
        with pytest.raises(errors.DeadlineExceeded):
            client.predict("echo", 1, timeout_s=0.1)

        own_server.stop()
        started = time.monotonic()
        with pytest.raises((errors.BrokerError, errors.DeadlineExceeded)):
            client.predict("echo", 2, timeout_s=1)
        assert time.monotonic() - started < 3

        own_server.start()
        connection = redis.Redis.from_url(own_server.url)
        answering = threading.Thread(target=answer_one, args=(connection, "three"))
        connection.delete("realtime.cpu.echo")
        answering.start()
        assert client.predict("echo", 3, timeout_s=10).value == "three"
        answering.join(10)
        connection.close()


def test_a_server_that_has_become_a_replica_is_left(own_server: EmbeddedServer) -> None:
    with make_client(own_server.url) as client, redis.Redis.from_url(own_server.url) as admin:
        for _ in range(2):  # the second one by a connection that is open
            with pytest.raises(errors.DeadlineExceeded):
                client.predict("echo", 1, timeout_s=0.1)
        before = working(admin)
        admin.replicaof("127.0.0.1", free_port())
        with pytest.raises(errors.BrokerError, match="refuses writes"):
            client.predict("echo", 2, timeout_s=10)
        admin.replicaof("NO", "ONE")
        with pytest.raises(errors.DeadlineExceeded):
            client.predict("echo", 3, timeout_s=0.5)
        assert before
        assert not before & working(admin)


def working(admin: redis.Redis) -> set[str]:
    """The client's connections, but for those that have read the catalogue."""
    others = ("mget", "client|list")
    return {one["id"] for one in admin.client_list() if one["cmd"] not in others}


def test_redis_falls_silent(own_server: EmbeddedServer) -> None:
    assert own_server.process is not None
    client = make_client(own_server.url)
    with pytest.raises(errors.DeadlineExceeded):
        client.predict("echo", 1, timeout_s=0.1)
    freeze(own_server.process.pid)
    started = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        client.predict("echo", 2, timeout_s=0.5)
    assert time.monotonic() - started < 3
    exchange = client.realtime._exchange
    assert exchange is not None
    started = time.monotonic()
    client.close()  # it was heard a moment ago
    assert time.monotonic() - started < 4
    own_server.process.send_signal(signal.SIGCONT)
    for thread in (exchange.coalescer._thread, exchange._reader._thread):
        thread.join(10)
        assert not thread.is_alive()


def answer_one(connection: redis.Redis, value: Any) -> None:
    """A worker that takes one envelope from the queue."""
    import json

    popped: Any = connection.blpop(["realtime.cpu.echo"], timeout=10)
    envelope = json.loads(json.loads(popped[1])["body"])[1]
    answers = [{"model": "echo", "version": 1, "value": value} for _ in envelope["items"]]
    reply = {"v": 1, "id": envelope["id"], "answers": answers}
    connection.rpush(f"celeriac:reply:{envelope['reply_to']}", json.dumps(reply))


def test_the_fake_says_the_same_of_an_unknown_model(own_server: EmbeddedServer) -> None:
    with make_client(own_server.url) as client:
        with pytest.raises(errors.ModelNotFound) as real:
            client.predict("nothing", 1)
        with pytest.raises(errors.ModelNotFound) as fake:
            FakeClient({"echo": 1}).predict("nothing", 1)
    assert real.value.message == fake.value.message
