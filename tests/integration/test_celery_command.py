"""``celery -A workers.app``, as a Celery user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from celeriac.settings import Settings
from workers.commands import ROOT
from workers.stack import environment

pytestmark = pytest.mark.uncounted


def celery(words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", *words.split()],
        env=os.environ | env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )


@pytest.mark.parametrize("words", ["worker -Q batch.cpu", "beat", "inspect ping"])
def test_a_typo_in_the_settings_is_one_line(words: str, tmp_path: Path) -> None:
    config = tmp_path / "celeriac.toml"
    config.write_text("[broker]\nurll = 'redis://127.0.0.1'\n")
    result = celery(words, {"CELERIAC_CONFIG": str(config)})
    assert result.returncode == 1
    assert result.stderr == (
        f"celeriac: {config}: broker.urll: no such setting; did you mean 'url'?\n"
    )


def test_a_state_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    env = {"CELERIAC_STACK_STATE_DIR": str(tmp_path / "state")}
    result = celery("worker -Q batch.cpu", env)
    assert result.returncode == 1
    assert "CELERIAC_STACK_STATE_DIR" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_task_called_by_name_goes_to_the_worker_that_follows_promotions(
    settings: Settings, redis_client: redis.Redis
) -> None:
    for task in ("celeriac.predict", "celeriac.batch.chunk", "celeriac.models.publish"):
        assert celery(f"call {task}", environment(settings)).returncode == 0
    queues = ("predict.cpu", "batch.cpu", "maintenance")
    assert [redis_client.llen(queue) for queue in queues] == [1, 1, 1]
