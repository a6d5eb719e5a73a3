"""Versions that nobody needs go in two steps; what is named, pinned or being loaded stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from celeriac import errors, release
from celeriac.jobs.ledger import JobState, Ledger
from celeriac.keys import SUBMISSIONS_LINES_KEY, submission_line
from celeriac.messages import ModelRef
from celeriac.registry.catalogue import fetch
from celeriac.registry.store import Registry
from celeriac.release import collecting
from celeriac.release.pins import pinned
from celeriac.settings import NightlySettings, Settings
from tasks.schedule import beat_schedule
from tests.conftest import Ran
from tests.waiting import wait_until
from workers.child_settings import environment

HOUR_S = collecting.GRACE_S


@pytest.fixture
def registry(settings: Settings) -> Registry:
    """Seven versions: 2 is ``previous``, 3 the champion, 4 the challenger."""
    registry = Registry(settings.models.root)
    for _ in range(7):
        release.register("m", "echo", examples=["a"], registry=registry)
    aliases = registry.aliases("m")
    aliases.promote(2, expected=None, who="ann", why="")
    aliases.promote(3, expected=2, who="ann", why="")
    aliases.assign("challenger", 4, expected=None, who="ann", why="")
    return registry


def run(registry: Registry, *pins: int, keep: int = 1, now_s: float = 0.0) -> collecting.Spare:
    found = collecting.find_spare(
        registry, {"m": set(pins)}, keep=keep, now_s=now_s or time.time()
    )
    collecting.collect(registry, found)
    return found


def test_what_nobody_needs_is_retired_and_an_hour_later_deleted(registry: Registry) -> None:
    found = run(registry, 5)
    assert found.retire == [("m", 1), ("m", 6)]
    assert registry.versions("m") == [2, 3, 4, 5, 7]
    assert registry.verify("m", 6).version == 6  # whoever began to load it ends well
    with pytest.raises(errors.VersionNotFound):
        registry.resolve(ModelRef(name="m", version=6))
    assert 6 not in registry.infos()["m"].versions
    assert run(registry, 5).waiting == [("m", 1), ("m", 6)]
    later = run(registry, 5, now_s=time.time() + HOUR_S + 1)
    assert later.delete == [("m", 1), ("m", 6)]
    assert sorted(path.name for path in (registry.root / "m").iterdir() if path.is_dir()) == [
        ".retired", "2", "3", "4", "5", "7",
    ]
    assert release.register("m", "echo", examples=["a"], registry=registry).version == 8


def test_one_that_cannot_be_deleted_keeps_no_other(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(registry, 5)
    delete = Registry.delete

    def refuse(registry: Registry, name: str, version: int) -> None:
        if version == 1:
            raise errors.VersionNotFound("m has no version 1")
        delete(registry, name, version)

    monkeypatch.setattr(Registry, "delete", refuse)
    later = run(registry, 5, now_s=time.time() + HOUR_S + 1)
    assert (later.delete, later.failed) == ([("m", 6)], [("m", 1)])
    assert list(registry.retired("m")) == [1]


def test_a_model_whose_aliases_are_damaged_keeps_no_other(
    registry: Registry, celeriac: Callable[..., Ran], settings: Settings,
    redis_client: redis.Redis,
) -> None:
    for _ in range(3):
        release.register("other", "echo", examples=["a"], registry=registry)
        release.register("a-first", "echo", examples=["a"], registry=registry)
    retired = run(registry, 5).retire
    (registry.root / "m" / "aliases.json").write_text('{"champion": ')
    (registry.root / "a-first" / "aliases.json").write_text("[]")
    later = run(registry, 5, now_s=time.time() + HOUR_S + 1)
    assert later.skipped == ["a-first", "m"]
    assert later.delete == [("other", 1), ("other", 2)]
    assert ("m", 1) in retired
    assert registry.verify("m", 1).version == 1  # nobody knows any more whether it is needed
    said = celeriac("models", "gc", env=environment(settings)).stdout
    assert "m: left as it is" in said


def test_a_retired_version_that_a_job_came_to_need_comes_back(registry: Registry) -> None:
    run(registry)
    later = run(registry, 6, now_s=time.time() + HOUR_S + 1)
    assert later.restore == [("m", 6)]
    assert registry.versions("m") == [2, 3, 4, 6, 7]
    assert registry.verify("m", 6)


def test_an_alias_that_came_meanwhile_keeps_its_version(registry: Registry) -> None:
    found = collecting.find_spare(registry, {}, keep=1, now_s=time.time())
    registry.aliases("m").assign("canary", 6, expected=None, who="ann", why="")
    collecting.collect(registry, found)
    assert found.retire == [("m", 1), ("m", 5)]
    assert 6 in registry.versions("m")


def test_only_what_is_retired_can_be_deleted(registry: Registry) -> None:
    with pytest.raises(errors.RegistryError, match="is in use"):
        registry.delete("m", 1)
    assert registry.verify("m", 1)


def test_jobs_submissions_and_schedules_pin_versions(
    settings: Settings, redis_client: redis.Redis, tmp_path: Path
) -> None:
    ledger = Ledger(redis_client, 3_600)
    for number, state in enumerate(JobState, start=10):
        ledger.announce(f"job-{state}", model="m", version=number, source="s", output="o")
        redis_client.hset(f"celeriac:job:job-{state}", "state", str(state))
    redis_client.sadd("celeriac:job:job-failed:done", 1)
    redis_client.sadd(SUBMISSIONS_LINES_KEY, submission_line("predict.cpu", "m@40"),
                      submission_line("predict.cpu", "m"))
    nightly = NightlySettings.model_validate({
        "dataset": "in-{date}", "output": "out-{date}", "model": "other@7",
    })
    found = pinned(redis_client, settings.model_copy(update={"nightly": {"n": nightly}}))
    completed = 10 + list(JobState).index(JobState.COMPLETED)
    assert found == {
        "m": {*range(10, 10 + len(JobState)), 40} - {completed}, "other": {7},
    }


def test_the_command(
    celeriac: Callable[..., Ran], settings: Settings, registry: Registry,
    redis_client: redis.Redis,
) -> None:
    env = environment(settings)
    dry = celeriac("models", "gc", "--keep", "2", "--dry-run", env=env)
    assert "m@1, m@5: would be retired" in dry.stdout
    assert len(registry.versions("m")) == 7
    assert "m@1, m@5: retired" in celeriac("models", "gc", "--keep", "2", env=env).stdout
    mark = registry.root / "m" / ".retired" / "1"
    os.utime(mark, (time.time() - 2 * HOUR_S,) * 2)
    again = celeriac("models", "gc", "--keep", "2", env=env).stdout
    assert "m@1: deleted" in again
    assert "m@5: retired before" in again
    without = celeriac("models", "gc", env=env | {"CELERIAC_BROKER_URL": "redis://127.0.0.1:1/0"})
    assert without.returncode == 1
    assert "Redis" in without.stderr


def test_each_hour_if_the_settings_say_so(
    settings: Settings, registry: Registry, redis_client: redis.Redis,
    start_worker: Callable[..., Any],
) -> None:
    assert "collect-versions" not in beat_schedule(settings)
    models = settings.models.model_copy(update={"keep_versions": 2})
    entry = beat_schedule(settings.model_copy(update={"models": models}))["collect-versions"]
    assert entry["schedule"] == HOUR_S
    start_worker("maintenance")
    app = Celery(broker=settings.broker_url, backend=settings.broker_url, set_as_current=False)
    app.send_task(entry["task"], kwargs=entry["kwargs"], queue=entry["options"]["queue"])
    app.close()
    wait_until(lambda: len(registry.retired("m")) >= 2)
    assert registry.versions("m") == [2, 3, 4, 6, 7]


def test_aliases_and_history_by_command(
    celeriac: Callable[..., Ran], settings: Settings, registry: Registry,
    redis_client: redis.Redis,
) -> None:
    env = environment(settings) | {"CELERIAC_GPU_FALLBACK": "when_absent"}
    assert "m@challenger is m@6; before it: 4" in celeriac(
        "models", "alias", "m@6", "challenger", "--why", "smaller", env=env
    ).stdout
    published = fetch(redis_client)
    assert published.models["m"].aliases["challenger"] == 6
    assert published.fallen_back == ("realtime", "batch")  # placed as the maintenance role does
    assert "m@challenger is removed" in celeriac("models", "alias", "m", "--remove", env=env).stdout
    assert "names no version" in celeriac("models", "alias", "m", "--remove", env=env).stdout
    refused = celeriac("models", "alias", "m@6", "champion", env=env)
    assert refused.returncode == 1
    assert "celeriac models promote" in refused.stderr
    shown = celeriac("models", "history", "m", env=env).stdout.splitlines()
    assert "UTC  challenger  4 -> 6  by " in shown[-3]
    assert shown[-2] == "    smaller"
    assert "challenger  6 -> removed" in shown[-1]
