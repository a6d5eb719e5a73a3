"""``celeriac.predict`` from Node, through ``celery-node``, on a real worker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings

pytestmark = pytest.mark.uncounted

HERE = Path(__file__).parent / "node"


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A folder with the script and its package installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have node and npm: they show that another language can call")
        pytest.skip("node and npm are not installed (Debian: apt install nodejs npm)")
    folder = tmp_path / "node"
    shutil.copytree(HERE, folder)
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--prefer-offline"],
        cwd=folder, check=True, timeout=90, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return folder


def test_node_gets_predictions_and_errors(
    node: Path, settings: Settings, redis_client: redis.Redis, start_worker: Callable[..., Any]
) -> None:
    registry = Registry(settings.models.root)
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    registry.add("echo", lambda folder: draft)
    registry.aliases("echo").promote(1, expected=None, who="test", why="")
    start_worker("realtime.cpu")

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["node", "predict.js", *words], cwd=node, capture_output=True, text=True, timeout=30,
            env=os.environ | {"CELERIAC_BROKER_URL": settings.broker_url}, check=False,
        )  # fmt: skip

    answered = call("echo", "Best coffee I ever bought", "né")
    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout) == [
        {"model": "echo", "version": 1, "value": "Best coffee I ever bought"},
        {"model": "echo", "version": 1, "value": "né"},
    ]
    refused = call("nothing", "x")
    assert refused.returncode == 1
    assert "ModelNotFound: no model named 'nothing'" in refused.stderr
