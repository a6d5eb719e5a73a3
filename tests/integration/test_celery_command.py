"""``celery -A workers.app``, as a Celery user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from celeriac.settings import Settings
from workers.child_settings import environment
from workers.commands import ROOT

pytestmark = pytest.mark.uncounted


OURS = "workers.celery_command"


def celery(
    words: str, env: dict[str, str], module: str = "celery"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, "-A", "workers.app", *words.split()],
        env=os.environ | env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )


@pytest.mark.parametrize(("words", "module"), [
    ("worker -Q batch.cpu", "celery"), ("beat", "celery"), ("inspect ping", "celery"),
    ("worker -Q batch.cpu", OURS), ("beat", OURS),
])
def test_a_typo_in_the_settings_is_one_line(words: str, module: str, tmp_path: Path) -> None:
    config = tmp_path / "celeriac.toml"
    config.write_text("[broker]\nurll = 'redis://127.0.0.1'\n")
    result = celery(words, {"CELERIAC_CONFIG": str(config)}, module)
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


def test_our_own_command_takes_all_options_and_loads_no_other_commands(
    settings: Settings,
) -> None:
    env = environment(settings) | {"PYTHONPROFILEIMPORTTIME": "1"}
    known, ours = celery("worker --help", env), celery("worker --help", env, OURS)
    assert ours.stdout.partition("Start worker")[2] == known.stdout.partition("Start worker")[2]
    assert "--concurrency" in ours.stdout
    assert "prompt_toolkit" in known.stderr
    assert "celery.bin.worker" in ours.stderr
    assert not [word for word in ("prompt_toolkit", "tornado", "flower") if word in ours.stderr]


def test_a_program_that_is_told_to_stop_has_its_backend_whole() -> None:
    program = "import sys, workers.app; print('workers.backend' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True,
        timeout=60,
    ).stdout
    assert said == "True\n"
