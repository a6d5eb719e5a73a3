"""What Flower shows, and to whom."""

from __future__ import annotations

import ssl
import subprocess
import sys
import textwrap
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac import errors
from celeriac.settings import BrokerSettings, FlowerSettings, Settings
from workers import flower


def settings(host: str = "127.0.0.1", basic_auth: str = "") -> Settings:
    return Settings(flower=FlowerSettings(host=host, basic_auth=basic_auth))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_password(host: str) -> None:
    assert "basic_auth" not in flower.options(settings(host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "flower.example.org"])
def test_elsewhere_it_needs_a_password(host: str) -> None:
    with pytest.raises(errors.ConfigError, match="CELERIAC_FLOWER_BASIC_AUTH"):
        flower.options(settings(host))
    assert flower.options(settings(host, "ann:secret"))["basic_auth"] == ["ann:secret"]


def test_a_password_without_a_user_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match="USER:PASSWORD"):
        flower.options(settings(basic_auth="secret"))


def test_its_page_of_queues_checks_the_certificate_as_the_address_says() -> None:
    from flower.utils.broker import Broker

    url = "rediss://h:1/0?ssl_ca_certs=/etc/ours.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem"
    checked = Settings(broker=BrokerSettings(url=url)).broker_url
    asked = Broker(checked, broker_use_ssl=flower.tls(checked)).redis
    assert asked.connection_pool.make_connection().ca_certs == "/etc/ours.pem"
    assert asked.get_connection_kwargs()["ssl_certfile"] == "/c.pem"
    assert asked.get_connection_kwargs()["ssl_cert_reqs"] == ssl.CERT_REQUIRED
    assert flower.tls("redis://h:1/0") is None


def test_its_page_of_queues_has_all_before_workers_answer() -> None:
    assert {queue.name for queue in flower.queues()} == {"predict.cpu", "batch.cpu", "maintenance"}


def test_its_end_is_bounded_while_a_thread_waits_for_redis() -> None:
    program = textwrap.dedent("""
        import os, signal, sys, threading, time
        from flower import command
        from workers import flower
        flower.bound_end(0.2)
        signal.signal(signal.SIGTERM, command.sigterm_handler)
        threading.Thread(target=time.sleep, args=(600,)).start()
        os.kill(os.getpid(), signal.SIGTERM)
    """)
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_flower_knows_every_option() -> None:
    from flower.options import options as known
    from flower.views.tasks import visible_task_columns

    chosen = flower.options(settings(basic_auth="ann:secret"))
    assert {name for name in chosen if not hasattr(known, name)} == set()
    assert chosen["read_only"] is True
    columns = visible_task_columns(chosen["tasks_columns"])
    assert len(columns) == len(flower.COLUMNS.split(","))


def test_no_password_on_the_command_line() -> None:
    assert flower.command()[1:6] == ["-m", "celery", "-A", "workers.app", "flower"]
    assert not any("auth" in word for word in flower.command())


@pytest.mark.parametrize(
    ("kwargs", "shown"),
    [
        ("{'model': 'reviews', 'items': ['a secret', 'b']}", {"model": "reviews", "items": "2"}),
        ("{'model': 'reviews', 'items': 3}", {"model": "reviews", "items": "3"}),
        ("{'items': ['a secret', ...]}", {"items": "1+"}),
        ({"job_id": "j1", "chunk_no": 7, "rows": ["a secret"]}, {"job_id": "j1", "chunk_no": "7"}),
        ("{'model': ['a secret'], 'other': 'a secret'}", {}),
        ("{'model': 'reviews', 'items': ['a sec", {}),
        ("('a secret',)", {}),
        ("", {}),
        (None, {}),
        ("[" * 5_000, {}),
    ],
)
def test_the_summary_holds_no_payload(kwargs: Any, shown: dict[str, str]) -> None:
    assert flower.summary(kwargs) == shown


def task(**fields: Any) -> Any:
    worker = SimpleNamespace(hostname=fields.pop("hostname", "realtime.cpu@host"))
    return SimpleNamespace(**{
        "name": "celeriac.predict", "args": "('a secret',)", "result": "a secret",
        "kwargs": "{'model': 'reviews', 'items': ['a secret']}", "routing_key": None,
        "worker": worker,
    } | fields)


def test_a_prediction_is_shown_without_its_payload() -> None:
    shown = flower.format_task(task())
    assert shown.kwargs == "model=reviews, items=1"
    assert shown.routing_key == "predict.cpu"
    assert "secret" not in repr(shown)


def test_a_chunk_shows_its_job_and_its_queue() -> None:
    shown = flower.format_task(task(
        name="celeriac.batch.chunk", hostname="batch.gpu@host", args="()", result="100",
        kwargs="{'job_id': 'j1', 'chunk_no': 2}",
    ))
    assert (shown.kwargs, shown.routing_key) == ("job_id=j1, chunk_no=2", "batch.gpu")
    assert shown.result == "100"


@pytest.mark.parametrize(
    ("name", "role", "model", "queue"),
    [
        ("celeriac.predict.envelope", "realtime.gpu", "digits@3", "realtime.gpu.digits"),
        ("celeriac.predict.envelope", "realtime.gpu", None, ""),
        ("celeriac.models.promote", "maintenance", None, "maintenance"),
        ("celeriac.models.promote", "", None, ""),
    ],
)
def test_the_queue_of_a_task(name: str, role: str, model: str | None, queue: str) -> None:
    assert flower.queue_of(name, role, model) == queue


def test_a_task_without_a_worker_can_be_shown() -> None:
    assert flower.format_task(task(worker=None)).kwargs == "model=reviews, items=1"


def test_running_arguments_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from flower.inspector import Inspector

    monkeypatch.setattr(Inspector, "inspect_methods", Inspector.inspect_methods)
    flower.hide_running_arguments()
    assert not {"active", "reserved", "scheduled"} & set(Inspector.inspect_methods)
    assert {"stats", "active_queues", "conf"} <= set(Inspector.inspect_methods)
