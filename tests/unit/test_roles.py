"""-Q selects the role; anything else is answered with the right command."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from celeriac import errors
from workers import lifecycle, roles


@pytest.mark.parametrize("role", roles.ROLES, ids=lambda role: role.name)
def test_each_role_is_named_by_q(role: roles.Role) -> None:
    assert roles.role_for([role.name]) is role
    assert role.pool in role.pools


def test_no_queue_is_consumed_by_two_roles() -> None:
    queues = [queue for role in roles.ROLES for queue in role.queues]
    assert len(queues) == len(set(queues))


def test_cpu_and_gpu_roles_share_nothing() -> None:
    cpu = {queue for role in roles.ROLES if role.device == "cpu" for queue in role.queues}
    gpu = {queue for role in roles.ROLES if role.device == "gpu" for queue in role.queues}
    assert not cpu & gpu


@pytest.mark.parametrize(
    ("queues", "hint"),
    [
        ([], "say which role"),
        (["celery"], "names no role"),
        (["batch.cpu", "maintenance"], "names two roles"),
        (["predict.cpu", "batch.cpu"], "names two roles"),
        (["predict.cpu"], "-Q realtime.cpu"),
        (["realtime.cpu", "nonsense"], "names no role"),
    ],
)
def test_wrong_queues_get_one_line_with_the_command(queues: list[str], hint: str) -> None:
    with pytest.raises(errors.ConfigError) as raised:
        roles.role_for(queues)
    message = raised.value.message
    assert hint in message
    assert "celery -A workers.app worker -Q " in message
    assert "\n" not in message


def test_a_models_queue_is_an_ordinary_worker() -> None:
    role = roles.role_for(["realtime.cpu.reviews"])
    assert (role.queues, role.lane, role.device) == (("realtime.cpu.reviews",), False, "cpu")


def test_a_pool_that_the_role_cannot_use() -> None:
    with pytest.raises(errors.ConfigError, match=r"realtime\.cpu cannot use the pool 'threads'"):
        roles.check_pool(roles.role_for(["realtime.cpu"]), "threads")
    with pytest.raises(errors.ConfigError, match="'prefork'"):  # would not follow promotions
        roles.check_pool(roles.role_for(["realtime.cpu.reviews"]), "prefork")
    roles.check_pool(roles.role_for(["batch.cpu"]), "prefork")


@pytest.mark.parametrize(
    ("line", "queues", "pool"),
    [
        ("celery -A workers.app worker -Q batch.cpu -P solo", ["batch.cpu"], "solo"),
        ("celery -A workers.app worker --queues=a,b --pool=threads", ["a", "b"], "threads"),
        ("celery -A workers.app worker --queues a", ["a"], None),
        ("celery -A workers.app worker -Qa", ["a"], None),
        ("celery -A workers.app worker", [], None),
        ("celery -A workers.app beat -Q batch.cpu", [], None),
        ("celery -A workers.app worker -Q", [], None),
    ],
)
def test_the_command_line_is_read(line: str, queues: list[str], pool: str | None) -> None:
    assert roles.queues_in(line.split()) == queues
    assert roles.pool_in(line.split()) == pool


def test_a_prefix_of_queues_is_refused_when_a_worker_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lifecycle, "_configure_logging", lambda _: None)
    conf = SimpleNamespace(broker_transport_options={"global_keyprefix": "ours:"})
    with pytest.raises(SystemExit):
        lifecycle._take_role(SimpleNamespace(), conf, {"queues": "maintenance"})
    assert "global_keyprefix = 'ours:': queues have no prefix" in capsys.readouterr().err
