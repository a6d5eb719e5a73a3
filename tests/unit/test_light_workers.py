"""What a process need not load: one that scores scikit-learn models, and beat."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.linear_model import LogisticRegression

from celeriac import release
from celeriac.registry.store import Registry

pytestmark = pytest.mark.uncounted

PROGRAM = """
import sys
from pathlib import Path
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer

Scorer.load(Registry(Path(sys.argv[1])), "m", 1, LoadOptions())
print("torch" in sys.modules)
import torch, sklearn.externals.array_api_compat.torch
"""


def test_torch_is_not_imported_for_scikit_learn(tmp_path: Path) -> None:
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    release.register("m", model, registry=Registry(tmp_path), examples=[[0.0], [1.0]])
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True,
        check=True, timeout=120,
    )
    assert ran.stdout == "False\n"


BEAT = """
import sys

sys.argv = ["celery", "-A", "workers.app", "beat"]
import workers.app

assert workers.app.app.conf.beat_schedule
print([name for name in ("numpy", "pyarrow", "scipy") if name in sys.modules])
"""


def test_beat_loads_nothing_that_computes() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", BEAT], capture_output=True, text=True, check=True, timeout=120,
    )
    assert ran.stdout == "[]\n"
