"""Champions are loaded before any step of a worker starts; a load that hangs ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from workers.watchdog import EXIT_CODE

pytestmark = pytest.mark.uncounted

PROGRAM = """
import sys, threading, time
from types import SimpleNamespace
from celeriac import runtimes
from workers import lifecycle
from workers.roles import role_for

load = runtimes.load

def watched(*args):
    if sys.argv[1] == "hangs":
        time.sleep(60)
    print([thread.name for thread in threading.enumerate()][1:])
    return load(*args)

runtimes.load = watched
lifecycle._load_models(SimpleNamespace(celeriac_role=role_for(["batch.cpu"])))
print([thread.name for thread in threading.enumerate()][1:], lifecycle.get_host().serving())
"""

SOLO = """
import os, threading
from types import SimpleNamespace
from celery.concurrency.solo import TaskPool
from celeriac.settings import variables
from workers import lifecycle
from workers.roles import role_for

lifecycle.connect_signals()
os.environ[variables.ROLE] = "realtime.cpu"
lifecycle._load_models(SimpleNamespace(celeriac_role=role_for(["realtime.cpu"])))
host = lifecycle.get_host()
TaskPool()
print([thread.name for thread in threading.enumerate()][1:], lifecycle.get_host() is host)
"""


def run(
    root: Path, how: str, load_timeout_s: str, program: str = PROGRAM, **environment: str
) -> subprocess.CompletedProcess[str]:
    registry = Registry(root)
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    registry.add("echo", lambda folder: draft)
    registry.aliases("echo").promote(1, expected=None, who="test", why="")
    limits = {"CELERIAC_MODELS_ROOT": str(root), "CELERIAC_MODELS_LOAD_TIMEOUT_S": load_timeout_s}
    return subprocess.run(
        [sys.executable, "-c", program, how], capture_output=True, text=True, check=False,
        timeout=120, env={**os.environ, **limits, **environment},
    )


def test_a_load_that_hangs_at_the_start_ends_the_process(tmp_path: Path) -> None:
    ran = run(tmp_path, "hangs", "0.5")
    assert ran.returncode == EXIT_CODE, ran.stderr
    assert "in watched" in ran.stderr  # where it hangs


def test_the_watch_over_the_start_ends_before_a_pool_forks(tmp_path: Path) -> None:
    ran = run(tmp_path, "loads", "100")
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("['watchdog']", "[] {'echo': 1}")


def test_a_solo_pool_is_no_process_that_must_load_and_let_go_of_models(tmp_path: Path) -> None:
    """The worker follows its models itself; a second one who does leaves the gauge behind."""
    ran = run(tmp_path, "loads", "100", SOLO, OMP_NUM_THREADS="2")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[] True"
