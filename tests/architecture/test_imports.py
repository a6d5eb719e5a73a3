"""What importing the producer half brings into a process: nothing heavy, nothing of the host's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.uncounted

HEAVY = {"torch", "sklearn", "numpy", "pandas", "pyarrow", "scipy", "onnxruntime", "skops"}
HOSTS = {"celeryconfig", "tasks", "workers"}
LIST_MODULES = "import sys, json; print(json.dumps(sorted(sys.modules)))"


def modules_after(statement: str, folder: Path) -> set[str]:
    """Top-level modules in a fresh interpreter after ``statement``."""
    ran = subprocess.run(
        [sys.executable, "-c", f"{statement}; {LIST_MODULES}"],
        cwd=folder, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return {name.partition(".")[0] for name in json.loads(ran.stdout)}


@pytest.mark.parametrize(
    "statement",
    [
        "import producer",
        "from producer import Client, AsyncClient, Prediction, errors; Client()",
        "import producer.cli.main",
        "import producer.testing",
        "import producer.datasets, producer.jobs, producer.cli.batch",
    ],
)
def test_no_model_library_and_nothing_of_the_host_project(
    statement: str, tmp_path: Path
) -> None:
    found = modules_after(statement, tmp_path)

    assert "celeriac" in found or statement == "import producer"
    assert not found & HEAVY
    assert not found & HOSTS


def test_the_client_does_not_load_celery_until_it_is_needed(tmp_path: Path) -> None:
    assert "celery" not in modules_after("from producer import Client; Client()", tmp_path)
