"""`celeriac.predict` while its version is being loaded: others go first, and it is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Retry

from celeriac import errors
from celeriac.host import MAX_UNALIASED, ModelHost, set_host
from celeriac.messages import PREDICT
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.settings import Settings
from tasks import predict
from tests.integration.test_host import add
from tests.waiting import wait_until

Ask = Callable[[int], list[dict[str, Any]]]


@pytest.fixture
def host(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHost]:
    monkeypatch.setattr(
        predict, "get_counter", lambda: SimpleNamespace(offer=lambda *_: None)
    )
    host = ModelHost(Registry(settings.models.root), LoadOptions())
    set_host(host)
    yield host
    set_host(None)


def asking(broker: str) -> Ask:
    """Runs the task for a version of ``echo`` as a worker would."""
    app = Celery(broker=broker, set_as_current=False)
    app.conf.task_publish_retry = False
    task = app.tasks[PREDICT]

    def ask(version: int) -> list[dict[str, Any]]:
        kwargs = {"model": f"echo@{version}", "items": ["a"]}
        task.push_request(
            id=f"r{version}", called_directly=False, args=[], kwargs=kwargs,
            delivery_info={"exchange": "", "routing_key": "predict.cpu"},
        )
        try:
            return task.run(**kwargs)
        finally:
            task.pop_request()

    return ask


def test_where_it_cannot_go_back_it_waits_and_is_answered(host: ModelHost) -> None:
    version = add(host.registry)
    ask = asking("redis://127.0.0.1:1/0")  # nobody listens there
    assert ask(version) == [{"model": "echo", "version": version, "value": "a"}]


def test_more_versions_than_stay_in_memory_are_all_answered(host: ModelHost) -> None:
    """Each that is loaded makes another go, before the task that waits for that one is back."""
    ask = asking("memory://")
    waiting = [add(host.registry) for _ in range(MAX_UNALIASED + 3)]
    for _ in range(2):
        for version in list(waiting):
            try:
                ask(version)
            except Retry:
                _until_loaded(host, version)
            else:
                waiting.remove(version)
    assert waiting == []


def _until_loaded(host: ModelHost, version: int) -> None:
    wait_until(lambda: version in host.loaded().get("echo", ()))


def test_where_others_are_loaded_before_it_a_task_comes_again(
    host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str, version: int) -> bool:
        raise errors.Overloaded("others are loaded before it", retry_after_s=2.0)

    version = add(host.registry)
    monkeypatch.setattr(host, "is_ready", full)
    with pytest.raises(Retry):
        asking("memory://")(version)
