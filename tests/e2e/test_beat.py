"""A real beat sends the night's run with its date as data, and real workers carry it out once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import Column, InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from workers.stack import environment

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_night_by_a_real_beat(
    settings: Settings,
    redis_client: redis.Redis,
    start_worker: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry(settings.models.root)
    draft = ModelDraft(
        format="echo",
        input=InputSchema(kind="text", columns=(Column(name="text", dtype="text"),)),
        output=OutputSchema(kind="any"),
    )
    registry.add("echo", lambda folder: draft)
    registry.aliases("echo").promote(1, expected=None, who="test", why="")
    publish(redis_client, registry.infos())

    due = datetime.now(UTC) + timedelta(minutes=1 if datetime.now(UTC).second < 45 else 2)
    date = (due - timedelta(days=1)).date().isoformat()
    (tmp_path / f"{date}.csv").write_text("text\ngood\nbad\n")
    config = tmp_path / "celeriac.toml"
    config.write_text(
        f"[nightly.reviews]\nmodel = 'echo'\nat = '{due:%H:%M}'\n"
        f"dataset = '{tmp_path}/{{date}}.csv'\noutput = '{tmp_path}/out-{{date}}'\n"
    )
    monkeypatch.setenv("CELERIAC_CONFIG", str(config))
    start_worker("maintenance")
    start_worker("batch.cpu")
    with (tmp_path / "beat.log").open("wb") as log:
        beat = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "workers.app", "beat", "--pidfile=",
             "-s", str(tmp_path / "schedule")],
            cwd=ROOT, env=os.environ | environment(settings) | {"CELERIAC_CONFIG": str(config)},
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        done = tmp_path / f"out-{date}" / "_SUCCESS"
        deadline = time.monotonic() + 150
        while not done.exists():
            assert time.monotonic() < deadline, (tmp_path / "beat.log").read_text()
            assert beat.poll() is None
            time.sleep(0.5)
    finally:
        beat.terminate()
        beat.wait(20)
    assert json.loads((done.parent / "manifest.json").read_text())["rows_in"] == 2
